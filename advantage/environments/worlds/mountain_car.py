"""Drive an underpowered car out of a valley, with three gears or with a continuous throttle."""

from __future__ import annotations

import dataclasses

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from advantage.random_bits import unrolled
from advantage.types import Array, Key


@dataclasses.dataclass(frozen=True)
class MountainCar:
    """MountainCar-v0 on the device.

    The road has height sin(3x). With the action's sign `a` in {-1, 0, 1}, or if `continuous` a throttle in [-1, 1]:

        v ← clip(v + `force` a - `gravity` cos(3x), ±`max_speed`)
        x ← clip(x + v, [`min_position`, `max_position`])
        v ← 0 if the car ran into the left wall

    State and observation: float32 [2] = x [position], v [position / step].
    Action: 0 drives left, 1 coasts, 2 drives right; if `continuous`, float [1] = a, which moves the car clipped to ±1.
    Reward: -1 for every step, the last one included; if `continuous`, -0.1 a² for every step, with the given `a` (not
    clipped), and 100 more for the step that ends the episode.
    Ends when x ≥ `goal_position` and v ≥ 0.
    Starts at rest with x uniform between `start_low` and `start_high`.

    Attributes:
        force: velocity that the engine adds per step, at full throttle [position / step²].
        gravity: velocity that the steepest slope takes away per step [position / step²].
        max_speed: bound on |v| [position / step].
        min_position: the left wall [position].
        max_position: the right end of the road [position].
        goal_position: where the flag stands [position].
        start_low: leftmost start [position].
        start_high: rightmost start [position].
        max_episode_steps: steps after which the driver truncates an episode.
        continuous: whether there is a throttle in place of the three gears.

    Source: Moore (1990), "Efficient memory-based learning for robot control", in the form of Sutton & Barto
    (2018), "Reinforcement learning: an introduction", example 10.1; throttle and price of fuel are those of
    MountainCarContinuous-v0.
    """

    force: float = 0.001
    gravity: float = 0.0025
    max_speed: float = 0.07
    min_position: float = -1.2
    max_position: float = 0.6
    goal_position: float = 0.5
    start_low: float = -0.6
    start_high: float = -0.4
    max_episode_steps: int = 200
    continuous: bool = False

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        """The road and the clipped velocity."""
        low = np.array([self.min_position, -self.max_speed], np.float32)
        high = np.array([self.max_position, self.max_speed], np.float32)
        return gymnasium.spaces.Box(low, high, dtype=np.float32)

    @property
    def action_space(self) -> gymnasium.spaces.Discrete | gymnasium.spaces.Box:
        """Left, coast, right; or one throttle, from full reverse to full ahead."""
        return (
            gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
            if self.continuous
            else gymnasium.spaces.Discrete(3)
        )

    @property
    def gymnasium_id(self) -> str:
        """The name of the same world in Gymnasium."""
        return "MountainCarContinuous-v0" if self.continuous else "MountainCar-v0"

    def reset(self, key: Key) -> tuple[Array, Array]:
        """Park somewhere near the bottom: `-> state [2], obs [2]`."""
        position = jax.random.uniform(unrolled(key), (), jnp.float32, self.start_low, self.start_high)
        state = jnp.stack([position, jnp.zeros((), jnp.float32)])
        return state, state

    def state_of(self, obs: Array) -> Array:
        """The state, which is what is observed."""
        return jnp.asarray(obs, jnp.float32)

    def step(self, state: Array, action: Array, key: Key) -> tuple[Array, Array, Array, Array]:
        """One step: `-> state [2], obs [2], reward, terminated`. Nothing is random, `key` is not used."""
        action = jnp.asarray(action, jnp.float32)
        if not self.continuous:
            state, terminated = self.moved(state, self.force * (action - 1))
            return state, state, -jnp.ones((), jnp.float32), terminated
        throttle = action[0]
        state, terminated = self.moved(state, self.force * jnp.clip(throttle, -1.0, 1.0))
        return state, state, 100.0 * terminated.astype(jnp.float32) - 0.1 * throttle * throttle, terminated

    def moved(self, state: Array, push: Array) -> tuple[Array, Array]:
        """One step of the car under the engine's `push` [position / step²]: `-> state [2], terminated`."""
        position, velocity = state
        velocity = velocity + push - self.gravity * jnp.cos(3 * position)
        velocity = jnp.clip(velocity, -self.max_speed, self.max_speed)
        target = position + velocity
        position = jnp.clip(target, self.min_position, self.max_position)
        velocity = jnp.where(target <= self.min_position, jnp.maximum(velocity, 0.0), velocity)
        terminated = (position >= self.goal_position) & (velocity >= 0.0)
        return jnp.stack([position, velocity]), terminated


def mountain_car_continuous() -> MountainCar:
    """MountainCarContinuous-v0 on the device: a throttle with a price, a stronger engine and a nearer flag."""
    return MountainCar(continuous=True, force=0.0015, goal_position=0.45, max_episode_steps=999)
