"""The finite worlds: published figures, by loops of this file's own, and the same dynamics wherever they are played."""

from __future__ import annotations

import dataclasses
import functools
import itertools

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium.envs.toy_text import blackjack as gymnasium_blackjack
from scipy import sparse

from advantage import machine as memory
from advantage.environments.check import check_environment
from advantage.environments.make import environment_names, make
from advantage.environments.tables.blackjack import blackjack_state
from advantage.environments.tables.car_rental import car_rental
from advantage.environments.tables.chain import chain
from advantage.environments.tables.ends import goals
from advantage.environments.tables.gambler import gambler
from advantage.environments.tables.maximisation_bias import maximisation_bias
from advantage.environments.tables.maze import blocking_maze, maze, shortcut_maze
from advantage.environments.tables.mdp import MDP, POMDP
from advantage.environments.tables.names import GYMNASIUM_TABLES, TABLES, table
from advantage.environments.tables.random_mdp import random_mdp
from advantage.environments.tables.random_walk import random_walk
from advantage.environments.tables.tiger import tiger
from advantage.environments.tables.two_arms import two_arms
from advantage.environments.tables.world import TabularEnv

each_name = pytest.mark.parametrize("name", TABLES)
PAIRS, DRAWS = 30, 1000  # pairs of state and action looked at in each world, steps from each


def process(name: str) -> MDP:
    tables = table(name)
    return tables.mdp if isinstance(tables, POMDP) else tables


def dense(mdp: MDP) -> tuple[np.ndarray, np.ndarray]:
    """`P(s' | s, a)` and `r(s, a)`, read off the table entry by entry."""
    assert not sparse.issparse(mdp.transition)
    transition = np.asarray(mdp.transition)
    reward = np.asarray(mdp.reward)
    return transition, reward if reward.ndim == 2 else (transition * reward).sum(axis=2)


def best_values(mdp: MDP, gamma: float | None = None, steps: int = 200_000) -> np.ndarray:
    """Value iteration until nothing moves any more, or for so many steps."""
    transition, reward = dense(mdp)
    value = np.zeros(len(transition))
    for _ in range(steps):
        new = (reward + (mdp.gamma if gamma is None else gamma) * transition @ value).max(axis=1)
        if np.abs(new - value).max() < 1e-13:
            return new
        value = new
    return value


def policy_values(mdp: MDP, policy: np.ndarray, sweeps: int) -> np.ndarray:
    """The value of a policy `[S, A]` after so many sweeps of its Bellman equation."""
    transition, reward = dense(mdp)
    value = np.zeros(len(transition))
    for _ in range(sweeps):
        value = (policy * (reward + mdp.gamma * transition @ value)).sum(axis=1)
    return value


def uniform(mdp: MDP) -> np.ndarray:
    return np.full((mdp.n_states, mdp.n_actions), 1 / mdp.n_actions)


# Published figures


@pytest.mark.parametrize(
    ("name", "expected"),
    [("RandomWalk-v0", np.arange(1, 6) / 6), ("RandomWalk19-v0", np.arange(-9, 10) / 10)],
)
def test_random_walk(name, expected):
    values = best_values(table(name))
    np.testing.assert_allclose(values, [0, *expected, 0], atol=1e-10)
    assert table(name).start.argmax() == (len(values) - 1) // 2


def test_grid_world_4x4():
    mdp = table("GridWorld4x4-v0")
    sweeps = {1: [0, -1, -1, -1], 2: [0, -1.75, -2, -2], 3: [0, -2.4375, -2.9375, -3]}
    for count, row in sweeps.items():
        np.testing.assert_allclose(policy_values(mdp, uniform(mdp), count)[:4], row, atol=1e-12)
    tenth = policy_values(mdp, uniform(mdp), 10)[:4]
    np.testing.assert_allclose(tenth, [0, -6.138, -8.352, -8.967], atol=5e-4)
    limit = [[0, -14, -20, -22], [-14, -18, -20, -20], [-20, -20, -18, -14], [-22, -20, -14, 0]]
    np.testing.assert_allclose(policy_values(mdp, uniform(mdp), 1000).reshape(4, 4), limit, atol=1e-6)
    nearest = [[0, 1, 2, 3], [1, 2, 3, 2], [2, 3, 2, 1], [3, 2, 1, 0]]
    np.testing.assert_array_equal(-best_values(mdp).reshape(4, 4), nearest)


