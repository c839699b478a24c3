"""The policy gradient from another policy's episodes, by importance sampling."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from advantage.algorithms.hyperparameters import Schedule, check, hyperparameters, ranged, schedule_value
from advantage.algorithms.policy_gradient.shared.ascent import ascend
from advantage.algorithms.policy_gradient.shared.episode_places import places
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
from advantage.estimators.off_policy_corrections import (
    Form,
    effective_sample_size,
    importance_sampled_returns,
    importance_weights,
)
from advantage.estimators.returns import lambda_returns
from advantage.objectives.surrogates import kl_estimate
from advantage.types import Array, Key, Rollout, Spec


@hyperparameters
@dataclasses.dataclass(frozen=True)
class OffPolicyPG(PolicyOptions):
    """Several steps along the policy gradient for each rollout, all but the first off-policy.

    For each rollout of `n_steps` in each environment, acted by theta_old, and for each of n_epochs steps:

        rho_t    <- pi_theta(a_t | s_t) / pi_old(a_t | s_t)
        Psi_t    <- Π_k rho_k (G_t - V(s_t))             trajectory: k over the whole episode
                    Σ_{u>=t} gamma^{u-t} w_u delta_u     per-decision: w_u = Π_{k<=u} rho_k
                    rho_t (G_t - V(s_t))                 action
        stop     if the estimated KL(pi_old || pi_theta) exceeds 1.5 target_kl
        theta    <- Adam(theta, mean over steps of Psi_t ∇log pi_theta(a_t | s_t))

    with delta_u = r_u + gamma V(s_{u+1}) - V(s_u), and V fitted to G_t after the last step, or 0. No product of ratios
    counts more than `largest_ratio`. Without that cut the first two are unbiased for whole episodes; the third is
    biased by as much as both policies visit other states, and its variance is by far the least. At theta = theta_old
    all three are REINFORCE.

    Of an episode that the rollout cuts off, V stands for the rest if there is one, and without it only steps count
    whose episode ends in the rollout. Of one that began in an earlier rollout, only the ratios of this one are known.

    Source: Precup, Sutton & Singh 2000, "Eligibility traces for off-policy policy evaluation", section 3, for the
    weights; Jiang & Li 2016, "Doubly robust off-policy value evaluation for reinforcement learning", for V in them.
    """

    learning_rate: float | Schedule = ranged(3e-3, "[0, inf)")
    """Adam's step size for the actor; a number or a schedule of progress."""
    n_steps: int = ranged(2048, "[1, inf)")
    """Steps taken in each environment for one rollout."""
    n_epochs: int = ranged(10, "[1, inf)")
    """Gradient steps for each rollout."""
    importance: Form = "per-decision"
    """Which ratios weigh an action: those of the whole episode, those up to each reward, or its own."""
    baseline: Literal["none", "value"] = "value"
    """What is subtracted: nothing, or a learned value."""
    largest_ratio: float | None = ranged(10.0, "[1, inf)")
    """Where products of ratios are cut; None does not cut."""
    target_kl: float | None = ranged(0.01, "(0, inf)")
    """Ends an update before the step at which the estimated KL, in nats, passes 1.5 times this; None never."""
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

    def init(self, key: Key, spec: Spec) -> LearnerState:
        """Draw the first state. Raises ValueError for a space that no policy covers."""
        state = learner_init(self, key, spec)
        optimiser = actor_and_critic_optimisers(state.params)
        return state._replace(optimiser=optimiser, extra=jnp.zeros(spec.num_envs, jnp.int32))

    actor, noise, act, greedy = policy_actor, policy_noise, act_by_policy, greedy_by_policy

    def update(
        self, state: LearnerState, rollout: Rollout, key: Key
    ) -> tuple[LearnerState, dict[str, Array]]:
        """`n_epochs` steps of the actor: `-> state, metrics`; `extra` counts the steps of the running episodes."""
        policy, rate = state.policy, schedule_value(self.learning_rate, progress_of(state))
        seen, has_value = experience(self, state, rollout), self.baseline == "value"
        where = places(seen.trace, state.extra)
        known = where.complete | has_value
        value, next_value = seen.value, seen.next_value
        if not has_value:
            value, next_value = jnp.zeros_like(value), jnp.zeros_like(value)
        largest = jnp.inf if self.largest_ratio is None else self.largest_ratio
        x, action = merge_time_and_envs((seen.x, seen.action))

        def step(carry, _):
            actor, optimiser, stopped = carry
            log_prob = policy.distribution(actor, x).log_prob(action)
            log_ratio = log_prob.reshape(seen.log_prob.shape) - seen.log_prob
            kl = kl_estimate(log_ratio).mean()
            if self.target_kl is not None:
                stopped = stopped | (kl > 1.5 * self.target_kl)
            ratios = log_ratio, seen.trace, self.importance, largest
            psi = importance_sampled_returns(seen.reward, seen.discount, value, next_value, *ratios)
            used = known & ~stopped
            new = ascend(policy, actor, optimiser, x, action, psi.ravel(), used.ravel(), rate)
            weights = jnp.where(known, importance_weights(*ratios), 0)
            report = {"approx_kl": kl, "effective_sample_size": effective_sample_size(weights)}
            return (new.params, new.optimiser, stopped), (new.metrics | report, ~stopped)

        start = state.params["actor"], state.optimiser["actor"], jnp.zeros((), bool)
        (actor, optimiser, _), (metrics, taken) = jax.lax.scan(step, start, length=self.n_epochs)
        metrics = {name: jnp.where(taken, value, 0).sum() / taken.sum() for name, value in metrics.items()}
        metrics["n_updates"] = taken.sum()
        params, optimisers = {"actor": actor}, {"actor": optimiser}
        if has_value:
            target = lambda_returns(seen.reward, seen.discount, next_value, seen.trace)
            critic = fit_value(self, state, x, target.ravel(), key)
            params["critic"], optimisers["critic"] = critic.params, critic.optimiser
            metrics |= critic.metrics
        learned = advance_statistics(self, state, rollout)
        return learned._replace(
            params=state.params | params, optimiser=state.optimiser | optimisers, extra=where.elapsed
        ), metrics
