"""Checks that are quick enough for every step; where one of them fails, `check.py` says what is wrong.

A step returns to Python objects of few kinds, so a look at types, shapes and keys decides at once that nothing is
wrong. Values are compared with their bounds for many steps together.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from advantage.environments.defect import EnvironmentDefect, raise_first_error
from advantage.environments.space_faults import RANKS, leaf_bounds, outside, space_changes, value_faults
from advantage.environments.spaces import leaf_spaces, take
from advantage.types import Array, Pytree

Test = Callable[[Any], bool]
Declared = tuple[spaces.Space, spaces.Space]
_SIZED = frozenset({bool, float, *(np.dtype(code).type for code in np.typecodes["AllInteger"] + "?efd")})
NUMBERS = _SIZED | {int}
FLAGS = frozenset({bool, np.bool_})
_LARGEST = float(np.finfo(np.float32).max)
_PIECE = 1_000_000  # numbers that are compared at once
_REWARD = spaces.Box(-np.inf, np.inf, (), np.float32)  # learning computes in float32


def form_test(space: spaces.Space, lead: tuple[int, ...] = ()) -> Test:
    """A test whether a value has the form of a space: its keys, shapes and kinds of numbers. It overlooks nothing.

    A value that fails may still be right in an unusual form, such as an array of a class of its own.

    Args:
        space: the space of one value.
        lead: axes in front of each array, `(B,)` for a batch.
    """
    if isinstance(space, spaces.Dict):
        named = {name: form_test(part, lead) for name, part in space.spaces.items()}
        return lambda value: (
            type(value) in (dict, OrderedDict)
            and len(value) == len(named)
            and all(name in value and test(value[name]) for name, test in named.items())
        )
    if isinstance(space, spaces.Tuple):
        tests = tuple(form_test(part, lead) for part in space.spaces)
        return lambda value: (
            type(value) is tuple
            and len(value) == len(tests)
            and all(test(part) for test, part in zip(tests, value, strict=True))
        )
    shape, dtype = (*lead, *(space.shape or ())), np.dtype(space.dtype)
    codes = _codes(dtype)
    if shape:
        return lambda value: (
            type(value) is np.ndarray
            and value.shape == shape
            and (value.dtype is dtype or value.dtype.char in codes)
        )
    types = frozenset(np.dtype(code).type for code in codes) | ({bool, float} if dtype.kind == "f" else set())
    if isinstance(space, spaces.Discrete):
        first, last = int(space.start), int(space.start + space.n - 1)
        return lambda value: (type(value) in types or type(value) is int) and first <= value <= last
    least, most = (end.item() if isinstance(end, np.generic) else end for end in _ends(dtype))
    return lambda value: type(value) in types or (type(value) is int and least <= value <= most)


def _codes(wanted: np.dtype) -> frozenset[str]:
    """The dtypes of NumPy, by their characters, that fit a wanted one."""
    every = np.typecodes["AllInteger"] + "?efdg"
    return frozenset(code for code in every if _fits(np.dtype(code), wanted))


def _fits(given: np.dtype, wanted: np.dtype) -> bool:
    """Whether numbers of one dtype can be written as the other: any number as a float, nothing else that changes."""
    return given.kind in RANKS if wanted.kind == "f" else np.can_cast(given, wanted, "safe")


def step_test(space: spaces.Space) -> Test:
    """A test whether a step's return value has the right form: an observation in that of `space`, and the rest."""
    if space.shape and not isinstance(space, spaces.Dict | spaces.Tuple):
        return _array_step_test(space.shape, np.dtype(space.dtype))
    fits = form_test(space)

    def passes(result: Any) -> bool:
        if type(result) is not tuple or len(result) != 5:
            return False
        obs, reward, terminated, truncated, info = result
        return (
            _is_reward(reward)
            and type(terminated) in FLAGS
            and type(truncated) in FLAGS
            and type(info) is dict
            and fits(obs)
        )

    return passes


def _array_step_test(shape: tuple[int, ...], dtype: np.dtype) -> Test:
    """`step_test` of an observation that is one array: in one function that asks for the usual first, for speed."""
    codes = _codes(dtype)

    def passes(result: Any) -> bool:
        if type(result) is not tuple or len(result) != 5:
            return False
        obs, reward, terminated, truncated, info = result
        return (
            type(obs) is np.ndarray
            and obs.shape == shape
            and (obs.dtype is dtype or obs.dtype.char in codes)
            and (type(reward) is float or _is_reward(reward))
            and (terminated is False or terminated is True or type(terminated) is np.bool_)
            and (truncated is False or truncated is True or type(truncated) is np.bool_)
            and type(info) is dict
        )

    return passes


def _is_reward(value: Any) -> bool:
    return type(value) in _SIZED or (type(value) is int and -_LARGEST <= value <= _LARGEST)


def reset_test(space: spaces.Space) -> Test:
    """The same for the return value of a reset."""
    fits = form_test(space)
    return lambda result: (
        type(result) is tuple and len(result) == 2 and type(result[1]) is dict and fits(result[0])
    )


