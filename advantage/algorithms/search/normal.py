"""Draws that searches are made of."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from advantage.types import Array, Key

BLOCK = 2**15  # numbers that a cache holds beside what they are made from
LARGE = 2**21  # numbers from which it pays


def standard_normal(key: Key, rows: int, columns: int, dtype: DTypeLike) -> Array:
    """Independent draws from N(0, 1), `[rows, columns]`.

    They are drawn in single precision whatever their type is: chance needs no more digits, and double takes three times
    as long. Millions are drawn in blocks of rows, in half of the time.
    """
    if rows * columns <= LARGE:
        return jax.random.normal(key, (rows, columns), jnp.float32).astype(dtype)
    some = max(1, BLOCK // columns)
    keys = jax.random.split(key, -(-rows // some))
    blocks = jax.lax.map(lambda key: jax.random.normal(key, (some, columns), jnp.float32), keys)
    return blocks.reshape(-1, columns)[:rows].astype(dtype)