def test_grid_world_5x5():
    mdp = table("GridWorld5x5-v0")
    values = policy_values(mdp, uniform(mdp), 500)
    np.testing.assert_allclose(values[:5], [3.309, 8.789, 4.428, 5.322, 1.492], atol=5e-4)
    best = best_values(mdp)
    np.testing.assert_allclose(best[:5], [21.977, 24.419, 21.977, 19.419, 17.477], atol=5e-4)
    assert not mdp.terminal.any()


def test_car_rental():
    values = best_values(table("CarRental-v0")).reshape(21, 21)
    found = [values[0, 0], values[10, 10], values[20, 20], values[20, 0], values[0, 20]]
    np.testing.assert_allclose(found, [421.414, 574.948, 636.990, 554.948, 567.769], atol=5e-4)


def test_car_rental_moves_what_is_there():
    """A move of more cars than there are is the move of all of them, and is paid for as such."""
    mdp = car_rental()
    few = 2 * 21 + 1  # two cars and one
    for asked, possible in ((10, 7), (9, 7), (8, 7), (0, 4), (1, 4)):
        np.testing.assert_array_equal(mdp.transition[few, asked], mdp.transition[few, possible])
        assert mdp.reward[few, asked] == mdp.reward[few, possible]
    assert mdp.reward[few, 7] != mdp.reward[few, 6]
    crowded = 15 * 21 + 20  # five more cars, and no room for them
    np.testing.assert_array_equal(mdp.transition[crowded, 10], mdp.transition[10 * 21 + 20, 5])
    assert mdp.reward[crowded, 10] == pytest.approx(mdp.reward[10 * 21 + 20, 5] - 10)


def one_day(morning: int, requests: float, returns: float) -> tuple[np.ndarray, float]:
    """Every number of requests and returns, far into the tails: `-> the evening's cars [21], mean rentals`."""

    def poisson(mean: float) -> list[float]:
        return [float(p) for p in np.cumprod([np.exp(-mean), *(mean / k for k in range(1, 60))])]

    evening, rentals = np.zeros(21), 0.0
    for (asked, p), (brought, q) in itertools.product(
        enumerate(poisson(requests)), enumerate(poisson(returns))
    ):
        rented = min(asked, morning)
        evening[min(morning - rented + brought, 20)] += p * q
        rentals += p * q * rented
    return evening, rentals


@pytest.mark.parametrize(("first", "second", "moved"), [(6, 0, 2), (3, 19, -1), (20, 20, 0)])
def test_car_rental_is_a_day_played_out(first, second, moved):
    mdp, state, action = car_rental(), first * 21 + second, moved + 5
    evening_1, rentals_1 = one_day(first - moved, 3.0, 3.0)
    evening_2, rentals_2 = one_day(second + moved, 4.0, 2.0)
    expected = np.outer(evening_1, evening_2).ravel()
    np.testing.assert_allclose(mdp.transition[state, action], expected, atol=1e-12)
    earned = 10 * (rentals_1 + rentals_2) - 2 * abs(moved)
    assert mdp.reward[state, action] == pytest.approx(earned, abs=1e-10)


def test_gambler():
    values = best_values(table("Gambler-v0"))
    found = values[[1, 25, 50, 51, 75, 99]]
    np.testing.assert_allclose(found, [0.00206562, 0.16, 0.4, 0.403098, 0.64, 0.964333], atol=5e-7)
    transition, reward = (facts[1:-1, 0] for facts in dense(gambler(0.5)))  # a fair coin, a dollar at a time
    fair = np.linalg.solve(np.eye(99) - transition[:, 1:-1], reward)
    np.testing.assert_allclose(fair, np.arange(1, 100) / 100, atol=1e-9)


def test_cliff_is_gymnasiums():
    ours, theirs = table("Cliff-v0"), MDP.from_gymnasium("CliffWalking-v1")
    for field in ("transition", "reward", "start", "terminal"):
        np.testing.assert_array_equal(getattr(ours, field), getattr(theirs, field))
    assert ours.grid is not None and len(ours.grid.cliffs) == 10
    assert dataclasses.replace(ours.grid, cliffs=()) == theirs.grid  # Gymnasium's table does not name them


