"""The natural gradient of a batch: what NPG and TRPO share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from advantage.algorithms.policy_gradient.shared.options import NaturalOptions, TrustRegionOptions
from advantage.objectives.natural_steps import backtracking, conjugate_gradient, fisher_vector_product
from advantage.objectives.surrogates import importance_surrogate
from advantage.policies.actor_critic import ActorCritic
from advantage.types import Array, Pytree


class NaturalDirection(NamedTuple):
    """The direction of the surrogate's steepest ascent per unit of KL divergence.

    Attributes:
        start: the actor's parameters as a vector, `[P]`.
        unflatten: `[P]` -> the actor's parameters.
        gradient: g, the surrogate's gradient, `[P]`.
        direction: `x` with `(F + damping I) x = g`, `[P]`.
        curvature: `x^T (F + damping I) x`: a step of length alpha has a KL of about `alpha^2 / 2` times this.
        residual: `|(F + damping I) x - g|`.
        iterations: number of conjugate-gradient iterations.
    """

    start: Array
    unflatten: Callable[[Array], Pytree]
    gradient: Array
    direction: Array
    curvature: Array
    residual: Array
    iterations: Array


class OldSamples(NamedTuple):
    """Samples gathered with the old parameters: the networks' input, actions, `log pi_old(a | s)` and A, `[N, ...]`."""

    x: Pytree
    action: Pytree
    log_prob: Array
    advantage: Array


class Surrogate(NamedTuple):
    """Objective and constraint of a step on one batch: `mean rho A + ent_coef H`, the mean KL, and the entropy."""

    gain: Array
    kl: Array
    entropy: Array


def surrogate_of(
    policy: ActorCritic, old: Pytree, new: Pytree, batch: OldSamples, ent_coef: Array | float
) -> Surrogate:
    """The surrogate at new parameters of the actor, from a batch of the old ones."""
    before, now = policy.distribution(old, batch.x), policy.distribution(new, batch.x)
    log_ratio = now.log_prob(batch.action) - batch.log_prob
    gain = -importance_surrogate(log_ratio, batch.advantage).mean()
    entropy = now.entropy().mean()
    return Surrogate(gain + ent_coef * entropy, before.kl(now).mean(), entropy)


def natural_direction(
    options: NaturalOptions, policy: ActorCritic, actor: Pytree, gain: Callable[[Pytree], Array], x: Pytree
) -> NaturalDirection:
    """`F^{-1} g` by conjugate gradients, F the mean Fisher matrix over the states `x`.

    Args:
        options: `cg_iterations` and `cg_damping`, which is added to F's diagonal.
        policy, actor: the network and its parameters.
        gain: `actor -> number`, the function to increase.
        x: the networks' input, `[N, ...]`, or `Sequences` of N steps.

    Source: Kakade 2001, "A natural policy gradient", eq. 3; Schulman et al. 2015, "Trust region policy optimization",
    appendix C.
    """
    start, unflatten = ravel_pytree(actor)
    gradient = ravel_pytree(jax.grad(gain)(actor))[0]

    def distribution_of(vector: Array) -> Any:
        return policy.distribution(unflatten(vector), x)

    def product(vector: Array) -> Array:
        return fisher_vector_product(distribution_of, start, vector) + options.cg_damping * vector

    solved = conjugate_gradient(product, gradient, options.cg_iterations)
    return NaturalDirection(
        start=start,
        unflatten=unflatten,
        gradient=gradient,
        direction=solved.x,
        curvature=solved.x @ solved.image,
        residual=solved.residual,
        iterations=solved.iterations,
    )


def step_to(kl: Array | float, curvature: Array) -> Array:
    """The length whose KL divergence is `kl` to second order: `sqrt(2 kl / x^T F x)`; 0 if the curvature is 0."""
    return jnp.where(curvature > 0, jnp.sqrt(2 * kl / jnp.where(curvature > 0, curvature, 1.0)), 0.0)


def trust_region_step(
    options: TrustRegionOptions,
    policy: ActorCritic,
    old: Pytree,
    surrogate: Callable[[Pytree], Surrogate],
    x: Pytree,
    limit: Array | float,
) -> tuple[Pytree, dict[str, Array]]:
    """The largest natural step within `KL <= limit` that raises the surrogate: `-> actor, metrics`; else `old` itself.

    Args:
        options: options of conjugate gradients and of the line search.
        policy, old: the network and the actor's parameters.
        surrogate: a function of the actor's parameters, on the batch of `old`.
        x: the batch's states, `[N, ...]`, or `Sequences` of N steps.
        limit: largest mean KL divergence, in nats.

    Source: Schulman et al. 2015, "Trust region policy optimization", eq. 14 and appendix C.
    """
    direction = natural_direction(options, policy, old, lambda actor: surrogate(actor).gain, x)
    before = surrogate(old)

    def acceptable(point: Array) -> Array:
        now = surrogate(direction.unflatten(point))
        return (now.kl <= limit) & (now.gain > before.gain)

    step = step_to(limit, direction.curvature) * direction.direction
    found = backtracking(
        acceptable, direction.start, step, options.line_search_shrink, options.line_search_attempts
    )
    actor = direction.unflatten(found.point)
    return actor, step_metrics(direction, before, surrogate(actor)) | {
        "line_search_accepted": found.accepted,
        "line_search_shortened": found.shortened,
    }


def step_metrics(direction: NaturalDirection, before: Surrogate, after: Surrogate) -> dict[str, Array]:
    """The metrics of a natural step."""
    return {
        "policy_gradient_loss": before.gain - after.gain,
        "kl": after.kl,
        "entropy": before.entropy,
        "gradient_norm": jnp.linalg.norm(direction.gradient),
        "cg_residual": direction.residual,
        "cg_iterations": direction.iterations,
    }
