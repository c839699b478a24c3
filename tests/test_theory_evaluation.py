"""Values, visits and objectives against their definitions as sums over time, simulation, and the textbook."""

import itertools

import numpy as np
import pytest
from random_tables import dense_reward, random_mdp, random_policy

from advantage.environments.tables.mdp import MDP
from advantage.theory.objectives import (
    differential_action_values,
    differential_advantages,
    finite_horizon_action_values,
    finite_horizon_advantages,
    finite_horizon_performance,
    finite_horizon_values,
    gain_and_bias,
)
from advantage.theory.policy_evaluation import (
    action_values,
    advantages,
    expected_rewards,
    expected_visits,
    performance,
    values,
    variances,
    visitation,
)

TABLES = pytest.mark.parametrize(
    "kind",
    [
        dict(as_sparse=as_sparse, ends=ends, by_successor=by_successor)
        for as_sparse, ends, by_successor in itertools.product([False, True], repeat=3)
    ],
    ids=lambda kind: "-".join(name for name, is_on in kind.items() if is_on) or "plain",
)


def same_as_dense(seed, kind, **sizes):
    """A table, and its dense form with the reward by successor, for definitions written out."""
    mdp = random_mdp(np.random.default_rng(seed), **sizes, **kind)
    return mdp, random_mdp(np.random.default_rng(seed), **sizes, **(kind | {"as_sparse": False}))


def sums_over_time(mdp, policy, steps=600):
    """`V`, the second moment of the return, and the discounted visits, by plain sums over a dense table."""
    reward = dense_reward(mdp)
    value, second, visits = np.zeros(mdp.n_states), np.zeros(mdp.n_states), np.zeros(mdp.n_states)
    for _ in range(steps):
        later = reward**2 + 2 * mdp.gamma * reward * value + mdp.gamma**2 * second
        second = np.einsum("sa,sat,sat->s", policy, mdp.transition, later)
        value = np.einsum("sa,sat,sat->s", policy, mdp.transition, reward + mdp.gamma * value)
    mu = np.array(mdp.start)
    for step in range(steps):
        visits += mdp.gamma**step * mu
        mu = np.einsum("s,sa,sat->t", mu, policy, mdp.transition)
    return value, second, visits


@TABLES
def test_values_and_visits_are_sums_over_time(kind):
    for seed, gamma in enumerate((0.0, 0.5, 0.95) + (1.0,) * kind["ends"]):
        mdp, dense = same_as_dense(seed, kind, gamma=gamma)
        policy = random_policy(np.random.default_rng(seed), mdp.n_states, mdp.n_actions)
        value, second, visits = sums_over_time(dense, policy)
        np.testing.assert_allclose(values(mdp, policy), value, atol=1e-11)
        np.testing.assert_allclose(variances(mdp, policy), second - value**2, atol=1e-10)
        np.testing.assert_allclose(
            expected_visits(mdp, policy), np.where(mdp.terminal, 0, visits), atol=1e-11
        )
        if gamma < 1:
            np.testing.assert_allclose(visitation(mdp, policy), (1 - gamma) * visits, atol=1e-11)
            assert visitation(mdp, policy).sum() == pytest.approx(1, abs=1e-12)
        assert performance(mdp, policy) == pytest.approx(mdp.start @ value, abs=1e-11)
        assert performance(mdp, policy) == pytest.approx(
            expected_visits(mdp, policy) @ expected_rewards(mdp, policy), abs=1e-11
        )
        q = np.einsum("sat,sat->sa", dense.transition, dense_reward(dense) + gamma * value)
        np.testing.assert_allclose(action_values(mdp, value), q, atol=1e-12)
        np.testing.assert_allclose(advantages(mdp, policy), q - value[:, None], atol=1e-11)
        np.testing.assert_allclose((policy * advantages(mdp, policy)).sum(axis=1), 0, atol=1e-12)


@TABLES
def test_an_action_for_each_state_is_a_policy(kind):
    mdp = random_mdp(np.random.default_rng(0), **kind)
    actions = np.arange(mdp.n_states) % mdp.n_actions
    for function in (values, variances, visitation, expected_visits, performance, advantages):
        np.testing.assert_allclose(function(mdp, actions), function(mdp, np.eye(3)[actions]), atol=1e-14)


@pytest.mark.parametrize("gamma", [0.9, 1.0])
def test_a_large_sparse_table_agrees_with_its_dense_form(gamma):
    sizes = dict(n_states=150, n_actions=2, gamma=gamma, ends=True, concentration=0.05)
    mdp, dense = (random_mdp(np.random.default_rng(1), as_sparse=sparse, **sizes) for sparse in (True, False))
    policy = random_policy(np.random.default_rng(2), 150, 2)
    for function in (values, variances, expected_visits):
        np.testing.assert_allclose(function(mdp, policy), function(dense, policy), atol=1e-11)


