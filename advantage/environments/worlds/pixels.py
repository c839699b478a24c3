"""The worlds of pixels in Gymnasium's interface, where they can be watched."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import gymnasium
import jax
import numpy as np

from advantage.environments.worlds.catch import Catch
from advantage.environments.worlds.min_breakout import MinBreakout
from advantage.environments.worlds.pendulum_pixels import PendulumPixels
from advantage.types import Array, Key, Pytree, World

CELL = 24  # pixels of the picture for each pixel of the world
COLOURS = np.array([(235, 235, 235), (250, 205, 60), (95, 80, 35), (205, 75, 65)], np.uint8)  # of channels


@partial(jax.jit, static_argnames="world")
def _reset(world: World, key: Key) -> Any:
    key, now = jax.random.split(key)
    return key, world.reset(now)


@partial(jax.jit, static_argnames="world")
def _step(world: World, state: Pytree, action: Array, key: Key) -> Any:
    key, now = jax.random.split(key)
    return key, world.step(state, action, now)


class PixelEnv(gymnasium.Env):
    """A world of pixels in Gymnasium's interface.

    A picture shows each pixel as a square in the colour of its channel, on black. Where a pixel has several channels,
    the first one is seen. A number below 255 makes it darker.

    Attributes:
        world: the world, whose observation is uint8 `[height, width, channels]` with at most four channels.
        state: its state.
    """

    metadata: ClassVar = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, world: World, render_mode: str | None = None):
        self.world = world
        self.observation_space, self.action_space = world.observation_space, world.action_space
        self.render_mode = render_mode
        self.state: Pytree = None
        self.obs: Any = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        key = jax.random.key(self.np_random.integers(2**32, dtype=np.uint32))
        self.key, (self.state, obs) = _reset(self.world, key)
        self.obs = np.asarray(obs)
        return self.obs, {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        is_choice = isinstance(self.action_space, gymnasium.spaces.Discrete)
        chosen = np.asarray(action, np.int32 if is_choice else np.float32)
        self.key, (self.state, *outcome) = _step(self.world, self.state, chosen, self.key)
        self.obs, reward, terminated = jax.device_get(outcome)
        return self.obs, float(reward), bool(terminated), False, {}

    def render(self) -> Any:
        return picture(self.obs) if self.render_mode == "rgb_array" else None


def picture(obs: np.ndarray) -> np.ndarray:
    """An observation in colours and enlarged: uint8 `[height, width, channels] -> [24 height, 24 width, 3]`."""
    first = (obs > 0).argmax(axis=-1)
    bright = np.take_along_axis(obs, first[..., None], axis=-1) / 255
    shown = np.round(COLOURS[first] * bright).astype(np.uint8)
    return shown.repeat(CELL, axis=0).repeat(CELL, axis=1)


def catch(render_mode: str | None = None) -> PixelEnv:
    """`Catch` in Gymnasium's interface, without a time limit: the registration sets it."""
    return PixelEnv(Catch(), render_mode)


def min_breakout(
    repeat_action_probability: float = MinBreakout.repeat_action_probability, render_mode: str | None = None
) -> PixelEnv:
    """`MinBreakout` in Gymnasium's interface, without a time limit: the registration sets it."""
    return PixelEnv(MinBreakout(repeat_action_probability), render_mode)


def pendulum_pixels(render_mode: str | None = None) -> PixelEnv:
    """`PendulumPixels` in Gymnasium's interface, without a time limit: the registration sets it."""
    return PixelEnv(PendulumPixels(), render_mode)