def walk(name: str, actions: list[int], start: int | None = None) -> tuple[int, float]:
    """Follow actions through a deterministic table: `-> last state, return`."""
    mdp = process(name)
    state, total = int(mdp.start.argmax()) if start is None else start, 0.0
    for action in actions:
        successor = int(mdp.transition[state, action].argmax())
        assert mdp.transition[state, action, successor] == 1 and not mdp.terminal[state]
        total += mdp.reward[state, action, successor]
        state = successor
    return state, total


def test_cliff_paths():
    up, right, down, left = range(4)
    assert table("Cliff-v0").start @ best_values(table("Cliff-v0")) == -13
    assert walk("Cliff-v0", [up, *[right] * 11, down]) == (47, -13)
    assert walk("Cliff-v0", [up] * 3 + [right] * 11 + [down] * 3) == (47, -17)
    assert walk("Cliff-v0", [up, right, down, left]) == (36, -103)


@pytest.mark.parametrize(
    ("name", "steps"), [("WindyGrid-v0", 15), ("WindyGridKing-v0", 7), ("WindyGridStay-v0", 7)]
)
def test_windy_grid(name, steps):
    assert table(name).start @ best_values(table(name)) == -steps


def test_windy_grid_paths():
    up, right, down, left = range(4)
    shortest = [right] * 9 + [down] * 4 + [left] * 2
    assert walk("WindyGrid-v0", shortest) == (37, -15)
    assert walk("WindyGrid-v0", [up], start=36)[0] == 6  # three rows up, to the edge
    assert walk("WindyGridStay-v0", [8], start=36)[0] == 16
    assert walk("WindyGridKing-v0", [5], start=34)[0] == 35  # down and right, against a wind of one


def test_windy_grid_varies_where_there_is_wind():
    mdp = table("WindyGridStochastic-v0")
    calm, windy = mdp.transition[41, 1], mdp.transition[46, 1]  # to the right
    assert calm[42] == 1
    np.testing.assert_allclose(windy[[37, 27, 17]], 1 / 3)  # one, two or three cells up
    assert mdp.reward[46, 1, 37] == -1 and mdp.terminal[37]
    np.testing.assert_allclose(mdp.transition[44, 4][[35, 25, 15]], 1 / 3)  # up and right, wind 0, 1 or 2


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("DynaMaze-v0", 14),
        ("BlockingMaze-v0", 10),
        ("BlockingMazeBlocked-v0", 16),
        ("ShortcutMaze-v0", 16),
        ("ShortcutMazeOpened-v0", 10),
    ],
)
def test_mazes(name, steps):
    mdp = table(name)
    assert mdp.start @ best_values(mdp) == pytest.approx(0.95 ** (steps - 1), rel=1e-12)
    assert mdp.terminal.nonzero()[0].tolist() == [8]
    walls = list(mdp.grid.walls)
    rest = np.setdiff1d(np.arange(54), walls)
    assert len(walls) and not mdp.transition[rest][:, :, walls].any()


def test_the_mazes_change_at_one_end_of_the_wall():
    assert set(blocking_maze(True).grid.walls) ^ set(blocking_maze().grid.walls) == {27, 35}
    assert set(shortcut_maze().grid.walls) - set(shortcut_maze(opened=True).grid.walls) == {35}
    assert shortcut_maze().grid.walls == blocking_maze(True).grid.walls


def test_short_corridor():
    mdp = process("ShortCorridor-v0")
    transition, reward = dense(mdp)

    def value(p):
        policy = np.array([1 - p, p])
        chain = np.einsum("a,sat->st", policy, transition)[:3, :3]
        return np.linalg.solve(np.eye(3) - chain, reward[:3] @ policy)[0]

    for p in (0.05, 0.3, 0.9):
        assert value(p) == pytest.approx((2 * p - 4) / (p * (1 - p)))
    grid = np.linspace(0.001, 0.999, 9981)
    assert grid[np.argmax([value(p) for p in grid])] == pytest.approx(2 - np.sqrt(2), abs=1e-4)
    assert value(2 - np.sqrt(2)) == pytest.approx(-6 - 4 * np.sqrt(2))
    np.testing.assert_array_equal(table("ShortCorridor-v0").emission, np.ones((4, 2, 1)))


