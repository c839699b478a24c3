"""Two locations of a car rental, with cars that are moved between them overnight."""

from __future__ import annotations

import numpy as np
from scipy import special

from advantage.environments.tables.mdp import MDP

CARS = 20  # the most cars at one location
MOVED = 5  # the most cars moved in one night
REQUESTS, RETURNS = (3.0, 4.0), (3.0, 2.0)  # means per day, at the first and at the second location
PRICE, COST = 10.0, 2.0  # earned by a rental, paid for moving a car


def car_rental() -> MDP:
    """Move cars overnight between two locations, then rent them out during the day.

    State: `n1 * 21 + n2`, the cars at the end of a day, 0 to 20 each. Action: 0 to 10, that is -5 to 5 cars moved
    from the first location to the second; at most the cars that are there are moved and paid for. Cars above 20 at a
    location leave the problem. Requests and returns are Poisson, with means 3 and 3 at the first location, 4 and 2 at
    the second; returned cars can be rented the next day. gamma is 0.9. Episodes start in any state, never terminate,
    and are truncated.

    The reward is the expected one, `10 E[rentals | s, a] - 2 |cars moved|`, in the table and when it is played, because
    the next state does not tell how many cars were rented.

    Source: Sutton & Barto 2018, "Reinforcement learning", example 4.2, with Poisson returns (Jack's original problem,
    not the simplification with constant returns).
    """
    size = CARS + 1
    state = np.arange(size * size)
    first, second = np.divmod(state[:, None], size)
    moves = np.clip(np.arange(-MOVED, MOVED + 1), -second, first)  # [S, A]
    first, second = (np.minimum(cars, CARS) for cars in (first - moves, second + moves))
    (tomorrow_1, rented_1), (tomorrow_2, rented_2) = map(_day, REQUESTS, RETURNS)
    transition = np.einsum("sai,saj->saij", tomorrow_1[first], tomorrow_2[second])
    reward = PRICE * (rented_1[first] + rented_2[second]) - COST * np.abs(moves)
    return MDP(transition.reshape(*reward.shape, -1), reward, gamma=0.9)


def _day(requests: float, returns: float) -> tuple[np.ndarray, np.ndarray]:
    """One day at one location, by cars in the morning: distribution of cars in the evening `[21, 21]`, mean rentals.

    Poisson tails are summed, not cut: every number above the last counts as the last.
    """
    cars = np.arange(CARS + 1)
    asked, brought = _poisson(cars, requests), _poisson(cars, returns)
    left, rented = np.zeros((CARS + 1, CARS + 1)), np.zeros(CARS + 1)
    for morning in range(CARS + 1):
        rentals = np.append(asked[:morning], _at_least(morning, requests))  # from no car to all cars
        left[morning, : morning + 1] = rentals[::-1]
        rented[morning] = rentals @ np.arange(morning + 1)
    refilled = np.zeros((CARS + 1, CARS + 1))
    for evening in range(CARS + 1):
        refilled[evening, evening:-1] = brought[: CARS - evening]
        refilled[evening, -1] = _at_least(CARS - evening, returns)
    return left @ refilled, rented


def _poisson(count: np.ndarray, mean: float) -> np.ndarray:
    return np.exp(special.xlogy(count, mean) - mean - special.gammaln(count + 1))


def _at_least(count: int, mean: float) -> float:
    return float(special.gammainc(count, mean)) if count else 1.0
