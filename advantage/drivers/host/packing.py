"""Pytrees as one array of 32-bit words: a compiled call costs more for each array than for each number in it."""

from __future__ import annotations

import dataclasses
import math
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advantage.types import Array, Pytree

LARGE = 4096  # more words than this are not worth a copy


class Leaf(NamedTuple):
    """One leaf of a packed tree.

    Attributes:
        shape, dtype: of the leaf; for random keys, of their numbers.
        begin: of its words among those of the tree; -1 if it lies apart.
        size: number of words.
        key: the kind of random keys; empty for other leaves.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    begin: int
    size: int
    key: str

    @property
    def is_apart(self) -> bool:
        return self.begin < 0

    @property
    def is_flag(self) -> bool:
        return self.dtype.kind == "b"

    def words(self, words: Any) -> Any:
        """Its words among those of the tree, in its shape."""
        return words[self.begin : self.begin + self.size].reshape(self.shape)


@dataclasses.dataclass(frozen=True, eq=False)
class Packing:
    """How trees of one kind are packed. For each kind there is one object, so that comparing two takes no time."""

    structure: Any
    leaves: tuple[Leaf, ...]

    @property
    def size(self) -> int:
        """The number of words."""
        return sum(leaf.size for leaf in self.leaves if not leaf.is_apart)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Packed:
    """A packed tree: `words`, uint32 `[W]`, and the leaves that lie apart, large ones and those not of 32 bits."""

    words: Array
    apart: list[Array]
    packing: Packing = dataclasses.field(metadata={"static": True})


_packing = lru_cache(maxsize=256)(Packing)


def _packing_of(tree: Pytree) -> Packing:
    """How a tree of arrays is packed."""
    leaves, structure = jax.tree.flatten(tree)
    described, begin = [], 0
    for leaf in leaves:
        key = ""
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            key, leaf = str(jax.random.key_impl(leaf)), jax.eval_shape(jax.random.key_data, leaf)
        shape, dtype = np.shape(leaf), jax.dtypes.canonicalize_dtype(leaf.dtype)
        size = math.prod(shape)
        together = size <= LARGE and (dtype.itemsize == 4 or dtype.kind == "b")
        described.append(Leaf(shape, dtype, begin if together else -1, size, key))
        begin += size if together else 0
    return _packing(structure, tuple(described))


def pack(tree: Pytree) -> Packed:
    """Pack a tree, in a compiled function."""
    tree = jax.tree.map(jnp.asarray, tree)  # a metric may be a number of Python
    packing, words, apart = _packing_of(tree), [], []
    for leaf, about in zip(jax.tree.leaves(tree), packing.leaves, strict=True):
        numbers = jax.random.key_data(leaf) if about.key else leaf
        if about.is_apart:
            apart.append(numbers)
        elif about.is_flag:
            words.append(numbers.ravel().astype(jnp.uint32))
        else:
            words.append(jax.lax.bitcast_convert_type(numbers.ravel(), jnp.uint32))
    return Packed(jnp.concatenate(words) if words else jnp.zeros(0, jnp.uint32), apart, packing)


def unpack(packed: Packed) -> Pytree:
    """The tree, in a compiled function."""
    apart, leaves = iter(packed.apart), []
    for about in packed.packing.leaves:
        if about.is_apart:
            numbers = next(apart)
        elif about.is_flag:
            numbers = about.words(packed.words) != 0
        else:
            numbers = jax.lax.bitcast_convert_type(about.words(packed.words), about.dtype)
        leaves.append(jax.random.wrap_key_data(numbers, impl=about.key) if about.key else numbers)
    return packed.packing.structure.unflatten(leaves)


class HostTree:
    """The leaves of packed trees of one kind in NumPy, always in the same arrays.

    Attributes:
        tree: the leaves.
    """

    def __init__(self, packing: Packing):
        self.words = np.zeros(packing.size, np.uint32)
        leaves, self.flags, self.apart = [], [], []
        for about in packing.leaves:
            own = np.zeros(about.shape, about.dtype) if about.is_apart or about.is_flag else None
            if about.is_apart:
                self.apart.append(own)
            elif about.is_flag:
                self.flags.append((own, about.words(self.words)))
            leaves.append(about.words(self.words).view(about.dtype) if own is None else own)
        self.tree = packing.structure.unflatten(leaves)

    def take(self, packed: Packed) -> None:
        """Copy a packed tree into the arrays."""
        np.copyto(self.words, packed.words)
        for leaf, words in self.flags:
            np.not_equal(words, 0, out=leaf)
        for leaf, array in zip(self.apart, packed.apart, strict=True):
            np.copyto(leaf, array)


class HostPacker:
    """Packs trees of NumPy arrays of one kind, always in the same words.

    Args:
        tree: a tree of that kind.
    """

    def __init__(self, tree: Pytree):
        self.packing = _packing_of(tree)
        self.words = np.zeros(self.packing.size, np.uint32)
        self.places = [self._place(about) for about in self.packing.leaves]

    def _place(self, about: Leaf) -> np.ndarray | None:
        """The words of a leaf as numbers of its type, of flags as words; None for one that lies apart."""
        if about.is_apart:
            return None
        words = about.words(self.words)
        return words if about.is_flag else words.view(about.dtype)

    def __call__(self, tree: Pytree) -> Packed:
        """Pack a tree; the words are overwritten by the next call."""
        apart = []
        for place, leaf in zip(self.places, jax.tree.leaves(tree), strict=True):
            if place is None:
                apart.append(leaf)
            else:
                np.copyto(place, leaf, casting="unsafe")
        return Packed(self.words, apart, self.packing)


def stacked(trees: list[Packed]) -> Pytree:
    """Packed trees of one kind as one tree of NumPy arrays, `[N, ...]`."""
    on_host, copies = HostTree(trees[0].packing), []
    for packed in trees:
        on_host.take(packed)
        copies.append(jax.tree.map(np.copy, on_host.tree))
    return jax.tree.map(lambda *leaves: np.stack(leaves), *copies)