def test_double_loop():
    """Each loop takes five steps; the first cannot be left, the second is left by one wrong action."""
    assert walk("DoubleLoop-v0", [0, 1, 0, 1, 0]) == (0, 1)
    assert walk("DoubleLoop-v0", [1, 1, 1, 1, 0]) == (0, 2)
    for first in range(1, 4):
        assert walk("DoubleLoop-v0", [1] * first + [0]) == (0, 0)
    mdp = table("DoubleLoop-v0")
    assert best_values(mdp)[0] == pytest.approx(2 * 0.99**4 / (1 - 0.99**5))


def test_chain():
    transition, reward = dense(table("Chain-v0"))
    np.testing.assert_allclose(transition[1, 0], [0.2, 0, 0.8, 0, 0])
    np.testing.assert_allclose(transition[4, 1], [0.8, 0, 0, 0, 0.2])
    np.testing.assert_allclose(reward, [[0.4, 1.6]] * 4 + [[8.4, 3.6]])
    average = np.linalg.matrix_power(transition[:, 0], 200)[0] @ reward[:, 0]
    assert average == pytest.approx(0.8**4 * 8.4 + (1 - 0.8**4) * 0.4)  # of always stepping forward


def test_river_swim():
    transition, reward = dense(table("RiverSwim-v0"))
    np.testing.assert_allclose(transition[:, 0], np.eye(6)[[0, 0, 1, 2, 3, 4]])
    np.testing.assert_allclose(transition[0, 1], [0.7, 0.3, 0, 0, 0, 0])
    np.testing.assert_allclose(transition[3, 1], [0, 0, 0.1, 0.6, 0.3, 0])
    np.testing.assert_allclose(transition[5, 1], [0, 0, 0, 0, 0.7, 0.3])
    np.testing.assert_allclose(reward, [[5, 0]] + [[0, 0]] * 4 + [[0, 3000]], atol=1e-9)
    np.testing.assert_array_equal(table("RiverSwim-v0").start, [0, 0.5, 0.5, 0, 0, 0])


def test_maximisation_bias():
    mdp = table("MaximisationBias-v0")
    drawn, p = mdp.reward[1, 4], mdp.transition[1, 4]
    assert p @ drawn == pytest.approx(-0.1, abs=1e-12)
    assert p @ (drawn + 0.1) ** 2 == pytest.approx(1.0, abs=1e-12)
    np.testing.assert_array_equal(mdp.transition[0].argmax(axis=1), [1] * 5 + [2] * 5)
    assert best_values(mdp)[0] == 0


def test_blackjack_figures():
    mdp = table("Blackjack-v0")
    assert mdp.start @ best_values(mdp) == pytest.approx(-0.046556, abs=5e-7)
    sticks_on_20 = np.zeros((283, 2))
    for state in range(280):
        total = state // 10 - 6 if state >= 180 else state // 10 + 4
        sticks_on_20[state, int(total < 20)] = 1
    sticks_on_20[280:, 0] = 1
    assert mdp.start @ policy_values(mdp, sticks_on_20, 40) == pytest.approx(-0.353554, abs=5e-7)


CARDS = range(1, 11)
CHANCE = {card: 4 / 13 if card == 10 else 1 / 13 for card in CARDS}
HANDS = {  # one for each sum, with a usable ace and without
    **{(total, 0): [2, total - 2] if total < 13 else [10, total - 12, 2] for total in range(4, 21)},
    (21, 0): [10, 9, 2],
    **{(total, 1): [1, total - 11] for total in range(12, 22)},
}


@functools.cache
def dealer_scores(*hand: int) -> dict[int, float]:
    """How a dealer with these cards scores, by Gymnasium's own rules, card by card."""
    if gymnasium_blackjack.sum_hand(hand) >= 17:
        return {gymnasium_blackjack.score(hand): 1.0}
    scores: dict[int, float] = {}
    for card in CARDS:
        for score, p in dealer_scores(*sorted((*hand, card))).items():
            scores[score] = scores.get(score, 0) + CHANCE[card] * p
    return scores


