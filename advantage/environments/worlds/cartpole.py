"""Balance a pole on a cart by pushing the cart left or right."""

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
class CartPole:
    """CartPole-v1 on the device.

    With cart mass `m_c`, pole mass `m`, half the pole's length `l`, total mass `M = m_c + m`, pole angle `θ`
    from upright (positive to the right), cart position `x` and force `F` on the cart (no friction):

        p   = (F + m l θ'² sin θ) / M
        θ'' = (g sin θ - p cos θ) / (l (4/3 - m cos² θ / M))
        x'' = p - m l θ'' cos θ / M

    One step is one forward Euler step of length `time_step`: positions advance with the old velocities.

    State and observation: float32 [4] = x [m], x' [m/s], θ [rad], θ' [rad/s].
    Action: 0 pushes left, 1 pushes right; if `continuous`, float [1], the force in units of `force`, clipped to ±1.
    Reward: 1 for every step, the last one included.
    Ends when |x| > `position_limit` or |θ| > `angle_limit`.
    Starts with all four numbers uniform in ±`start_range`.

    Attributes:
        gravity: g [m/s²].
        cart_mass: m_c [kg].
        pole_mass: m [kg].
        half_length: l, from the joint to the pole's centre of mass [m].
        force: |F| [N].
        time_step: length of one step [s].
        position_limit: distance from the origin to each end of the track [m].
        angle_limit: where the pole counts as fallen [rad].
        start_range: bound on each number of the start state, in that number's unit.
        max_episode_steps: steps after which the driver truncates an episode.
        continuous: whether the force may have any size up to |F|.

    Source: Barto, Sutton & Anderson (1983), "Neuronlike adaptive elements that can solve difficult learning
    control problems", appendix, with friction left out.
    """

    gravity: float = 9.8
    cart_mass: float = 1.0
    pole_mass: float = 0.1
    half_length: float = 0.5
    force: float = 10.0
    time_step: float = 0.02
    position_limit: float = 2.4
    angle_limit: float = math.pi / 15
    start_range: float = 0.05
    max_episode_steps: int = 500
    continuous: bool = False

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        """Twice the limits for the positions, no limit for the velocities."""
        high = np.array([2 * self.position_limit, np.inf, 2 * self.angle_limit, np.inf], np.float32)
        return gymnasium.spaces.Box(-high, high, dtype=np.float32)

    @property
    def action_space(self) -> gymnasium.spaces.Discrete | gymnasium.spaces.Box:
        """Left, right; or from full force to the left to full force to the right."""
        return (
            gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
            if self.continuous
            else gymnasium.spaces.Discrete(2)
        )

    @property
    def gymnasium_id(self) -> str | None:
        """The name of the same world in Gymnasium, where a force has one size."""
        return None if self.continuous else "CartPole-v1"

    def reset(self, key: Key) -> tuple[Array, Array]:
        """Draw a start state near upright: `-> state [4], obs [4]`."""
        state = jax.random.uniform(unrolled(key), (4,), jnp.float32, -self.start_range, self.start_range)
        return state, state

    def state_of(self, obs: Array) -> Array:
        """The state, which is what is observed."""
        return jnp.asarray(obs, jnp.float32)

    def step(self, state: Array, action: Array, key: Key) -> tuple[Array, Array, Array, Array]:
        """One step: `-> state [4], obs [4], reward, terminated`. Nothing is random, `key` is not used."""
        state = self.moved(state, self.force_of(action))
        x, _, theta, _ = state
        terminated = (jnp.abs(x) > self.position_limit) | (jnp.abs(theta) > self.angle_limit)
        return state, state, jnp.ones((), jnp.float32), terminated

    def force_of(self, action: Array) -> Array:
        """The force of an action [N]."""
        if self.continuous:
            return self.force * jnp.clip(jnp.asarray(action, jnp.float32)[0], -1.0, 1.0)
        return jnp.where(action == 1, self.force, -self.force)

    def moved(self, state: Array, force: Array) -> Array:
        """The state one Euler step after the cart was pushed with a force [N]."""
        x, x_dot, theta, theta_dot = state
        total_mass = self.cart_mass + self.pole_mass
        mass_length = self.pole_mass * self.half_length
        sin, cos = jnp.sin(theta), jnp.cos(theta)

        push = (force + mass_length * theta_dot * theta_dot * sin) / total_mass
        lever = self.half_length * (4 / 3 - self.pole_mass / total_mass * cos * cos)
        theta_ddot = (self.gravity * sin - push * cos) / lever
        x_ddot = push - mass_length / total_mass * theta_ddot * cos

        dt = self.time_step
        x, x_dot = x + dt * x_dot, x_dot + dt * x_ddot
        theta, theta_dot = theta + dt * theta_dot, theta_dot + dt * theta_ddot
        return jnp.stack([x, x_dot, theta, theta_dot])


def continuous_cart_pole() -> CartPole:
    """CartPole with a force of any size, in episodes of 200 steps.

    Source: Chua et al. 2018, "Deep reinforcement learning in a handful of trials using probabilistic dynamics models",
    for the length of an episode.
    """
    return CartPole(continuous=True, max_episode_steps=200)
