"""Process large batches in pieces whose activations fit in the processor's cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from advantage.types import Pytree

ROWS = 4096  # in a network of width 64 the activations of a layer take half of a cache of two megabytes


def map_chunks(function: Callable[[Pytree], Pytree], batch: Pytree) -> Pytree:
    """Apply `function` to pieces of `batch` `[N, ...]`, one after the other: `-> [K, ...]`, one result per piece.

    On a CPU each piece has at most `ROWS` rows. If N has no suitable divisor, or on other devices, there is one piece.
    """
    rows = jax.tree.leaves(batch)[0].shape[0]
    pieces = 1 if jax.default_backend() != "cpu" else -(-rows // ROWS)
    pieces = next((n for n in range(pieces, 2 * pieces + 1) if rows % n == 0), 1)
    if pieces == 1:
        return jax.tree.map(lambda result: result[None], function(batch))
    parts: Any = jax.tree.map(lambda x: x.reshape(pieces, rows // pieces, *x.shape[1:]), batch)
    return jax.lax.map(function, parts)
