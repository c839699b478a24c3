"""Spaces as pytrees: allocate, write and translate, for any nesting of Dict and Tuple."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from gymnasium import spaces

from advantage.types import ActionUnits, Array, Pytree

Path = tuple[str | int, ...]
LARGEST_SPACE = 2**28  # numbers in one part of a space that is read from a file
UNBOUNDED = 1e30  # a bound at least this far from 0 means that there is no bound


def leaf_spaces(space: spaces.Space, path: Path = ()) -> Iterator[tuple[Path, spaces.Space]]:
    """Every leaf of a nested space with its key path, in the order of the nesting."""
    if isinstance(space, spaces.Dict):
        for name, part in space.spaces.items():
            yield from leaf_spaces(part, (*path, name))
    elif isinstance(space, spaces.Tuple):
        for index, part in enumerate(space.spaces):
            yield from leaf_spaces(part, (*path, index))
    else:
        yield path, space


def take(tree: Pytree, path: Path) -> Any:
    """The leaf of `tree` at a key path."""
    for step in path:
        tree = tree[step]
    return tree


def map_leaves(function: Callable[..., Any], space: spaces.Space, *trees: Pytree) -> Pytree:
    """Apply `function(leaf_space, *leaves)` and keep the structure of `space`."""
    if isinstance(space, spaces.Dict):
        return {
            name: map_leaves(function, part, *(t[name] for t in trees)) for name, part in space.spaces.items()
        }
    if isinstance(space, spaces.Tuple):
        return tuple(
            map_leaves(function, part, *(t[i] for t in trees)) for i, part in enumerate(space.spaces)
        )
    return function(space, *trees)


def nest(space: spaces.Space, leaf: Callable[[Path], Any], path: Path = ()) -> Pytree:
    """The structure of a space with `leaf(path)` in place of each of its leaves."""
    if isinstance(space, spaces.Dict):
        return {name: nest(part, leaf, (*path, name)) for name, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(nest(part, leaf, (*path, i)) for i, part in enumerate(space.spaces))
    return leaf(path)


def action_scale(space: spaces.Box, units: ActionUnits) -> tuple[np.ndarray, np.ndarray]:
    """Middle and half width of a Box, in its shape and dtype: `a = middle + half * u` is the action for a policy's `u`.

    They are 0 and 1, which change nothing, for raw units and for numbers that are not bounded on both sides.
    """
    bounded = in_units_of_bounds(space, units)
    low, high = np.where(bounded, space.low, -1.0), np.where(bounded, space.high, 1.0)
    return (low / 2 + high / 2).astype(space.dtype), (high / 2 - low / 2).astype(space.dtype)


def in_units_of_bounds(space: spaces.Box, units: ActionUnits) -> np.ndarray:
    """Which numbers of an action are in units of their bounds, bool in the Box's shape: those with two bounds."""
    farthest = np.maximum(abs(space.low), abs(space.high)).astype(np.float64)
    return (farthest < UNBOUNDED) & (units == "bounds")


def policy_bounds(space: spaces.Box, units: ActionUnits) -> tuple[np.ndarray, np.ndarray]:
    """The bounds of a Box in the units in which a policy acts: -1 and 1, or the Box's own where units are raw."""
    scaled = in_units_of_bounds(space, units)
    return np.where(scaled, -1, space.low), np.where(scaled, 1, space.high)


def environment_action(space: spaces.Space, action: Pytree, units: ActionUnits = "bounds") -> Pytree:
    """The environment's actions for a batch of policy actions, `[B, ...]`, in NumPy or JAX: see `translator`."""
    return translator(space, units)(action)


