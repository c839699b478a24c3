"""Recorded episodes in memory, checked when they are made."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from functools import cached_property

import gymnasium
import numpy as np
from gymnasium import spaces

from advantage.environments.space_faults import leaf_bounds
from advantage.environments.spaces import leaf_spaces, take
from advantage.types import Pytree


class DatasetError(ValueError):
    """Recorded episodes cannot be used. The message names the file or the field, what was found and what to do."""


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """E episodes of N steps in all, one after another.

    An episode of T steps has T + 1 observations, the last of which is the one after its last step.

    Attributes:
        observation_space, action_space: the spaces of one observation and one action.
        observation: `[N + E, ...]`, in the structure and the dtypes of its space.
        action: `[N, ...]`, what the environment was given, in its own units.
        reward: float64 `[N]`.
        terminated: bool `[N]`, the task ended here.
        truncated: bool `[N]`, the episode was cut here: by a time limit, or where recording stopped.
        log_prob: float64 `[N]`, the log-probability of the action under the policy that acted, at most 0; None if it
            is not known.
        environment: the name of the environment; nothing is made from it.
        policy: which policy acted, in words.

    Raises:
        DatasetError: arrays that do not belong together or to the spaces, no step, or a last step that ends no episode.
    """

    observation_space: gymnasium.Space
    action_space: gymnasium.Space
    observation: Pytree
    action: Pytree
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    log_prob: np.ndarray | None = None
    environment: str = ""
    policy: str = ""

    def __post_init__(self):
        _check(self)

    @property
    def num_steps(self) -> int:
        """N."""
        return len(self.reward)

    @cached_property
    def done(self) -> np.ndarray:
        """Whether an episode ends with the step, bool `[N]`."""
        return self.terminated | self.truncated

    @cached_property
    def starts(self) -> np.ndarray:
        """The first step of each episode, int64 `[E]`."""
        return np.flatnonzero(np.append(True, self.done[:-1]))

    @cached_property
    def lengths(self) -> np.ndarray:
        """The number of steps of each episode, int64 `[E]`."""
        return np.diff(np.append(self.starts, self.num_steps))

    @cached_property
    def row(self) -> np.ndarray:
        """The row of the observation before each step, int64 `[N]`; the next row has the one after it."""
        return np.arange(self.num_steps) + np.cumsum(self.done) - self.done

    @property
    def returns(self) -> np.ndarray:
        """The undiscounted return of each episode, float64 `[E]`."""
        return np.add.reduceat(self.reward, self.starts)

    @cached_property
    def fingerprint(self) -> bytes:
        """The SHA-256 of what can be learned from: every array, by name, with its type and shape."""
        digest = hashlib.sha256()
        for name, array in arrays_of(self).items():
            digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.digest()

    def __str__(self) -> str:
        """One sentence for the user."""
        where = f" in {self.environment}" if self.environment else ""
        who = f" by {self.policy}" if self.policy else ""
        return (
            f"{self.num_steps:,} steps in {len(self.starts):,} episodes{where}{who}, mean return "
            f"{self.returns.mean():.2f}, mean length {self.lengths.mean():.1f}"
        )


def arrays_of(dataset: Dataset) -> dict[str, np.ndarray]:
    """Every array by name; the parts of an observation are `observation/KEY/...`."""
    named = {name: take(dataset.observation, path) for name, path, _ in named_leaves(dataset, "observation")}
    named |= {name: take(dataset.action, path) for name, path, _ in named_leaves(dataset, "action")}
    for name in ("reward", "terminated", "truncated", "log_prob"):
        array = getattr(dataset, name)
        if array is not None:
            named[name] = array
    return named


def named_leaves(dataset: Dataset, part: str) -> Iterator[tuple[str, tuple, gymnasium.Space]]:
    """The leaves of the observation or of the action: name, path, space."""
    space = dataset.observation_space if part == "observation" else dataset.action_space
    for path, leaf in leaf_spaces(space):
        yield "/".join((part, *map(str, path))), path, leaf


def refuse_other_spaces(
    dataset: Dataset, name: str, observation_space: gymnasium.Space, action_space: gymnasium.Space
) -> None:
    """Raises DatasetError where recorded episodes have other spaces than what is to learn from them or is judged.

    Args:
        dataset: the episodes.
        name: their file, for the message.
        observation_space, action_space: those that are needed.
    """
    for what, found, needed in (
        ("observation", dataset.observation_space, observation_space),
        ("action", dataset.action_space, action_space),
    ):
        if found != needed:
            raise DatasetError(
                f"{name} was recorded with {what} space {found}, and {needed} is needed here; use a file that was "
                "recorded in an environment with the same spaces, or an environment with those of the file."
            )


def _check(dataset: Dataset) -> None:
    steps, arrays = np.size(dataset.reward), arrays_of(dataset)
    kinds = {"reward": np.float64, "terminated": np.bool_, "truncated": np.bool_, "log_prob": np.float64}
    for name, dtype in kinds.items():
        if name in arrays:
            _check_form(name, arrays[name], (steps,), np.dtype(dtype))
    if not steps:
        raise DatasetError("The dataset has no step; record at least one episode.")
    episodes = int(np.sum(dataset.terminated | dataset.truncated))
    if not dataset.terminated[-1] and not dataset.truncated[-1]:
        raise DatasetError(
            "The last step of the dataset ends no episode: neither terminated nor truncated is true there. Mark the "
            "step after which recording stopped as truncated."
        )
    for part, rows in (("observation", steps + episodes), ("action", steps)):
        for name, _, space in named_leaves(dataset, part):
            _check_form(name, arrays[name], (rows, *(space.shape or ())), np.dtype(space.dtype))
            _check_choices(name, arrays[name], space)
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise DatasetError(f"{name}: found a number that is not finite; leave out the episode it is in.")
    if dataset.log_prob is not None and (dataset.log_prob > 1e-6).any():
        raise DatasetError(
            f"log_prob: found {dataset.log_prob.max():.6g}, expected logarithms of probabilities, which are at most 0."
        )


def _check_form(name: str, array: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> None:
    is_array = isinstance(array, np.ndarray)
    if not is_array or array.shape != shape or array.dtype != dtype:
        found = f"{array.dtype} of shape {array.shape}" if is_array else f"a {type(array).__name__}"
        raise DatasetError(
            f"{name}: found {found}, expected {dtype} of shape {shape}; the arrays of a "
            "dataset have a row for each step, and observations one more for each episode."
        )


def _check_choices(name: str, array: np.ndarray, space: gymnasium.Space) -> None:
    """Refuse choices that the space does not have; a number beyond the bounds of a Box is the environment's affair."""
    bounds = None if isinstance(space, spaces.Box) else leaf_bounds(space)
    if bounds is None:
        return
    low, high = bounds
    wrong = (array < low) | (array > high)
    if wrong.any():
        raise DatasetError(f"{name}: found {array[wrong][0]}, which is not in {space}.")
