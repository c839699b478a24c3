"""Proximal policy optimization (Schulman et al. 2017), in its four modes."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

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
from advantage.algorithms.policy_gradient.shared.minibatches import mean_of_chunks, minibatches
from advantage.algorithms.policy_gradient.shared.optimisers import clipped
from advantage.algorithms.policy_gradient.shared.options import PolicyOptions
from advantage.algorithms.policy_gradient.shared.state import PolicyState, extended, policy_state_init
from advantage.estimators.returns import explained_variance, gae, standardise
from advantage.objectives.surrogates import (
    adapted_coefficient,
    clipped_squared_error,
    clipped_surrogate,
    importance_surrogate,
    kl_estimate,
    penalised_surrogate,
    squared_error,
)
from advantage.types import Array, Key, Pytree, Rollout, Spec


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PPOState(PolicyState):
    """A policy's training state, and the penalty weight beta with adaptive-kl; `()` in the other modes."""

    kl_coef: Array | tuple[()]


class Samples(NamedTuple):
    """Data of each sample for the surrogate, `[N, ...]`; `x` may be `Sequences` of N steps."""

    x: Pytree
    action: Pytree
    log_prob: Array
    value: Array
    advantage: Array
    target: Array


@hyperparameters
@dataclasses.dataclass(frozen=True)
class PPO(PolicyOptions):
    """Proximal policy optimization, by default with the clipped surrogate.

    For each rollout of `n_steps` in each environment, with `theta_old` the parameters that acted:

        log pi_old, V    <- one batch, from theta_old
        A_t              <- GAE(gamma, gae_lambda);  G_t <- A_t + V(s_t)
        for each of n_epochs, for each minibatch of batch_size:
            rho          <- pi_theta(a|s) / pi_old(a|s)
            L            <- -mean min(rho A, clip(rho, 1 - clip_range, 1 + clip_range) A)
                            + vf_coef mean (V - G)^2 / 2 - ent_coef mean H(pi)
            stop         if the estimated KL(pi_old || pi_theta) exceeds 1.5 target_kl
            theta        <- Adam(theta, clip_norm(grad L, max_grad_norm))
        the statistics   <- merged with this rollout; used from the next one on

    The other three modes replace the first term of L, and adaptive-kl adapts its penalty:

        none             -mean rho A
        fixed-kl         -mean (rho A - beta KL(pi_old || pi_theta)),              beta = kl_coef
        adaptive-kl      the same; after an update beta is halved if the mean KL was below kl_target / 1.5, doubled
                         if it was above 1.5 kl_target

    Departures from the paper: observations and rewards are scaled by running statistics and clipped, advantages are
    normalised, initial weights are orthogonal, and gradients are clipped by their global norm, as in the paper's code.
    Each is an option.

    Source: Schulman et al. 2017, "Proximal policy optimization algorithms", eq. 6 to 9, section 4 and algorithm 1.
    """

    learning_rate: float | Schedule = ranged(3e-4, "[0, inf)")
    """Adam's step size; a number or a schedule of progress."""
    batch_size: int = ranged(64, "[1, inf)")
    """Samples in a minibatch; divides n_steps * num_envs."""
    n_epochs: int = ranged(10, "[1, inf)")
    """Passes over each rollout."""
    gae_lambda: float = ranged(0.95, "[0, 1]")
    """Lambda of GAE: 0 is the TD error, 1 the Monte-Carlo return."""
    objective: Literal["clip", "adaptive-kl", "fixed-kl", "none"] = "clip"
    """How the new policy is kept near the old one: the clipped ratio, a penalty on the KL divergence, or nothing."""
    kl_coef: float = ranged(1.0, "(0, inf)")
    """Penalty weight beta, per nat; with adaptive-kl its initial value."""
    kl_target: float = ranged(0.01, "(0, inf)")
    """Target KL of an update for adaptive-kl, in nats."""
    clip_range: float | Schedule = ranged(0.2, "(0, inf)")
    """Half-width of the interval around 1 at which the ratio is clipped; a number or a schedule."""
    clip_range_vf: float | Schedule | None = ranged(None, "(0, inf)")
    """Limit of a value's change from its value when acting, in units of return; None does not clip."""
    normalize_advantage: Literal["minibatch", "batch", "none"] = "minibatch"
    """Samples over which advantages are scaled to zero mean and unit variance."""
    ent_coef: float = ranged(0.0, "[0, inf)")
    """Weight of the entropy bonus, per nat."""
    vf_coef: float = ranged(0.5, "[0, inf)")
    """Weight of the critic's loss."""
    max_grad_norm: float | None = ranged(0.5, "(0, inf)")
    """Largest global norm of a gradient; None does not clip."""
    target_kl: float | None = ranged(None, "(0, inf)")
    """Stops an update before a step when the estimated KL, in nats, exceeds 1.5 times this; None never stops."""
    share_network: bool = False
    """One network for actor and critic, or one each."""
    adam_epsilon: float = ranged(1e-5, "(0, inf)")
    """Added to Adam's denominator."""

    def __post_init__(self):
        check(self)

    def init(self, key: Key, spec: Spec) -> PPOState:
        """Draw the initial training state.

        Raises:
            ValueError: a space that PPO cannot handle, or a batch_size that does not divide the rollout.
        """
        samples = self.n_steps * spec.num_envs
        if samples % self.batch_size:
            divisors = [d for d in range(1, samples + 1) if samples % d == 0]
            near = sorted(sorted(divisors, key=lambda d: abs(d - self.batch_size))[:2])
            raise ValueError(
                f"batch_size={self.batch_size} does not divide n_steps * num_envs = {self.n_steps} * "
                f"{spec.num_envs} = {samples}; use a divisor such as {' or '.join(map(str, near))}."
            )
        state = policy_state_init(self, key, spec, shared=self.share_network, batch_size=self.batch_size)
        optimiser = self._optimiser().init(ravel_pytree(state.params)[0])
        adapts = self.objective == "adaptive-kl"
        kl_coef = jnp.asarray(self.kl_coef, jnp.float32) if adapts else ()
        return extended(state, PPOState, optimiser=optimiser, kl_coef=kl_coef)

    actor = policy_actor
    initial_memory = policy_memory
    noise = policy_noise
    act = act_by_policy
    greedy = greedy_by_policy

    def update(self, state: PPOState, rollout: Rollout, key: Key) -> tuple[PPOState, dict[str, Array]]:
        """Learn from one rollout: `-> state, metrics`."""
        spent = progress(state.clock)
        learning_rate, clip_range = (
            schedule_value(schedule, spent) for schedule in (self.learning_rate, self.clip_range)
        )
        batch, critic_memory = self._samples(state, rollout)
        params, optimiser, metrics = self._descend(state, batch, key, learning_rate)
        metrics["learning_rate"] = jnp.asarray(learning_rate, jnp.float32)
        metrics["clip_range"] = jnp.asarray(clip_range, jnp.float32)
        metrics["explained_variance"] = explained_variance(batch.value, batch.target)
        learned = advance_statistics(self, state, rollout, critic_memory)
        learned = dataclasses.replace(learned, params=params, optimiser=optimiser)
        if self.objective == "adaptive-kl":
            kl = self._kl(state, learned.params, batch.x)
            adapted = adapted_coefficient(state.kl_coef, kl, self.kl_target)
            learned = dataclasses.replace(learned, kl_coef=adapted)
            metrics |= {"kl": kl, "kl_coef": state.kl_coef}
        return learned, metrics

    def _samples(self, state: PPOState, rollout: Rollout) -> tuple[Samples, Pytree]:
        """Log-probabilities, values and advantages under the acting parameters: `-> samples, critic's memory`."""
        seen = experience(self, state, rollout, batch_size=self.batch_size)
        advantage = gae(seen.reward, seen.discount, seen.value, seen.next_value, self.gae_lambda * seen.trace)
        target = advantage + seen.value
        if self.normalize_advantage == "batch":
            advantage = standardise(advantage)
        facts = seen.action, seen.log_prob, seen.value, advantage, target
        return Samples(seen.x, *seen.samples(*facts)), seen.critic_memory

    def _descend(
        self, state: PPOState, batch: Samples, key: Key, learning_rate: Array | float
    ) -> tuple[Pytree, optax.OptState, dict[str, Array]]:
        """The epochs of minibatch steps: `-> parameters, optimiser, mean metrics`."""
        samples = batch.advantage.shape[0]
        size = samples // max(1, samples // self.batch_size)  # the last rollout of a run may be shorter
        params, unflatten = ravel_pytree(state.params)  # one vector: Adam's step is then one loop

        def minibatch_step(carry, minibatch):
            params, optimiser, stopped = carry
            if self.normalize_advantage == "minibatch":
                minibatch = minibatch._replace(advantage=standardise(minibatch.advantage))
            loss = partial(jax.grad(self._loss, has_aux=True), unflatten(params), state)
            gradient, metrics = mean_of_chunks(loss, minibatch)
            gradient, _ = ravel_pytree(gradient)
            metrics["gradient_norm"] = optax.tree.norm(gradient)
            updates: Any
            updates, new_optimiser = self._optimiser().update(gradient, optimiser)
            new_params = params - learning_rate * updates
            evaluated = ~stopped
            if self.target_kl is not None:
                stopped = stopped | (metrics["approx_kl"] > 1.5 * self.target_kl)
                keep = jax.tree.map(
                    partial(jnp.where, stopped), (params, optimiser), (new_params, new_optimiser)
                )
                new_params, new_optimiser = keep
            return (new_params, new_optimiser, stopped), (metrics, evaluated, ~stopped)

        def epoch(carry, key):
            return jax.lax.scan(minibatch_step, carry, minibatches(batch, key, size))

        start = params, state.optimiser, jnp.zeros((), bool)
        keys = jax.random.split(key, self.n_epochs)
        (params, optimiser, _), (metrics, evaluated, applied) = jax.lax.scan(epoch, start, keys)
        metrics = {
            name: jnp.where(evaluated, value, 0).sum() / evaluated.sum() for name, value in metrics.items()
        }
        return unflatten(params), optimiser, metrics | {"n_updates": applied.sum()}

    def _loss(self, params: Pytree, state: PPOState, batch: Samples):
        """Minus the paper's eq. 9: `-> loss, metrics`."""
        policy, spent = state.policy, progress(state.clock)
        distribution, value = policy.distribution(params["actor"], batch.x), policy.value(params, batch.x)
        log_ratio = distribution.log_prob(batch.action) - batch.log_prob
        clip_range = schedule_value(self.clip_range, spent)
        if self.objective == "clip":
            policy_loss = clipped_surrogate(log_ratio, batch.advantage, clip_range).mean()
        elif self.objective == "none":
            policy_loss = importance_surrogate(log_ratio, batch.advantage).mean()
        else:
            old = policy.distribution(state.params["actor"], batch.x)
            coefficient = state.kl_coef if self.objective == "adaptive-kl" else self.kl_coef
            policy_loss = penalised_surrogate(
                log_ratio, batch.advantage, old.kl(distribution), coefficient
            ).mean()
        if self.clip_range_vf is None:
            value_loss = squared_error(value, batch.target).mean()
        else:
            value_range = schedule_value(self.clip_range_vf, spent)
            value_loss = clipped_squared_error(value, batch.value, batch.target, value_range).mean()
        entropy = distribution.entropy().mean()
        loss = policy_loss + self.vf_coef * value_loss - self.ent_coef * entropy
        return loss, {
            "loss": loss,
            "policy_gradient_loss": policy_loss,
            "value_loss": value_loss,
            "entropy": entropy,
            "approx_kl": kl_estimate(log_ratio).mean(),
            "clip_fraction": (jnp.abs(jnp.expm1(log_ratio)) > clip_range).mean(),
        }

    def _kl(self, state: PPOState, params: Pytree, x: Pytree) -> Array:
        """The mean of `KL(pi_old || pi_new)` over a rollout's states."""

        def divergence(x: Pytree) -> Array:
            old, new = (state.policy.distribution(p["actor"], x) for p in (state.params, params))
            return old.kl(new).mean()

        return mean_of_chunks(divergence, x)

    def _optimiser(self) -> optax.GradientTransformation:
        return clipped(optax.scale_by_adam(eps=self.adam_epsilon), self.max_grad_norm)
