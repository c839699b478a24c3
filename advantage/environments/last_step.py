"""The action and the reward of the last step as parts of the observation, for policies that infer a hidden state."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from advantage.environments.check import check_reset, check_step
from advantage.environments.masks import OBSERVATION
from advantage.environments.spaces import map_leaves
from advantage.plain_values import plain_number, plain_tuple
from advantage.types import Array, Key, LastPart, Pytree, World

NAMES: dict[LastPart, str] = {"action": "last_action", "reward": "last_reward"}
REWARD = spaces.Box(-np.inf, np.inf, (), np.float32)


def last_parts(value: Any) -> tuple[LastPart, ...]:
    """The parts of the last step that `observe_last` names. Raises ValueError for anything else."""
    parts: Any = None if isinstance(value, str) else plain_tuple(value)
    if parts is None or any(part not in tuple(NAMES) for part in parts) or len(set(parts)) < len(parts):
        raise ValueError(
            f"observe_last={value!r} is not allowed; use a list such as ['action'] or ['action', 'reward']."
        )
    return parts


def space_with_last(
    observation_space: spaces.Space, action_space: spaces.Space, parts: tuple[LastPart, ...]
) -> spaces.Dict:
    """The space of an observation, `last_action` and `last_reward`: a Dict, with the parts of a Dict beside them.

    Raises:
        ValueError: the observation has a part of such a name.
    """
    whole = isinstance(observation_space, spaces.Dict)
    seen = dict(observation_space.spaces) if whole else {OBSERVATION: observation_space}
    if taken := [NAMES[part] for part in parts if NAMES[part] in seen]:
        raise ValueError(
            f"The observation has a part {taken[0]!r} already, so observe_last (--observe-last) cannot add it; leave "
            f"it out of observe_last, or leave the part out with ignore_observation (--ignore-observation {taken[0]})."
        )
    last = {"action": map_leaves(_with_none, action_space), "reward": REWARD}
    return spaces.Dict(seen | {NAMES[part]: _nested(last[part]) for part in parts})


def _nested(space: Pytree) -> spaces.Space:
    """Spaces in dicts and tuples as a space."""
    if isinstance(space, dict):
        return spaces.Dict([(name, _nested(part)) for name, part in space.items()])
    return spaces.Tuple([_nested(part) for part in space]) if isinstance(space, tuple) else space


def _with_none(space: spaces.Space) -> spaces.Space:
    """The space of an action or none: one choice more, the last one; a Box of floats has no bounds, and 0 for none."""
    if isinstance(space, spaces.Discrete):
        return spaces.Discrete(space.n + 1, start=space.start, dtype=space.dtype.type)
    if isinstance(space, spaces.MultiDiscrete):
        return spaces.MultiDiscrete(space.nvec + 1, space.dtype.type, start=space.start)
    if isinstance(space, spaces.MultiBinary):
        return spaces.MultiDiscrete(np.full(space.shape, 3), space.dtype.type)
    if isinstance(space, spaces.Box) and space.dtype.kind == "f":
        return spaces.Box(-np.inf, np.inf, space.shape, space.dtype.type)
    return space


def no_action(action_space: spaces.Space) -> Pytree:
    """What `last_action` is at the beginning of an episode, in NumPy."""

    def none(space: spaces.Space) -> np.ndarray:
        if isinstance(space, spaces.Discrete):
            return np.asarray(space.start + space.n, space.dtype)
        if isinstance(space, spaces.MultiDiscrete):
            return np.asarray(space.start + space.nvec, space.dtype)
        if isinstance(space, spaces.MultiBinary):
            return np.full(space.shape, 2, space.dtype)
        low, high = (space.low, space.high) if isinstance(space, spaces.Box) else (0, 0)
        return np.clip(np.zeros(space.shape or (), space.dtype), low, high)

    return map_leaves(none, action_space)


def _as_none(array: Callable[..., Array], none: Pytree, space: spaces.Space, action: Pytree) -> Pytree:
    """An action as arrays, made by `array`, of the types that `none` has, from `no_action`."""
    return map_leaves(lambda _, none, leaf: array(leaf, none.dtype), space, none, action)


def _joined(obs: Pytree, action: Pytree, reward: Array, parts: tuple[LastPart, ...]) -> dict[str, Any]:
    last = {"action": action, "reward": reward}
    seen = obs if isinstance(obs, Mapping) else {OBSERVATION: obs}
    return {**seen, **{NAMES[part]: last[part] for part in parts}}


class LastStep(gymnasium.Wrapper):
    """`observing` the last step of a Gymnasium environment: `LastStep(env, ("action", "reward"))`."""

    def __init__(self, env: gymnasium.Env, parts: tuple[LastPart, ...]):
        super().__init__(env)
        self.parts, self.none = parts, no_action(env.action_space)
        self.observation_space = space_with_last(env.observation_space, env.action_space, parts)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Pytree, dict[str, Any]]:
        result = self.env.reset(seed=seed, options=options)
        if not isinstance(result, tuple) or len(result) != 2:
            check_reset(self.env.observation_space, result, "")  # says what is wrong
        obs, info = result
        none = _as_none(np.array, self.none, self.env.action_space, self.none)
        return _joined(obs, none, np.zeros((), np.float32), self.parts), info

    def step(self, action: Any) -> tuple[Pytree, Any, bool, bool, dict[str, Any]]:
        result = self.env.step(action)
        if not isinstance(result, tuple) or len(result) != 5 or plain_number(result[1]) is None:
            check_step(self.env.observation_space, result, "")  # says what is wrong
        obs, reward, terminated, truncated, info = result
        taken = _as_none(np.array, self.none, self.env.action_space, action)
        return (
            _joined(obs, taken, np.asarray(reward, np.float32), self.parts),
            reward,
            terminated,
            truncated,
            info,
        )


@dataclasses.dataclass(frozen=True)
class LastStepWorld:
    """`observing` the last step of an on-device world. Its state is the world's.

    Attributes:
        world: the world whose last step is observed.
        parts: what of it.
    """

    world: World
    parts: tuple[LastPart, ...]

    @property
    def max_episode_steps(self) -> int:
        return self.world.max_episode_steps

    @property
    def observation_space(self) -> gymnasium.Space:
        """The space of an observation with the last step."""
        return space_with_last(self.world.observation_space, self.world.action_space, self.parts)

    @property
    def action_space(self) -> gymnasium.Space:
        """The action space of the world."""
        return self.world.action_space

    @property
    def gymnasium_id(self) -> str | None:
        """The Gymnasium environment with the same dynamics, whose last step is not observed."""
        return self.world.gymnasium_id

    def reset(self, key: Key) -> tuple[Pytree, Pytree]:
        """Draw a start state: `-> state, obs`."""
        import jax.numpy as jnp  # not above, because worker processes start without JAX

        state, obs = self.world.reset(key)
        return state, _joined(obs, self._no_action(), jnp.float32(0), self.parts)

    def step(self, state: Pytree, action: Pytree, key: Key) -> tuple[Pytree, Pytree, Array, Array]:
        """One step: `-> state, obs, reward, terminated`."""
        import jax.numpy as jnp

        state, obs, reward, terminated = self.world.step(state, action, key)
        taken = _as_none(jnp.asarray, self._no_action(), self.action_space, action)
        return state, _joined(obs, taken, jnp.asarray(reward, jnp.float32), self.parts), reward, terminated

    def _no_action(self) -> Pytree:
        import jax.numpy as jnp

        return map_leaves(lambda _, leaf: jnp.asarray(leaf), self.action_space, no_action(self.action_space))
