"""A walk along a cliff."""

from __future__ import annotations

import numpy as np

from advantage.environments.tables.grid import Grid
from advantage.environments.tables.mdp import MDP
from advantage.environments.tables.moves import MOVES, moved
from advantage.environments.tables.outcomes import Outcome

ROWS, COLUMNS = 4, 12
START, GOAL = 36, 47


def cliff() -> MDP:
    """Walk from the lower left corner to the lower right one; the cells between are a cliff.

    Each step earns -1. A step onto the cliff earns -100 and leads back to the start, and the episode continues. State:
    `row * 12 + column`. Action: up, right, down, left. Undiscounted. The best return is -13; the return of the safest
    path, two rows from the cliff, is -17. The table equals that of Gymnasium's CliffWalking-v1.

    Source: Sutton & Barto 2018, "Reinforcement learning", example 6.6.
    """

    def outcomes(state: int, action: int) -> list[Outcome]:
        successor = moved(state, MOVES[action], ROWS, COLUMNS)
        if START < successor < GOAL:
            return [(1.0, START, -100.0, False)]
        return [(1.0, successor, -1.0, successor == GOAL)]

    size = ROWS * COLUMNS
    return MDP.from_function(
        size,
        4,
        outcomes,
        start=np.eye(size)[START],
        gamma=1.0,
        grid=Grid(ROWS, COLUMNS, MOVES, cliffs=tuple(range(START + 1, GOAL))),
        max_episode_steps=10_000,
    )
