"""Blackjack with exact probabilities."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from advantage.environments.tables.mdp import MDP
from advantage.environments.tables.outcomes import Outcome

CARDS = [(card, 4 / 13 if card == 10 else 1 / 13) for card in range(1, 11)]  # an ace is 1
WIN, DRAW, LOSE = 280, 281, 282
SIZE = 283


def blackjack() -> MDP:
    """Come nearer to 21 than the dealer without going above 21.

    Cards come from an infinite deck. Face cards count 10. An ace counts 11 if the sum does not go above 21, and is then
    called usable. The dealer shows one of his two cards and draws until he has 17 or more. The game is Gymnasium's
    Blackjack-v1 with its default rules: a natural earns no more than another win.

    State: `10 hand + dealer - 1`. `dealer` is the card shown, 1 to 10. `hand` is the player's sum minus 4 without a
    usable ace (sums 4 to 21), the sum plus 6 with one (12 to 21); `blackjack_state` computes it. The terminal states
    are 280 for a win, 281 for a draw and 282 for a loss. Action: 0 sticks, 1 hits. Reward: 1 for a win, -1 for a loss.
    Undiscounted. The best policy has the value -0.046556; the one that sticks only on 20 and 21 has -0.353554.

    Source: Sutton & Barto 2018, "Reinforcement learning", examples 5.1 and 5.3.
    """

    def outcomes(state: int, action: int) -> list[Outcome]:
        if state >= WIN:
            return [(1.0, state, 0.0, True)]
        total, dealer, usable = _hand(state)
        if action == 1:
            after = [(p, *drawn(total, usable, card)) for card, p in CARDS]
            return [
                (p, LOSE, -1.0, True) if t > 21 else (p, blackjack_state(t, dealer, u), 0.0, False)
                for p, t, u in after
            ]
        final = dealer_totals(*drawn(0, False, dealer))
        return [(p, *_settled(total, end), True) for end, p in final.items()]

    return MDP.from_function(SIZE, 2, outcomes, start=_deal(), gamma=1.0)


def blackjack_state(total: int, dealer: int, usable: bool | int) -> int:
    """The number of the state for an observation of Gymnasium's Blackjack-v1: sum, dealer's card, usable ace.

    Raises:
        ValueError: a hand that does not exist.
    """
    if not (12 if usable else 4) <= total <= 21 or not 1 <= dealer <= 10:
        raise ValueError(
            f"There is no sum of {total} with{'' if usable else 'out'} a usable ace against a {dealer}; sums are 4 to "
            "21, with a usable ace 12 to 21, and the dealer shows 1 to 10."
        )
    return 10 * (total + 6 if usable else total - 4) + dealer - 1


def drawn(total: int, usable: bool, card: int) -> tuple[int, bool]:
    """A hand after one more card: `-> sum, usable ace`; a hand without cards has the sum 0 and no usable ace."""
    hard = total - 10 * usable + card
    usable = (usable or card == 1) and hard + 10 <= 21
    return hard + 10 * usable, usable


@lru_cache(maxsize=64)
def dealer_totals(total: int, usable: bool) -> dict[int, float]:
    """The probability of each final sum of a dealer who draws until he has 17 or more; 22 is any sum above 21."""
    if total >= 17:
        return {min(total, 22): 1.0}
    ends: dict[int, float] = {}
    for card, probability in CARDS:
        for end, p in dealer_totals(*drawn(total, usable, card)).items():
            ends[end] = ends.get(end, 0.0) + probability * p
    return ends


def _settled(total: int, dealer: int) -> tuple[int, float]:
    """`-> state, reward` after player and dealer have stopped."""
    if dealer > 21 or total > dealer:
        return WIN, 1.0
    return (DRAW, 0.0) if total == dealer else (LOSE, -1.0)


def _hand(state: int) -> tuple[int, int, bool]:
    """`-> sum, dealer's card, usable ace`."""
    hand, dealer = divmod(state, 10)
    return (hand - 6, dealer + 1, True) if hand >= 18 else (hand + 4, dealer + 1, False)


def _deal() -> np.ndarray:
    start = np.zeros(SIZE)
    for first, p in CARDS:
        for second, q in CARDS:
            total, usable = drawn(*drawn(0, False, first), second)
            for dealer, r in CARDS:
                start[blackjack_state(total, dealer, usable)] += p * q * r
    return start
