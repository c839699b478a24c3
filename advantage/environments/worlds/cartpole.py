"""Balance a pole on a cart by pushing the cart left or right."""

from __future__ import annotations

import dataclasses
import math

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

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
    Action: 0 pushes left, 1 pushes right.
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

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        """Twice the limits for the positions, no limit for the velocities."""
        high = np.array([2 * self.position_limit, np.inf, 2 * self.angle_limit, np.inf], np.float32)
        return gymnasium.spaces.Box(-high, high, dtype=np.float32)

    @property
    def action_space(self) -> gymnasium.spaces.Discrete:
        """Left, right."""
        return gymnasium.spaces.Discrete(2)

    @property
    def gymnasium_id(self) -> str:
        """The name of the same world in Gymnasium."""
        return "CartPole-v1"

    def reset(self, key: Key) -> tuple[Array, Array]:
        """Draw a start state near upright: `-> state [4], obs [4]`."""
        state = jax.random.uniform(key, (4,), jnp.float32, -self.start_range, self.start_range)
        return state, state

    def state_of(self, obs: Array) -> Array:
        """The state, which is what is observed."""
        return jnp.asarray(obs, jnp.float32)

    def step(self, state: Array, action: Array, key: Key) -> tuple[Array, Array, Array, Array]:
        """One step: `-> state [4], obs [4], reward, terminated`. Nothing is random, `key` is not used."""
        force = jnp.where(action == 1, self.force, -self.force)
        state = cart_pole_motion(self, state, force)
        x, _, theta, _ = state
        terminated = (jnp.abs(x) > self.position_limit) | (jnp.abs(theta) > self.angle_limit)
        return state, state, jnp.ones((), jnp.float32), terminated


