"""Tables of finite processes: what they refuse, and that dense, sparse and played are the same process."""

from __future__ import annotations

import dataclasses

import gymnasium
import numpy as np
import pytest
from scipy import sparse

from advantage import machine as memory
from advantage.environments.tables.grid import Grid
from advantage.environments.tables.markov_chain import MarkovChain
from advantage.environments.tables.mdp import MDP, POMDP, reachable
from advantage.environments.tables.outcomes import Outcome
from advantage.environments.tables.random_mdp import random_mdp
from advantage.environments.tables.world import outcomes

S, A = 4, 2
CSR = ("data", "indices", "indptr")


def tables(rng: np.random.Generator | None = None) -> tuple[np.ndarray, np.ndarray]:
    """A random process with two states of four that are seldom reached: `transition [S, A, S], reward [S, A, S]`."""
    rng = np.random.default_rng(0) if rng is None else rng
    transition = rng.uniform(size=(S, A, S)) * (rng.uniform(size=(S, A, S)) < 0.7)
    transition[..., 0] += 0.1
    transition /= transition.sum(axis=2, keepdims=True)
    return transition, rng.normal(size=(S, A, S))


def stacked(table: np.ndarray, like: np.ndarray) -> sparse.csr_array:
    """`[S, A, S]` as CSR `[A * S, S]` with the entries that `like` has."""
    rows, columns = np.nonzero(like.swapaxes(0, 1).reshape(A * S, S))
    values = table.swapaxes(0, 1).reshape(A * S, S)[rows, columns]
    return sparse.csr_array((values, (rows, columns)), shape=(A * S, S))


def both() -> tuple[MDP, MDP]:
    transition, reward = tables()
    return MDP(transition, reward), MDP(stacked(transition, transition), stacked(reward, transition))


def by_action(table: np.ndarray) -> list[sparse.csr_array]:
    """`[S, A, S]` as a list of A sparse `[S, S]`."""
    return [sparse.csr_array(table[:, action]) for action in range(A)]


