"""The policy gradient from another policy's episodes, by importance sampling."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
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
from advantage.algorithms.policy_gradient.shared.experience import Experience, advance_statistics, experience
from advantage.algorithms.policy_gradient.shared.options import CriticOptions, PolicyOptions
from advantage.algorithms.policy_gradient.shared.state import (
    EpisodicState,
    episodic,
    policy_state_init,
    without_critic,
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
from advantage.types import Array, Key, Pytree, Rollout, Spec


@hyperparameters
@dataclasses.dataclass(frozen=True)
class OffPolicyPG(CriticOptions, PolicyOptions):
    """Off-policy policy gradient: several gradient steps for each rollout, all but the first off-policy.

    For each rollout of `n_steps` in each environment, gathered with theta_old, and for each of n_epochs steps:

        rho_t    <- pi_theta(a_t | s_t) / pi_old(a_t | s_t)
        Psi_t    <- Π_k rho_k (G_t - V(s_t))             trajectory: k over the whole episode
                    Σ_{u>=t} gamma^{u-t} w_u delta_u     per-decision: w_u = Π_{k<=u} rho_k
                    rho_t (G_t - V(s_t))                 action
        stop     if the estimated KL(pi_old || pi_theta) exceeds 1.5 target_kl
        theta    <- Adam(theta, mean over steps of Psi_t ∇log pi_theta(a_t | s_t))

    with delta_u = r_u + gamma V(s_{u+1}) - V(s_u), and V fitted to G_t after the last step, or 0. Products of ratios
    are clipped at `largest_ratio`. Without clipping the first two are unbiased for whole episodes; the third is biased
    because it ignores the difference of the state distributions, and has by far the smallest variance. At theta =
    theta_old all three are REINFORCE.

    If the rollout cuts off an episode, V estimates the rest; without V only steps count whose episode ends in the
    rollout. If an episode began in an earlier rollout, only its ratios in this one are known.

    Source: Precup, Sutton & Singh 2000, "Eligibility traces for off-policy policy evaluation", section 3, for the
    weights; Jiang & Li 2016, "Doubly robust off-policy value evaluation for reinforcement learning", for V in them.
    """

    learning_rate: float | Schedule = ranged(3e-3, "[0, inf)")
    """Adam's step size for the actor; a number or a schedule of progress."""
    n_epochs: int = ranged(10, "[1, inf)")
    """Gradient steps for each rollout."""
    importance: Form = "per-decision"
    """Ratios that weight an action: those of the whole episode, those up to each reward, or its own."""
    baseline: Literal["none", "value"] = "value"
    """Baseline to subtract: nothing, or a learned value."""
    largest_ratio: float | None = ranged(10.0, "[1, inf)")
    """Limit at which products of ratios are clipped; None does not clip."""
    target_kl: float | None = ranged(0.01, "(0, inf)")
    """Stops an update before a step when the estimated KL, in nats, exceeds 1.5 times this; None never stops."""
    normalize_reward: bool = False
    """Divide rewards by the running standard deviation of the discounted return."""

    def __post_init__(self):
        check(self)

    def init(self, key: Key, spec: Spec) -> EpisodicState:
        """Draw the initial training state. Raises ValueError for a space that no policy covers."""
        state = policy_state_init(self, key, spec, batch_size=self.critic_batch_size)
        if self.baseline == "none":
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
        """`n_epochs` steps of the actor: `-> state, metrics`."""
        seen = experience(self, state, rollout, batch_size=self.critic_batch_size)
        where, has_value = places(seen.trace, state.elapsed), self.baseline == "value"
        actor, optimiser, metrics = self._ascend(state, seen, where.complete | has_value)
        params, optimisers = {"actor": actor}, {"actor": optimiser}
        if has_value:
            target = lambda_returns(seen.reward, seen.discount, seen.next_value, seen.trace)
            (target,) = seen.samples(target)
            critic = fit_value(self, state, seen.x, target, key)
            params["critic"], optimisers["critic"] = critic.params, critic.optimiser
            metrics |= critic.metrics
        learned = dataclasses.replace(
            advance_statistics(self, state, rollout, seen.critic_memory),
            params=params,
            optimiser=optimisers,
            elapsed=where.elapsed,
        )
        return learned, metrics

    def _ascend(
        self, state: EpisodicState, seen: Experience, known: Array
    ) -> tuple[Pytree, Pytree, dict[str, Array]]:
        """The steps of the actor: `-> parameters, optimiser, metrics`; `known` `[T, B]` says which steps count."""
        policy, rate = state.policy, schedule_value(self.learning_rate, progress(state.clock))
        largest = jnp.inf if self.largest_ratio is None else self.largest_ratio
        action, log_prob = seen.samples(seen.action, seen.log_prob)

        def step(carry, _):
            actor, optimiser, stopped = carry
            now = policy.distribution(actor, seen.x).log_prob(action)
            log_ratio = seen.in_time(now - log_prob)
            kl = kl_estimate(log_ratio).mean()
            if self.target_kl is not None:
                stopped = stopped | (kl > 1.5 * self.target_kl)
            ratios = log_ratio, seen.trace, self.importance, largest
            psi = importance_sampled_returns(seen.reward, seen.discount, seen.value, seen.next_value, *ratios)
            weight, used = seen.samples(psi, known & ~stopped)
            batch = Weighted(seen.x, action, weight, used)
            new = ascend(policy, actor, optimiser, batch, learning_rate=rate)
            weights = jnp.where(known, importance_weights(*ratios), 0)
            report = {"approx_kl": kl, "effective_sample_size": effective_sample_size(weights)}
            return (new.params, new.optimiser, stopped), (new.metrics | report, ~stopped)

        start = state.params["actor"], state.optimiser["actor"], jnp.zeros((), bool)
        (actor, optimiser, _), (metrics, taken) = jax.lax.scan(step, start, length=self.n_epochs)
        metrics = {name: jnp.where(taken, value, 0).sum() / taken.sum() for name, value in metrics.items()}
        return actor, optimiser, metrics | {"n_updates": taken.sum()}