@dataclasses.dataclass(frozen=True)
class ContinuousCartPole:
    """CartPole with a force of any size between -10 and 10 N, in episodes of 200 steps.

    State, observation, reward, end and start are those of `CartPole`.
    Action: float [1], the force in units of `force`, clipped to ±1.

    Attributes:
        gravity, cart_mass, pole_mass, half_length, force, time_step: as in `CartPole`.
        position_limit, angle_limit, start_range: as in `CartPole`.
        max_episode_steps: steps after which the driver truncates an episode.

    Source: Barto, Sutton & Anderson (1983), as `CartPole`; episodes of 200 steps as in Chua et al. 2018, "Deep
    reinforcement learning in a handful of trials using probabilistic dynamics models".
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
    max_episode_steps: int = 200

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        """Twice the limits for the positions, no limit for the velocities."""
        high = np.array([2 * self.position_limit, np.inf, 2 * self.angle_limit, np.inf], np.float32)
        return gymnasium.spaces.Box(-high, high, dtype=np.float32)

    @property
    def action_space(self) -> gymnasium.spaces.Box:
        """From full force to the left to full force to the right."""
        return gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    @property
    def gymnasium_id(self) -> None:
        """None: this world does not exist in Gymnasium."""
        return

    def reset(self, key: Key) -> tuple[Array, Array]:
        """Draw a start state near upright: `-> state [4], obs [4]`."""
        state = jax.random.uniform(key, (4,), jnp.float32, -self.start_range, self.start_range)
        return state, state

    def state_of(self, obs: Array) -> Array:
        """The state, which is what is observed."""
        return jnp.asarray(obs, jnp.float32)

    def step(self, state: Array, action: Array, key: Key) -> tuple[Array, Array, Array, Array]:
        """One step: `-> state [4], obs [4], reward, terminated`. Nothing is random, `key` is not used."""
        force = self.force * jnp.clip(jnp.asarray(action, jnp.float32)[0], -1.0, 1.0)
        state = cart_pole_motion(self, state, force)
        x, _, theta, _ = state
        terminated = (jnp.abs(x) > self.position_limit) | (jnp.abs(theta) > self.angle_limit)
        return state, state, jnp.ones((), jnp.float32), terminated


@dataclasses.dataclass(frozen=True)
class CartPoleSwingUp:
    """A pole that hangs from a cart has to be swung up and kept upright, on a short track.

    The motion is that of `CartPole`.

    State: float32 [4] = x [m], x' [m/s], θ from upright [rad], not wrapped at full turns, θ' [rad/s].
    Observation: float32 [5] = x, x', cos θ, sin θ, θ'.
    Action: float [1], the force in units of `force`, clipped to ±1.
    Reward: (1 + cos θ) / 2 after the step: 1 upright, 0 hanging; 0 for the step that ends the episode.
    Ends when |x| > `position_limit`.
    Starts at rest in the middle, with θ = π plus up to ±`start_range`.

    Attributes:
        gravity, cart_mass, pole_mass, half_length, force, time_step: as in `CartPole`.
        position_limit: bound on |x| [m].
        start_range: bound on the first deviation of θ [rad].
        max_episode_steps: steps after which the driver truncates an episode.

    Source: the task of Raiko & Tornio (2009), "Variational Bayesian learning of nonlinear hidden state-space models for
    model predictive control", with the constants of `CartPole`.
    """

    gravity: float = 9.8
    cart_mass: float = 1.0
    pole_mass: float = 0.1
    half_length: float = 0.5
    force: float = 10.0
    time_step: float = 0.02
    position_limit: float = 2.4
    start_range: float = 0.1
    max_episode_steps: int = 500

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        """Twice the limit for the position, the unit circle, no limit for the velocities."""
        high = np.array([2 * self.position_limit, np.inf, 1.0, 1.0, np.inf], np.float32)
        return gymnasium.spaces.Box(-high, high, dtype=np.float32)

    @property
    def action_space(self) -> gymnasium.spaces.Box:
        """From full force to the left to full force to the right."""
        return gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    @property
    def gymnasium_id(self) -> None:
        """None: this world does not exist in Gymnasium."""
        return

    def reset(self, key: Key) -> tuple[Array, Array]:
        """Let the pole hang nearly at rest: `-> state [4], obs [5]`."""
        theta = math.pi + jax.random.uniform(key, (), jnp.float32, -self.start_range, self.start_range)
        state = jnp.zeros(4).at[2].set(theta)
        return state, _swing_observation(state)

    def state_of(self, obs: Array) -> Array:
        """The state, with the angle in ±π."""
        return jnp.stack([obs[0], obs[1], jnp.arctan2(obs[3], obs[2]), obs[4]])

    def step(self, state: Array, action: Array, key: Key) -> tuple[Array, Array, Array, Array]:
        """One step: `-> state [4], obs [5], reward, terminated`. Nothing is random, `key` is not used."""
        force = self.force * jnp.clip(jnp.asarray(action, jnp.float32)[0], -1.0, 1.0)
        state = cart_pole_motion(self, state, force)
        terminated = jnp.abs(state[0]) > self.position_limit
        reward = jnp.where(terminated, 0.0, (1 + jnp.cos(state[2])) / 2)
        return state, _swing_observation(state), reward, terminated


def _swing_observation(state: Array) -> Array:
    x, x_dot, theta, theta_dot = state
    return jnp.stack([x, x_dot, jnp.cos(theta), jnp.sin(theta), theta_dot])


def cart_pole_motion(
    world: CartPole | ContinuousCartPole | CartPoleSwingUp, state: Array, force: Array
) -> Array:
    """The state one Euler step after the cart was pushed with a force [N]: the equations of `CartPole`."""
    x, x_dot, theta, theta_dot = state
    total_mass = world.cart_mass + world.pole_mass
    mass_length = world.pole_mass * world.half_length
    sin, cos = jnp.sin(theta), jnp.cos(theta)

    push = (force + mass_length * theta_dot * theta_dot * sin) / total_mass
    lever = world.half_length * (4 / 3 - world.pole_mass / total_mass * cos * cos)
    theta_ddot = (world.gravity * sin - push * cos) / lever
    x_ddot = push - mass_length / total_mass * theta_ddot * cos

    dt = world.time_step
    x, x_dot = x + dt * x_dot, x_dot + dt * x_ddot
    theta, theta_dot = theta + dt * theta_dot, theta_dot + dt * theta_ddot
    return jnp.stack([x, x_dot, theta, theta_dot])
