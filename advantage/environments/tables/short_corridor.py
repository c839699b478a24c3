"""A corridor whose cells look the same; in one of them the actions are switched."""

from __future__ import annotations

import numpy as np

from advantage.environments.tables.grid import Grid
from advantage.environments.tables.mdp import MDP, POMDP
from advantage.environments.tables.outcomes import Outcome

MOVES = ((0, -1), (0, 1))  # left, right


def short_corridor() -> POMDP:
    """Three cells in a row before the goal, all of which look the same; in the second, left and right are switched.

    Each step earns -1, and the left end stops a move. State: 0 to 3; 3 is terminal. Action: 0 left, 1 right.
    Observation: always 0. Undiscounted. A policy is given by its probability `p` of going right, and
    `V = (2p - 4) / (p (1 - p))`. The best is `p = 2 - √2` with `V = -6 - 4√2`. A deterministic policy never reaches the
    goal.

    Source: Sutton & Barto 2018, "Reinforcement learning", example 13.1.
    """

    def outcomes(state: int, action: int) -> list[Outcome]:
        step = 1 if (action == 1) != (state == 1) else -1
        successor = min(max(state + step, 0), 3)
        return [(1.0, successor, -1.0, successor == 3)]

    mdp = MDP.from_function(4, 2, outcomes, start=np.eye(4)[0], gamma=1.0, grid=Grid(1, 4, MOVES))
    return POMDP(mdp, np.ones((4, 2, 1)))
