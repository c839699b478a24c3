"""Faults of spaces, and of values that should be in them: the place, what was expected, what was found."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from advantage.environments.defect import Fault, show
from advantage.environments.spaces import UNBOUNDED, in_units_of_bounds, leaf_spaces, map_leaves
from advantage.types import ActionUnits

FAR = 10  # distance from 0: a new policy acts with numbers of 0 ± 1 and hardly ever reaches a bound beyond it
ROUNDING = 4  # units in the last place by which rounding may carry a number beyond its bound
BARELY = (
    0.005  # of the distance between two bounds: what rounding to pixels, say, may carry a number beyond them
)
RANKS = {"b": 0, "i": 1, "u": 1, "f": 2}  # kinds of number: a value may be cast upwards, never downwards


def as_array(value: Any) -> np.ndarray:
    """The value as an array; its dtype is object if the value is neither an array nor a number.

    A whole number of more than 64 bits becomes a float, infinite if it is too large for one.
    """
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        try:
            value = float(value)
        except OverflowError:
            value = math.inf if value > 0 else -math.inf
    return np.asarray(
        value if isinstance(value, (int, float)) or callable(getattr(value, "__array__", None)) else None
    )


def leaf_bounds(space: spaces.Space) -> tuple[np.ndarray, np.ndarray] | None:
    """The least and the greatest values of a space of arrays, elementwise; None for every other space."""
    match space:
        case spaces.Box():
            bounds = space.low, space.high
        case spaces.Discrete():
            bounds = space.start, space.start + space.n - 1
        case spaces.MultiDiscrete():
            bounds = space.start, space.start + space.nvec - 1
        case spaces.MultiBinary():
            bounds = 0, 1
        case _:
            return None
    low, high = (np.broadcast_to(np.asarray(bound, space.dtype), space.shape or ()) for bound in bounds)
    return low, high


def first_true(mask: Any) -> tuple[tuple[int, ...], str, str]:
    """The first true entry of a mask: its index, the index as text, and a text that counts the other true ones."""
    index = tuple(int(i) for i in np.unravel_index(np.argmax(mask), np.shape(mask)))
    again = int(np.sum(mask)) - 1
    return index, str(list(index)) if index else "", f" (and {again} more)" if again else ""


def space_faults(observation_space: Any, action_space: Any) -> Iterator[Fault]:
    """Faults of an environment's two spaces, part by part."""
    for name, space in (("observation_space", observation_space), ("action_space", action_space)):
        if not isinstance(space, spaces.Space):
            yield Fault("space", name, "a gymnasium space", show(space))
            continue
        leaves = list(leaf_spaces(space))
        if not leaves:
            yield Fault("empty", name, "at least one space inside", "none")
        for path, leaf in leaves:
            place = name + "".join(f"[{key!r}]" for key in path)
            if leaf_bounds(leaf) is None:
                yield Fault("unsupported", place, "a space of numbers", f"a {type(leaf).__name__} space")
            elif 0 in (leaf.shape or ()):
                yield Fault("no numbers", place, "a space of at least one number", f"shape {leaf.shape}")
            elif isinstance(leaf, spaces.Box) and name == "action_space" and leaf.dtype.kind != "f":
                yield Fault("whole-number action", place, "a Box of floats to act in", f"dtype {leaf.dtype}")
            elif isinstance(leaf, spaces.Box):
                yield from box_faults(leaf, place, acting=name == "action_space")


def box_faults(box: spaces.Box, place: str, acting: bool, units: ActionUnits = "bounds") -> Iterator[Fault]:
    """Faults of the bounds of a Box; `acting` says that it is a part of the actions."""
    low, high = box.low, box.high
    for kind, expected, mask in (
        ("nan bounds", "bounds that are numbers", np.isnan(low) | np.isnan(high)),
        ("crossed bounds", "low <= high", low > high),
        ("unbounded action", "finite bounds", (np.isinf(low) | np.isinf(high)) & acting),
        ("far bound", "bounds near 0 ± 1, or on both sides", _far_from_standard(box, units) & acting),
        ("fixed action", "low < high", (low == high) & acting),
    ):
        if np.any(mask):
            index, element, again = first_true(mask)
            yield Fault(kind, place, expected, f"low {low[index]}, high {high[index]}{again}", element)


def _far_from_standard(box: spaces.Box, units: ActionUnits) -> np.ndarray:
    """Which numbers of an action are not scaled to their bounds although one bound is far from 0 ± 1, bool."""
    low, high = (bound.astype(np.float64) for bound in (box.low, box.high))
    far_low = (abs(low) < UNBOUNDED) & ((low > 1) | (low < -FAR))
    far_high = (abs(high) < UNBOUNDED) & ((high < -1) | (high > FAR))
    return ~in_units_of_bounds(box, units) & (far_low | far_high)


def value_faults(space: spaces.Space, value: Any, place: str) -> Iterator[Fault]:
    """Faults of a value that should be in `space`; a Dict or Tuple is examined part by part."""
    parts: dict[Any, spaces.Space]
    if isinstance(space, spaces.Dict):
        parts = dict(space.spaces)
        if not isinstance(value, Mapping):
            yield Fault("mapping", place, f"a dict with the keys {list(parts)}", show(value))
            return
        missing, extra = (
            [key for key in parts if key not in value],
            [key for key in value if key not in parts],
        )
        if missing or extra:
            found = f"{missing or 'none'} missing and {extra or 'none'} extra"
            yield Fault("keys", place, f"the keys {list(parts)}", found)
    elif isinstance(space, spaces.Tuple):
        parts = dict(enumerate(space.spaces))
        if not isinstance(value, tuple) or len(value) != len(parts):
            yield Fault("tuple", place, f"a tuple of {len(parts)}", show(value))
            return
    else:
        yield from _array_faults(space, value, place)
        return
    for key, part in parts.items():
        if isinstance(value, tuple) or key in value:
            yield from value_faults(part, value[key], f"{place}[{key!r}]")


