"""REINFORCE (Williams 1992), with or without a baseline."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax.numpy as jnp

from advantage.algorithms.hyperparameters import Schedule, check, hyperparameters, ranged, schedule_value
from advantage.algorithms.policy_gradient.shared.ascent import ascend
from advantage.algorithms.policy_gradient.shared.episode_places import places, whole_returns
from advantage.algorithms.policy_gradient.shared.learner import (
    LearnerState,
    PolicyOptions,
    act_by_policy,
    advance_statistics,
    experience,
    greedy_by_policy,
    learner_init,
    merge_time_and_envs,
    policy_actor,
    policy_noise,
    progress_of,
)
from advantage.algorithms.policy_gradient.shared.value_fit import actor_and_critic_optimisers, fit_value
from advantage.estimators.baselines import mean_baseline
from advantage.estimators.returns import lambda_returns
from advantage.types import Array, Key, Rollout, Spec


@hyperparameters
@dataclasses.dataclass(frozen=True)
class Reinforce(PolicyOptions):
    """REINFORCE: an action becomes more likely by as much as what followed was better than the baseline.

    For each rollout of `n_steps` in each environment:

        G_t      <- r_t + gamma G_{t+1}                     or R(tau) of the episode, with weight = "total-return"
        b_t      <- 0, the mean G of other episodes, or V(s_t)
        theta    <- Adam(theta, mean over steps of (G_t - b_t) ∇log pi(a_t | s_t))
        V        <- critic_epochs passes of Adam over (V(s_t) - G_t)^2 / 2            with baseline = "value"

    Of an episode that the rollout cuts off the rest is not known: V stands for it if there is one, and without it
    only steps count whose episode ends in the rollout. So without it let `n_steps` be several episodes: long ones are
    cut more often. An episode that the clock ended has ended; with V it is bootstrapped.

    Departures from the paper: Adam in place of plain ascent; by default returns to go, and V.

    Source: Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement learning",
    theorem 1; Sutton & Barto 2018, sections 13.3 and 13.4.
    """

    learning_rate: float | Schedule = ranged(3e-3, "[0, inf)")
    """Adam's step size for the actor; a number or a schedule of progress."""
    n_steps: int = ranged(2048, "[1, inf)")
    """Steps taken in each environment for one update."""
    weight: Literal["total-return", "reward-to-go"] = "reward-to-go"
    """What an action answers for: the return of the whole episode, or what came after it."""
    baseline: Literal["none", "mean", "value"] = "value"
    """What is subtracted: nothing, the mean of other episodes, or a learned value."""
    critic_learning_rate: float | Schedule = ranged(3e-3, "[0, inf)")
    """Adam's step size for the value; a number or a schedule of progress."""
    critic_epochs: int = ranged(20, "[1, inf)")
    """Passes of the value over each rollout."""
    critic_batch_size: int | None = ranged(None, "[1, inf)")
    """Samples in a minibatch of the value; None takes the whole rollout."""
    normalize_reward: bool = False
    """Divide rewards by the running standard deviation of the discounted return."""

    def __post_init__(self):
        check(self)
        if self.weight == "total-return" and self.baseline == "value":
            raise ValueError(
                "weight='total-return' with baseline='value' is not allowed: V(s) is the return from s on, not that of "
                "the whole episode; use weight='reward-to-go', or baseline='mean'."
            )

    def init(self, key: Key, spec: Spec) -> LearnerState:
        """Draw the first state. Raises ValueError for a space that no policy covers."""
        state = learner_init(self, key, spec)
        optimiser = actor_and_critic_optimisers(state.params)
        return state._replace(optimiser=optimiser, extra=jnp.zeros(spec.num_envs, jnp.int32))

    actor, noise, act, greedy = policy_actor, policy_noise, act_by_policy, greedy_by_policy

    def update(
        self, state: LearnerState, rollout: Rollout, key: Key
    ) -> tuple[LearnerState, dict[str, Array]]:
        """One step of the actor: `-> state, metrics`; `extra` counts the steps of the running episodes."""
        seen, has_value = experience(self, state, rollout), self.baseline == "value"
        where = places(seen.trace, state.extra)
        rest = seen.next_value if has_value else jnp.zeros_like(seen.next_value)
        to_go = lambda_returns(seen.reward, seen.discount, rest, seen.trace)
        returns = to_go
        if self.weight == "total-return":
            returns = whole_returns(seen.reward, to_go, seen.trace, where.time, self.gamma)
        x, action, value, to_go, returns = merge_time_and_envs(
            (seen.x, seen.action, seen.value, to_go, returns)
        )
        used, episode = where.complete.ravel() | has_value, where.episode.ravel()
        if has_value:
            returns -= value
        elif self.baseline == "mean":
            returns -= mean_baseline(returns, episode, used)
        rate = schedule_value(self.learning_rate, progress_of(state))
        actor = ascend(
            state.policy, state.params["actor"], state.optimiser["actor"], x, action, returns, used, rate
        )
        params, optimiser = {"actor": actor.params}, {"actor": actor.optimiser}
        metrics = actor.metrics
        if has_value:
            critic = fit_value(self, state, x, to_go, key)
            params["critic"], optimiser["critic"] = critic.params, critic.optimiser
            metrics |= critic.metrics
        learned = advance_statistics(self, state, rollout)
        return learned._replace(
            params=state.params | params, optimiser=state.optimiser | optimiser, extra=where.elapsed
        ), metrics
