"""Chains against closed forms and against their definitions, by powers of the matrix."""

import math

import numpy as np
import pytest
from scipy import sparse
from scipy.sparse.linalg import splu

from advantage.environments.tables.markov_chain import MarkovChain
from advantage.theory import linear
from advantage.theory.chains import (
    communicating_classes,
    distribution_after,
    is_ergodic,
    is_irreducible,
    leading_to,
    period,
    reached_from,
    stationary_distribution,
)

KINDS = pytest.mark.parametrize("kind", [np.array, sparse.csr_array], ids=["dense", "sparse"])
CYCLE = np.roll(np.eye(3), 1, axis=1)  # 0 -> 1 -> 2 -> 0
# 0 and 1 alternate and may leave to 2, from which 3 and the cycle 4 -> 5 -> 4 absorb
REDUCIBLE = np.array(
    [
        [0, 1, 0, 0, 0, 0],
        [0.5, 0, 0.5, 0, 0, 0],
        [0, 0, 0, 0.3, 0.7, 0],
        [0, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 1, 0],
    ]
)


def random_graph_chain(rng, n_states=7):
    """Few successors each, so that all kinds of classes and periods occur."""
    transition = np.zeros((n_states, n_states))
    for row in transition:
        row[rng.choice(n_states, rng.integers(1, 3), replace=False)] = 1
    return transition / transition.sum(axis=1, keepdims=True)


@KINDS
def test_two_states_in_closed_form(kind):
    p, q = 0.3, 0.05
    chain = MarkovChain(kind([[1 - p, p], [q, 1 - q]]), start=[1, 0])
    np.testing.assert_allclose(stationary_distribution(chain), [q / (p + q), p / (p + q)], rtol=1e-13)
    slower = (1 - p - q) ** 9  # the second eigenvalue to the power of the steps
    np.testing.assert_allclose(
        distribution_after(chain, 9), [(q + p * slower) / (p + q), p * (1 - slower) / (p + q)], rtol=1e-12
    )
    assert is_irreducible(chain)
    assert is_ergodic(chain)
    assert period(chain) == 1


@KINDS
def test_an_ergodic_chain_tends_to_its_stationary_distribution(kind):
    rng = np.random.default_rng(0)
    for n_states in (1, 2, 5, 30):
        transition = rng.dirichlet(np.full(n_states, 0.3), n_states) * 0.9 + 0.1 / n_states
        chain = MarkovChain(kind(transition), start=np.eye(n_states)[0])
        mu = stationary_distribution(chain)
        np.testing.assert_allclose(mu @ transition, mu, atol=1e-15)
        assert mu.sum() == pytest.approx(1, abs=1e-14)
        np.testing.assert_allclose(distribution_after(chain, 400), mu, atol=1e-13)


@KINDS
def test_rare_states_are_right_too(kind):
    """A birth-death chain balances each step against its way back: mu_i P_{i,i+1} = mu_{i+1} P_{i+1,i}."""
    n_states, up = 25, 0.9
    transition = np.zeros((n_states, n_states))
    for state in range(n_states):
        transition[state, min(state + 1, n_states - 1)] += up
        transition[state, max(state - 1, 0)] += 1 - up
    expected = (up / (1 - up)) ** np.arange(n_states)
    mu = stationary_distribution(MarkovChain(kind(transition)))
    np.testing.assert_allclose(
        mu, expected / expected.sum(), rtol=1e-9, atol=0 if kind is np.array else 1e-15
    )


@KINDS
def test_a_periodic_chain_has_a_stationary_distribution_and_never_settles(kind):
    chain = MarkovChain(kind(CYCLE), start=[1, 0, 0])
    assert (is_irreducible(chain), period(chain), is_ergodic(chain)) == (True, 3, False)
    np.testing.assert_allclose(stationary_distribution(chain), np.full(3, 1 / 3), rtol=1e-14)
    for steps in range(7):
        np.testing.assert_array_equal(distribution_after(chain, steps), np.eye(3)[steps % 3])


@KINDS
def test_a_reducible_chain_is_taken_apart(kind):
    chain = MarkovChain(kind(REDUCIBLE))
    found = [(c.states.tolist(), c.closed, c.period) for c in communicating_classes(chain)]
    assert found == [([0, 1], False, 2), ([2], False, 0), ([3], True, 1), ([4, 5], True, 2)]
    assert not is_irreducible(chain)
    assert not is_ergodic(chain)
    with pytest.raises(ValueError, match=r"2 closed classes, \{3\} and \{4, 5\}"):
        stationary_distribution(chain)
    with pytest.raises(ValueError, match=r"reducible.*\{0, 1\}, \{2\}, \{3\} and \{4, 5\}"):
        period(chain)


@KINDS
def test_transient_states_have_no_share(kind):
    transition = REDUCIBLE.copy()
    transition[3] = transition[2]
    transition[2] = np.eye(6)[3]
    transition[3, 3] = 0.3
    mu = stationary_distribution(MarkovChain(kind(transition)))
    np.testing.assert_allclose(mu, [0, 0, 0, 0, 0.5, 0.5], atol=1e-15)


