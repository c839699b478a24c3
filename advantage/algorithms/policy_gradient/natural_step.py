"""The natural gradient of a batch: what NPG and TRPO share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from advantage.objectives.natural import conjugate_gradient, fisher_vector_product
from advantage.objectives.surrogate import importance_surrogate
from advantage.policies.actor_critic import ActorCritic
from advantage.types import Array, Pytree


class NaturalDirection(NamedTuple):
    """Where the surrogate rises steepest for each unit of KL divergence.

    Attributes:
        start: the actor's parameters in a row, `[P]`.
        unflatten: `[P]` -> the actor's parameters.
        gradient: g, of the surrogate, `[P]`.
        direction: `x` with `(F + damping I) x = g`, `[P]`.
        curvature: `x^T (F + damping I) x`: a step of length alpha has a KL of about `alpha^2 / 2` times this.
        residual: `|(F + damping I) x - g|`.
        iterations: of conjugate gradients.
    """

    start: Array
    unflatten: Callable[[Array], Pytree]
    gradient: Array
    direction: Array
    curvature: Array
    residual: Array
    iterations: Array


class Surrogate(NamedTuple):
    """What a step of the actor changes, on one batch: `mean rho A + ent_coef H`, the mean KL, and the entropy."""

    gain: Array
    kl: Array
    entropy: Array


def surrogate_of(
    policy: ActorCritic,
    old: Pytree,
    new: Pytree,
    x: Pytree,
    action: Pytree,
    log_prob: Array,
    advantage: Array,
    ent_coef: Array | float,
) -> Surrogate:
    """The surrogate at new parameters of the actor, from a batch that the old ones acted, `[N, ...]`."""
    before, now = policy.distribution(old, x), policy.distribution(new, x)
    gain = -importance_surrogate(now.log_prob(action) - log_prob, advantage).mean()
    entropy = now.entropy().mean()
    return Surrogate(gain + ent_coef * entropy, before.kl(now).mean(), entropy)


def natural_direction(
    policy: ActorCritic,
    actor: Pytree,
    gain: Callable[[Pytree], Array],
    x: Pytree,
    iterations: int,
    damping: Array | float,
) -> NaturalDirection:
    """`F^{-1} g` by conjugate gradients, F the mean Fisher matrix over the states `x`.

    Args:
        policy, actor: the network and its parameters.
        gain: `actor -> number`, what is to rise.
        x: the networks' input, `[N, ...]`.
        iterations: of conjugate gradients, at most.
        damping: added to F's diagonal.

    Source: Kakade 2001, "A natural policy gradient", eq. 3; Schulman et al. 2015, "Trust region policy optimization",
    appendix C.
    """
    start, unflatten = ravel_pytree(actor)
    gradient = ravel_pytree(jax.grad(gain)(actor))[0]

    def distribution_of(flat: Array) -> Any:
        return policy.distribution(unflatten(flat), x)

    def product(vector: Array) -> Array:
        return fisher_vector_product(distribution_of, start, vector) + damping * vector

    solved = conjugate_gradient(product, gradient, iterations)
    curvature = solved.x @ product(solved.x)
    return NaturalDirection(
        start, unflatten, gradient, solved.x, curvature, solved.residual, solved.iterations
    )


def step_to(kl: Array | float, curvature: Array) -> Array:
    """The length whose KL divergence is `kl` to second order: `sqrt(2 kl / x^T F x)`; 0 where nothing is curved."""
    return jnp.where(curvature > 0, jnp.sqrt(2 * kl / jnp.where(curvature > 0, curvature, 1.0)), 0.0)