@pytest.mark.parametrize("gamma", [0.9, 1.0])
def test_simulation_agrees_within_its_standard_error(gamma):
    """Returns of 40,000 episodes; and where they are at a step that a discount of gamma makes the last one."""
    rng = np.random.default_rng(3)
    mdp = random_mdp(rng, gamma=gamma, ends=True, by_successor=True)
    policy, episodes = random_policy(rng, mdp.n_states, mdp.n_actions), 40_000
    rows, reward = (mdp.transition.cumsum(axis=2), policy.cumsum(axis=1)), dense_reward(mdp)

    def draw(cumulative):
        return (rng.random((len(cumulative), 1)) > cumulative[:, :-1]).sum(axis=1)

    first = np.arange(episodes) % (mdp.n_states - 1)
    state, returns, alive, caught = first, np.zeros(episodes), np.ones(episodes, bool), np.full(episodes, -1)
    caught = np.zeros((mdp.n_states - 1, mdp.n_states))
    for step in range(120):
        stops = alive & (rng.random(episodes) > gamma)
        np.add.at(caught, (first[stops], state[stops]), 1)
        alive &= ~stops
        action = draw(rows[1][state])
        successor = draw(rows[0][state, action])
        returns += gamma**step * reward[state, action, successor]
        state = successor
    expected, variance, count = values(mdp, policy), variances(mdp, policy), np.bincount(first)
    mean = np.bincount(first, returns) / count
    error = np.sqrt(variance[:-1] / count)
    assert (np.abs(mean - expected[:-1]) < 4.5 * error).all()
    spread = np.bincount(first, (returns - expected[first]) ** 2) / count
    np.testing.assert_allclose(spread, variance[:-1], rtol=0.1)
    if gamma < 1:
        for begin in range(mdp.n_states - 1):
            only = MDP(mdp.transition, mdp.reward, np.eye(6)[begin], mdp.terminal, gamma)
            share, total = visitation(only, policy), caught[begin].sum()
            found = caught[begin] / total
            assert (np.abs(found - share) < 4.5 * np.sqrt(share * (1 - share) / total)).all()


def grid_of_four():
    """Sutton & Barto 2018, example 4.1: corners end, a step costs one."""
    moves = ((0, 1), (0, -1), (1, 0), (-1, 0))

    def outcomes(state, action):
        row, column = (min(max(x + d, 0), 3) for x, d in zip(divmod(state, 4), moves[action], strict=True))
        return [(1.0, 4 * row + column, -1.0, 4 * row + column in (0, 15))]

    return MDP.from_function(16, 4, outcomes, gamma=1.0)


def test_the_textbook_grid():
    mdp, uniform = grid_of_four(), np.full((16, 4), 0.25)
    expected = [[0, -14, -20, -22], [-14, -18, -20, -20], [-20, -20, -18, -14], [-22, -20, -14, 0]]
    np.testing.assert_allclose(values(mdp, uniform).reshape(4, 4), expected, atol=1e-12)
    assert expected_visits(mdp, uniform).sum() == pytest.approx(-performance(mdp, uniform), rel=1e-13)
    after = finite_horizon_values(mdp, uniform, 10)[[9, 8, 7, 0]][:, :4]
    rows = [[0, -1, -1, -1], [0, -1.75, -2, -2], [0, -2.4375, -2.9375, -3], [0, -6.138, -8.352, -8.967]]
    np.testing.assert_allclose(after, rows, atol=5e-4)


def test_the_textbook_grid_that_never_ends():
    """Sutton & Barto 2018, example 3.5: leaving costs one, A and B send to A' and B' for 10 and 5."""
    moves = ((0, 1), (0, -1), (1, 0), (-1, 0))

    def outcomes(state, action):
        if state in (1, 3):
            return [(1.0, {1: 21, 3: 13}[state], {1: 10.0, 3: 5.0}[state], False)]
        row, column = (x + d for x, d in zip(divmod(state, 5), moves[action], strict=True))
        if not (0 <= row < 5 and 0 <= column < 5):
            return [(1.0, state, -1.0, False)]
        return [(1.0, 5 * row + column, 0.0, False)]

    mdp = MDP.from_function(25, 4, outcomes, gamma=0.9)
    value = values(mdp, np.full((25, 4), 0.25))
    np.testing.assert_allclose(value[:5], [3.309, 8.789, 4.428, 5.322, 1.492], atol=5e-4)


