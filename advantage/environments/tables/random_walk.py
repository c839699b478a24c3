"""A random walk along a line, left or right, until an end is reached."""

from __future__ import annotations

import numpy as np

from advantage.environments.tables.grid import Grid
from advantage.environments.tables.mdp import MDP
from advantage.environments.tables.outcomes import Outcome
from advantage.plain_values import whole_number


def random_walk(n_states: int = 5, left: float = 0.0) -> MDP:
    """States 1 to `n_states` in a row between two terminal ones; whatever the action, each side has probability 1/2.

    The right end earns 1 and the left end `left`; all other rewards are 0. The undiscounted value is
    `V(i) = left + (1 - left) i / (n_states + 1)`. Episodes start in the middle.

    Raises:
        ValueError: an even number of states, which has no middle.

    Source: Sutton & Barto 2018, "Reinforcement learning", example 6.2; example 7.1 with 19 states and `left` -1.
    """
    whole = whole_number(n_states)
    if whole is None or whole < 1 or whole % 2 == 0:
        raise ValueError(f"n_states={n_states!r} is not allowed; use an odd whole number of 1 or more.")
    n_states = whole
    size, end = n_states + 2, n_states + 1

    def outcomes(state: int, action: int) -> list[Outcome]:
        if state in (0, end):
            return [(1.0, state, 0.0, True)]
        return [
            (0.5, state - 1, left * (state == 1), state == 1),
            (0.5, state + 1, float(state == n_states), state == n_states),
        ]

    start = np.eye(size)[(size - 1) // 2]
    return MDP.from_function(
        size, 1, outcomes, start=start, gamma=1.0, grid=Grid(1, size, ((0, 1),)), max_episode_steps=10_000
    )
