"""The pendulum, seen as a small picture: positions are visible, and velocities must be inferred."""

from __future__ import annotations

import dataclasses

import gymnasium
import jax.numpy as jnp
import numpy as np

from advantage.environments.worlds.pendulum import Pendulum
from advantage.types import Array, Key

SIZE = 32  # pixels
LENGTH, WIDTH = 13.0, 1.5  # of the rod, in pixels; the width is half of it


@dataclasses.dataclass(frozen=True)
class PendulumPixels:
    """Pendulum-v1 with a picture for an observation.

    Observation: uint8 `[32, 32, 1]`, the rod in white with soft edges, hinged in the middle, upright at angle 0 and
    turning to the left as the angle grows.
    All else is that of `pendulum`.

    Attributes:
        pendulum: the world that is seen.
    """

    pendulum: Pendulum = Pendulum()

    @property
    def max_episode_steps(self) -> int:
        """Steps after which the driver truncates an episode."""
        return self.pendulum.max_episode_steps

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        """A grey picture."""
        return gymnasium.spaces.Box(0, 255, (SIZE, SIZE, 1), np.uint8)

    @property
    def action_space(self) -> gymnasium.spaces.Box:
        """One torque [N m]."""
        return self.pendulum.action_space

    @property
    def gymnasium_id(self) -> str:
        """The name of the same world in Gymnasium."""
        return "advantage/PendulumPixels-v0"

    def reset(self, key: Key) -> tuple[Array, Array]:
        """Draw any angle and a small velocity: `-> state [2], picture`."""
        state, _ = self.pendulum.reset(key)
        return state, rod_picture(state[0])

    def step(self, state: Array, action: Array, key: Key) -> tuple[Array, Array, Array, Array]:
        """One step: `-> state [2], picture, reward, terminated`."""
        state, _, reward, terminated = self.pendulum.step(state, action, key)
        return state, rod_picture(state[0]), reward, terminated


def rod_picture(angle: Array) -> Array:
    """The rod at an angle from upright [rad], uint8 `[32, 32, 1]`.

    A pixel is as bright as its distance to the middle line of the rod says: white up to half the width less half a
    pixel, black from half a pixel beyond it, linear in between.
    """
    centre = (SIZE - 1) / 2
    rows, columns = jnp.mgrid[:SIZE, :SIZE]
    right, up = columns - centre, centre - rows
    along = jnp.clip(-right * jnp.sin(angle) + up * jnp.cos(angle), 0.0, LENGTH)
    distance = jnp.hypot(right + along * jnp.sin(angle), up - along * jnp.cos(angle))
    bright = jnp.clip(WIDTH + 0.5 - distance, 0.0, 1.0)
    return jnp.round(255 * bright).astype(jnp.uint8)[..., None]