def translator(space: spaces.Space, units: ActionUnits = "bounds") -> Callable[[Pytree], Pytree]:
    """A function from a batch of policy actions, `[B, ...]`, to the environment's actions, in NumPy or JAX.

    Policies count choices from zero, flatten a Box, use tuples for Dict and Tuple, and act in units of a bounded Box: 0
    is its middle, 1 its upper bound. The function adds the `start` of Discrete, stacks MultiDiscrete, and gives a Box
    its own units, shape and dtype and clips it to its bounds, unless the units say that it is not clipped.
    """
    if isinstance(space, spaces.Box):
        return _box_translator(space, units)
    if isinstance(space, spaces.Discrete):
        start = int(space.start)
        return (lambda action: action + start) if start else (lambda action: action)
    if isinstance(space, spaces.MultiDiscrete):
        return partial(_stacked, space)
    if isinstance(space, spaces.Tuple):
        parts = [translator(part, units) for part in space.spaces]
        return lambda action: tuple(part(leaf) for part, leaf in zip(parts, action, strict=True))
    if isinstance(space, spaces.Dict):
        named = {name: translator(part, units) for name, part in space.spaces.items()}
        return lambda action: {
            name: part(leaf) for (name, part), leaf in zip(named.items(), action, strict=True)
        }
    return partial(_shaped, space.shape or (), space.dtype)


def policy_action(space: spaces.Space, action: Pytree, units: ActionUnits = "bounds") -> Pytree:
    """A policy's actions for a batch of the environment's, `[B, ...]`, in NumPy: the inverse of `environment_action`.

    Of an action that was clipped to its bounds it gives the bound.
    """
    if isinstance(space, spaces.Box):
        middle, half = action_scale(space, units)
        scaled = (action - middle) / np.where(half > 0, half, 1)
        return scaled.reshape(len(action), -1).astype(np.float32)
    if isinstance(space, spaces.Discrete):
        return (action - space.start).astype(np.int32)
    if isinstance(space, spaces.MultiDiscrete):
        return tuple((action - space.start).reshape(len(action), -1).astype(np.int32).T)
    if isinstance(space, spaces.Tuple):
        return tuple(
            policy_action(part, leaf, units) for part, leaf in zip(space.spaces, action, strict=True)
        )
    if isinstance(space, spaces.Dict):
        return tuple(policy_action(part, action[name], units) for name, part in space.spaces.items())
    return action.reshape(len(action), -1)


def _box_translator(space: spaces.Box, units: ActionUnits) -> Callable[[Array], Array]:
    middle, half = action_scale(space, units)
    scales = bool(middle.any() or (half != 1).any())

    def translate(action: Array) -> Array:
        if len(space.shape) != 1:
            action = action.reshape(action.shape[:-1] + space.shape)
        if scales:
            action = middle + half * action
        if units != "unclipped":
            namespace = action.__array_namespace__()
            action = namespace.minimum(namespace.maximum(action, space.low), space.high)
        return action if action.dtype == space.dtype else action.astype(space.dtype)

    return translate


def _stacked(space: spaces.MultiDiscrete, action: tuple[Array, ...]) -> Array:
    stacked = action[0].__array_namespace__().stack(action, axis=-1)
    return stacked.reshape(stacked.shape[:-1] + space.shape) + space.start.astype(stacked.dtype)


def _shaped(shape: tuple[int, ...], dtype: Any, action: Array) -> Array:
    action = action.reshape(action.shape[:-1] + shape)
    return action if action.dtype == dtype else action.astype(dtype)


def write(buffer: Pytree, index: Any, value: Pytree) -> None:
    """`buffer[index] = value`, leaf by leaf, in place."""
    if isinstance(buffer, dict):
        for name, part in buffer.items():
            write(part, index, value[name])
    elif isinstance(buffer, tuple):
        for part, leaf in zip(buffer, value, strict=True):
            write(part, index, leaf)
    else:
        buffer[index] = value


def read(buffer: Pytree, index: Any) -> Pytree:
    """`buffer[index]`, leaf by leaf."""
    if isinstance(buffer, dict):
        return {name: read(part, index) for name, part in buffer.items()}
    if isinstance(buffer, tuple):
        return tuple(read(part, index) for part in buffer)
    return buffer[index]