@pytest.mark.parametrize("dealer", CARDS)
def test_blackjack_is_gymnasiums(dealer):
    mdp = table("Blackjack-v0")
    win, draw, lose = 280, 281, 282
    for (total, usable), hand in HANDS.items():
        assert gymnasium_blackjack._hand_sum_and_usable_ace(hand) == (total, usable)
        expected = np.zeros((2, 283))
        for card in CARDS:
            after = [*hand, card]
            reached = gymnasium_blackjack._hand_sum_and_usable_ace(after)
            bust = gymnasium_blackjack.is_bust(after)
            expected[1, lose if bust else blackjack_state(reached[0], dealer, reached[1])] += CHANCE[card]
            for score, p in dealer_scores(*sorted((dealer, card))).items():
                outcome = {1: win, 0: draw, -1: lose}[gymnasium_blackjack.cmp(total, score)]
                expected[0, outcome] += CHANCE[card] * p
        state = blackjack_state(total, dealer, usable)
        np.testing.assert_allclose(mdp.transition[state], expected, atol=1e-12)
        earned = expected @ np.eye(283)[:, [win, draw, lose]] @ [1.0, 0.0, -1.0]
        np.testing.assert_allclose(mdp.expected_reward[state], earned, atol=1e-12)


def test_blackjack_deals_as_gymnasium_does():
    expected = np.zeros(283)
    for hand in itertools.product(CARDS, repeat=2):
        total, usable = gymnasium_blackjack._hand_sum_and_usable_ace(hand)
        for dealer in CARDS:
            p = CHANCE[hand[0]] * CHANCE[hand[1]] * CHANCE[dealer]
            expected[blackjack_state(total, dealer, usable)] += p
    np.testing.assert_allclose(table("Blackjack-v0").start, expected, atol=1e-14)


def test_blackjack_states_have_a_number_each():
    hands = {blackjack_state(t, d, u) for (t, u), d in itertools.product(HANDS, CARDS)}
    assert hands == set(range(280))
    for total, dealer, usable in ((3, 1, 0), (22, 1, 0), (11, 1, 1), (12, 0, 1), (12, 11, 0)):
        with pytest.raises(ValueError, match="There is no sum of"):
            blackjack_state(total, dealer, usable)


def test_tiger_is_worth_its_known_value():
    """From an even chance, the belief is a function of growls on the left minus those on the right."""
    pomdp = table("Tiger-v0")
    mdp, reach = pomdp.mdp, 60
    count = np.arange(-reach, reach + 1)
    left = 1 / (1 + (0.15 / 0.85) ** count)
    belief = np.stack([left, 1 - left], axis=1)
    reward = belief @ mdp.reward
    value = np.zeros(2 * reach + 1)
    for _ in range(1000):
        heard = belief @ pomdp.emission[:, 0]  # P(growl | belief), after listening
        later = heard[:, 0] * np.append(value[1:], value[-1])
        later += heard[:, 1] * np.append(value[0], value[:-1])
        choices = [reward[:, 0] + 0.95 * later, *(reward[:, a] + 0.95 * value[reach] for a in (1, 2))]
        value = np.max(choices, axis=0)
    assert value[reach] == pytest.approx(19.3713, abs=1e-3)
    assert np.argmax(choices, axis=0)[reach - 3 : reach + 4].tolist() == [1, 1, 0, 0, 0, 2, 2]


def test_tiger_tables():
    pomdp = tiger()
    np.testing.assert_array_equal(pomdp.mdp.transition[:, 0], np.eye(2))
    np.testing.assert_array_equal(pomdp.mdp.transition[:, 1:], np.full((2, 2, 2), 0.5))
    np.testing.assert_array_equal(pomdp.mdp.reward, [[-1, -100, 10], [-1, 10, -100]])
    np.testing.assert_allclose(pomdp.emission[:, 0], [[0.85, 0.15], [0.15, 0.85]])
    np.testing.assert_array_equal(pomdp.emission[:, 1:], np.full((2, 2, 2), 0.5))
    assert not pomdp.mdp.terminal.any() and pomdp.mdp.gamma == 0.95


def test_two_arms():
    mdp = two_arms(left=3.0, right=-1.0)
    for p in (0.0, 0.25, 1.0):
        assert policy_values(mdp, np.array([[p, 1 - p]] * 2), 3)[0] == 3 * p - (1 - p)


@pytest.mark.parametrize(
    ("name", "figures"),
    [
        ("FrozenLake-v1", {0.9: 0.068891, 0.95: 0.180472, 0.99: 0.542026, 1.0: 0.823529}),
        ("FrozenLake8x8-v1", {0.99: 0.414640}),
    ],
)
def test_frozen_lake(name, figures):
    mdp = table(name)
    for gamma, figure in figures.items():
        assert mdp.start @ best_values(mdp, gamma) == pytest.approx(figure, abs=5e-7)


