"""A rollout's samples in minibatches: single steps, or sequences of steps that stay together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from advantage.algorithms.chunks import map_chunks
from advantage.algorithms.permutation import random_permutation
from advantage.policies.recurrent import Sequences
from advantage.types import Array, Key, Pytree


def minibatches(batch: Pytree, key: Key, size: int) -> Pytree:
    """A batch in random order, `[N, ...] -> [N // size, size, ...]`; an incomplete minibatch is left out.

    If the batch holds `Sequences`, whole sequences are shuffled, `max(1, size // L)` to a minibatch; its arrays
    `[N, ...]` are the steps of the sequences, in the order of `[L, N / L]`.
    """
    sequences = sequences_in(batch)
    if sequences is None:
        samples = jax.tree.leaves(batch)[0].shape[0]
        number = samples // size
        order = random_permutation(key, samples)[: number * size]
        return jax.tree.map(lambda leaf: leaf[order].reshape(number, size, *leaf.shape[1:]), batch)
    length, count = sequences.begins.shape
    size = max(1, size // length)
    number = count // size
    order = random_permutation(key, count)[: number * size].reshape(number, size)

    def by_column(leaf: Array) -> Array:
        """`[L, N, ...] -> [number, L, size, ...]`."""
        return leaf[:, order].swapaxes(0, 1)

    def take(node: Any) -> Any:
        if not isinstance(node, Sequences):
            columns = by_column(node.reshape(length, count, *node.shape[1:]))
            return columns.reshape(number, length * size, *node.shape[1:])
        memory = jax.tree.map(lambda leaf: leaf[order], node.memory)
        return Sequences(jax.tree.map(by_column, node.x), by_column(node.begins), memory)

    return jax.tree.map(take, batch, is_leaf=lambda node: isinstance(node, Sequences))


def sequences_in(batch: Pytree) -> Sequences | None:
    """The sequences that a batch holds; None if its samples are single steps."""
    nodes = jax.tree.leaves(batch, is_leaf=lambda node: isinstance(node, Sequences))
    return next((node for node in nodes if isinstance(node, Sequences)), None)


def mean_of_chunks(function: Callable[[Pytree], Pytree], batch: Pytree) -> Pytree:
    """`function` of a batch, a mean over samples, as the average over pieces that fit the processor's cache.

    Sequences are not cut into pieces.
    """
    if sequences_in(batch) is not None:
        return function(batch)
    return jax.tree.map(lambda pieces: pieces.mean(0), map_chunks(function, batch))
