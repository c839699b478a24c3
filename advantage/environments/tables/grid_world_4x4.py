"""A grid of 4 x 4 cells with a goal in two corners."""

from __future__ import annotations

from advantage.environments.tables.grid import Grid
from advantage.environments.tables.mdp import MDP
from advantage.environments.tables.moves import MOVES, moved
from advantage.environments.tables.outcomes import Outcome


def grid_world_4x4() -> MDP:
    """Walk to the upper left or the lower right corner; each step earns -1, and the edge stops a move.

    State: `row * 4 + column`; 0 and 15 are terminal. Action: up, right, down, left. Undiscounted. Episodes start in any
    other state. For the uniformly random policy, `V` is
    0 -14 -20 -22 / -14 -18 -20 -20 / -20 -20 -18 -14 / -22 -20 -14 0.

    Source: Sutton & Barto 2018, "Reinforcement learning", example 4.1.
    """

    def outcomes(state: int, action: int) -> list[Outcome]:
        successor = moved(state, MOVES[action], 4, 4)
        return [(1.0, successor, -1.0, successor in (0, 15))]

    return MDP.from_function(16, 4, outcomes, gamma=1.0, grid=Grid(4, 4, MOVES))