def test_the_random_walk():
    def outcomes(state, action):
        return [(0.5, (state + d) % 7, float(state + d == 6), state + d in (0, 6)) for d in (-1, 1)]

    start = np.eye(7)[3]
    mdp = MDP.from_function(7, 1, outcomes, start=start, gamma=1.0)
    walk = np.zeros(7, int)
    np.testing.assert_allclose(values(mdp, walk)[1:6], np.arange(1, 6) / 6, rtol=1e-13)
    np.testing.assert_allclose(expected_visits(mdp, walk), [0, 1, 2, 3, 2, 1, 0], rtol=1e-13)
    np.testing.assert_allclose(variances(mdp, walk)[3], 1 / 4, rtol=1e-13)


def fork(start):
    """From 0, action 0 ends in 3 and action 1 goes to 1; 1 and 2 alternate forever; 4 may do either."""
    transition = np.zeros((5, 2, 5))
    transition[0] = np.eye(5)[[3, 1]]
    transition[1] = np.eye(5)[2]
    transition[2] = np.eye(5)[1]
    transition[3] = np.eye(5)[3]
    transition[4] = [0, 0.5, 0, 0.5, 0]
    reward = np.array([[1.0, 2.0], [1, 1], [1, 1], [0, 0], [5, 5]])
    return MDP(transition, reward, np.eye(5)[start], np.arange(5) == 3, gamma=1.0)


def test_gamma_one_refuses_a_policy_that_never_ends():
    ends, goes_on = np.zeros(5, int), np.array([1, 0, 0, 0, 0])
    for function in (values, variances, performance, expected_visits, advantages):
        with pytest.raises(ValueError, match=r"gamma=1.*\{1, 2\} and never end.*gain_and_bias"):
            function(fork(0), goes_on)
    # Action 0 never leads there, so that only states beyond the start's reach have no value.
    mdp = fork(0)
    np.testing.assert_array_equal(values(mdp, ends), [1, np.nan, np.nan, 0, np.nan])
    np.testing.assert_array_equal(variances(mdp, ends), [0, np.nan, np.nan, 0, np.nan])
    np.testing.assert_array_equal(expected_visits(mdp, ends), [1, 0, 0, 0, 0])
    np.testing.assert_array_equal(advantages(mdp, ends)[0], [0, np.nan])
    assert performance(mdp, ends) == 1
    with pytest.raises(ValueError, match="never end"):
        values(fork(4), ends)
    with pytest.raises(ValueError, match="use expected_visits"):
        visitation(mdp, ends)


def test_a_finite_horizon_is_a_sum_over_all_trajectories():
    rng = np.random.default_rng(5)
    mdp, horizon = random_mdp(rng, n_states=3, n_actions=2, by_successor=True), 3
    policy = np.array([random_policy(rng, 3, 2) for _ in range(horizon)])
    expected = np.zeros(3)
    for states in itertools.product(range(3), repeat=horizon + 1):
        for actions in itertools.product(range(2), repeat=horizon):
            probability, total = 1.0, 0.0
            for t, (s, a, after) in enumerate(zip(states, actions, states[1:], strict=False)):
                probability *= policy[t, s, a] * mdp.transition[s, a, after]
                total += mdp.reward[s, a, after]
            expected[states[0]] += probability * total
    value = finite_horizon_values(mdp, policy, horizon)
    np.testing.assert_allclose(value[0], expected, rtol=1e-12)
    np.testing.assert_array_equal(value[horizon], 0)
    later = finite_horizon_values(mdp, policy[1:], 2)
    np.testing.assert_allclose(value[1:], later, rtol=1e-14)
    assert finite_horizon_performance(mdp, policy, horizon) == pytest.approx(mdp.start @ expected, rel=1e-12)


@pytest.mark.parametrize("as_sparse", [False, True])
def test_action_values_of_a_finite_horizon_are_values_of_a_first_action(as_sparse):
    mdp = random_mdp(np.random.default_rng(6), as_sparse=as_sparse, ends=True)
    policy = np.array([random_policy(np.random.default_rng(t), 6, 3) for t in range(4)])
    q = finite_horizon_action_values(mdp, finite_horizon_values(mdp, policy, 4))
    advantage = finite_horizon_advantages(mdp, policy, 4)
    assert q.shape == advantage.shape == (4, 6, 3)
    for t, action in itertools.product(range(4), range(3)):
        first = policy[t:].copy()
        first[0] = np.eye(3)[action]
        value = finite_horizon_values(mdp, first, 4 - t)[0]
        np.testing.assert_allclose(q[t, :, action], value, atol=1e-13)
        known = finite_horizon_values(mdp, policy[t:], 4 - t)[0]
        np.testing.assert_allclose(advantage[t, :, action], value - known, atol=1e-13)