def test_long_lists_of_states_are_cut_short():
    with pytest.raises(ValueError, match=r"\{0\}, \{1\}, \{2\}, \{3\} and 16 more"):
        stationary_distribution(MarkovChain(np.eye(20)))
    two = np.kron(np.eye(2), np.full((9, 9), 1 / 9))
    with pytest.raises(ValueError, match=r"\{0, 1, 2, 3, \.\.\. 5 more\} and \{9, 10,"):
        stationary_distribution(MarkovChain(two))


def test_a_stored_zero_is_no_step():
    """And the frozen, unsorted table of a user is read as it is."""
    entries = np.array([1.0, 1.0, 0.0]), np.array([1, 1, 0]), np.array([0, 1, 3])
    table = sparse.csr_array(entries, shape=(2, 2))
    assert [c.states.tolist() for c in communicating_classes(MarkovChain(table))] == [[0], [1]]


@pytest.mark.parametrize("seed", range(60))
def test_classes_and_periods_by_definition(seed):
    rng = np.random.default_rng(seed)
    transition = random_graph_chain(rng)
    n_states = len(transition)
    powers = [np.eye(n_states, dtype=bool)]
    for _ in range(4 * n_states**2):
        powers.append((powers[-1].astype(int) @ (transition > 0)) > 0)
    leads = np.any(powers, axis=0)
    chain = MarkovChain(transition)
    classes = communicating_classes(chain)
    assert sorted(np.concatenate([c.states for c in classes]).tolist()) == list(range(n_states))
    for found in classes:
        for i in found.states:
            np.testing.assert_array_equal(np.flatnonzero(leads[i] & leads[:, i]), found.states)
            returns = [n for n, power in enumerate(powers) if n and power[i, i]]
            assert found.period == math.gcd(*returns)
        outside = np.setdiff1d(np.arange(n_states), found.states)
        assert found.closed == (not leads[np.ix_(found.states, outside)].any())
    some = rng.choice(n_states, 2, replace=False)
    np.testing.assert_array_equal(reached_from(chain, some), leads[some].any(axis=0))
    np.testing.assert_array_equal(leading_to(chain, some), leads[:, some].any(axis=1))
    assert not reached_from(chain, []).any()


def test_a_negative_number_of_steps_is_refused():
    with pytest.raises(ValueError, match="steps=-1"):
        distribution_after(MarkovChain(CYCLE), -1)


def random_substochastic(rng, n_states, successors=4):
    columns = rng.integers(0, n_states, n_states * successors)
    rows = np.arange(n_states).repeat(successors)
    weights = rng.dirichlet(np.ones(successors), n_states).ravel() * 0.97
    return sparse.csr_array((weights, (rows, columns)), shape=(n_states, n_states))


def walk(n_states):
    """A symmetric walk that ends beyond its first state: few successors, and very long ways."""
    steps = np.full(n_states - 1, 0.5)
    table = sparse.diags_array([steps, steps], offsets=[-1, 1], format="lil")
    table[n_states - 1, n_states - 1] = 0.5
    return table.tocsr()


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("make", [lambda rng: random_substochastic(rng, 300), lambda rng: walk(300)])
@pytest.mark.parametrize("discount", [0.0, 0.9, 1.0])
def test_sparse_systems_are_solved_as_exactly_as_dense_ones(make, discount, transposed):
    rng = np.random.default_rng(0)
    transition, b = make(rng), rng.normal(size=300)
    x = linear.solve(transition, discount, b, transposed=transposed)
    expected = linear.solve(transition.toarray(), discount, b, transposed=transposed)
    np.testing.assert_allclose(x, expected, rtol=0, atol=1e-9 * np.abs(expected).max())
    product = x @ transition if transposed else transition @ x
    order = 1 if transposed else np.inf
    size = 2 * np.linalg.norm(x, order) + np.linalg.norm(b, order)
    assert np.linalg.norm(b - x + discount * product, order) <= 1e-14 * size


def test_each_sparse_method_is_needed(monkeypatch):
    """Random successors fill a factorisation, long ways stall GMRES: each case is solved by the right one."""
    rng = np.random.default_rng(0)
    factorised = []
    monkeypatch.setattr(linear, "splu", lambda matrix: factorised.append(matrix.shape) or splu(matrix))
    once = sparse.csr_array((np.full(300, 0.97), (np.arange(300), rng.permutation(300))), shape=(300, 300))
    for table in (random_substochastic(rng, 300), once):
        for transposed in (False, True):
            linear.solve(table, 0.99, np.eye(300)[7], transposed=transposed)
    assert not factorised
    linear.solve(walk(2000), 1.0, np.ones(2000))
    assert factorised == [(2000, 2000)]


@KINDS
def test_a_system_without_a_solution_says_so(kind):
    with pytest.raises(ArithmeticError, match="singular"):
        linear.solve(kind(np.eye(2)), 1.0, np.ones(2))
