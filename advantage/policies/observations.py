"""From any observation to what a network takes: float32 vectors and images."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Any, Literal

import numpy as np
from gymnasium import spaces

from advantage.environments.spaces import Path, leaf_spaces, take
from advantage.types import Array, Pytree

Kind = Literal["continuous", "one_hot", "binary", "image"]


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One leaf of the observation: where it is, what it is, its shape and, for indices, sizes and starts."""

    path: Path
    kind: Kind
    shape: tuple[int, ...]
    sizes: tuple[int, ...] = ()
    starts: tuple[int, ...] = ()
    channels_first: bool = False

    @cached_property
    def height_width(self) -> tuple[int, int]:
        return _height_width(self.shape)

    @cached_property
    def width(self) -> int:
        return sum(self.sizes) if self.kind == "one_hot" else int(np.prod(self.shape))


def _leaf(path: Path, space: spaces.Space) -> Leaf:
    if isinstance(space, spaces.Box):
        if space.dtype == np.uint8 and len(space.shape) == 3 and min(_height_width(space.shape)) >= 3:
            return Leaf(path, "image", space.shape, channels_first=space.shape[0] < space.shape[2])
        if space.dtype == np.uint8 and len(space.shape) == 2 and min(space.shape) >= 36:
            return Leaf(path, "image", space.shape)
        return Leaf(path, "continuous", space.shape)
    if isinstance(space, spaces.Discrete):
        return Leaf(path, "one_hot", (), (int(space.n),), (int(space.start),))
    if isinstance(space, spaces.MultiDiscrete):
        sizes, starts = space.nvec.ravel().tolist(), space.start.ravel().tolist()
        return Leaf(path, "one_hot", space.shape, tuple(sizes), tuple(starts))
    if isinstance(space, spaces.MultiBinary):
        return Leaf(path, "binary", space.shape)
    name = "".join(f"[{step!r}]" for step in path)
    raise ValueError(
        f"The observation space{name} is {space}; allowed are Box, Discrete, MultiDiscrete, MultiBinary and any "
        "nesting of Dict and Tuple. Wrap the environment with gymnasium.wrappers.TransformObservation."
    )


def _height_width(shape: tuple[int, ...]) -> tuple[int, int]:
    channels_first = len(shape) == 3 and shape[0] < shape[2]
    return (shape[1], shape[2]) if channels_first else (shape[0], shape[1])


@dataclasses.dataclass(frozen=True)
class Encoder:
    """Observation -> network input: `[..., d]`, one image, or `(vector, image, ...)`.

    Boxes are flattened and cast, indices become one-hot, images are scaled to [0, 1] with channels last. In the
    vector the `num_continuous` numbers that observation normalisation applies to stand first.
    """

    leaves: tuple[Leaf, ...]

    @cached_property
    def num_continuous(self) -> int:
        return sum(leaf.width for leaf in self.leaves if leaf.kind == "continuous")

    @cached_property
    def images(self) -> tuple[Leaf, ...]:
        return tuple(leaf for leaf in self.leaves if leaf.kind == "image")

    def example(self) -> Pytree:
        """One zero observation with a batch axis; paths index it as they index a real one."""
        tree: Any = {}
        for leaf in self.leaves:
            value = np.zeros((1, *leaf.shape), np.int32 if leaf.kind == "one_hot" else np.float32)
            if not leaf.path:
                return value
            inner = tree
            for step in leaf.path[:-1]:
                inner = inner.setdefault(step, {})
            inner[leaf.path[-1]] = value
        return tree

    def continuous(self, obs: Pytree) -> Array:
        """The part that is normalised, `[..., num_continuous]` float32."""
        parts = [
            _flat(leaf, take(obs, leaf.path)).astype(np.float32)
            for leaf in self.leaves
            if leaf.kind == "continuous"
        ]
        return parts[0] if len(parts) == 1 else parts[0].__array_namespace__().concatenate(parts, axis=-1)

    def encode(self, obs: Pytree, normalise=lambda x: x) -> Pytree:
        """The network's input; `normalise` is applied to the continuous part."""
        vector = [normalise(self.continuous(obs))] if self.num_continuous else []
        for leaf in self.leaves:
            if leaf.kind == "one_hot":
                vector.extend(_one_hot(leaf, take(obs, leaf.path)))
            elif leaf.kind == "binary":
                vector.append(_flat(leaf, take(obs, leaf.path)).astype(np.float32))
        images = tuple(_image(leaf, take(obs, leaf.path)) for leaf in self.images)
        if not vector:
            return images[0] if len(images) == 1 else (None, *images)
        joined = (
            vector[0] if len(vector) == 1 else vector[0].__array_namespace__().concatenate(vector, axis=-1)
        )
        return (joined, *images) if images else joined


def encoder(space: spaces.Space) -> Encoder:
    """The encoder of an observation space.

    Raises:
        ValueError: a space that is none of Box, Discrete, MultiDiscrete, MultiBinary, Dict, Tuple.
    """
    return Encoder(tuple(_leaf(path, part) for path, part in leaf_spaces(space)))


def _flat(leaf: Leaf, x: Array) -> Array:
    return x if len(leaf.shape) == 1 else x.reshape(*x.shape[: x.ndim - len(leaf.shape)], leaf.width)


def _one_hot(leaf: Leaf, x: Array) -> list[Array]:
    xp = x.__array_namespace__()
    columns = [x] if not leaf.shape else _split_last(leaf, x)
    return [
        (column[..., None] == xp.arange(start, start + size)).astype(np.float32)
        for column, size, start in zip(columns, leaf.sizes, leaf.starts, strict=True)
    ]


def _split_last(leaf: Leaf, x: Array) -> list[Array]:
    flat = x.reshape(*x.shape[: x.ndim - len(leaf.shape)], len(leaf.sizes))
    return [flat[..., i] for i in range(len(leaf.sizes))]


def _image(leaf: Leaf, x: Array) -> Array:
    xp = x.__array_namespace__()
    if len(leaf.shape) == 2:
        x = x[..., None]
    elif leaf.channels_first:
        x = xp.moveaxis(x, -3, -1)
    return x.astype(np.float32) / np.float32(255)
