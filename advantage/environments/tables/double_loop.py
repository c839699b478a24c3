"""Two loops of five steps from one state; a wrong action leaves the better loop."""

from __future__ import annotations

import numpy as np

from advantage.environments.tables.mdp import MDP
from advantage.environments.tables.outcomes import Outcome


def double_loop() -> MDP:
    """From state 0, action 0 enters the loop 1-2-3-4, action 1 the loop 5-6-7-8, and each leads back to 0.

    In the first loop both actions move on, and the last step earns 1. In the second loop only action 1 moves on, while
    action 0 leads back to 0 at once and earns 0; its last step earns 2 with either action. All other rewards are 0.
    Nothing is random. The best policy always takes action 1 and earns 2 in five steps. gamma is 0.99. Episodes never
    terminate and are truncated.

    Source: Watkins 1989, "Learning from delayed rewards"; Dearden, Friedman & Russell 1998, "Bayesian Q-learning",
    figure of the task "loop".
    """

    def outcomes(state: int, action: int) -> list[Outcome]:
        if state == 0:
            return [(1.0, 5 if action else 1, 0.0, False)]
        if state in (4, 8):
            return [(1.0, 0, state / 4, False)]
        return [(1.0, 0 if state > 4 and action == 0 else state + 1, 0.0, False)]

    return MDP.from_function(9, 2, outcomes, start=np.eye(9)[0], gamma=0.99)
