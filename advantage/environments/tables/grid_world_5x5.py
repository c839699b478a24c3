"""A grid of 5 x 5 cells, two of which pay and carry the walker away."""

from __future__ import annotations

from advantage.environments.tables.grid import Grid
from advantage.environments.tables.mdp import MDP
from advantage.environments.tables.moves import MOVES, moved
from advantage.environments.tables.outcomes import Outcome

LEAPS = {1: (21, 10.0), 3: (13, 5.0)}  # A and B: where they lead, and what they earn


def grid_world_5x5() -> MDP:
    """Walk for ever: A (top row, second cell) earns 10 and leads four rows down, B (fourth cell) 5 and two rows.

    A move off the grid earns -1 and leads nowhere, all else earns 0. State: `row * 5 + column`. Action: up, right,
    down, left, which A and B do not heed. gamma 0.9; starts anywhere; never ends, and is truncated.

    Source: Sutton & Barto 2018, "Reinforcement learning", examples 3.5 and 3.8.
    """

    def outcomes(state: int, action: int) -> list[Outcome]:
        if state in LEAPS:
            return [(1.0, *LEAPS[state], False)]
        successor = moved(state, MOVES[action], 5, 5)
        return [(1.0, successor, -1.0 if successor == state else 0.0, False)]

    return MDP.from_function(25, 4, outcomes, gamma=0.9, grid=Grid(5, 5, MOVES))
