"""Advantage actor-critic (Mnih et al. 2016), synchronous."""

from __future__ import annotations

import dataclasses

from jax.flatten_util import ravel_pytree

from advantage.algorithms.hyperparameters import check, hyperparameters, ranged
from advantage.algorithms.policy_gradient.shared.acting import (
    act_by_policy,
    greedy_by_policy,
    policy_actor,
    policy_memory,
    policy_noise,
)
from advantage.algorithms.policy_gradient.shared.ascent import Judged, actor_critic_gradient, descend
from advantage.algorithms.policy_gradient.shared.experience import advance_statistics, experience
from advantage.algorithms.policy_gradient.shared.optimisers import optimiser_of
from advantage.algorithms.policy_gradient.shared.options import ActorCriticOptions
from advantage.algorithms.policy_gradient.shared.state import PolicyState, policy_state_init
from advantage.estimators.returns import explained_variance, gae, standardise
from advantage.types import Array, Gradient, Key, Rollout, Spec


@hyperparameters
@dataclasses.dataclass(frozen=True)
class A2C(ActorCriticOptions):
    """Advantage actor-critic: one small step for each short rollout of many environments.

    For each rollout of n_steps in each environment:

        A_t      <- r_t + ... + gamma^{k} V(s_{t+k}) - V(s_t), to the rollout's end   (GAE with gae_lambda = 1)
        G_t      <- A_t + V(s_t)
        L        <- -mean A log pi(a|s) + vf_coef mean (V - G)^2 / 2 - ent_coef mean H(pi)
        theta    <- RMSProp(theta, clip_norm(grad L, max_grad_norm))

    An update is a gradient and a step down it. On a cluster the actors can compute gradients: of their own shares of
    the environments, which are averaged; or of parameters that are a few updates old, as in the paper's A3C.

    Departures from the paper: all environments step together, so no gradient is stale, but on a cluster with
    cluster_mode="a3c"; networks are separate by default; truncated episodes are bootstrapped.

    Source: Mnih et al. 2016, "Asynchronous methods for deep reinforcement learning", algorithm S3 and section 4.
    """

    n_steps: int = ranged(5, "[1, inf)")
    """Steps taken in each environment for one update."""
    gae_lambda: float = ranged(1.0, "[0, 1]")
    """Lambda of GAE: 0 is the TD error, 1 the n-step return of the paper."""
    normalize_advantage: bool = False
    """Scale each rollout's advantages to zero mean and unit variance."""

    def __post_init__(self):
        check(self)

    def init(self, key: Key, spec: Spec) -> PolicyState:
        """Draw the initial training state. Raises ValueError for a space that no policy covers."""
        state = policy_state_init(self, key, spec, shared=self.share_network)
        optimiser = optimiser_of(self).init(ravel_pytree(state.params)[0])
        return dataclasses.replace(state, optimiser=optimiser)

    actor = policy_actor
    initial_memory = policy_memory
    noise = policy_noise
    act = act_by_policy
    greedy = greedy_by_policy

    def update(self, state: PolicyState, rollout: Rollout, key: Key) -> tuple[PolicyState, dict[str, Array]]:
        """One step: `-> state, metrics`."""
        return self.descend(state, rollout, self.gradient(state, rollout))

    def gradient(self, state: PolicyState, rollout: Rollout) -> Gradient:
        """The gradient of L at the state's parameters, of a rollout that was gathered with them."""
        seen = experience(self, state, rollout)
        advantage = gae(seen.reward, seen.discount, seen.value, seen.next_value, self.gae_lambda * seen.trace)
        target = advantage + seen.value
        action, value, advantage, target = seen.samples(seen.action, seen.value, advantage, target)
        if self.normalize_advantage:
            advantage = standardise(advantage)
        vector, metrics = actor_critic_gradient(self, state, Judged(seen.x, action, advantage, target))
        metrics["explained_variance"] = explained_variance(value, target)
        return Gradient(vector, seen.critic_memory, metrics)

    def descend(
        self, state: PolicyState, rollout: Rollout, gradient: Gradient
    ) -> tuple[PolicyState, dict[str, Array]]:
        """RMSProp's step down a gradient, which may be that of older parameters: `-> state, metrics`."""
        params, optimiser, gradient_norm = descend(self, state, gradient.vector)
        learned = advance_statistics(self, state, rollout, gradient.critic_memory)
        learned = dataclasses.replace(learned, params=params, optimiser=optimiser)
        return learned, gradient.metrics | {"gradient_norm": gradient_norm}
