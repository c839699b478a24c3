"""Transformations of costs, finite or not: order, ranks and scaling."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from advantage.types import Array


def nonfinite_to_inf(cost: Array) -> Array:
    """Costs with +inf, the worst, in place of values that are not finite."""
    return jnp.where(jnp.isfinite(cost), cost, jnp.inf)


def best_first(cost: Array) -> Array:
    """Indices of the candidates from the best to the worst, `[n]`; equal ones stay in their order."""
    cost = nonfinite_to_inf(cost)
    if cost.dtype != jnp.float32:
        return jnp.argsort(cost, stable=True)
    # one array of integers, with the cost in the upper half and the place in the lower, sorts ten times as fast
    bits = jax.lax.bitcast_convert_type(jnp.where(cost == 0, 0, cost), jnp.int32)
    ordered = jnp.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    with jax.enable_x64(True):
        places = jax.lax.iota(jnp.int64, cost.size)
        keys = jax.lax.sort((ordered.astype(jnp.int64) << 32) | places, is_stable=False)
        return keys.astype(jnp.int32)  # the lower half


def rank(cost: Array) -> Array:
    """How many candidates come before each one, `[n]`: 0 is the best."""
    return jnp.argsort(best_first(cost))


def number_of(share: Array | float, size: int) -> Array:
    """`max(1, share * size)` rounded to the nearest whole number, halves to even."""
    return jnp.maximum(1, jnp.round(share * size))


def centred_ranks(cost: Array) -> Array:
    """Ranks from -1/2, the best, to 1/2, the worst, `[n]`; equal costs share the mean of their ranks.

    Source: Wierstra et al. 2014, "Natural evolution strategies", section 3.1, on utilities; Salimans et al. 2017,
    "Evolution strategies as a scalable alternative to reinforcement learning", section 2.1, on ranks.
    """
    cost = nonfinite_to_inf(cost)
    ordered = jnp.sort(cost)
    before = jnp.searchsorted(ordered, cost, side="left")
    after = cost.size - jnp.searchsorted(ordered, cost, side="right")
    return (before - after) / jnp.maximum(2 * (cost.size - 1), 1)


def finite(cost: Array) -> Array:
    """Costs with the largest finite one in place of values that are not finite; zeros if none is finite."""
    is_finite = jnp.isfinite(cost)
    worst = jnp.where(is_finite, cost, -jnp.inf).max()
    return jnp.where(is_finite, cost, jnp.where(is_finite.any(), worst, 0))


def scaled(cost: Array) -> Array:
    """`finite` costs scaled from 0, the smallest, to 1, the largest; 0 if all are equal."""
    cost = finite(cost) / 16  # so that neither the range nor its reciprocal overflows
    cost -= cost.min()
    largest = cost.max()
    return cost / jnp.where(largest > 0, largest, 1)


def standardised(cost: Array) -> Array:
    """Costs less their mean, divided by their standard deviation, `[n]`; 0 if all are equal."""
    deviation = scaled(cost)
    deviation -= deviation.mean()
    size = deviation.std()
    return deviation / jnp.where(size > 0, size, 1)


def usable(gradient: Array) -> Array:
    """The gradient; zero if its squared length overflows."""
    return jnp.where(jnp.isfinite(jnp.vdot(gradient, gradient)), gradient, 0)
