"""The textbook actor-critic: one-step advantages, online or in batches."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

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
from advantage.algorithms.policy_gradient.shared.episode_places import places
from advantage.algorithms.policy_gradient.shared.experience import advance_statistics, experience
from advantage.algorithms.policy_gradient.shared.options import CriticOptions, PolicyOptions
from advantage.algorithms.policy_gradient.shared.state import (
    EpisodicState,
    episodic,
    policy_state_init,
)
from advantage.algorithms.policy_gradient.shared.value_fit import actor_and_critic_optimisers, fit_value
from advantage.estimators.returns import td_errors
from advantage.types import Array, Key, Rollout, Spec


@hyperparameters
@dataclasses.dataclass(frozen=True)
class OneStepActorCritic(CriticOptions, PolicyOptions):
    """Actor-critic with one-step advantages: online with `n_steps` = 1, otherwise in batches.

    For each rollout of `n_steps` in each environment:

        y_t      <- r_t + gamma V(s_{t+1})
        V        <- critic_epochs passes of Adam over (V(s_t) - y_t)^2 / 2
        A_t      <- r_t + gamma V(s_{t+1}) - V(s_t);  times gamma^t with discount_weighting
        theta    <- Adam(theta, mean A_t ∇log pi(a_t | s_t) + ent_coef ∇H(pi(. | s_t)))

    With one environment and one step per rollout this is the online algorithm, in which A is the TD error before the
    update of V. With longer rollouts it is the batch algorithm, in which V is fitted first.

    Departures from the textbooks: Adam in place of plain steps. Their `discount_weighting` is off by default here.

    Source: Sutton & Barto 2018, section 13.5 (one-step actor-critic); Konda & Tsitsiklis 2000,
    "Actor-critic algorithms".
    """

    learning_rate: float | Schedule = ranged(1e-3, "[0, inf)")
    """Adam's step size for the actor; a number or a schedule of progress."""
    n_steps: int = ranged(1, "[1, inf)")
    """Steps taken in each environment for one update; 1 is online."""
    discount_weighting: bool = False
    """Weight step t of an episode by gamma^t, as in the gradient of the discounted return."""
    ent_coef: float = ranged(0.0, "[0, inf)")
    """Weight of the entropy bonus, per nat."""
    max_grad_norm: float | None = ranged(None, "(0, inf)")
    """Largest norm of the actor's gradient; None does not clip."""
    critic_epochs: int = ranged(1, "[1, inf)")
    """Passes of the critic over each rollout."""
    normalize_observation: bool = False
    """Scale observations by running mean and standard deviation."""
    normalize_reward: bool = False
    """Divide rewards by the running standard deviation of the discounted return."""

    def __post_init__(self):
        check(self)

    def init(self, key: Key, spec: Spec) -> EpisodicState:
        """Draw the initial training state. Raises ValueError for a space that no policy covers."""
        state = policy_state_init(self, key, spec, batch_size=self.critic_batch_size)
        optimiser = actor_and_critic_optimisers(state.params, self.max_grad_norm)
        return episodic(state, spec.num_envs, optimiser)

    actor = policy_actor
    initial_memory = policy_memory
    noise = policy_noise
    act = act_by_policy
    greedy = greedy_by_policy

    def update(
        self, state: EpisodicState, rollout: Rollout, key: Key
    ) -> tuple[EpisodicState, dict[str, Array]]:
        """One step of actor and critic: `-> state, metrics`."""
        seen = experience(self, state, rollout, batch_size=self.critic_batch_size)
        where = places(seen.trace, state.elapsed)
        action, target = seen.samples(seen.action, seen.reward + seen.discount * seen.next_value)
        critic = fit_value(self, state, seen.x, target, key)
        judged = seen
        if self.n_steps > 1:
            fitted = dataclasses.replace(state, params=state.params | {"critic": critic.params})
            judged = experience(self, fitted, rollout, batch_size=self.critic_batch_size)
        advantage = td_errors(judged.reward, judged.discount, judged.value, judged.next_value)
        if self.discount_weighting:
            advantage *= self.gamma**where.time
        (advantage,) = seen.samples(advantage)
        actor = ascend(
            state.policy,
            state.params["actor"],
            state.optimiser["actor"],
            Weighted(seen.x, action, advantage, jnp.ones(len(target), bool)),
            learning_rate=schedule_value(self.learning_rate, progress(state.clock)),
            ent_coef=self.ent_coef,
            max_grad_norm=self.max_grad_norm,
        )
        learned = dataclasses.replace(
            advance_statistics(self, state, rollout, seen.critic_memory),
            params={"actor": actor.params, "critic": critic.params},
            optimiser={"actor": actor.optimiser, "critic": critic.optimiser},
            elapsed=where.elapsed,
        )
        return learned, actor.metrics | critic.metrics
