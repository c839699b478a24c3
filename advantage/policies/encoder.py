"""Turn any observation into a network's input, float32 vectors and images, and into the mask of its actions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from gymnasium import spaces

from advantage.environments.masks import ACTION_MASK, split_mask
from advantage.environments.spaces import Path, leaf_spaces, take
from advantage.types import Array, Pytree

Kind = Literal["continuous", "one_hot", "binary", "image"]


LARGE = 36  # pixels; from this size on, images may have any dtype and get the large network
SMALLEST = 3  # pixels of the smallest image of bytes


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One leaf of the observation.

    Attributes:
        path: its place in the observation.
        kind: how it is encoded.
        shape: its shape in one observation.
        sizes, starts: for indices, the number of values of each and the lowest value.
        height_axis: for an image, the axis of its rows; the axis of its columns is next, all others are channels.
        low, high: for an image, its bounds: one number, or one per channel.
    """

    path: Path
    kind: Kind
    shape: tuple[int, ...]
    sizes: tuple[int, ...] = ()
    starts: tuple[int, ...] = ()
    height_axis: int = 0
    low: tuple[float, ...] = (0.0,)
    high: tuple[float, ...] = (255.0,)

    @property
    def height_width(self) -> tuple[int, int]:
        return self.shape[self.height_axis], self.shape[self.height_axis + 1]

    @property
    def channel_axes(self) -> tuple[int, ...]:
        picture = self.height_axis, self.height_axis + 1
        return tuple(axis for axis in range(len(self.shape)) if axis not in picture)

    @property
    def channels(self) -> int:
        return int(np.prod([self.shape[axis] for axis in self.channel_axes]))

    @cached_property
    def width(self) -> int:
        return sum(self.sizes) if self.kind == "one_hot" else int(np.prod(self.shape))


def _leaf(path: Path, space: spaces.Space) -> Leaf:
    if isinstance(space, spaces.Box):
        axis = picture_axis(space)
        return Leaf(path, "continuous", space.shape) if axis is None else _picture(path, space, axis)
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


def picture_axis(space: spaces.Box) -> int | None:
    """The axis of an image's rows, which comes before the axis of its columns; None if a Box is not an image.

    An image has two axes of bytes, or three or four axes of which one or two are channels and frames, in any order: of
    three axes, a square is the image; without one, the greater of the first and the last belongs to it. Its sides have
    at least `SMALLEST` pixels for bytes, and at least `LARGE` and finite bounds for another dtype.
    """
    shape, is_bytes = space.shape, space.dtype == np.uint8
    if len(shape) == 2:
        return 0 if is_bytes and min(shape) >= LARGE else None
    if len(shape) == 3:
        square = [axis for axis in (0, 1) if shape[axis] == shape[axis + 1]]
        axis = square[0] if len(square) == 1 else int(shape[0] < shape[2])
    elif len(shape) == 4:
        axis = max((1, 2, 0), key=lambda axis: min(shape[axis : axis + 2]))
    else:
        return None
    smallest = SMALLEST if is_bytes else LARGE
    bounded = bool(np.isfinite(space.low).all() and np.isfinite(space.high).all())
    return axis if bounded and min(shape[axis : axis + 2]) >= smallest else None


def _picture(path: Path, space: spaces.Box, axis: int) -> Leaf:
    """The leaf of an image, with the bounds of each channel, or one pair of bounds if all are equal."""
    leaf = Leaf(path, "image", space.shape, height_axis=axis)
    low = space.low.min((axis, axis + 1)).ravel().astype(float).tolist()
    high = space.high.max((axis, axis + 1)).ravel().astype(float).tolist()
    if len({*zip(low, high, strict=True)}) == 1:
        low, high = low[:1], high[:1]
    return dataclasses.replace(leaf, low=tuple(low), high=tuple(high))


class MaskedInput(NamedTuple):
    """The input of a policy for an observation with an action mask.

    Attributes:
        x: the network's input.
        mask: which actions are allowed, bool `[..., n]`.
    """

    x: Pytree
    mask: Array


def split_input(seen: Pytree) -> tuple[Pytree, Array | None]:
    """The network's input and the mask in a result of `Encoder.policy_input`; None if there is no mask."""
    return seen if isinstance(seen, MaskedInput) else (seen, None)


