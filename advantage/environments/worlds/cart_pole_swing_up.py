"""Swing a pole up on a cart, and keep it upright on a short track."""

from __future__ import annotations

import dataclasses
import math

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from advantage.environments.worlds.cartpole import CartPole
from advantage.random_bits import unrolled
from advantage.types import Array, Key


@dataclasses.dataclass(frozen=True)
class CartPoleSwingUp:
    """A pole that hangs from a cart has to be swung up and kept upright.

    State: float32 [4] = x [m], x' [m/s], θ from upright [rad], not wrapped at full turns, θ' [rad/s].
    Observation: float32 [5] = x, x', cos θ, sin θ, θ'.
    Action: float [1], the force in units of the cart's, clipped to ±1.
    Reward: (1 + cos θ) / 2 after the step: 1 upright, 0 hanging; 0 for the step that ends the episode.
    Ends when |x| is above the cart's `position_limit`.
    Starts at rest in the middle, with θ = π plus up to ±`start_range`.

    Attributes:
        cart: the motion, and the limit of the track.
        start_range: bound on the first deviation of θ [rad].
        max_episode_steps: steps after which the driver truncates an episode.

    Source: the task of Raiko & Tornio (2009), "Variational Bayesian learning of nonlinear hidden state-space models for
    model predictive control", with the constants of `CartPole`.
    """

    cart: CartPole = CartPole(continuous=True)
    start_range: float = 0.1
    max_episode_steps: int = 500

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        """Twice the limit for the position, the unit circle, no limit for the velocities."""
        high = np.array([2 * self.cart.position_limit, np.inf, 1.0, 1.0, np.inf], np.float32)
        return gymnasium.spaces.Box(-high, high, dtype=np.float32)

    @property
    def action_space(self) -> gymnasium.spaces.Space:
        """Those of the cart."""
        return self.cart.action_space

    @property
    def gymnasium_id(self) -> None:
        """None: this world does not exist in Gymnasium."""
        return

    def reset(self, key: Key) -> tuple[Array, Array]:
        """Let the pole hang nearly at rest: `-> state [4], obs [5]`."""
        theta = math.pi + jax.random.uniform(
            unrolled(key), (), jnp.float32, -self.start_range, self.start_range
        )
        state = jnp.zeros(4).at[2].set(theta)
        return state, _observe(state)

    def state_of(self, obs: Array) -> Array:
        """The state, with the angle in ±π."""
        return jnp.stack([obs[0], obs[1], jnp.arctan2(obs[3], obs[2]), obs[4]])

    def step(self, state: Array, action: Array, key: Key) -> tuple[Array, Array, Array, Array]:
        """One step: `-> state [4], obs [5], reward, terminated`. Nothing is random, `key` is not used."""
        state = self.cart.moved(state, self.cart.force_of(action))
        terminated = jnp.abs(state[0]) > self.cart.position_limit
        reward = jnp.where(terminated, 0.0, (1 + jnp.cos(state[2])) / 2)
        return state, _observe(state), reward, terminated


def _observe(state: Array) -> Array:
    x, x_dot, theta, theta_dot = state
    return jnp.stack([x, x_dot, jnp.cos(theta), jnp.sin(theta), theta_dot])
