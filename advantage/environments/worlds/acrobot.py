"""Swing the tip of a two-link pendulum above the bar with a motor at the elbow alone."""

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
class Acrobot:
    """Acrobot-v1 on the device.

    Two equal links of mass `m`, length `l`, centre of mass at `c` from the upper joint and moment of inertia
    `I` about that centre. `θ1` is the first link's angle from hanging straight down, `θ2` the second link's
    angle from the first, `u` the torque between them. The motion is linear in the accelerations:

        | d11 d12 | |θ1''|   | m l c (θ2'² + 2 θ1' θ2') sin θ2 - m g (c + l) sin θ1 - m g c sin(θ1 + θ2) |
        | d12 d22 | |θ2''| = | u - m l c θ1'² sin θ2 - m g c sin(θ1 + θ2)                                |

        d11 = m c² + m (l² + c² + 2 l c cos θ2) + 2 I,   d12 = m (c² + l c cos θ2) + I,   d22 = m c² + I

    One step is one classical fourth-order Runge-Kutta step of length `time_step` under a constant torque;
    then the angles are wrapped to ±π and the velocities clipped.

    State: float32 [4] = θ1 [rad], θ2 [rad], θ1' [rad/s], θ2' [rad/s].
    Observation: float32 [6] = cos θ1, sin θ1, cos θ2, sin θ2, θ1', θ2'.
    Action: 0, 1, 2 for the torques -`torque`, 0, +`torque`.
    Reward: -1 for every step, 0 for the one that ends the episode.
    Ends when the tip is one link's length above the bar: -cos θ1 - cos(θ1 + θ2) > 1.
    Starts with all four numbers uniform in ±`start_range`.

    Attributes:
        gravity: g [m/s²].
        mass: m, of each link [kg].
        length: l, of each link [m].
        centre: c, from a link's upper joint to its centre of mass [m].
        inertia: I, of each link [kg m²].
        torque: |u| [N m].
        time_step: length of one step [s].
        max_speed_1: bound on |θ1'| [rad/s].
        max_speed_2: bound on |θ2'| [rad/s].
        start_range: bound on each number of the start state, in that number's unit.
        max_episode_steps: steps after which the driver truncates an episode.

    Source: Sutton (1996), "Generalization in reinforcement learning: successful examples using sparse coarse
    coding"; equations of motion with the θ1'² term as in Sutton & Barto (1998), "Reinforcement learning: an
    introduction", section 11.3.
    """

    gravity: float = 9.8
    mass: float = 1.0
    length: float = 1.0
    centre: float = 0.5
    inertia: float = 1.0
    torque: float = 1.0
    time_step: float = 0.2
    max_speed_1: float = 4 * math.pi
    max_speed_2: float = 9 * math.pi
    start_range: float = 0.1
    max_episode_steps: int = 500

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        """Two unit circles and two clipped velocities."""
        high = np.array([1.0, 1.0, 1.0, 1.0, self.max_speed_1, self.max_speed_2], np.float32)
        return gymnasium.spaces.Box(-high, high, dtype=np.float32)

    @property
    def action_space(self) -> gymnasium.spaces.Discrete:
        """Negative torque, none, positive torque."""
        return gymnasium.spaces.Discrete(3)

    @property
    def gymnasium_id(self) -> str:
        """The name of the same world in Gymnasium."""
        return "Acrobot-v1"

    def reset(self, key: Key) -> tuple[Array, Array]:
        """Draw a start state near hanging at rest: `-> state [4], obs [6]`."""
        state = jax.random.uniform(unrolled(key), (4,), jnp.float32, -self.start_range, self.start_range)
        return state, _observe(state)

    def state_of(self, obs: Array) -> Array:
        """The state, with the angles in ±π."""
        return jnp.stack([jnp.arctan2(obs[1], obs[0]), jnp.arctan2(obs[3], obs[2]), obs[4], obs[5]])

    def step(self, state: Array, action: Array, key: Key) -> tuple[Array, Array, Array, Array]:
        """One step: `-> state [4], obs [6], reward, terminated`. Nothing is random, `key` is not used."""
        torque = self.torque * (jnp.asarray(action, jnp.float32) - 1)
        dt = self.time_step
        k1 = self._velocity(state, torque)
        k2 = self._velocity(state + dt / 2 * k1, torque)
        k3 = self._velocity(state + dt / 2 * k2, torque)
        k4 = self._velocity(state + dt * k3, torque)
        theta1, theta2, omega1, omega2 = state + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)

        theta1, theta2 = _wrap(theta1), _wrap(theta2)
        omega1 = jnp.clip(omega1, -self.max_speed_1, self.max_speed_1)
        omega2 = jnp.clip(omega2, -self.max_speed_2, self.max_speed_2)
        state = jnp.stack([theta1, theta2, omega1, omega2])
        terminated = -jnp.cos(theta1) - jnp.cos(theta1 + theta2) > 1.0
        return state, _observe(state), terminated.astype(jnp.float32) - 1.0, terminated

    def _velocity(self, state: Array, torque: Array) -> Array:
        """The state's time derivative, [4]: the two equations of motion solved by Cramer's rule."""
        theta1, theta2, omega1, omega2 = state
        m, length, c = self.mass, self.length, self.centre
        sin2, cos2 = jnp.sin(theta2), jnp.cos(theta2)

        d11 = m * (length * length + 2 * c * c + 2 * length * c * cos2) + 2 * self.inertia
        d12 = m * (c * c + length * c * cos2) + self.inertia
        d22 = m * c * c + self.inertia

        swing = m * length * c * sin2
        weight1 = m * self.gravity * (c + length) * jnp.sin(theta1)
        weight2 = m * self.gravity * c * jnp.sin(theta1 + theta2)
        f1 = swing * omega2 * (omega2 + 2 * omega1) - weight1 - weight2
        f2 = torque - swing * omega1 * omega1 - weight2

        determinant = d11 * d22 - d12 * d12
        alpha1 = (d22 * f1 - d12 * f2) / determinant
        alpha2 = (d11 * f2 - d12 * f1) / determinant
        return jnp.stack([omega1, omega2, alpha1, alpha2])


def _observe(state: Array) -> Array:
    theta1, theta2, omega1, omega2 = state
    return jnp.stack([jnp.cos(theta1), jnp.sin(theta1), jnp.cos(theta2), jnp.sin(theta2), omega1, omega2])


def _wrap(angle: Array) -> Array:
    return angle - 2 * math.pi * jnp.round(angle / (2 * math.pi))
