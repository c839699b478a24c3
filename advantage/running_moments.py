"""Running means and variances as part of the state, accurate in float32 over streams of any length."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from advantage.types import Array


class Compensated(NamedTuple):
    """A float32 number and its rounding error; together they have about twice the digits."""

    value: Array
    error: Array


def compensated_add(number: Compensated, x: Array) -> Compensated:
    """`number + x`; the rounding error is kept (Knuth's two-sum, TAOCP 2, section 4.2.2, theorem B)."""
    x = x + number.error
    total = number.value + x
    added = total - number.value
    return Compensated(total, (number.value - (total - added)) + (x - added))


class Moments(NamedTuple):
    """Count, mean and variance of all samples so far; mean 0 and variance 1 before the first."""

    count: Compensated
    mean: Compensated
    variance: Compensated


def moments_init(shape: tuple[int, ...]) -> Moments:
    """Empty statistics, for samples of this shape."""
    zero, one = jnp.zeros(shape), jnp.ones(shape)
    return Moments(Compensated(jnp.zeros(()), jnp.zeros(())), Compensated(zero, zero), Compensated(one, zero))


def moments_update(moments: Moments, batch: Array) -> Moments:
    """Merge `batch`, `[..., *shape]`, into the statistics.

    With `w` the batch's share of all samples, `mean += w d` and
    `variance += w (batch_variance - variance) + w (1 - w) d^2`, where `d = batch_mean - mean`.

    Source: Chan, Golub & LeVeque 1983, "Algorithms for computing the sample variance", eq. 2.1, divided by the
    count so that nothing grows.
    """
    batch = batch.reshape(-1, *moments.mean.value.shape)
    mean = batch.mean(axis=0)
    return moments_merge(moments, jnp.float32(batch.shape[0]), mean, jnp.square(batch - mean).mean(axis=0))


def moments_merge(moments: Moments, number: Array, mean: Array, variance: Array) -> Moments:
    """Merge a batch's count, mean and variance, as `moments_update` does; an empty batch changes nothing."""
    count = compensated_add(moments.count, number)
    share = number / jnp.maximum(count.value, 1)
    difference = mean - moments.mean.value
    spread = variance - moments.variance.value + (1 - share) * jnp.square(difference)
    return Moments(
        count,
        compensated_add(moments.mean, share * difference),
        compensated_add(moments.variance, share * spread),
    )


class Normaliser(NamedTuple):
    """The part of the statistics that acting needs: `clip((x - mean) * scale, -limit, limit)`."""

    mean: Array
    scale: Array
    limit: Array

    def __call__(self, x: Array) -> Array:
        xp = x.__array_namespace__()
        return xp.minimum(xp.maximum((x - self.mean) * self.scale, -self.limit), self.limit)


def normaliser(moments: Moments, limit: Array | float) -> Normaliser:
    """The normaliser to zero mean and unit variance, clipped to `limit` standard deviations."""
    scale = 1 / jnp.sqrt(moments.variance.value + 1e-8)
    return Normaliser(moments.mean.value, scale, jnp.asarray(limit, jnp.float32))
