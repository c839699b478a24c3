"""An on-device world in Gymnasium's interface, for what steps one environment at a time."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
import jax
import numpy as np

from advantage.types import Key, Pytree, World


@partial(jax.jit, static_argnames="world")
def _reset(world: World, key: Key) -> tuple[Pytree, Pytree]:
    return world.reset(key)


@partial(jax.jit, static_argnames="world")
def _step(world: World, state: Pytree, action: Pytree, key: Key, number: int) -> tuple:
    return world.step(state, action, jax.random.fold_in(key, number))


class WorldEnv(gymnasium.Env):
    """`WorldEnv(world)`: the same dynamics, one compiled call for each step; truncated at `max_episode_steps`."""

    def __init__(self, world: World):
        self.world = world
        self.observation_space, self.action_space = world.observation_space, world.action_space
        self.state: Pytree = None
        self.key, self.elapsed = jax.random.key(0), 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Pytree, dict[str, Any]]:
        super().reset(seed=seed)
        key_reset, self.key = jax.random.split(jax.random.key(int(self.np_random.integers(2**31))))
        self.state, obs = _reset(self.world, key_reset)
        self.elapsed = 0
        return self._observed(obs), {}

    def step(self, action: Any) -> tuple[Pytree, float, bool, bool, dict[str, Any]]:
        self.state, obs, reward, terminated = _step(self.world, self.state, action, self.key, self.elapsed)
        self.elapsed += 1
        truncated = self.elapsed >= self.world.max_episode_steps
        return self._observed(obs), float(reward), bool(terminated), truncated, {}

    def _observed(self, obs: Pytree) -> Pytree:
        return jax.tree.map(np.asarray, obs)
