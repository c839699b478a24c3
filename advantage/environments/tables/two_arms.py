"""The smallest decision problem: one state, two actions, one step."""

from __future__ import annotations

import numpy as np

from advantage.environments.tables.mdp import MDP


def two_arms(left: float = 1.0, right: float = 0.0) -> MDP:
    """Choose once: action 0 earns `left`, action 1 earns `right`, and the episode ends.

    State: 0 is the start, 1 is terminal. A policy is given by its probability `π(L)`, and
    `J = left π(L) + right (1 - π(L))`. With `π(L) = clamp(θ, 0, 1)` the gradient is `left - right` for θ within (0, 1)
    and zero outside, where even the worst policy learns nothing.
    """
    transition = np.zeros((2, 2, 2))
    transition[:, :, 1] = 1.0
    return MDP(
        transition,
        np.array([[left, right], [0.0, 0.0]]),
        start=np.array([1.0, 0.0]),
        terminal=np.array([False, True]),
        gamma=1.0,
    )
