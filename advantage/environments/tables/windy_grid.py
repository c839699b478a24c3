"""A grid with a wind that blows upwards."""

from __future__ import annotations

import numpy as np

from advantage.environments.tables.grid import Grid
from advantage.environments.tables.mdp import MDP
from advantage.environments.tables.moves import KING_MOVES, MOVES, Move, moved
from advantage.environments.tables.outcomes import Outcome

ROWS, COLUMNS = 7, 10
WIND = (0, 0, 0, 1, 1, 1, 2, 2, 1, 0)  # cells upwards, by column
START, GOAL = 30, 37


def windy_grid(moves: tuple[Move, ...] = MOVES, stochastic: bool = False) -> MDP:
    """Walk to a goal in the row of the start; the wind of the column that a step leaves blows upwards. A step earns -1.

    State: `row * 10 + column`. Action: up, right, down, left; with the moves of a king then up right, down right, down
    left, up left; last, if `moves` has it, stay. The edge stops a move. Undiscounted. The shortest path has 15 steps,
    with the moves of a king 7.

    Args:
        moves: the moves of the actions, `(down, right)`.
        stochastic: a wind other than 0 blows one cell less, as given, or one cell more, with probability 1/3 each.

    Source: Sutton & Barto 2018, "Reinforcement learning", example 6.5, exercises 6.9 and 6.10.
    """

    def outcomes(state: int, action: int) -> list[Outcome]:
        wind, (down, right) = WIND[state % COLUMNS], moves[action]
        strengths = (wind - 1, wind, wind + 1) if stochastic and wind else (wind,)
        successors = [moved(state, (down - strength, right), ROWS, COLUMNS) for strength in strengths]
        return [(1 / len(successors), successor, -1.0, successor == GOAL) for successor in successors]

    size = ROWS * COLUMNS
    return MDP.from_function(
        size,
        len(moves),
        outcomes,
        start=np.eye(size)[START],
        gamma=1.0,
        grid=Grid(ROWS, COLUMNS, moves),
        max_episode_steps=10_000,
    )


def windy_grid_king() -> MDP:
    """`windy_grid` with the eight moves of a king."""
    return windy_grid(KING_MOVES)


def windy_grid_stay() -> MDP:
    """`windy_grid` with the eight moves of a king and an action that stays, so that only the wind moves the agent."""
    return windy_grid((*KING_MOVES, (0, 0)))


def windy_grid_stochastic() -> MDP:
    """`windy_grid` with the eight moves of a king and a wind that varies."""
    return windy_grid(KING_MOVES, stochastic=True)