@pytest.mark.parametrize(
    ("name", "steps", "success"), [("FrozenLake-v1", 100, 0.744190), ("FrozenLake8x8-v1", 200, 0.913220)]
)
def test_frozen_lake_within_its_clock(name, steps, success):
    """Backward induction: what can be reached in as many steps as an episode has."""
    mdp = table(name)
    assert mdp.max_episode_steps == steps
    assert mdp.start @ best_values(mdp, 1.0, steps) == pytest.approx(success, abs=5e-7)


def test_taxi():
    mdp = table("Taxi-v4")
    assert mdp.start @ best_values(mdp, 1.0) == pytest.approx(7.93, abs=1e-9)


# Random processes


@pytest.mark.parametrize("reward", ["action", "transition"])
def test_random_mdp_is_the_same_dense_and_sparse(reward):
    size = dict(n_states=30, n_actions=3, branching=4, seed=5, reward=reward)
    one, other = random_mdp(**size, as_sparse=False), random_mdp(**size, as_sparse=True)
    stacked = other.transition.toarray().reshape(3, 30, 30).swapaxes(0, 1)
    np.testing.assert_array_equal(one.transition, stacked)
    np.testing.assert_allclose(one.expected_reward, other.expected_reward, rtol=1e-12)
    assert ((one.transition > 0).sum(axis=2) == 4).all()
    assert not np.array_equal(one.transition, random_mdp(**(size | dict(seed=6)), as_sparse=False).transition)


def test_random_mdp_draws_every_subset_alike():
    mdp = random_mdp(5, 30_000, 2, as_sparse=True)
    pairs = mdp.transition.indices.reshape(-1, 2)
    counts = np.unique(pairs[:, 0] * 5 + pairs[:, 1], return_counts=True)[1]
    assert len(counts) == 10
    mean = len(pairs) / 10
    assert np.abs(counts - mean).max() < 5 * np.sqrt(mean)


@pytest.mark.parametrize("branching", [2, 5])
def test_random_mdp_probabilities_are_gaps_between_uniform_numbers(branching):
    rows = random_mdp(10, 20_000, branching, as_sparse=True).transition.data.reshape(-1, branching)
    variance = (branching - 1) / branching**2 / (branching + 1)
    error = 5 * np.sqrt(variance / len(rows))
    np.testing.assert_allclose(rows.mean(axis=0), 1 / branching, atol=error)
    np.testing.assert_allclose(rows.var(axis=0), variance, rtol=0.03)


def test_random_mdp_is_sparse_where_it_is_large():
    mdp = random_mdp(50_000, 4, 5)
    assert mdp.is_sparse and mdp.nbytes < 20e6
    assert mdp.transition.nnz == 50_000 * 4 * 5


def test_random_mdp_with_all_states_as_successors():
    mdp = random_mdp(4, 2, 4)
    assert (mdp.transition > 0).all()


# Refusals


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: random_walk(4), "n_states=4 is not allowed; use an odd whole number"),
        (lambda: gambler(1.0), "heads=1.0 is not allowed"),
        (lambda: maximisation_bias(3), "n_actions=3 is not allowed; use an even"),
        (lambda: chain(1), "n_states=1 is not allowed"),
        (lambda: maze("S.G .."), r"rows have lengths \[3, 2\]"),
        (lambda: maze("S.G .S."), "with S 2 times"),
        (lambda: maze("S.x"), "G 0 times"),
        (lambda: random_mdp(0), "n_states=0 is not allowed"),
        (lambda: random_mdp(3, branching=4), "branching=4 is more than the number of states, 3"),
        (lambda: random_mdp(9, reward="state"), "reward='state' is not allowed"),
        (lambda: random_mdp(10_000_000, as_sparse=False), "use a sparse one"),
    ],
)
def test_what_is_not_allowed_is_refused(build, words):
    with pytest.raises(ValueError, match=words):
        build()


# The same world wherever it is played


@each_name
def test_check_finds_nothing(name):
    report = check_environment(functools.partial(make, f"advantage/{name}"), steps=150)
    assert not list(report)


def test_all_are_listed():
    names = environment_names()
    for name in TABLES:
        assert f"advantage/{name}" in names and f"jax/{name}" in names
    for name in GYMNASIUM_TABLES:
        assert f"jax/{name}" in names


