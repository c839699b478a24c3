"""Sums on the device in about twice the precision of float32: long episodes have many small rewards."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from advantage.types import Array


class PreciseSum(NamedTuple):
    """The unevaluated sum `high + low` of two float32 arrays; `high` is the sum rounded to float32."""

    high: Array
    low: Array


def precise_zero() -> PreciseSum:
    """The empty sum."""
    return PreciseSum(jnp.float32(0), jnp.float32(0))


def precise_add(total: PreciseSum, x: Array) -> PreciseSum:
    """The sum with `x`; what rounding takes from `high` goes to `low`.

    Source: Knuth, "The art of computer programming", volume 2, section 4.2.2, theorem B.
    """
    rounded = total.high + x
    part = rounded - total.high
    low = total.low + ((total.high - (rounded - part)) + (x - part))
    low = jnp.where(jnp.isfinite(rounded), low, 0.0)
    high = rounded + low
    return PreciseSum(high, low - (high - rounded))


def precise_value(total: PreciseSum) -> np.ndarray:
    """The sum as float64; not finite if the sum is not."""
    high, low = (np.asarray(part, np.float64) for part in total)
    return high + np.where(np.isfinite(high), low, 0.0)
