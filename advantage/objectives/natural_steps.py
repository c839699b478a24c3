"""Natural gradient steps: Fisher-vector products, conjugate gradients, line search.

Source: Amari 1998, "Natural gradient works efficiently in learning"; Schulman et al. 2015, "Trust region policy
optimization", appendix C.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from advantage.types import Array, Pytree

DistributionOf = Callable[
    [Pytree], Any
]  # parameters -> distributions over actions, one for each state of a batch


def fisher_vector_product(distribution_of: DistributionOf, params: Pytree, vector: Pytree) -> Pytree:
    """`F v` with `F = mean_s J_s^T M_s J_s`.

    `J` is the Jacobian of the distribution's own parameters and `M` its `fisher`. This needs no second derivative of
    the network and no sampling, and `v^T F v` is never negative.

    Args:
        distribution_of: `params -> distribution` over a batch of states.
        params: the point at which F is taken.
        vector: in the structure of `params`.

    Source: Schulman et al. 2015, appendix C.1 ("J^T M J"); Pascanu & Bengio 2014, "Revisiting natural gradient for
    deep networks", eq. 11.
    """
    distribution, tangent = jax.jvp(distribution_of, (params,), (vector,))
    metric = distribution.fisher(tangent)
    states = distribution.entropy().size
    cotangent = jax.tree.map(lambda m, leaf: _sum_to(m / states, leaf.shape), metric, distribution)
    return jax.vjp(distribution_of, params)[1](cotangent)[0]


def kl_hessian_vector_product(distribution_of: DistributionOf, params: Pytree, vector: Pytree) -> Pytree:
    """`H v`, H the Hessian at `params` of `mean_s KL(pi_params || pi_theta)` in `theta`: the same matrix as F."""
    old = jax.lax.stop_gradient(distribution_of(params))

    def divergence(theta):
        return old.kl(distribution_of(theta)).mean()

    return jax.jvp(jax.grad(divergence), (params,), (vector,))[1]


def _sum_to(x: Array, shape: tuple[int, ...]) -> Array:
    """Sum over broadcast axes, for a parameter that the whole batch shares."""
    extra = x.ndim - len(shape)
    x = x.sum(tuple(range(extra)))
    spread = tuple(axis for axis, size in enumerate(shape) if size == 1 and x.shape[axis] != 1)
    return x.sum(spread, keepdims=True) if spread else x


class Solved(NamedTuple):
    """`x`, its `image` `A x`, and `residual`, `|A x - b|`, after `iterations`."""

    x: Array
    image: Array
    residual: Array
    iterations: Array


def conjugate_gradient(
    product: Callable[[Array], Array], b: Array, iterations: int, tolerance: Array | float = 1e-10
) -> Solved:
    """Solve `A x = b` for a symmetric, positive definite A that is given by its products.

    Args:
        product: `x -> A x`, `[P] -> [P]`.
        b: `[P]`.
        iterations: largest number; P of them are exact up to rounding.
        tolerance: stops once `|A x - b|^2` is at most this times `|b|^2`.

    Source: Hestenes & Stiefel 1952, "Methods of conjugate gradients for solving linear systems", section 3.
    """
    limit = tolerance * (b @ b)

    def more(carry):
        *_, squared, done = carry
        return (done < iterations) & (squared > limit)

    def step(carry):
        x, residual, direction, squared, done = carry
        image = product(direction)
        length = squared / (direction @ image)
        x, residual = x + length * direction, residual - length * image
        new = residual @ residual
        return x, residual, residual + (new / squared) * direction, new, done + 1

    start = jnp.zeros_like(b), b, b, b @ b, jnp.int32(0)
    x, *_, done = jax.lax.while_loop(more, step, start)
    image = product(x)  # the recursion's own residual drifts from the true one
    return Solved(x, image, jnp.linalg.norm(image - b), done)


class Searched(NamedTuple):
    """The result of a line search: `point`, whether it was `accepted`, how often the step was shortened."""

    point: Array
    accepted: Array
    shortened: Array


def backtracking(
    acceptable: Callable[[Array], Array], start: Array, step: Array, shrink: Array | float, attempts: int
) -> Searched:
    """The first of `start + shrink^k step`, k = 0 .. attempts - 1, that is acceptable and finite; else `start`.

    Args:
        acceptable: `point -> bool`.
        start, step: `[P]`.
        shrink: in (0, 1).
        attempts: 1 or more.

    Source: Armijo 1966, "Minimization of functions having Lipschitz continuous first partial derivatives"; Schulman
    et al. 2015, appendix C.
    """

    def more(carry):
        k, accepted, _ = carry
        return (k < attempts) & ~accepted

    def shorten(carry):
        k, _, _ = carry
        point = start + shrink**k * step
        return k + 1, acceptable(point) & jnp.isfinite(point).all(), point

    k, accepted, point = jax.lax.while_loop(more, shorten, (jnp.int32(0), jnp.asarray(False), start))
    return Searched(jnp.where(accepted, point, start), accepted, k - 1)
