"""A tree of sums and maxima over many leaves: it sets and draws leaves in a time that grows with their logarithm.

A tree is float32 `[2P, 2]`, with P the smallest power of two that is not below the number of leaves. Leaf i is row
`P + i`, the children of row i are rows `2i` and `2i + 1`, and row 1 is the root. A leaf holds a value, in proportion to
which it is drawn, and a number of which the tree knows the maximum. All other rows hold the sum of their children's
values and the maximum of their numbers.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from advantage.precise_sum import PreciseSum, precise_add
from advantage.types import Array

State = tuple[Array, Array]


def sum_tree_init(leaves: int) -> Array:
    """A tree of zeros."""
    return jnp.zeros((2 * sum_tree_width(leaves), 2), jnp.float32)


def sum_tree_width(leaves: int) -> int:
    """P, the number of leaves that the tree has room for."""
    return 1 << (leaves - 1).bit_length()


def sum_tree_set(tree: Array, index: Array, value: Array, ranked: Array | None = None) -> Array:
    """Set leaves `index`, `[N]`, and compute their ancestors from the children, so that rounding does not accumulate.

    Where a leaf is named several times, its largest value stays and its largest `ranked`: the order does not matter,
    which compiled programs do not promise.

    Args:
        tree: `[2P, 2]`.
        index: int32, from 0 to P - 1.
        value: at least 0, the leaf's share in draws.
        ranked: at least 0, what `sum_tree_largest` is the maximum of; by default `value`.
    """
    width = len(tree) // 2
    rows = jnp.stack([value, value if ranked is None else ranked], -1)
    tree = tree.at[width + index].set(rows)  # any of several
    tree = tree.at[width + index].max(rows)

    def climb(_: Array, at: State) -> State:
        tree, node = at
        parent = node // 2
        left, right = tree[2 * parent], tree[2 * parent + 1]
        joined = jnp.stack([left[:, 0] + right[:, 0], jnp.maximum(left[:, 1], right[:, 1])], -1)
        return tree.at[parent].set(joined), parent

    return jax.lax.fori_loop(0, _levels(tree), climb, (tree, width + index))[0]


def sum_tree_draw(tree: Array, u: Array, rest: Array | float = 0.0) -> Array:
    """The leaves in which the fractions `u + rest` of the total lie, if the values are laid side by side, int32 `[N]`.

    Of uniform numbers they are leaves drawn in proportion to their values. A leaf of value 0 is never drawn, whatever
    is rounded; of a tree of zeros it is leaf 0.

    Args:
        tree: `[2P, 2]`.
        u, rest: two float32, `[N]`, whose sum is in [0, 1). One alone has too few digits for many leaves: uniform
            numbers of JAX have 2^23 values.
    """

    def descend(_: Array, at: tuple[Array, PreciseSum]) -> tuple[Array, PreciseSum]:
        node, mass = at
        left, right = tree[2 * node, 0], tree[2 * node + 1, 0]
        beyond = precise_add(mass, -left)
        goes_right = (right > 0) & ((beyond.high >= 0) | (left <= 0))
        kept = jax.tree.map(lambda new, old: jnp.where(goes_right, new, old), beyond, mass)
        return 2 * node + goes_right, kept

    total = sum_tree_total(tree)
    mass = precise_add(PreciseSum(total * u, jnp.zeros_like(u)), total * rest)
    root = jnp.ones(u.shape, jnp.int32)
    return jax.lax.fori_loop(0, _levels(tree), descend, (root, mass))[0] - len(tree) // 2


def sum_tree_leaves(tree: Array, index: Array) -> Array:
    """Leaves as they were set: value and `ranked`, `[N, 2]`."""
    return tree[len(tree) // 2 + index]


def sum_tree_total(tree: Array) -> Array:
    """The sum of all values."""
    return tree[1, 0]


def sum_tree_largest(tree: Array) -> Array:
    """The maximum of `ranked` over all leaves; 0 if there is none above."""
    return tree[1, 1]


def _levels(tree: Array) -> int:
    return len(tree).bit_length() - 2