def network_input(seen: Pytree) -> Pytree:
    """The network's input in a result of `Encoder.policy_input`."""
    return split_input(seen)[0]


@dataclasses.dataclass(frozen=True)
class Encoder:
    """Observation -> network input: `[..., d]`, one image, or `(vector, image, ...)`.

    Boxes are flattened and cast; indices become one-hot. Images are scaled from their bounds to [0, 1]; their last axis
    has the channels and the frames of a stack. The vector begins with the `num_continuous` numbers that observation
    normalisation applies to. An action mask is not part of the input: `action_mask` returns it.

    Attributes:
        leaves: the leaves of the network's input.
        masks: the leaves of the action mask; empty if an observation has no mask.
    """

    leaves: tuple[Leaf, ...]
    masks: tuple[Leaf, ...] = ()

    @cached_property
    def num_continuous(self) -> int:
        return sum(leaf.width for leaf in self.leaves if leaf.kind == "continuous")

    @cached_property
    def images(self) -> tuple[Leaf, ...]:
        return tuple(leaf for leaf in self.leaves if leaf.kind == "image")

    @property
    def has_mask(self) -> bool:
        return bool(self.masks)

    def example(self) -> Pytree:
        """One zero observation with a batch axis; paths index it like a real observation."""
        tree: Any = {}
        for leaf in (*self.leaves, *self.masks):
            value = np.zeros((1, *leaf.shape), np.int32 if leaf.kind == "one_hot" else np.float32)
            if not leaf.path:
                return value
            inner = tree
            for step in leaf.path[:-1]:
                inner = inner.setdefault(step, {})
            inner[leaf.path[-1]] = value
        return tree

    def continuous(self, obs: Pytree) -> Array:
        """The part of an observation that is normalised, `[..., num_continuous]` float32."""
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

    def policy_input(self, obs: Pytree, normalise: Callable[[Array], Array] | None = None) -> Pytree:
        """The network's input, as `MaskedInput` if there is an action mask."""
        x = self.encode(obs, normalise) if normalise else self.encode(obs)
        mask = self.action_mask(obs)
        return x if mask is None else MaskedInput(x, mask)

    def action_mask(self, obs: Pytree) -> Array | None:
        """Which actions are allowed, bool `[..., n]`, component after component; None if there is no mask."""
        if not self.masks:
            return None
        parts = [_flat(leaf, take(obs, leaf.path)).astype(bool) for leaf in self.masks]
        return parts[0] if len(parts) == 1 else parts[0].__array_namespace__().concatenate(parts, axis=-1)


def encoder(space: spaces.Space) -> Encoder:
    """The encoder of an observation space.

    Raises:
        ValueError: a space other than Box, Discrete, MultiDiscrete, MultiBinary, Dict and Tuple, or a Dict with an
            action mask and nothing else.
    """
    seen, mask = split_mask(space)
    leaves = tuple(_leaf(path, part) for path, part in leaf_spaces(seen))
    if mask is None:
        return Encoder(leaves)
    if not leaves:
        raise ValueError(
            f"The observation space {space} has an action mask and nothing that a network can take; add at least one "
            "other key."
        )
    masks = leaf_spaces(mask, (ACTION_MASK,))
    return Encoder(leaves, tuple(Leaf(path, "binary", part.shape or ()) for path, part in masks))


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
    """The image as `[..., H, W, C]` in [0, 1]."""
    batch = x.ndim - len(leaf.shape)
    if len(leaf.shape) == 2:
        x = x[..., None]
    elif leaf.height_axis != 0:
        picture = leaf.height_axis, leaf.height_axis + 1
        x = x.transpose(*range(batch), *(batch + axis for axis in (*picture, *leaf.channel_axes)))
    if len(leaf.shape) > 3:
        x = x.reshape(*x.shape[: batch + 2], leaf.channels)
    low, high = np.array(leaf.low, np.float32), np.array(leaf.high, np.float32)
    x = x.astype(np.float32)
    width = np.where(high > low, high - low, np.float32(1))
    return (x - low if low.any() else x) / (width[0] if len(width) == 1 else width)
