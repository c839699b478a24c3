"""Swing a pendulum up and hold it there with a torque too weak to lift it directly."""

from __future__ import annotations

import dataclasses
import math

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from advantage.random_bits import unrolled
from advantage.types import Array, Key


@dataclasses.dataclass(frozen=True)
class Pendulum:
    """Pendulum-v1 on the device.

    A uniform rod of mass `m` and length `l`, hinged at one end, at angle `θ` from upright, with torque `u`
    at the hinge. Its moment of inertia is m l² / 3, so

        θ'' = 3 g sin θ / (2 l) + 3 u / (m l²)

    One step is one semi-implicit Euler step of length `time_step`: the velocity advances first and is clipped
    to ±`max_speed`, then the angle advances with the new velocity.

    State: float32 [2] = θ [rad], not wrapped at full turns, and θ' [rad/s].
    Observation: float32 [3] = cos θ, sin θ, θ'.
    Action: float [1] = u [N m], clipped to ±`max_torque`.
    Reward: -(θ² + 0.1 θ'² + 0.001 u²) of the state before the step and the clipped torque, with θ wrapped to
    ±π.
    Episodes never terminate.
    Starts with θ uniform in ±`start_angle` and θ' uniform in ±`start_speed`.

    Attributes:
        gravity: g [m/s²].
        mass: m [kg].
        length: l [m].
        time_step: length of one step [s].
        max_speed: bound on |θ'| [rad/s].
        max_torque: bound on |u| [N m].
        start_angle: bound on the first |θ| [rad].
        start_speed: bound on the first |θ'| [rad/s].
        max_episode_steps: steps after which the driver truncates an episode.

    Source: Doya (2000), "Reinforcement learning in continuous time and space", poses the task with limited
    torque; the rod, its constants and the quadratic cost are those of Pendulum-v1.
    """

    gravity: float = 10.0
    mass: float = 1.0
    length: float = 1.0
    time_step: float = 0.05
    max_speed: float = 8.0
    max_torque: float = 2.0
    start_angle: float = math.pi
    start_speed: float = 1.0
    max_episode_steps: int = 200

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        """The unit circle and the clipped velocity."""
        high = np.array([1.0, 1.0, self.max_speed], np.float32)
        return gymnasium.spaces.Box(-high, high, dtype=np.float32)

    @property
    def action_space(self) -> gymnasium.spaces.Box:
        """One torque [N m]."""
        return gymnasium.spaces.Box(-self.max_torque, self.max_torque, (1,), np.float32)

    @property
    def gymnasium_id(self) -> str:
        """The name of the same world in Gymnasium."""
        return "Pendulum-v1"

    def reset(self, key: Key) -> tuple[Array, Array]:
        """Draw any angle and a small velocity: `-> state [2], obs [3]`."""
        unit = jax.random.uniform(unrolled(key), (2,), jnp.float32, -1.0, 1.0)
        state = unit * jnp.array([self.start_angle, self.start_speed], jnp.float32)
        return state, _observe(state)

    def state_of(self, obs: Array) -> Array:
        """The state, with the angle in ±π."""
        return jnp.stack([jnp.arctan2(obs[1], obs[0]), obs[2]])

    def step(self, state: Array, action: Array, key: Key) -> tuple[Array, Array, Array, Array]:
        """One step: `-> state [2], obs [3], reward, terminated`. Nothing is random, `key` is not used."""
        theta, theta_dot = state
        torque = jnp.clip(jnp.asarray(action, jnp.float32)[0], -self.max_torque, self.max_torque)

        angle = theta - 2 * math.pi * jnp.round(theta / (2 * math.pi))
        cost = angle * angle + 0.1 * theta_dot * theta_dot + 0.001 * torque * torque

        fall = 3 * self.gravity / (2 * self.length) * jnp.sin(theta)
        theta_ddot = fall + 3 / (self.mass * self.length**2) * torque
        theta_dot = jnp.clip(theta_dot + theta_ddot * self.time_step, -self.max_speed, self.max_speed)
        state = jnp.stack([theta + theta_dot * self.time_step, theta_dot])
        return state, _observe(state), -cost, jnp.zeros((), bool)


def _observe(state: Array) -> Array:
    theta, theta_dot = state
    return jnp.stack([jnp.cos(theta), jnp.sin(theta), theta_dot])
