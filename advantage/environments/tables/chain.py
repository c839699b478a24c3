"""A chain with a large reward at its far end, and a small one for going back."""

from __future__ import annotations

import numpy as np

from advantage.environments.tables.mdp import MDP
from advantage.environments.tables.outcomes import Outcome
from advantage.plain_values import require_whole


def chain(n_states: int = 5, slip: float = 0.2) -> MDP:
    """Action 0 steps forward and earns 10 in the last state, where it stays; action 1 returns to 0 and earns 2.

    With probability `slip` an action has the effect of the other one. All other rewards are 0. The best policy always
    steps forward. gamma is 0.99. Episodes start in state 0, never terminate, and are truncated.

    Raises:
        ValueError: fewer than two states.

    Source: Dearden, Friedman & Russell 1998, "Bayesian Q-learning", task "chain"; Strens 2000, "A Bayesian framework
    for reinforcement learning".
    """
    n_states = require_whole("n_states", n_states, 2)
    last = n_states - 1

    def outcomes(state: int, action: int) -> list[Outcome]:
        forward = slip if action else 1 - slip
        return [(forward, min(state + 1, last), 10.0 * (state == last), False), (1 - forward, 0, 2.0, False)]

    return MDP.from_function(n_states, 2, outcomes, start=np.eye(n_states)[0], gamma=0.99)
