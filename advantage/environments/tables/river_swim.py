"""A swim against the current towards a large reward, or with it to a small one."""

from __future__ import annotations

import numpy as np

from advantage.environments.tables.grid import Grid
from advantage.environments.tables.mdp import MDP
from advantage.environments.tables.outcomes import Outcome

MOVES = ((0, -1), (0, 1))  # with the current, against it


def river_swim() -> MDP:
    """Six places along a river. Action 0 swims left, with the current, and always gets there; action 1 swims right.

    Swimming right gets one place on with probability 0.3, nowhere with 0.6 and back with 0.1; from the first place on
    with 0.3 and nowhere with 0.7; in the last it holds the place with 0.3 and falls back with 0.7. Holding the last
    place earns 10000, swimming left in the first 5, all else 0. Starts in the second or third place. gamma 0.95; never
    ends, and is truncated.

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