@each_name
def test_grid(name):
    mdp = process(name)
    grid = mdp.grid
    if grid is None:
        return
    assert grid.rows * grid.columns == mdp.n_states and len(grid.moves) == mdp.n_actions
    env = gymnasium.make(f"advantage/{name}", render_mode="rgb_array")
    env.reset(seed=0)
    assert env.render().shape == (48 * grid.rows, 48 * grid.columns, 3)


GRIDS = (
    "Cliff-v0",
    "DynaMaze-v0",
    "GridWorld4x4-v0",
    "GridWorld5x5-v0",
    "WindyGrid-v0",
    "WindyGridStay-v0",
    "RiverSwim-v0",
)


@pytest.mark.parametrize("name", GRIDS)
def test_arrows_point_where_the_moves_lead(name):
    """In a cell without walls, wind or magic beside it, `(down, right)` is where the action takes one."""
    mdp = process(name)
    grid, calm = mdp.grid, {"Cliff-v0": 15, "DynaMaze-v0": 39, "GridWorld4x4-v0": 5, "RiverSwim-v0": 3}
    state = calm.get(name, 17 if name == "GridWorld5x5-v0" else 21)
    row, column = divmod(state, grid.columns)
    for action, (down, right) in enumerate(grid.moves):
        target = (row + down) * grid.columns + column + right
        assert mdp.transition[state, action, target] >= 0.3


@dataclasses.dataclass
class Draws:
    """What was drawn after some pairs of state and action."""

    state: np.ndarray  # [N]
    action: np.ndarray
    successor: np.ndarray  # [N, DRAWS]
    obs: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray


def pairs_of(mdp: MDP) -> tuple[np.ndarray, np.ndarray]:
    """Some pairs of a state that is not terminal and an action: all where there are few."""
    state, action = np.nonzero(~mdp.terminal[:, None] & np.ones(mdp.n_actions, bool))
    chosen = np.random.default_rng(1).permutation(len(state))[:PAIRS]
    return state[chosen], action[chosen]


def drawn_on_device(name: str) -> Draws:
    world, mdp = make(f"jax/{name}"), process(name)
    state, action = pairs_of(mdp)
    keys = jax.random.split(jax.random.key(7), (len(state), DRAWS))
    step = jax.jit(jax.vmap(jax.vmap(world.step, (None, None, 0)), (0, 0, 0)))
    after, obs, reward, terminated = step(state, action, keys)
    return Draws(state, action, *map(np.asarray, (after, obs, reward, terminated)))


def drawn_in_gymnasium(name: str, draws: int = 300) -> Draws:
    env, mdp = gymnasium.make(f"advantage/{name}").unwrapped, process(name)
    state, action = (some[:20] for some in pairs_of(mdp))
    env.reset(seed=3)
    facts = np.zeros((4, len(state), draws))
    for i, j in np.ndindex(facts.shape[1:]):
        env.state = int(state[i])
        obs, reward, terminated, truncated, info = env.step(int(action[i]))
        assert not truncated
        facts[:, i, j] = info["state"], obs, reward, terminated
    after, obs, reward, terminated = facts
    return Draws(state, action, after.astype(int), obs.astype(int), reward, terminated.astype(bool))


def assert_frequent(drawn: np.ndarray, probability: np.ndarray) -> None:
    """Numbers `[K]` appear as often as a distribution says; what is certain always, what is impossible never."""
    counts = np.bincount(drawn, minlength=len(probability))
    assert not counts[probability == 0].any()
    bins = (np.cumsum(probability) * len(drawn) // 30).astype(
        int
    )  # neighbours that are rare are counted together
    counts = np.bincount(bins, counts)
    p = np.minimum(np.bincount(bins, probability), 1.0)
    error = np.sqrt(p * (1 - p) * len(drawn))
    assert (np.abs(counts - p * len(drawn)) <= 5 * error + 3).all()


def assert_follows(draws: Draws, tables: MDP | POMDP) -> None:
    mdp = tables.mdp if isinstance(tables, POMDP) else tables
    for i, (state, action) in enumerate(zip(draws.state, draws.action, strict=True)):
        successor = draws.successor[i]
        assert_frequent(successor, mdp.transition[state, action])
        earned = mdp.reward[state, action] if mdp.reward.ndim == 2 else mdp.reward[state, action][successor]
        np.testing.assert_allclose(draws.reward[i], np.broadcast_to(earned, successor.shape), rtol=1e-6)
        np.testing.assert_array_equal(draws.terminated[i], mdp.terminal[successor])
        if isinstance(tables, MDP):
            np.testing.assert_array_equal(draws.obs[i], successor)
            continue
        for after in np.unique(successor):
            assert_frequent(draws.obs[i][successor == after], tables.emission[after, action])


