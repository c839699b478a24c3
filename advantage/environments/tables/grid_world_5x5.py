"""A grid of 5 x 5 cells, two of which give a reward and move the agent to another cell."""

from __future__ import annotations

from advantage.environments.tables.grid import Grid
from advantage.environments.tables.mdp import MDP
from advantage.environments.tables.moves import MOVES, moved
from advantage.environments.tables.outcomes import Outcome

LEAPS = {1: (21, 10.0), 3: (13, 5.0)}  # A and B: their successor and reward


def grid_world_5x5() -> MDP:
    """Walk without end: cell A (top row, second) earns 10 and leads four rows down, cell B (fourth) earns 5, two rows.

    A move off the grid earns -1 and changes nothing; all other rewards are 0. State: `row * 5 + column`. Action: up,
    right, down, left; in A and B all actions have the same effect. gamma is 0.9. Episodes start in any state, never
    terminate, and are truncated.

    Source: Sutton & Barto 2018, "Reinforcement learning", examples 3.5 and 3.8.
    """

    def outcomes(state: int, action: int) -> list[Outcome]:
        if state in LEAPS:
            return [(1.0, *LEAPS[state], False)]
        successor = moved(state, MOVES[action], 5, 5)
        return [(1.0, successor, -1.0 if successor == state else 0.0, False)]

    return MDP.from_function(25, 4, outcomes, gamma=0.9, grid=Grid(5, 5, MOVES))
