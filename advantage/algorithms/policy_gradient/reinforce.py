"""REINFORCE (Williams 1992), with or without a baseline."""

from __future__ import annotations

import dataclasses
from typing import Literal

from advantage.algorithms.clock import progress
from advantage.algorithms.hyperparameters import Schedule, check, hyperparameters, ranged, schedule_value
from advantage.algorithms.policy_gradient.shared.acting import (
    act_by_policy,
    greedy_by_policy,
    policy_actor,
    policy_memory,
    policy_noise,
)
from advantage.algorithms.policy_gradient.shared.ascent import Weighted, ascend
from advantage.algorithms.policy_gradient.shared.episode_places import places, whole_returns
from advantage.algorithms.policy_gradient.shared.experience import advance_statistics, experience
from advantage.algorithms.policy_gradient.shared.options import CriticOptions, PolicyOptions
from advantage.algorithms.policy_gradient.shared.state import (
    EpisodicState,
    episodic,
    policy_state_init,
    without_critic,
)
from advantage.algorithms.policy_gradient.shared.value_fit import actor_and_critic_optimisers, fit_value
from advantage.estimators.baselines import mean_baseline
from advantage.estimators.returns import lambda_returns
from advantage.types import Array, Key, Rollout, Spec


@hyperparameters
@dataclasses.dataclass(frozen=True)
class Reinforce(CriticOptions, PolicyOptions):
    """REINFORCE: an action becomes more likely in proportion to how much its return exceeds the baseline.

    For each rollout of `n_steps` in each environment:

        G_t      <- r_t + gamma G_{t+1}                     or R(tau) of the episode, with weight = "total-return"
        b_t      <- 0, the mean G of other episodes, or V(s_t)
        theta    <- Adam(theta, mean over steps of (G_t - b_t) ∇log pi(a_t | s_t))
        V        <- critic_epochs passes of Adam over (V(s_t) - G_t)^2 / 2            with baseline = "value"

    If the rollout cuts off an episode, its rest is not known: V estimates it if there is one; without V only steps
    count whose episode ends in the rollout. Then `n_steps` should span several episodes, since long ones are cut more
    often. A truncated episode counts as ended; with V it is bootstrapped.

    Departures from the paper: Adam in place of plain ascent; by default returns to go, and V.

    Source: Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement learning",
    theorem 1; Sutton & Barto 2018, sections 13.3 and 13.4.
    """

    learning_rate: float | Schedule = ranged(3e-3, "[0, inf)")
    """Adam's step size for the actor; a number or a schedule of progress."""
    weight: Literal["total-return", "reward-to-go"] = "reward-to-go"
    """Weight of an action: the return of the whole episode, or the return from its step on."""
    baseline: Literal["none", "mean", "value"] = "value"
    """Baseline to subtract: nothing, the mean of other episodes, or a learned value."""
    normalize_reward: bool = False
    """Divide rewards by the running standard deviation of the discounted return."""

    def __post_init__(self):
        check(self)
        if self.weight == "total-return" and self.baseline == "value":
            raise ValueError(
                "weight='total-return' with baseline='value' is not allowed: V(s) is the return from s on, not that of "
                "the whole episode; use weight='reward-to-go', or baseline='mean'."
            )

    def init(self, key: Key, spec: Spec) -> EpisodicState:
        """Draw the initial training state. Raises ValueError for a space that no policy covers."""
        state = policy_state_init(self, key, spec, batch_size=self.critic_batch_size)
        if self.baseline != "value":
            state = without_critic(state)
        return episodic(state, spec.num_envs, actor_and_critic_optimisers(state.params))

    actor = policy_actor
    initial_memory = policy_memory
    noise = policy_noise
    act = act_by_policy
    greedy = greedy_by_policy

    def update(
        self, state: EpisodicState, rollout: Rollout, key: Key
    ) -> tuple[EpisodicState, dict[str, Array]]:
        """One step of the actor: `-> state, metrics`."""
        seen = experience(self, state, rollout, batch_size=self.critic_batch_size)
        has_value, where = self.baseline == "value", places(seen.trace, state.elapsed)
        to_go = lambda_returns(seen.reward, seen.discount, seen.next_value, seen.trace)
        returns = to_go
        if self.weight == "total-return":
            returns = whole_returns(seen.reward, to_go, seen.trace, where.time, self.gamma)
        facts = seen.action, seen.value, to_go, returns, where.complete, where.episode
        action, value, to_go, returns, complete, episode = seen.samples(*facts)
        used = complete | has_value
        if has_value:
            returns -= value
        elif self.baseline == "mean":
            returns -= mean_baseline(returns, episode, used)
        actor = ascend(
            state.policy,
            state.params["actor"],
            state.optimiser["actor"],
            Weighted(seen.x, action, returns, used),
            learning_rate=schedule_value(self.learning_rate, progress(state.clock)),
        )
        params, optimiser = {"actor": actor.params}, {"actor": actor.optimiser}
        metrics = actor.metrics
        if has_value:
            critic = fit_value(self, state, seen.x, to_go, key)
            params["critic"], optimiser["critic"] = critic.params, critic.optimiser
            metrics |= critic.metrics
        learned = dataclasses.replace(
            advance_statistics(self, state, rollout, seen.critic_memory),
            params=params,
            optimiser=optimiser,
            elapsed=where.elapsed,
        )
        return learned, metrics