def refuse_other_spaces(env: gymnasium.Env, declared: Declared, where: Callable[[], str]) -> None:
    """Raise EnvironmentDefect if the spaces of an environment are no longer those that it declared."""
    now = env.observation_space, env.action_space
    if now[0] is not declared[0] or now[1] is not declared[1]:
        raise_first_error(where(), space_changes(declared, now))


class Extremes:
    """The least and the greatest numbers of an episode's observations, which are compared with the bounds together.

    Args:
        space: the space of an observation; those that are added must have its form.
    """

    def __init__(self, space: spaces.Space):
        self.leaves, self.added = [], False
        for path, leaf in leaf_spaces(space):
            if not isinstance(leaf, spaces.Discrete) and not _always_inside(
                leaf
            ):  # a choice has been compared
                shape, dtype = leaf.shape or (), np.dtype(leaf.dtype)
                least, most = _ends(dtype)
                self.leaves.append((path, leaf, np.full(shape, most, dtype), np.full(shape, least, dtype)))

    def add(self, obs: Pytree) -> None:
        """Take in an observation."""
        self.added = True
        for path, _, least, most in self.leaves:
            value = take(obs, path)
            np.minimum(least, value, out=least)
            np.maximum(most, value, out=most)

    def check(self, where: str) -> None:
        """Raise EnvironmentDefect if a number was not finite, or outside its bounds."""
        for path, leaf, *extremes in self.leaves * self.added:
            for value in extremes:
                raise_first_error(where, value_faults(leaf, value, place_of(path)))


class RolloutChecks:
    """The comparison of a rollout's numbers with their bounds, all steps together.

    Args:
        space: the space of one observation.
    """

    def __init__(self, space: spaces.Space):
        self.leaves: list[tuple[str, Any, spaces.Space, Any, Any]] = [
            ("reward", None, _REWARD, -_LARGEST, _LARGEST)
        ]
        for path, leaf in leaf_spaces(space):
            bounds = leaf_bounds(leaf)
            if bounds is not None and not _always_inside(leaf):
                self.leaves.append((place_of(path), path, leaf, *bounds))

    def __call__(self, next_obs: Pytree, obs: Pytree, reward: Array) -> list[EnvironmentDefect]:
        """Raise the earliest defect of a rollout; return warnings, about what is barely outside.

        Args:
            next_obs: the observations after each step, `[T, B, ...]`.
            obs: those to act on next, which differ where an episode begins, `[T, B, ...]`.
            reward: `[T, B]`.
        """
        errors, notes = [], []
        for name, path, leaf, low, high in self.leaves:
            trees = ((next_obs, ""), (obs, " after the reset")) if path is not None else ((reward, ""),)
            for tree, when in trees:
                array = take(tree, path or ())
                for begin, part in _pieces(array):
                    if ((part >= low) & (part <= high) & np.isfinite(part)).all():
                        continue
                    near, wrong = _near_and_wrong(leaf, part)
                    t, env, *_ = np.argwhere(wrong if wrong.any() else near)[0].tolist()
                    fault = next(value_faults(leaf, part[t, env], name))
                    if wrong.any():
                        where = f"environment {env}, step {begin + t} of this rollout"
                        defect = fault._replace(element=fault.element + when).at(where)
                        errors.append((begin + t, env, defect))
                        break
                    notes.append(fault.at())
        if errors:
            raise min(errors, key=lambda found: found[:2])[-1]
        return notes


def place_of(path: tuple) -> str:
    """A part of an observation, as messages name it."""
    return "observation" + "".join(f"[{key!r}]" for key in path)


def _pieces(array: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """A rollout's array `[T, B, ...]` in pieces of rows, which need little memory, each with its first row's number."""
    rows = max(1, _PIECE * len(array) // max(array.size, 1))
    return ((begin, array[begin : begin + rows]) for begin in range(0, len(array), rows))


def _always_inside(leaf: spaces.Space) -> bool:
    """Whether every number of the dtype is within the bounds, as in pictures from 0 to 255."""
    bounds, dtype = leaf_bounds(leaf), np.dtype(leaf.dtype)
    if bounds is None or dtype.kind not in "biu":
        return bounds is None
    least, most = _ends(dtype)
    return bool((bounds[0] == least).all() and (bounds[1] == most).all())


def _ends(dtype: np.dtype) -> tuple[Any, Any]:
    """The least and the greatest number of a dtype."""
    if dtype.kind == "b":
        return False, True
    info = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype.type)
    return info.min, info.max


def _near_and_wrong(leaf: spaces.Space, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which numbers lie barely outside, and which are wrong: further outside, or not finite."""
    bounds, dtype = leaf_bounds(leaf), np.dtype(leaf.dtype)
    assert bounds is not None
    with np.errstate(over="ignore"):
        held = value.astype(dtype) if dtype.kind == "f" else value
    near, far = outside(held, *bounds)
    return near, far | ~np.isfinite(held)