def equal(left: Pytree, right: Pytree) -> bool:
    """Whether two observations are the same, bit for bit."""
    if isinstance(left, dict):
        return all(equal(part, right[name]) for name, part in left.items())
    if isinstance(left, tuple):
        return all(equal(a, b) for a, b in zip(left, right, strict=True))
    return np.array_equal(np.asarray(left), np.asarray(right), equal_nan=np.asarray(left).dtype.kind == "f")


def space_to_json(space: spaces.Space) -> dict[str, Any]:
    """A space as plain JSON, so that an agent can be loaded where its environment is not installed."""
    if isinstance(space, spaces.Dict):
        parts = [[name, space_to_json(part)] for name, part in space.spaces.items()]  # their order matters
        return {"type": "Dict", "spaces": parts}
    if isinstance(space, spaces.Tuple):
        return {"type": "Tuple", "spaces": [space_to_json(part) for part in space.spaces]}
    kinds = spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary
    kind = next((kind for kind in kinds if isinstance(space, kind)), type(space))  # not a class of the user's
    facts: dict[str, Any] = {
        "type": kind.__name__,
        "shape": list(space.shape or ()),
        "dtype": str(space.dtype),
    }
    if isinstance(space, spaces.Box):
        facts |= {"low": _numbers(space.low), "high": _numbers(space.high)}
    elif isinstance(space, spaces.Discrete):
        facts |= {"n": int(space.n), "start": int(space.start)}
    elif isinstance(space, spaces.MultiDiscrete):
        facts |= {"n": space.nvec.tolist(), "start": space.start.tolist()}
    return facts


def space_from_json(facts: dict[str, Any]) -> spaces.Space:
    """The space that `space_to_json` described. Raises ValueError for anything else."""
    try:
        kind = facts["type"]
        if kind == "Dict":
            parts = OrderedDict((name, space_from_json(part)) for name, part in facts["spaces"])
            return spaces.Dict(parts)  # keeps its order; Gymnasium sorts a plain dict
        if kind == "Tuple":
            return spaces.Tuple([space_from_json(part) for part in facts["spaces"]])
        shape, dtype = tuple(facts["shape"]), np.dtype(facts["dtype"])
        if math.prod(shape) > LARGEST_SPACE:
            raise ValueError(f"more than {LARGEST_SPACE:,} numbers")
        if kind == "Box":
            low, high = (_bound(facts[end], shape, dtype) for end in ("low", "high"))
            return spaces.Box(low, high, shape, dtype.type)
        if kind == "Discrete":
            return spaces.Discrete(facts["n"], start=facts["start"], dtype=dtype.type)
        if kind == "MultiDiscrete":
            return spaces.MultiDiscrete(facts["n"], start=facts["start"], dtype=dtype.type)
        if kind == "MultiBinary":
            return spaces.MultiBinary(shape if len(shape) != 1 else shape[0])
    except (
        KeyError,
        TypeError,
        AttributeError,
        ValueError,
        AssertionError,
    ) as error:  # Gymnasium asserts, too
        raise ValueError(f"{facts!r} does not describe a space: {type(error).__name__} {error}.") from None
    raise ValueError(f"{facts!r} does not describe a space: unknown type {kind!r}.")


def _bound(numbers: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    if not isinstance(numbers, list):
        return np.full(shape, float(numbers) if isinstance(numbers, str) else numbers, dtype)
    return np.array([float(x) if isinstance(x, str) else x for x in numbers], dtype).reshape(shape)


def _numbers(bound: np.ndarray) -> Any:
    """A bound as a flat list, or one number if all are equal; infinities as strings, because JSON has none."""
    alike = bound.size > 0 and (bound == bound.flat[0]).all()
    flat = [x.item() if np.isfinite(x) else str(x) for x in (bound.flat[:1] if alike else bound.flat)]
    return flat[0] if alike else flat
