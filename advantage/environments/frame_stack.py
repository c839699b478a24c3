"""The last n observations as one, so that a policy without memory can see movement."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from advantage.environments.check import check_reset, check_step
from advantage.environments.masks import ACTION_MASK, split_mask
from advantage.environments.spaces import map_leaves
from advantage.types import Array, Key, Pytree, World


def stacked_space(space: spaces.Space, n: int) -> spaces.Space:
    """The space of n observations of this space: Discrete becomes MultiDiscrete, the others keep their kind."""
    if not isinstance(space, spaces.Dict):
        return _stack(space, n)
    parts = [(name, part if name == ACTION_MASK else _stack(part, n)) for name, part in space.spaces.items()]
    return spaces.Dict(parts)


def _stack(space: spaces.Space, n: int) -> spaces.Space:
    def repeat(bound: Any) -> np.ndarray:
        return np.repeat(np.asarray(bound)[None], n, axis=0)

    if isinstance(space, spaces.Dict):
        return spaces.Dict([(name, _stack(part, n)) for name, part in space.spaces.items()])
    if isinstance(space, spaces.Tuple):
        return spaces.Tuple([_stack(part, n) for part in space.spaces])
    if isinstance(space, spaces.Box):
        return spaces.Box(repeat(space.low), repeat(space.high), dtype=space.dtype.type)
    if isinstance(space, spaces.Discrete):
        return spaces.MultiDiscrete(repeat(space.n), space.dtype.type, start=repeat(space.start))
    if isinstance(space, spaces.MultiDiscrete):
        return spaces.MultiDiscrete(repeat(space.nvec), space.dtype.type, start=repeat(space.start))
    if isinstance(space, spaces.MultiBinary):
        return spaces.MultiBinary((n, *space.shape))
    raise ValueError(
        f"Observations of the space {space} cannot be stacked; allowed are Box, Discrete, MultiDiscrete, MultiBinary, "
        "Dict and Tuple."
    )


def first_frames(space: spaces.Space, obs: Pytree, n: int) -> Pytree:
    """The stack after a reset: the first observation n times, `[n, ...]`. In NumPy or JAX."""
    return _unmasked(lambda _, x: x.__array_namespace__().stack([x] * n), space, obs)


def next_frames(space: spaces.Space, frames: Pytree, obs: Pytree) -> Pytree:
    """The stack after a step: the oldest observation is dropped, the new one comes last."""

    def push(_, new: Array, old: Array) -> Array:
        return new.__array_namespace__().concatenate([old[1:], new[None]])

    return _unmasked(push, space, obs, frames)


def _unmasked(function: Callable[..., Any], space: spaces.Space, obs: Pytree, *trees: Pytree) -> Pytree:
    """`map_leaves` over all parts of an observation but its action mask, which stays as it is in `obs`."""
    seen, mask = split_mask(space)
    mapped = map_leaves(function, seen, obs, *trees)
    return mapped if mask is None else mapped | {ACTION_MASK: obs[ACTION_MASK]}


def frame_counts(space: spaces.Space, n: int) -> Pytree:
    """How many frames each leaf of a stack's space holds: n, and 1 for an action mask."""
    seen, mask = split_mask(space)
    counts = map_leaves(lambda _: n, seen)
    return counts if mask is None else counts | {ACTION_MASK: 1}


class FrameStack(gymnasium.Wrapper):
    """`stacked` for a Gymnasium environment.

    Raises:
        EnvironmentDefect: an observation that cannot be stacked because it is not in the observation space.
    """

    def __init__(self, env: gymnasium.Env, n: int):
        super().__init__(env)
        self.n, self.frames = n, None
        self.observation_space = stacked_space(env.observation_space, n)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Pytree, dict[str, Any]]:
        result = self.env.reset(seed=seed, options=options)
        space = self.env.observation_space
        try:
            self.frames = first_frames(space, _arrays(space, result[0]), self.n)
        except (TypeError, ValueError, LookupError):
            check_reset(space, result, "")  # says what is wrong
            raise
        return self.frames, result[1]

    def step(self, action: Any) -> tuple[Pytree, Any, bool, bool, dict[str, Any]]:
        result = self.env.step(action)
        space = self.env.observation_space
        try:
            self.frames = next_frames(space, self.frames, _arrays(space, result[0]))
        except (TypeError, ValueError, LookupError):
            check_step(space, result, "")
            raise
        _, reward, terminated, truncated, info = result
        return self.frames, reward, terminated, truncated, info


def _arrays(space: spaces.Space, obs: Any) -> Pytree:
    return map_leaves(lambda _, leaf: np.asarray(leaf), space, obs)


@dataclasses.dataclass(frozen=True)
class FrameStackWorld:
    """`stacked` for an on-device world. Its state is the world's state and the stack.

    Attributes:
        world: the world whose observations are stacked.
        n: how many observations are stacked.
    """

    world: World
    n: int

    @property
    def max_episode_steps(self) -> int:
        return self.world.max_episode_steps

    @property
    def observation_space(self) -> gymnasium.Space:
        """The space of a stack."""
        return stacked_space(self.world.observation_space, self.n)

    @property
    def action_space(self) -> gymnasium.Space:
        """The action space of the world."""
        return self.world.action_space

    @property
    def gymnasium_id(self) -> str | None:
        """The Gymnasium environment with the same dynamics, whose observations are not stacked."""
        return self.world.gymnasium_id

    def reset(self, key: Key) -> tuple[tuple[Pytree, Pytree], Pytree]:
        """Draw a start state: `-> state, obs [n, ...]`."""
        state, obs = self.world.reset(key)
        frames = first_frames(self.world.observation_space, obs, self.n)
        return (state, frames), frames

    def step(
        self, state: tuple[Pytree, Pytree], action: Pytree, key: Key
    ) -> tuple[tuple[Pytree, Pytree], Pytree, Array, Array]:
        """One step: `-> state, obs [n, ...], reward, terminated`."""
        inner, frames = state
        inner, obs, reward, terminated = self.world.step(inner, action, key)
        frames = next_frames(self.world.observation_space, frames, obs)
        return (inner, frames), frames, reward, terminated
