"""A small world with a continuous action, on both drivers."""

import dataclasses

import gymnasium
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces


@dataclasses.dataclass(frozen=True)
class Slide:
    """A point on a line that begins at 1, moves by a / 4, earns 1 where it is below 1, and ends beyond 2."""

    max_episode_steps: int = 6
    observation_space = spaces.Box(-4, 4, (1,), np.float32)
    action_space = spaces.Box(-2, 2, (1,), np.float32)
    gymnasium_id = None

    def reset(self, key):
        return jnp.ones(1), jnp.ones(1)

    def step(self, state, action, key):
        state = jnp.clip(state + action / 4, -4, 4)
        return state, state, jnp.where(state[0] < 1, 1.0, 0.0), state[0] > 2


class SlideOnHost(gymnasium.Env):
    """`Slide` in Gymnasium's interface."""

    observation_space, action_space = Slide.observation_space, Slide.action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.t = np.ones(1, np.float32), 0
        return self.x, {}

    def step(self, action):
        self.x, self.t = np.clip(self.x + action / 4, -4, 4).astype(np.float32), self.t + 1
        return self.x, float(self.x[0] < 1), bool(self.x[0] > 2), self.t == 6, {}
