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
    def place(self) -> slice:
        return slice(self.begin, self.begin + self.size)


@dataclasses.dataclass(frozen=True, eq=False)
class Packing:
    """How trees of one kind are packed. For each kind there is one object, so that comparing two takes no time."""

    structure: Any
    leaves: tuple[Leaf, ...]

    @property
    def size(self) -> int:
        """The number of words."""
        return sum(leaf.size for leaf in self.leaves if leaf.begin >= 0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Packed:
    """A packed tree: `words`, uint32 `[W]`, and the leaves that lie apart, large ones and those not of 32 bits."""

    words: Array
    apart: list[Array]
    packing: Packing = dataclasses.field(metadata={"static": True})


_packing = lru_cache(maxsize=256)(Packing)


def _described(tree: Pytree) -> Packing:
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
    packing = _described(tree)
    words, apart = [], []
    for leaf, about in zip(jax.tree.leaves(tree), packing.leaves, strict=True):
        numbers = jax.random.key_data(leaf) if about.key else leaf
        if about.begin < 0:
            apart.append(numbers)
        elif about.dtype.kind == "b":
            words.append(numbers.ravel().astype(jnp.uint32))
        else:
            words.append(jax.lax.bitcast_convert_type(numbers.ravel(), jnp.uint32))
    return Packed(jnp.concatenate(words) if words else jnp.zeros(0, jnp.uint32), apart, packing)


def unpack(packed: Packed) -> Pytree:
    """The tree, in a compiled function."""
    apart, leaves = iter(packed.apart), []
    for about in packed.packing.leaves:
        if about.begin < 0:
            numbers = next(apart)
        else:
            words = packed.words[about.place].reshape(about.shape)
            numbers = (
                words != 0 if about.dtype.kind == "b" else jax.lax.bitcast_convert_type(words, about.dtype)
            )
        leaves.append(jax.random.wrap_key_data(numbers, impl=about.key) if about.key else numbers)
    return packed.packing.structure.unflatten(leaves)


class HostTree:
    """The leaves of packed trees of one kind in NumPy, always in the same arrays.

    Attributes:
        tree: the leaves.
    """

    def __init__(self, packing: Packing):
        self.packing, self.words = packing, np.zeros(packing.size, np.uint32)
        self.leaves = [self._array(about) for about in packing.leaves]
        self.apart = [
            leaf for leaf, about in zip(self.leaves, packing.leaves, strict=True) if about.begin < 0
        ]
        self.flags = [
            (leaf, self.words[about.place].reshape(about.shape))
            for leaf, about in zip(self.leaves, packing.leaves, strict=True)
            if about.begin >= 0 and about.dtype.kind == "b"
        ]
        self.tree = packing.structure.unflatten(self.leaves)

    def _array(self, about: Leaf) -> np.ndarray:
        if about.begin < 0 or about.dtype.kind == "b":
            return np.zeros(about.shape, about.dtype)
        return self.words[about.place].view(about.dtype).reshape(about.shape)

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
        self.packing = _described(tree)
        self.words = np.zeros(self.packing.size, np.uint32)
        self.places = [
            None
            if about.begin < 0
            else self.words[about.place]
            .view(np.uint32 if about.dtype.kind == "b" else about.dtype)
            .reshape(about.shape)
            for about in self.packing.leaves
        ]

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
    words = np.stack([np.asarray(packed.words) for packed in trees])
    apart = iter(zip(*(packed.apart for packed in trees), strict=True))
    leaves = []
    for about in trees[0].packing.leaves:
        if about.begin < 0:
            leaves.append(np.stack(list(map(np.asarray, next(apart)))))
        else:
            part = words[:, about.place]
            numbers = part != 0 if about.dtype.kind == "b" else np.ascontiguousarray(part).view(about.dtype)
            leaves.append(numbers.reshape(len(words), *about.shape))
    return trees[0].packing.structure.unflatten(leaves)
