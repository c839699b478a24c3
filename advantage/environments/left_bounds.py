"""Gymnasium's environments whose observations leave the bounds that they declare."""

from __future__ import annotations

import gymnasium
import numpy as np
from gymnasium import spaces

# A lander flies higher than 2.5 and turns more than once; a walker turns over. By their entry points.
LEAVE_THEIR_BOUNDS = frozenset(
    {
        "gymnasium.envs.box2d.lunar_lander:LunarLander",
        "gymnasium.envs.box2d.bipedal_walker:BipedalWalker",
    }
)


def without_bounds(env: gymnasium.Env) -> gymnasium.Env:
    """The same environment, whose space of observations, a Box, has no bounds."""
    space = env.observation_space
    env.observation_space = spaces.Box(-np.inf, np.inf, space.shape, space.dtype.type)  # pyright: ignore
    return env