@each_name
def test_the_device_follows_the_table(name):
    draws = drawn_on_device(name)
    assert draws.successor.dtype == draws.obs.dtype == np.int32
    assert draws.reward.dtype == np.float32 and draws.terminated.dtype == bool
    assert_follows(draws, table(name))


@each_name
def test_gymnasium_follows_the_table(name):
    assert_follows(drawn_in_gymnasium(name), table(name))


@each_name
def test_starts_follow_the_table(name):
    mdp = process(name)
    states, _ = jax.jit(jax.vmap(make(f"jax/{name}").reset))(jax.random.split(jax.random.key(7), 4000))
    assert_frequent(np.asarray(states), mdp.start)
    env = gymnasium.make(f"advantage/{name}")
    first = [env.reset(seed=5)[1]["state"], *(env.reset()[1]["state"] for _ in range(399))]
    assert_frequent(np.array(first), mdp.start)


@each_name
def test_spaces_are_the_same(name):
    world, env = make(f"jax/{name}"), gymnasium.make(f"advantage/{name}")
    assert world.observation_space == env.observation_space and world.action_space == env.action_space
    assert world.gymnasium_id == f"advantage/{name}"


@pytest.mark.parametrize("name", ["Tiger-v0", "DoubleLoop-v0"])
def test_the_clock_is_the_tables(name):
    limit, env = process(name).max_episode_steps, gymnasium.make(f"advantage/{name}")
    assert make(f"jax/{name}").max_episode_steps == limit
    env.reset(seed=0)
    truncated = [env.step(0)[3] for _ in range(limit)]
    assert truncated == [False] * (limit - 1) + [True]


def test_one_world_for_one_name():
    assert make("jax/Cliff-v0") is make("jax/Cliff-v0")


def test_a_random_table_that_would_not_fit_is_refused_before_it_is_drawn(monkeypatch):
    monkeypatch.setattr(memory, "free_host_bytes", lambda: 2**20)
    with pytest.raises(
        ValueError, match=r"100_000 states, 4 actions and 5 successors takes 61 MiB, and 1 MiB of"
    ):
        random_mdp(100_000, as_sparse=True)


def test_goals_are_the_ends_that_earn_most():
    for name, places in {
        "FrozenLake-v1": [15],
        "Cliff-v0": [47],
        "GridWorld4x4-v0": [0, 15],
        "RiverSwim-v0": [],
    }.items():
        np.testing.assert_array_equal(np.flatnonzero(goals(table(name))), places)
    lake = table("FrozenLake-v1")
    stacked = lake.transition.swapaxes(0, 1).reshape(-1, 16), lake.reward.swapaxes(0, 1).reshape(-1, 16)
    by_entry = MDP(*map(sparse.csr_array, stacked), terminal=lake.terminal)
    by_pair = MDP(lake.transition, lake.expected_reward, terminal=lake.terminal)
    assert np.flatnonzero(goals(by_entry)).tolist() == [15]
    assert np.flatnonzero(goals(by_pair)).tolist() == [15]


def test_films_tell_walls_cliffs_goals_and_holes():
    lake = table("FrozenLake-v1")
    colours = {"wall": (87, 96, 106), "cliff": (160, 82, 45), "hole": (87, 32, 27), "goal": (46, 160, 67)}
    frames = {
        name: TabularEnv(mdp, render_mode="rgb_array").render()
        for name, mdp in {"Cliff": table("Cliff-v0"), "Maze": table("DynaMaze-v0"), "Lake": lake}.items()
    }
    seen = {
        name: {kind for kind, colour in colours.items() if (frame == colour).all(-1).any()}
        for name, frame in frames.items()
    }
    assert seen == {"Cliff": {"cliff", "goal"}, "Maze": {"wall", "goal"}, "Lake": {"hole", "goal"}}
    middle = frames["Cliff"].reshape(4, 48, 12, 48, 3)[:, 24, :, 24]
    assert [tuple(cell) for cell in middle[3]] == [(255, 255, 255)] + [colours["cliff"]] * 10 + [
        colours["goal"]
    ]
    assert tuple(middle[0, 0]) == (31, 111, 235)  # the agent, in the state in which an environment is made