def ending(state: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same with a terminal state: `-> transition, reward, terminal`."""
    transition, reward = tables()
    transition[state], reward[state] = np.eye(S)[state], 0
    transition[0, 1] = np.eye(S)[state]
    return transition, reward, np.arange(S) == state


def changed(table: np.ndarray, place: tuple, value: float) -> np.ndarray:
    table = table.copy()
    table[place] = value
    return table


# Refusals, by the index of the first offence

TRANSITION, REWARD = tables()
ENDS = ending()
UNREACHED = np.eye(S)[[[1, 1], [0, 1], [1, 2], [3, 3]]]  # nothing leads to 3


def sparse_with(place: int, value: float) -> sparse.csr_array:
    table = stacked(TRANSITION, TRANSITION)
    table.data[place] = value
    return table


def sparse_row(place: int) -> tuple[int, int]:
    table = stacked(TRANSITION, TRANSITION)
    return int(np.searchsorted(table.indptr, place, side="right")) - 1, int(table.indices[place])


ROW, COLUMN = sparse_row(5)
REFUSALS = {
    "a row's sum": (
        lambda: MDP(changed(TRANSITION, (2, 1, 0), TRANSITION[2, 1, 0] + 0.25), REWARD),
        r"transition\[2, 1\] sums to 1\.25; probabilities must sum to 1",
    ),
    "two rows' sums": (
        lambda: MDP(changed(changed(TRANSITION, (3, 0), 0), (1, 1), 0), REWARD),
        r"transition\[1, 1\] sums to 0",
    ),
    "a sparse row's sum": (
        lambda: MDP(sparse_with(5, 7.0), REWARD),
        rf"transition\[{ROW}\] \(state {ROW % S}, action {ROW // S}\) sums to",
    ),
    "a negative probability": (
        lambda: MDP(changed(TRANSITION, (1, 0, 2), -0.5), REWARD),
        r"transition\[1, 0\]\[2\] = -0\.5; a probability must be 0 or more",
    ),
    "a sparse negative probability": (
        lambda: MDP(sparse_with(5, -0.5), REWARD),
        rf"transition\[{ROW}\] \(state {ROW % S}, action {ROW // S}\)\[{COLUMN}\] = -0\.5",
    ),
    "NaN": (lambda: MDP(changed(TRANSITION, (3, 1, 1), np.nan), REWARD), r"transition\[3, 1\]\[1\] = nan"),
    "a sparse NaN": (lambda: MDP(sparse_with(5, np.nan), REWARD), rf"\[{COLUMN}\] = nan"),
    "an infinite probability": (
        lambda: MDP(changed(TRANSITION, (3, 1, 1), np.inf), REWARD),
        r"transition\[3, 1\] sums to inf",
    ),
    "words": (lambda: MDP([["a"]], REWARD), "transition is not a table of numbers"),
    "one number": (lambda: MDP(1.0, REWARD), "transition = 1.0 is one number; give a table"),
    "two axes": (
        lambda: MDP(np.eye(3), REWARD),
        r"transition has shape \(3, 3\); it must be \[S, A, S\]: \(3, 3, 3\)",
    ),
    "unequal sizes": (
        lambda: MDP(np.zeros((4, 2, 3)), REWARD),
        r"transition has shape \(4, 2, 3\); it must be \[S, A, S\]: \(4, 2, 4\)",
    ),
    "sparse rows that are no multiple": (
        lambda: MDP(sparse.csr_array((7, 4)), REWARD),
        r"transition has shape \(7, 4\); a sparse one must be \[A \* S, S\]",
    ),
    "a reward's shape": (
        lambda: MDP(TRANSITION, np.zeros((S, A + 1))),
        r"reward has shape \(4, 3\); it must be \[S, A\]: \(4, 2\)",
    ),
    "a reward's third axis": (
        lambda: MDP(TRANSITION, np.zeros((S, A, 1))),
        r"reward has shape \(4, 2, 1\); it must be \[S, A\]: \(4, 2\), or \[S, A, S\]: \(4, 2, 4\)",
    ),
    "a sparse reward's shape": (
        lambda: MDP(TRANSITION, sparse.csr_array((3, 4))),
        r"reward has shape \(3, 4\); a sparse one must be \[A \* S, S\]: \(8, 4\), .* or \[S, A\]: \(4, 2\)",
    ),
    "too few matrices of rewards": (
        lambda: MDP(TRANSITION, [sparse.csr_array((S, S))]),
        r"reward has 1 matrices of shape \(4, 4\); it must have one \[S, S\] for each action: 2 of \(4, 4\)",
    ),
    "a matrix that is not square": (
        lambda: MDP([sparse.csr_array((S, S + 1))], REWARD),
        r"transition\[0\] has shape \(4, 5\); it must be \[S, S\]: \(5, 5\)",
    ),
    "a row's sum in a list": (
        lambda: MDP(by_action(changed(TRANSITION, (2, 1), 0.5)), REWARD),
        r"transition\[1\]\[2\] sums to 2",
    ),
    "a negative probability in a list": (
        lambda: MDP(by_action(changed(TRANSITION, (2, 1, 3), -0.5)), REWARD),
        r"transition\[1\]\[2\]\[3\] = -0\.5",
    ),
    "an infinite reward in a list": (
        lambda: MDP(TRANSITION, by_action(changed(REWARD, (2, 1, 3), np.inf))),
        r"reward\[1\]\[2, 3\] = inf; rewards must be finite numbers\.$",
    ),
    "a forbidden action": (
        lambda: MDP(TRANSITION, changed(REWARD[..., 0], (3, 1), -np.inf)),
        r"reward\[3, 1\] = -inf; .* To forbid an action in a state, give it .* of an allowed one, or a penalty",
    ),
    "actions first": (
        lambda: MDP(TRANSITION.swapaxes(0, 1), REWARD),
        r"must be \[S, A, S\]: \(2, 4, 2\)\. If its first axis is the action, give transition\.transpose\(1, 0, 2\)",
    ),
    "an infinite reward": (
        lambda: MDP(TRANSITION, changed(REWARD, (2, 0, 1), -np.inf)),
        r"reward\[2, 0, 1\] = -inf; rewards must be finite",
    ),
    "a reward that is NaN": (
        lambda: MDP(TRANSITION, changed(REWARD[..., 0], (3, 1), np.nan)),
        r"reward\[3, 1\] = nan; rewards must be finite",
    ),
    "a sparse infinite reward": (
        lambda: MDP(stacked(TRANSITION, TRANSITION), sparse_with(5, np.inf)),
        rf"reward\[{ROW}, {COLUMN}\] = inf; rewards must be finite",
    ),
    "a start's shape": (
        lambda: MDP(TRANSITION, REWARD, start=np.ones(3) / 3),
        r"start has shape \(3,\); it must be \[S\]",
    ),
    "a start's sum": (lambda: MDP(TRANSITION, REWARD, start=np.full(4, 0.2)), "start sums to 0.8"),
    "a negative start": (
        lambda: MDP(TRANSITION, REWARD, start=[1.5, 0, -0.5, 0]),
        r"start\[2\] = -0\.5; a probability must be 0 or more",
    ),
    "a start that has ended": (
        lambda: MDP(*ENDS[:2], terminal=ENDS[2], start=[0.5, 0, 0, 0.5]),
        r"start\[3\] = 0\.5, but state 3 is terminal; episodes cannot begin there",
    ),
    "terminal numbers": (
        lambda: MDP(*ENDS[:2], terminal=[3]),
        "terminal has type int64; use an array of bool",
    ),
    "terminal's shape": (
        lambda: MDP(*ENDS[:2], terminal=[False, True]),
        r"terminal has shape \(2,\); it must be \[S\]",
    ),
    "a terminal state that is left": (
        lambda: MDP(changed(ENDS[0], (3, 1), TRANSITION[3, 1]), ENDS[1], terminal=ENDS[2]),
        r"State 3 is terminal, but action 1 there stays with probability 0\.\d+ and earns 0; a terminal",
    ),
    "a terminal state that leads to another": (
        lambda: MDP(np.eye(S)[[[2, 3], [0, 1], [3, 2], [3, 3]]], np.zeros((S, A)), terminal=np.arange(S) > 1),
        "State 2 is terminal, but action 0 there stays with probability 0 and earns 0",
    ),
    "a terminal state that earns": (
        lambda: MDP(ENDS[0], changed(ENDS[1], (3, 1, 3), 2.0), terminal=ENDS[2]),
        "State 3 is terminal, but action 1 there stays with probability 1 and earns 2",
    ),
    "a terminal state that is never reached": (
        lambda: MDP(UNREACHED, np.zeros((S, A)), terminal=np.arange(S) == 3),
        "State 3 is terminal, but no start state leads to it",
    ),
    "gamma above one": (lambda: MDP(TRANSITION, REWARD, gamma=1.5), r"gamma=1.5 is not allowed"),
    "gamma that is NaN": (lambda: MDP(TRANSITION, REWARD, gamma=float("nan")), "gamma=nan is not allowed"),
    "gamma that is none": (lambda: MDP(TRANSITION, REWARD, gamma=True), "gamma=True is not allowed"),
    "no steps": (
        lambda: MDP(TRANSITION, REWARD, max_episode_steps=0),
        "max_episode_steps=0 is not allowed; use a whole number of 1 or more",
    ),
    "a chain's row": (
        lambda: MarkovChain([[0.5, 0.5], [0.5, 0.6]]),
        r"transition\[1\] sums to 1\.1",
    ),
    "a chain's shape": (lambda: MarkovChain(np.ones((2, 3)) / 3), r"it must be \[S, S\]: \(2, 2\)"),
    "a chain's start": (lambda: MarkovChain(np.eye(2), start=[2.0, -1.0]), r"start\[1\] = -1"),
    "an emission's shape": (
        lambda: POMDP(both()[0], np.ones((S, 1))),
        r"emission has shape \(4, 1\); it must be \[S, A, O\]: \(4, 2, 1\)",
    ),
    "an emission's row": (
        lambda: POMDP(both()[0], changed(np.full((S, A, 2), 0.5), (2, 1, 0), 0.4)),
        r"emission\[2, 1\] sums to 0\.9",
    ),
    "a first emission's row": (
        lambda: POMDP(both()[0], np.full((S, A, 2), 0.5), changed(np.full((S, 2), 0.5), (1, 0), 0.75)),
        r"first_emission\[1\] sums to 1\.25",
    ),
    "a first emission's shape": (
        lambda: POMDP(both()[0], np.full((S, A, 2), 0.5), np.ones((S, 1))),
        r"first_emission has shape \(4, 1\); it must be \[S, O\]: \(4, 2\)",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refuses(name):
    build, words = REFUSALS[name]
    with pytest.raises(ValueError, match=words):
        build()


def test_a_sparse_terminal_state_that_is_left_is_refused():
    transition, _, terminal = ending()
    left = changed(transition, (3, 1), TRANSITION[3, 1])
    with pytest.raises(ValueError, match="State 3 is terminal, but action 1 there stays with probability"):
        MDP(stacked(left, left), np.zeros((S, A)), terminal=terminal)


def test_rows_may_miss_one_by_rounding():
    MDP(TRANSITION * (1 + 5e-9), REWARD)
    with pytest.raises(ValueError, match=r"transition\[0, 0\] sums to 1\.00000002"):
        MDP(TRANSITION * (1 + 2e-8), REWARD)


def test_numbers_that_are_allowed():
    assert MDP(TRANSITION, REWARD, gamma=np.float64(0.5)).gamma == 0.5
    assert MDP(TRANSITION, REWARD, gamma=1).gamma == 1.0
    MDP(TRANSITION, np.full((S, A), 1.7e308))  # large, and finite


# The tables themselves


def test_defaults():
    mdp = MDP(*ending()[:2], terminal=ending()[2])
    np.testing.assert_allclose(mdp.start, [1 / 3, 1 / 3, 1 / 3, 0])
    assert (mdp.n_states, mdp.n_actions, mdp.is_sparse) == (S, A, False)
    assert not MDP(TRANSITION, REWARD).terminal.any()
    pomdp = POMDP(mdp, np.full((S, A, 5), 0.2))
    np.testing.assert_allclose(pomdp.first_emission, np.full((S, 5), 0.2))
    assert pomdp.n_observations == 5


def test_dense_and_sparse_are_the_same_process():
    one, other = both()
    assert other.is_sparse and (other.n_states, other.n_actions) == (S, A)
    rng = np.random.default_rng(1)
    value = rng.normal(size=S)
    np.testing.assert_allclose(one.expected(value), other.expected(value), rtol=1e-14)
    np.testing.assert_allclose(one.expected_reward, other.expected_reward, rtol=1e-14)
    stochastic = rng.dirichlet(np.ones(A), S)
    stochastic[1] = [0, 1]
    for policy in (stochastic, np.array([1, 0, 1, 0])):
        np.testing.assert_array_equal(one.probabilities(policy), other.probabilities(policy))
        assert sparse.issparse(other.rows(policy))
        np.testing.assert_allclose(one.rows(policy), other.rows(policy).toarray(), rtol=1e-14)
        np.testing.assert_allclose(one.chain(policy).transition, other.chain(policy).transition.toarray())


def test_what_they_compute_is_what_they_say():
    """Sums over every state and action, one at a time."""
    mdp, (transition, reward) = both()[0], tables()
    value, policy = np.arange(S) ** 2.0, np.array([[0.25, 0.75]] * S)
    rows = np.zeros((S, S))
    for s, a in np.ndindex(S, A):
        assert mdp.expected(value)[s, a] == pytest.approx(
            sum(transition[s, a, t] * value[t] for t in range(S))
        )
        earned = sum(transition[s, a, t] * reward[s, a, t] for t in range(S))
        assert mdp.expected_reward[s, a] == pytest.approx(earned)
        rows[s] += policy[s, a] * transition[s, a]
    np.testing.assert_allclose(mdp.rows(policy), rows)
    np.testing.assert_array_equal(mdp.rows([1, 0, 0, 1]), transition[range(S), [1, 0, 0, 1]])
    plain = MDP(transition, reward[..., 0])
    np.testing.assert_array_equal(plain.expected_reward, reward[..., 0])


def test_a_list_of_sparse_matrices_is_one_for_each_action():
    one = both()[0]
    listed = MDP([sparse.csr_array(TRANSITION[:, a]) for a in range(A)], one.expected_reward)
    np.testing.assert_array_equal(listed.expected(np.arange(S)), one.expected(np.arange(S)))


FORMS = {
    "dense": lambda table: table,
    "nested lists": lambda table: table.tolist(),
    "CSR": lambda table: sparse.csr_array(table.swapaxes(0, 1).reshape(A * S, S)),
    "COO, with zeros": lambda table: sparse.coo_array(stacked(table, np.ones((S, A, S)))),
    "sparse by action": by_action,
    "matrices by action": lambda table: tuple(map(sparse.csc_matrix, table.swapaxes(0, 1))),
    "an array of matrices": lambda table: np.array([*by_action(table), None], object)[:A],
}


@pytest.mark.parametrize("of_reward", FORMS)
@pytest.mark.parametrize("of_transition", FORMS)
def test_rewards_have_every_form_that_transitions_have(of_transition, of_reward):
    reward = REWARD * (np.random.default_rng(1).uniform(size=REWARD.shape) < 0.6)  # not where transitions are
    right = (TRANSITION * reward).sum(2)
    mdp = MDP(FORMS[of_transition](TRANSITION), FORMS[of_reward](reward))
    np.testing.assert_allclose(mdp.expected_reward, right, atol=1e-15)
    assert sparse.issparse(mdp.reward) == mdp.is_sparse == (of_transition not in ("dense", "nested lists"))
    assert mdp.reward.shape == mdp.transition.shape
    if mdp.is_sparse:
        np.testing.assert_array_equal(mdp.reward.indices, mdp.transition.indices)


@pytest.mark.parametrize("of_transition", FORMS)
def test_a_sparse_reward_by_state_and_action(of_transition):
    mdp = MDP(FORMS[of_transition](TRANSITION), sparse.csr_array(REWARD[..., 0]))
    np.testing.assert_array_equal(mdp.reward, REWARD[..., 0])


def test_a_sparse_table_may_list_a_successor_twice():
    places = np.array([0, 1, 1, 1]), np.array([0, 3, 4])
    transition = sparse.csr_array((np.array([0.5, 0.25, 0.25, 1.0]), *places), shape=(2, 2))
    reward = sparse.csr_array((np.array([1.0, 4.0, 8.0, 0.0]), *places), shape=(2, 2))
    mdp = MDP(transition, reward, terminal=np.array([False, True]))
    np.testing.assert_allclose(mdp.expected_reward, [[3.5], [0.0]])
    np.testing.assert_allclose(mdp.expected(np.array([2.0, 6.0])), [[4.0], [6.0]])


@pytest.mark.parametrize("as_sparse", [False, True])
def test_policies_of_any_kind_of_integer(as_sparse):
    """300 states times an action do not fit into eight bits."""
    mdp = random_mdp(300, 3, 2, as_sparse=as_sparse)
    policy = np.arange(300) % 3
    small, large = (mdp.rows(policy.astype(kind)) for kind in (np.uint8, np.int64))
    assert abs(small - large).max() == 0


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ([0, 1, 2, 0], r"policy\[2\] = 2 is not an action; use 0 to 1"),
        ([0, -1, 0, 0], r"policy\[1\] = -1 is not an action"),
        ([0, 1], r"policy has shape \(2,\); it must be \[S\]"),
        ([0.5, 0.5, 0, 0], r"policy has shape \(4,\); it must be \[S, A\]"),
        ([[0.5, 0.5], [0.5, 0.5], [0.5, 0.6], [1, 0]], r"policy\[2\] sums to 1\.1"),
        ([[1, 0], [2, -1], [1, 0], [1, 0]], r"policy\[1\]\[1\] = -1"),
    ],
)
def test_policies_that_are_refused(policy, words):
    for mdp in both():
        with pytest.raises(ValueError, match=words):
            mdp.rows(policy)


def test_immutable():
    transition, reward = tables()
    one = MDP(transition, reward)
    assert one.expected_reward is one.expected_reward
    for table in (one.transition, one.reward, one.start, one.terminal, one.expected_reward):
        with pytest.raises(ValueError, match="read-only"):
            table[0] = 0
    other = both()[1]
    for table in (other.transition, other.reward):
        for part in CSR:
            with pytest.raises(ValueError, match="read-only"):
                getattr(table, part)[0] = 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.gamma = 0.5  # pyright: ignore[reportAttributeAccessIssue]


def test_the_callers_arrays_stay_writable():
    given = dict(zip(("transition", "reward", "terminal"), ending(), strict=True))
    given["start"] = np.array([1.0, 0.0, 0.0, 0.0])
    MDP(**given)
    for table in given.values():
        table[0] = table[0].copy()
    other = stacked(TRANSITION, TRANSITION)
    MDP(other, REWARD[..., 0])
    other.data[0], other.indices[0], other.indptr[0] = 0.5, 0, 0


def test_large_tables_are_not_copied():
    transition, sparsely = TRANSITION.copy(), stacked(TRANSITION, TRANSITION)
    assert np.shares_memory(MDP(transition, REWARD).transition, transition)
    assert np.shares_memory(MDP(sparsely, REWARD[..., 0]).transition.data, sparsely.data)


def test_bytes():
    one, other = both()
    assert one.nbytes == 8 * (2 * S * A * S + S) + S
    parts = [getattr(table, part) for table in (other.transition, other.reward) for part in CSR]
    assert other.nbytes == sum(part.size * part.itemsize for part in parts) + 8 * S + S


def test_reachable():
    for mdp in (
        MDP(UNREACHED, np.zeros((S, A)), start=[0, 0, 1, 0]),
        MDP(stacked(UNREACHED, UNREACHED), np.zeros((S, A)), start=[0, 0, 1, 0]),
    ):
        assert reachable(mdp).tolist() == [True, True, True, False]


def test_many_terminal_states_take_no_time_each():
    """Half a million of them, looked at at once: one at a time would take hours."""
    half = 500_000
    successor = np.concatenate([np.arange(half, 2 * half)] * 2)
    transition = sparse.csr_array((np.ones(2 * half), successor, np.arange(2 * half + 1)))
    mdp = MDP(transition, np.zeros((2 * half, 1)), terminal=np.arange(2 * half) >= half)
    assert mdp.start[0] == 1 / half


def test_the_last_successor_takes_what_rounding_leaves():
    """A number drawn up to one always finds a successor, in rows of any length."""
    for mdp in both():
        places = outcomes(mdp)
        for state, action in np.ndindex(S, A):
            successors = np.flatnonzero(TRANSITION[state, action])
            count = len(successors)
            cumulative = places.cumulative[state, action]
            np.testing.assert_array_equal(places.successor[state, action, :count], successors)
            expected = TRANSITION[state, action, successors].cumsum()[:-1]
            np.testing.assert_allclose(cumulative[: count - 1], expected, rtol=1e-6)
            assert (cumulative[count - 1 :] == 2).all()


# From a function


def two_steps(state: int, action: int) -> list[Outcome]:
    """0 -> 1 or the end 2, 1 -> the end; what is said of 2 is ignored."""
    if state == 0:
        return [(0.5, 1, 1.0, False), (0.25, 2, 4.0, True), (0.25, 2, 8.0, True), (0.0, 2, 99.0, False)]
    return [(1.0, 2, float(action), True)] if state == 1 else [(1.0, 0, 7.0, False)]


@pytest.mark.parametrize("as_sparse", [False, True])
def test_from_function(as_sparse):
    grid = Grid(1, 3, ((0, 1), (0, 1)))
    mdp = MDP.from_function(
        3, 2, two_steps, as_sparse=as_sparse, start=[1, 0, 0], gamma=0.5, grid=grid, max_episode_steps=9
    )
    assert mdp.is_sparse == as_sparse and (mdp.gamma, mdp.grid, mdp.max_episode_steps) == (0.5, grid, 9)
    assert mdp.terminal.tolist() == [False, False, True]
    policy = np.array([0, 0, 0])
    rows = mdp.rows(policy).toarray() if as_sparse else mdp.rows(policy)
    np.testing.assert_allclose(rows, [[0, 0.5, 0.5], [0, 0, 1], [0, 0, 1]])
    np.testing.assert_allclose(mdp.expected_reward, [[3.5, 3.5], [0, 1], [0, 0]])
    if not as_sparse:
        assert mdp.reward[0, 0, 2] == 6  # the mean of what is earned on the way there


def test_from_function_is_sparse_where_it_is_large():
    def ring(state: int, action: int) -> list[Outcome]:
        return [(1.0, (state + 1) % 2000, 0.0, False)]

    assert MDP.from_function(2000, 1, ring).is_sparse
    assert not MDP.from_function(2000, 1, ring, as_sparse=False).is_sparse


def test_from_function_refuses_a_successor_out_of_range():
    for wrong in (3, -1):
        with pytest.raises(ValueError, match=rf"outcomes\(1, 0\) leads to state {wrong}; states are 0 to 2"):
            MDP.from_function(3, 1, lambda s, a, wrong=wrong: [(1.0, wrong if s == 1 else 0, 0.0, False)])


@pytest.mark.parametrize("start", [None, [1, 0, 0]])
def test_from_function_refuses_an_end_that_is_none_elsewhere(start):
    def outcomes(state: int, action: int) -> list[Outcome]:
        return [(1.0, 2, 0.0, state == 1)] if state else [(0.5, 1, 0.0, False), (0.5, 2, 0.0, False)]

    with pytest.raises(ValueError, match="State 0 leads to state 2 without terminated, but another outcome"):
        MDP.from_function(3, 1, outcomes, start=start)


def test_from_function_ignores_how_states_that_nobody_reaches_enter_an_end():
    def outcomes(state: int, action: int) -> list[Outcome]:
        return [(1.0, 2, 0.0, state == 0)]

    mdp = MDP.from_function(3, 1, outcomes, start=[1, 0, 0])
    assert mdp.terminal.tolist() == [False, False, True]


def test_from_function_ignores_what_states_that_nobody_reaches_call_an_end():
    def outcomes(state: int, action: int) -> list[Outcome]:
        return [(1.0, 1, 0.0, True)] if state == 2 else [(1.0, 1 - state, 3.0, False)]

    mdp = MDP.from_function(3, 1, outcomes, start=[1, 0, 0])
    assert not mdp.terminal.any()
    np.testing.assert_array_equal(mdp.rows([0, 0, 0]), np.eye(3)[[1, 0, 1]])


def test_from_function_refuses_what_is_no_table():
    with pytest.raises(ValueError, match=r"start has shape \(2,\); it must be \[S\]"):
        MDP.from_function(3, 2, two_steps, start=[1, 0])
    with pytest.raises(ValueError, match="outcomes returns nothing"):
        MDP.from_function(3, 2, lambda s, a: [])
    with pytest.raises(ValueError, match=r"transition\[1, 0\] sums to 0"):
        MDP.from_function(2, 1, lambda s, a: [(1.0, 0, 0.0, False)] if s == 0 else [])
    with pytest.raises(ValueError, match=r"transition\[0, 0\] sums to 0\.5"):
        MDP.from_function(2, 1, lambda s, a: [(0.5, 0, 0.0, False)])


def test_a_table_that_would_not_fit_is_refused_before_it_is_made(monkeypatch):
    def never(state: int, action: int) -> list[Outcome]:
        raise AssertionError("asked for outcomes")

    monkeypatch.setattr(memory, "free_host_bytes", lambda: 2**20)
    words = r"A dense table of 1_000 states and 2 actions takes 30\.5 MiB, and 1 MiB of memory are free"
    with pytest.raises(ValueError, match=words):
        MDP.from_function(1000, 2, never, as_sparse=False)
    MDP.from_function(3, 2, two_steps)
    monkeypatch.setattr(memory, "free_host_bytes", lambda: None)
    with pytest.raises(AssertionError, match="asked for outcomes"):
        MDP.from_function(1000, 2, never, as_sparse=False)


# From samples


def samples(count: int) -> tuple[MDP, list[np.ndarray]]:
    """Transitions of a small process with an end, from every state and action."""
    transition, reward, terminal = ending()
    mdp, rng = MDP(transition, reward, terminal=terminal), np.random.default_rng(2)
    state, action = rng.integers(0, 3, count), rng.integers(0, A, count)
    cumulative = transition[state, action].cumsum(axis=1)
    successor = (rng.uniform(size=(count, 1)) >= cumulative[:, :-1]).sum(axis=1)
    earned = reward[state, action, successor] + rng.normal(size=count)
    return mdp, [state, action, earned, successor, terminal[successor]]


def test_from_samples_converges():
    mdp, facts = samples(60_000)
    learned = MDP.from_samples(*facts)
    assert learned.terminal.tolist() == mdp.terminal.tolist()
    np.testing.assert_allclose(learned.transition, mdp.transition, atol=5 * 0.5 / np.sqrt(9000))
    np.testing.assert_allclose(learned.expected_reward, mdp.expected_reward, atol=5 * 2 / np.sqrt(9000))


def test_from_samples_counts():
    learned = MDP.from_samples(
        [0, 0, 0, 1], [0, 0, 0, 0], [1, 2, 6, 4], [1, 1, 0, 2], [0, 0, 0, 1], gamma=0.5
    )
    np.testing.assert_allclose(learned.transition[:, 0], [[1 / 3, 2 / 3, 0], [0, 0, 1], [0, 0, 1]])
    np.testing.assert_allclose(learned.expected_reward[:, 0], [3, 4, 0])
    assert learned.terminal.tolist() == [False, False, True] and learned.gamma == 0.5


@pytest.mark.parametrize(
    ("columns", "fields", "words"),
    [
        (
            ([0, 1], [0, 1], [0, 0], [1, 0], [0, 0]),
            {},
            "State 0 with action 1 was never seen; take more samples",
        ),
        (([0, 1], [0, 0], [0, 0], [1, 0], [0, 0]), {"n_states": 3}, "State 2 with action 0 was never seen"),
        (([0, 1], [0], [0, 0], [1, 0], [0, 0]), {}, r"The samples have lengths \[2, 1, 2, 2, 2\]"),
        (([], [], [], [], []), {}, r"The samples have lengths \[0, 0, 0, 0, 0\]"),
        (([0, -1], [0, 0], [0, 0], [0, 0], [0, 0]), {}, r"state\[1\] = -1 is out of range; use 0 to 0"),
        (([0, 1], [0, 2], [0, 0], [0, 0], [0, 0]), {"n_actions": 2}, r"action\[1\] = 2 is out of range"),
        (([0, 1], [0, 0], [0, 0], [0, 9], [0, 0]), {"n_states": 2}, r"next_state\[1\] = 9 is out of range"),
        (([0], [0], [0], [0], [0]), {"unseen": "guess"}, "unseen='guess' is not allowed"),
        (([0, 0], [0, 0], [0, 0], [1, 1], [0, 1]), {}, "State 0 leads to state 1 without terminated"),
    ],
)
def test_from_samples_refuses(columns, fields, words):
    with pytest.raises(ValueError, match=words):
        MDP.from_samples(*columns, **fields)


def test_unseen_pairs_may_stay():
    learned = MDP.from_samples([0, 1], [0, 1], [3, 4], [1, 0], [0, 0], unseen="stay")
    np.testing.assert_array_equal(learned.transition, np.eye(2)[[[1, 0], [1, 0]]])
    np.testing.assert_array_equal(learned.expected_reward, [[3, 0], [0, 4]])


# From Gymnasium


@pytest.mark.parametrize("name", ["FrozenLake-v1", "FrozenLake8x8-v1", "Taxi-v4", "CliffWalking-v1"])
def test_from_gymnasium_is_how_the_environment_steps(name):
    mdp, env = MDP.from_gymnasium(name), gymnasium.make(name)
    limit = env.spec.max_episode_steps or 1000
    assert mdp.max_episode_steps == limit
    inner, rng = env.unwrapped, np.random.default_rng(3)
    inner.reset(seed=4)
    for state in rng.permutation(np.flatnonzero(~mdp.terminal))[:40]:
        for action in range(mdp.n_actions):
            seen = set()
            for _ in range(1 if mdp.transition[state, action].max() == 1 else 40):
                inner.s = int(state)
                successor, reward, terminated, _, _ = inner.step(action)
                assert mdp.reward[state, action, successor] == reward
                assert mdp.terminal[successor] == terminated
                seen.add(int(successor))
            assert seen == set(np.flatnonzero(mdp.transition[state, action]).tolist())


@pytest.mark.parametrize("name", ["FrozenLake-v1", "CliffWalking-v1"])
def test_grids_of_gymnasium_have_arrows(name):
    mdp = MDP.from_gymnasium(gymnasium.make(name, is_slippery=False))
    grid = mdp.grid
    assert grid is not None and grid.rows * grid.columns == mdp.n_states
    state = 6 if name == "FrozenLake-v1" else 14
    for action, (down, right) in enumerate(grid.moves):
        assert mdp.transition[state, action, state + down * grid.columns + right] == 1
    assert MDP.from_gymnasium("Taxi-v4").grid is None


def test_from_gymnasium_starts_where_the_environment_does():
    mdp, env = MDP.from_gymnasium("Taxi-v4"), gymnasium.make("Taxi-v4")
    starts = [env.reset(seed=0)[0], *(env.reset()[0] for _ in range(500))]
    assert (mdp.start[starts] > 0).all() and np.count_nonzero(mdp.start) == 300


def test_from_gymnasium_replaces_what_is_given():
    start = np.eye(16)[5 - 1]
    mdp = MDP.from_gymnasium("FrozenLake-v1", gamma=0.5, start=start, max_episode_steps=7)
    assert (mdp.gamma, mdp.max_episode_steps) == (0.5, 7)
    np.testing.assert_array_equal(mdp.start, start)


def test_from_gymnasium_refuses_what_has_no_table():
    with pytest.raises(ValueError, match=r"has no table: P\[s\]\[a\]"):
        MDP.from_gymnasium("CartPole-v1")
