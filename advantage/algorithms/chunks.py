"""Large batches in pieces whose activations stay in the processor's cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from advantage.types import Pytree

ROWS = 4096  # of a network 64 wide: half of what lies in two megabytes


def map_chunks(function: Callable[[Pytree], Pytree], batch: Pytree) -> Pytree:
    """`function` of pieces of `batch` `[N, ...]`, one after the other: `-> [K, ...]`, a result for each piece.

    On a CPU the pieces have at most `ROWS` rows each, or N if that has no divisor near it; elsewhere there is one.
    """
    rows = jax.tree.leaves(batch)[0].shape[0]
    pieces = 1 if jax.default_backend() != "cpu" else -(-rows // ROWS)
    pieces = next((n for n in range(pieces, 2 * pieces + 1) if rows % n == 0), 1)
    if pieces == 1:
        return jax.tree.map(lambda result: result[None], function(batch))
    parts: Any = jax.tree.map(lambda x: x.reshape(pieces, rows // pieces, *x.shape[1:]), batch)
    return jax.lax.map(function, parts)
