"""Advantage actor-critic (Mnih et al. 2016), synchronous."""

from __future__ import annotations

import dataclasses

from jax.flatten_util import ravel_pytree

from advantage.algorithms.hyperparameters import Schedule, check, hyperparameters, ranged
from advantage.algorithms.policy_gradient.shared.ascent import actor_critic_step
from advantage.algorithms.policy_gradient.shared.learner import (
    LearnerState,
    PolicyOptions,
    act_by_policy,
    advance_statistics,
    advantage_and_target,
    experience,
    greedy_by_policy,
    learner_init,
    merge_time_and_envs,
    policy_actor,
    policy_noise,
)
from advantage.algorithms.policy_gradient.shared.optimisers import OptimiserOptions, optimiser_of
from advantage.estimators.returns import explained_variance, standardise
from advantage.types import Array, Key, Rollout, Spec


@hyperparameters
@dataclasses.dataclass(frozen=True)
class A2C(OptimiserOptions, PolicyOptions):
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
        return state._replace(optimiser=optimiser_of(self).init(ravel_pytree(state.params)[0]))

    actor, noise, act, greedy = policy_actor, policy_noise, act_by_policy, greedy_by_policy

    def update(
        self, state: LearnerState, rollout: Rollout, key: Key
    ) -> tuple[LearnerState, dict[str, Array]]:
        """One step: `-> state, metrics`."""
        seen = experience(self, state, rollout)
        advantage, target = advantage_and_target(self, seen)
        x, action, value, advantage, target = merge_time_and_envs(
            (seen.x, seen.action, seen.value, advantage, target)
        )
        if self.normalize_advantage:
            advantage = standardise(advantage)
        params, optimiser, metrics = actor_critic_step(self, state, x, action, advantage, target)
        metrics["explained_variance"] = explained_variance(value, target)
        return advance_statistics(self, state, rollout)._replace(params=params, optimiser=optimiser), metrics
