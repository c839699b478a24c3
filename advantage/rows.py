"""Arrays whose first axis has the same meaning, `[N, ...]`."""

from __future__ import annotations

import jax.numpy as jnp

from advantage.types import Array


def choose(condition: Array, yes: Array, no: Array) -> Array:
    """`yes` where `condition` `[N]` is true, else `no` `[N, ...]`."""
    return jnp.where(condition.reshape(condition.shape + (1,) * (no.ndim - 1)), yes, no)
