"""A choice whose noisy rewards seem better than they are when a maximum is taken over their estimates."""

from __future__ import annotations

import numpy as np
from scipy import special

from advantage.environments.tables.mdp import MDP
from advantage.environments.tables.outcomes import Outcome
from advantage.plain_values import whole_number

LEVELS = 64  # numbers that approximate the normal distribution


def maximisation_bias(n_actions: int = 10) -> MDP:
    """In A, right ends the episode and earns 0; left leads to B, where every action ends it and earns about N(-0.1, 1).

    State: 0 is A, 1 is B, 2 is the end on the right, 3 to 66 are the ends after B. A table has the same number of
    actions in every state: in A the first half of them is left, the second half right, so that a random policy takes
    each with probability 1/2. A table cannot hold continuous rewards: each of the 64 ends, all equally likely, has its
    own reward. The rewards are the medians of 64 equal parts of the normal distribution, scaled to a mean of -0.1 and a
    standard deviation of 1 exactly. Undiscounted. Right is best; the value of left is -0.1.

    Raises:
        ValueError: the number of actions is odd or below 2.

    Source: Sutton & Barto 2018, "Reinforcement learning", example 6.7, which does not fix the number of actions in B.
    """
    whole = whole_number(n_actions)
    if whole is None or whole < 2 or whole % 2:
        raise ValueError(f"n_actions={n_actions!r} is not allowed; use an even whole number of 2 or more.")
    n_actions = whole
    levels = special.ndtri((np.arange(LEVELS) + 0.5) / LEVELS)
    rewards = (levels / levels.std() - 0.1).tolist()

    def outcomes(state: int, action: int) -> list[Outcome]:
        if state == 0:
            return [(1.0, 1, 0.0, False) if action < n_actions // 2 else (1.0, 2, 0.0, True)]
        return [(1 / LEVELS, 3 + level, reward, True) for level, reward in enumerate(rewards)]

    size = 3 + LEVELS
    return MDP.from_function(size, n_actions, outcomes, start=np.eye(size)[0], gamma=1.0)
