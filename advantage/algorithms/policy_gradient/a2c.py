"""Advantage actor-critic (Mnih et al. 2016), synchronous."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from advantage.algorithms.hyperparameters import Schedule, at, check, hyperparameters, ranged
from advantage.algorithms.policy_gradient.ascent import actor_critic_loss
from advantage.algorithms.policy_gradient.learner import (
    LearnerState,
    PolicyOptions,
    act_by_policy,
    experience,
    flat,
    greedy_by_policy,
    learner_init,
    observed,
    policy_actor,
    policy_noise,
    progress_of,
)
from advantage.algorithms.policy_gradient.optimisers import Optimiser, optimiser_of
from advantage.estimators.credit import explained_variance, gae, standardise
from advantage.types import Array, Key, Rollout, Spec


@hyperparameters
@dataclasses.dataclass(frozen=True)
class A2C(PolicyOptions):
    """Advantage actor-critic: one small step for each short rollout of many environments.

    For each rollout of n_steps in each environment:

        A_t      <- r_t + ... + gamma^{k} V(s_{t+k}) - V(s_t), to the rollout's end   (GAE with gae_lambda = 1)
        G_t      <- A_t + V(s_t)
        L        <- -mean A log pi(a|s) + vf_coef mean (V - G)^2 / 2 - ent_coef mean H(pi)
        theta    <- RMSProp(theta, clip_norm(grad L, max_grad_norm))

    Departures from the paper: all environments step together, so no gradient is stale; networks are apart by default;
    an episode that the clock ended is bootstrapped.

    Source: Mnih et al. 2016, "Asynchronous methods for deep reinforcement learning", algorithm S3 and section 4.
    """

    learning_rate: float | Schedule = ranged(7e-4, "[0, inf)")
    """The optimiser's step size; a number or a schedule of progress."""
    n_steps: int = ranged(5, "[1, inf)")
    """Steps taken in each environment for one update."""
    gae_lambda: float = ranged(1.0, "[0, 1]")
    """Reach of credit in GAE: 0 is the TD error, 1 the n-step return of the paper."""
    normalize_advantage: bool = False
    """Scale each rollout's advantages to zero mean and unit variance."""
    ent_coef: float = ranged(0.0, "[0, inf)")
    """Weight of the entropy bonus, per nat."""
    vf_coef: float = ranged(0.5, "[0, inf)")
    """Weight of the critic's loss."""
    max_grad_norm: float | None = ranged(0.5, "(0, inf)")
    """Largest global norm of a gradient; None does not clip."""
    optimiser: Optimiser = "rmsprop"
    """RMSProp as in the paper, or Adam."""
    rms_decay: float = ranged(0.99, "[0, 1)")
    """How much RMSProp keeps of its mean square in each step."""
    optimiser_epsilon: float = ranged(1e-5, "(0, inf)")
    """Added in the optimiser's denominator."""
    share_network: bool = False
    """One network for actor and critic, or one each."""
    normalize_observation: bool = False
    """Scale observations by running mean and standard deviation."""
    normalize_reward: bool = False
    """Divide rewards by the running standard deviation of the discounted return."""

    def __post_init__(self):
        check(self)

    def init(self, key: Key, spec: Spec) -> LearnerState:
        """Draw the first state. Raises ValueError for a space that no policy covers."""
        state = learner_init(self, key, spec, self.share_network)
        return state._replace(optimiser=self._optimiser().init(ravel_pytree(state.params)[0]))

    actor, noise, act, greedy = policy_actor, policy_noise, act_by_policy, greedy_by_policy

    def update(
        self, state: LearnerState, rollout: Rollout, key: Key
    ) -> tuple[LearnerState, dict[str, Array]]:
        """One step: `-> state, metrics`."""
        policy, learning_rate = state.policy, at(self.learning_rate, progress_of(state))
        seen = experience(self, state, rollout)
        trace = self.gae_lambda * seen.trace
        advantage = gae(seen.reward, seen.discount, seen.value, seen.next_value, trace)
        target = advantage + seen.value
        x, action, value, advantage, target = flat((seen.x, seen.action, seen.value, advantage, target))
        if self.normalize_advantage:
            advantage = standardise(advantage)
        start, unflatten = ravel_pytree(state.params)

        def loss(params):
            batch = x, action, advantage, target
            return actor_critic_loss(policy, unflatten(params), *batch, self.vf_coef, self.ent_coef)

        gradient, metrics = jax.grad(loss, has_aux=True)(start)
        metrics["gradient_norm"] = jnp.linalg.norm(gradient)
        metrics["explained_variance"] = explained_variance(value, target)
        updates: Any
        updates, optimiser = self._optimiser().update(gradient, state.optimiser)
        params = unflatten(start - learning_rate * updates)
        return observed(self, state, rollout)._replace(params=params, optimiser=optimiser), metrics

    def _optimiser(self):
        return optimiser_of(self.optimiser, self.rms_decay, self.optimiser_epsilon, self.max_grad_norm)
