"""A gambler who bets on a coin until he has 100 dollars or none."""

from __future__ import annotations

from advantage.environments.tables.mdp import MDP
from advantage.environments.tables.outcomes import Outcome

GOAL = 100


def gambler(heads: float = 0.4) -> MDP:
    """Bet dollars on a coin that shows heads with probability `heads`; heads wins the stake, tails loses it.

    State: the capital, 0 to 100; 0 and 100 are terminal. Action `a` stakes `a + 1` dollars, but at most
    `min(s, 100 - s)`: the capital, and the amount missing to 100. There is no stake of 0, because episodes without
    bets would never terminate, and an undiscounted problem needs every policy to terminate. Reaching 100 earns 1, so
    that `V` is the probability of reaching it. Undiscounted. Episodes start with any capital from 1 to 99.

    Raises:
        ValueError: `heads` is not between 0 and 1.

    Source: Sutton & Barto 2018, "Reinforcement learning", example 4.3.
    """
    if not 0 < heads < 1:
        raise ValueError(f"heads={heads!r} is not allowed; use a probability between 0 and 1.")

    def outcomes(state: int, action: int) -> list[Outcome]:
        stake = min(action + 1, state, GOAL - state)
        won, lost = state + stake, state - stake
        return [(heads, won, float(won == GOAL), won == GOAL), (1 - heads, lost, 0.0, lost == 0)]

    return MDP.from_function(GOAL + 1, GOAL // 2, outcomes, gamma=1.0)