def test_a_finite_horizon_wants_a_policy_that_fits():
    mdp = random_mdp(np.random.default_rng(0))
    constant = np.array([random_policy(np.random.default_rng(0), 6, 3)] * 4)
    np.testing.assert_array_equal(
        finite_horizon_values(mdp, constant, 4), finite_horizon_values(mdp, constant[0], 4)
    )
    with pytest.raises(ValueError, match="policy is for 4 steps and horizon=5"):
        finite_horizon_values(mdp, constant, 5)
    with pytest.raises(ValueError, match="horizon=0"):
        finite_horizon_values(mdp, constant[0], 0)


@pytest.mark.parametrize(("p", "q"), [(0.3, 0.05), (1.0, 1.0), (0.5, 0.5)])
def test_two_states_in_closed_form(p, q):
    """All three objectives; with p = q = 1 the chain has period 2."""
    reward, stays = np.array([2.0, -1.0]), 1 - p - q  # the second eigenvalue
    mdp = MDP(np.array([[[1 - p, p]], [[q, 1 - q]]]), reward[:, None], start=[1.0, 0.0], gamma=0.9)
    policy, gap = np.zeros(2, int), reward[0] - reward[1]
    mean = (q * reward[0] + p * reward[1]) / (p + q)
    away = np.array([p, -q]) / (p + q) * gap  # what the first reward is above the mean, by the start
    gain, bias = gain_and_bias(mdp, policy)
    assert gain == pytest.approx(mean, rel=1e-13)
    np.testing.assert_allclose(bias, away / (p + q), atol=1e-13)
    np.testing.assert_allclose(values(mdp, policy), mean / 0.1 + away / (1 - 0.9 * stays), rtol=1e-12)
    horizon = 7
    total = horizon * mean + away * sum(stays**t for t in range(horizon))
    np.testing.assert_allclose(finite_horizon_values(mdp, policy, horizon)[0], total, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("as_sparse", [False, True])
def test_gain_and_bias_solve_poissons_equation(as_sparse):
    for seed in range(10):
        rng = np.random.default_rng(seed)
        mdp = random_mdp(rng, as_sparse=as_sparse)
        policy = random_policy(rng, mdp.n_states, mdp.n_actions)
        gain, bias = gain_and_bias(mdp, policy)
        chain = mdp.chain(policy)
        np.testing.assert_allclose(
            gain + bias, expected_rewards(mdp, policy) + chain.transition @ bias, atol=1e-13
        )
        horizon = 500
        np.testing.assert_allclose(
            finite_horizon_values(mdp, policy, horizon)[0], horizon * gain + bias, atol=1e-10
        )
        patient = MDP(mdp.transition, mdp.reward, mdp.start, gamma=1 - 1e-6)
        np.testing.assert_allclose(values(patient, policy) - gain / 1e-6, bias, atol=1e-4)


@pytest.mark.parametrize("as_sparse", [False, True])
def test_differential_action_values_are_what_a_first_action_brings_beyond_the_average(as_sparse):
    mdp = random_mdp(np.random.default_rng(7), as_sparse=as_sparse)
    policy, horizon = random_policy(np.random.default_rng(8), 6, 3), 300
    gain, bias = gain_and_bias(mdp, policy)
    table = finite_horizon_action_values(mdp, finite_horizon_values(mdp, policy, horizon))[0]
    q = differential_action_values(mdp, gain, bias)
    np.testing.assert_allclose(q, table - horizon * gain, atol=1e-10)
    np.testing.assert_allclose((policy * q).sum(axis=1), bias, atol=1e-12)
    np.testing.assert_allclose(differential_advantages(mdp, policy), q - bias[:, None], atol=1e-14)


def test_values_of_a_horizon_that_do_not_fit_are_refused():
    mdp = random_mdp(np.random.default_rng(0))
    with pytest.raises(
        ValueError, match=r"V has shape \[1000000000000000, 6\] and takes 4.*TiB.*shorter horizon"
    ):
        finite_horizon_values(mdp, np.zeros(6, int), 10**15 - 1)
    endless = np.broadcast_to(np.zeros(6), (10**15, 6))
    with pytest.raises(ValueError, match=r"Q has shape \[999999999999999, 6, 3\] and takes 1.*TiB"):
        finite_horizon_action_values(mdp, endless)


def test_transient_states_have_a_bias_and_several_classes_no_gain():
    transition = np.zeros((3, 1, 3))
    transition[:, 0] = np.eye(3)[[1, 2, 1]]  # 0 leads to two states that alternate
    gain, bias = gain_and_bias(MDP(transition, np.array([[5.0], [1.0], [3.0]])), np.zeros(3, int))
    assert gain == pytest.approx(2, rel=1e-14)
    np.testing.assert_allclose(bias, [2.5, -0.5, 0.5], rtol=1e-13)
    with pytest.raises(ValueError, match=r"2 closed classes, \{1, 2\} and \{3\}"):
        gain_and_bias(fork(0), np.zeros(5, int))
