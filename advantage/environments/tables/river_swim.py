"""A river: swim against the current to a large reward, or with the current to a small one."""

from __future__ import annotations

import numpy as np

from advantage.environments.tables.grid import Grid
from advantage.environments.tables.mdp import MDP
from advantage.environments.tables.outcomes import Outcome

MOVES = ((0, -1), (0, 1))  # with the current, against it


def river_swim() -> MDP:
    """Six places along a river. Action 0 swims left, with the current, and always succeeds; action 1 swims right.

    Swimming right moves one place to the right with probability 0.3, stays with 0.6 and moves back with 0.1. At the
    left end it moves with 0.3 and stays with 0.7; at the right end it stays with 0.3 and moves back with 0.7. Staying
    at the right end earns 10000, swimming left at the left end earns 5, and all other rewards are 0. gamma is 0.95.
    Episodes start in the second or third place from the left, never terminate, and are truncated.

    Source: Strehl & Littman 2008, "An analysis of model-based interval estimation for Markov decision processes",
    section 5.
    """

    def outcomes(state: int, action: int) -> list[Outcome]:
        if action == 0:
            return [(1.0, max(state - 1, 0), 5.0 * (state == 0), False)]
        if state == 0:
            return [(0.7, 0, 0.0, False), (0.3, 1, 0.0, False)]
        if state == 5:
            return [(0.7, 4, 0.0, False), (0.3, 5, 10_000.0, False)]
        return [(0.1, state - 1, 0.0, False), (0.6, state, 0.0, False), (0.3, state + 1, 0.0, False)]

    start = np.array([0.0, 0.5, 0.5, 0.0, 0.0, 0.0])
    return MDP.from_function(6, 2, outcomes, start=start, gamma=0.95, grid=Grid(1, 6, MOVES))