def _array_faults(space: spaces.Space, value: Any, place: str) -> Iterator[Fault]:
    if (bounds := leaf_bounds(space)) is None:
        return
    (low, high), dtype, array = bounds, np.dtype(space.dtype), as_array(value)
    number = "a number" if dtype.kind == "f" else "an integer"
    if array.shape != low.shape or array.dtype == object:
        expected = f"an array of shape {low.shape} and dtype {dtype}" if low.shape else number
        yield Fault("array" if array.dtype == object else "shape", place, expected, show(value))
        return
    if RANKS.get(array.dtype.kind, 3) > RANKS[dtype.kind] and not isinstance(value, int):
        yield Fault("dtype", place, f"dtype {dtype}", f"dtype {array.dtype}")
        return
    if array.dtype != dtype and isinstance(space, spaces.Box) and not isinstance(value, (int, float)):
        yield Fault("cast", place, f"dtype {dtype}", f"dtype {array.dtype}")
    with np.errstate(over="ignore"):
        held = array.astype(dtype) if dtype.kind == "f" else array
    near, far = outside(held, low, high)
    for kind, mask in (("finite", ~np.isfinite(held)), ("bounds", far), ("barely outside", near)):
        if np.any(mask):
            index, element, again = first_true(mask)
            within = f"{number} from {low[index]} to {high[index]}"
            expected = "a finite number" if kind == "finite" else within
            yield Fault(kind, place, expected, f"{array[index]}{again}", element)
            return


def outside(value: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which numbers lie barely outside their bounds, and which further; two masks in the shape of `value`.

    Barely is `BARELY` of the distance between two bounds, which harms no learning, or what rounding may do. Networks
    compute in float32. So rounding is `ROUNDING` units in the last place of a float32 (of a coarser type, if the value
    has one) as large as the bound, or as the width between the bounds up to 1: near a bound of 0, rounding comes from
    the larger numbers that were added. Whole numbers are never barely outside. Crossed bounds are not looked at.
    """
    beyond = ((value < low) | (value > high)) & (low <= high)
    if value.dtype.kind != "f" or not beyond.any():
        return np.zeros_like(beyond), beyond
    coarse = value.dtype if value.dtype.itemsize < 4 else np.dtype(np.float32)
    with np.errstate(all="ignore"):
        low, high = low.astype(np.float64), high.astype(np.float64)
        width = np.minimum(high - low, 1)
        share = np.where(np.maximum(abs(low), abs(high)) < UNBOUNDED, BARELY * (high - low), 0)
        rounding = [
            np.nan_to_num(
                ROUNDING * np.spacing(np.maximum(abs(bound), width).astype(coarse)).astype(np.float64)
            )
            for bound in (low, high)
        ]
        slack = [np.maximum(share, each) for each in rounding]
        far = beyond & ((value < low - slack[0]) | (value > high + slack[1]))
    return beyond & ~far, far


def value_changes(
    kind: str, place: str, *, was: str, before: Any, after: Any, element: str = ""
) -> Iterator[Fault]:
    """A fault for each array in which two well-formed values differ; `was` describes `before` in the message."""
    if isinstance(before, (Mapping, tuple)):
        for key in before if isinstance(before, Mapping) else range(len(before)):
            inner = f"{element}[{key!r}]"
            yield from value_changes(
                kind, place, was=was, before=before[key], after=after[key], element=inner
            )
    elif np.any(unequal := np.not_equal(before, after)):
        index, where, again = first_true(unequal)
        old, new = np.asarray(before)[index], np.asarray(after)[index]
        yield Fault(kind, place, f"{old}, {was}", f"{new}{again}", element + where)


def space_changes(before: Iterable[Any], after: Iterable[Any]) -> Iterator[Fault]:
    """A fault for each of an environment's two spaces that is no longer what it was."""
    for name, old, new in zip(("observation_space", "action_space"), before, after, strict=True):
        if new != old:
            yield Fault("changed space", name, f"{old}, as it was at first", str(new))


def extreme_action(space: spaces.Space, end: int) -> Any:
    """The action with every element at its least (`end=0`) or greatest (1) value; 0 replaces an infinite bound."""

    def bound(leaf: spaces.Space) -> Any:
        low, high = bounds = leaf_bounds(leaf) or (np.zeros(()), np.zeros(()))
        value = np.where(np.isfinite(bounds[end]), bounds[end], np.clip(0, low, high)).astype(low.dtype)
        return value[()] if isinstance(leaf, spaces.Discrete) else value

    return map_leaves(bound, space)


def describe_space(space: spaces.Space) -> str:
    """A space in words, such as `Box: float32 of shape (4,), from -1 to 1`."""
    match space:
        case spaces.Dict():
            words = "; ".join(f"{key}: {describe_space(part)}" for key, part in space.spaces.items())
        case spaces.Tuple():
            words = "; ".join(map(describe_space, space.spaces))
        case spaces.Discrete():
            words = f"{space.n} choices, {space.start} to {space.start + space.n - 1}"
        case spaces.MultiDiscrete():
            words = f"{space.nvec.tolist()} choices"
        case spaces.Box():
            words = f"{space.dtype} of shape {space.shape}, from {space.low.min():g} to {space.high.max():g}"
        case _:
            words = f"of shape {space.shape}"
    return f"{type(space).__name__}: {words}"
