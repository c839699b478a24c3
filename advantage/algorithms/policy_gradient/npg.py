"""The natural policy gradient (Kakade 2001)."""

from __future__ import annotations

import dataclasses
from typing import Literal

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
from advantage.algorithms.policy_gradient.shared.experience import advance_statistics, experience
from advantage.algorithms.policy_gradient.shared.natural_step import (
    OldSamples,
    natural_direction,
    step_metrics,
    step_to,
    surrogate_of,
)
from advantage.algorithms.policy_gradient.shared.options import NaturalOptions
from advantage.algorithms.policy_gradient.shared.state import PolicyState, policy_state_init
from advantage.algorithms.policy_gradient.shared.value_fit import critic_optimiser, fit_value
from advantage.estimators.returns import gae, standardise
from advantage.types import Array, Key, Rollout, Spec


@hyperparameters
@dataclasses.dataclass(frozen=True)
class NPG(NaturalOptions):
    """Natural policy gradient: a step along F^{-1} g, the steepest ascent per KL divergence.

    For each rollout of n_steps in each environment:

        A_t      <- GAE(gamma, gae_lambda);  G_t <- A_t + V(s_t)
        g        <- mean A ∇log pi(a|s) + ent_coef ∇mean H(pi)
        x        <- conjugate gradients on (F + cg_damping I) x = g
        alpha    <- sqrt(2 target_kl / x^T (F + cg_damping I) x)      with step = "kl"
                    learning_rate                                     with step = "fixed"
        theta    <- theta + alpha x
        V        <- critic_epochs passes of Adam over (V(s_t) - G_t)^2 / 2

    It is TRPO without the line search: the step is not checked.

    Departures from the paper: conjugate gradients on a batch, and GAE, in place of an exact inverse and Q; a step of a
    given KL; observations and rewards are scaled by running statistics.

    Source: Kakade 2001, "A natural policy gradient", eq. 3; Rajeswaran et al. 2017, "Towards generalization and
    simplicity in continuous control", eq. 5.
    """

    step: Literal["kl", "fixed"] = "kl"
    """Step length: the one whose second-order KL divergence is target_kl, or learning_rate times x."""
    target_kl: float | Schedule = ranged(0.01, "(0, inf)")
    """Second-order KL divergence of an update, in nats, with step = "kl"; a number or a schedule of progress."""
    learning_rate: float | Schedule = ranged(0.05, "[0, inf)")
    """Step size with step = "fixed"; a number or a schedule of progress."""

    def __post_init__(self):
        check(self)

    def init(self, key: Key, spec: Spec) -> PolicyState:
        """Draw the initial training state. Raises ValueError for a space that no policy covers."""
        state = policy_state_init(self, key, spec, batch_size=self.critic_batch_size)
        return dataclasses.replace(state, optimiser={"critic": critic_optimiser(state.params["critic"])})

    actor = policy_actor
    initial_memory = policy_memory
    noise = policy_noise
    act = act_by_policy
    greedy = greedy_by_policy

    def update(self, state: PolicyState, rollout: Rollout, key: Key) -> tuple[PolicyState, dict[str, Array]]:
        """One step of the actor: `-> state, metrics`."""
        policy, old, spent = state.policy, state.params["actor"], progress(state.clock)
        seen = experience(self, state, rollout, batch_size=self.critic_batch_size)
        advantage = gae(seen.reward, seen.discount, seen.value, seen.next_value, self.gae_lambda * seen.trace)
        target = advantage + seen.value
        facts = seen.action, seen.log_prob, advantage, target
        action, log_prob, advantage, target = seen.samples(*facts)
        if self.normalize_advantage:
            advantage = standardise(advantage)
        batch = OldSamples(seen.x, action, log_prob, advantage)

        def surrogate(actor):
            return surrogate_of(policy, old, actor, batch, self.ent_coef)

        direction = natural_direction(self, policy, old, lambda actor: surrogate(actor).gain, seen.x)
        if self.step == "kl":
            length = step_to(schedule_value(self.target_kl, spent), direction.curvature)
        else:
            length = schedule_value(self.learning_rate, spent)
        actor = direction.unflatten(direction.start + length * direction.direction)
        before, after, critic = surrogate(old), surrogate(actor), fit_value(self, state, seen.x, target, key)
        learned = dataclasses.replace(
            advance_statistics(self, state, rollout, seen.critic_memory),
            params={"actor": actor, "critic": critic.params},
            optimiser={"critic": critic.optimiser},
        )
        metrics = step_metrics(direction, before, after)
        metrics["step_length"] = jnp.asarray(length, jnp.float32)
        return learned, metrics | critic.metrics
