"""A gambler who stakes what he has on a coin until he has a hundred, or nothing."""

from __future__ import annotations

from advantage.environments.tables.mdp import MDP
from advantage.environments.tables.outcomes import Outcome

GOAL = 100


def gambler(heads: float = 0.4) -> MDP:
    """Stake dollars on a coin that shows heads, and pays as much again, with probability `heads`.

    State: the capital, 0 to 100, of which 0 and 100 are terminal. Action `a` stakes `a + 1` dollars, cut to what he has
    and to what he lacks, `min(s, 100 - s)`. No action stakes nothing: that could go on for ever at no loss, and an
    undiscounted problem needs every policy to end. Reaching 100 earns 1, so that `V` is the probability to get there.
    Undiscounted; starts with any capital from 1 to 99.

    Raises:
        ValueError: a probability that is none, or a coin that always falls the same way.

    Source: Sutton & Barto 2018, "Reinforcement learning", example 4.3.
    """
    if not 0 < heads < 1:
        raise ValueError(f"heads={heads!r} is not allowed; use a probability between 0 and 1.")

    def outcomes(state: int, action: int) -> list[Outcome]:
        stake = min(action + 1, state, GOAL - state)
        won, lost = state + stake, state - stake
        return [(heads, won, float(won == GOAL), won == GOAL), (1 - heads, lost, 0.0, lost == 0)]

    return MDP.from_function(GOAL + 1, GOAL // 2, outcomes, gamma=1.0)
