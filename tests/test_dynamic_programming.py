"""Every solver: published values, definitions in double loops, and error bounds that hold at every iteration."""

import dataclasses
import itertools

import numpy as np
import pytest
from random_tables import as_rows, random_mdp
from scipy import sparse

import advantage as adv
from advantage import machine as memory
from advantage.algorithms.dynamic_programming import backups
from advantage.algorithms.dynamic_programming import policy_evaluation as evaluation
from advantage.algorithms.dynamic_programming.episode_ends import horizon, proper_policy
from advantage.algorithms.dynamic_programming.policy_evaluation import evaluate
from advantage.environments.tables.names import table

DISCOUNTED = (
    adv.ValueIteration,
    adv.GaussSeidel,
    adv.PrioritisedValueIteration,
    adv.PolicyIteration,
    adv.ModifiedPolicyIteration,
    adv.LinearProgramming,
)
SOLVERS = pytest.mark.parametrize("solver", DISCOUNTED)
SEEDS = pytest.mark.parametrize("seed", range(6))


# -- published values --------------------------------------------------------------------------------------------


@SOLVERS
@pytest.mark.parametrize(
    ("name", "gamma", "value", "error"),
    [
        ("FrozenLake-v1", 0.9, 0.068891, 2e-6),
        ("FrozenLake-v1", 0.95, 0.180472, 2e-6),
        ("FrozenLake-v1", 0.99, 0.542026, 2e-6),
        ("FrozenLake-v1", 1.0, 0.823529, 5e-5),  # where an episode may never end nothing is guaranteed
        ("FrozenLake8x8-v1", 0.99, 0.414640, 2e-6),
        ("Blackjack-v0", None, -0.046556, 2e-6),
        ("Cliff-v0", None, -13.0, 1e-9),
        ("WindyGrid-v0", None, -15.0, 1e-9),
        ("WindyGridKing-v0", None, -7.0, 1e-9),
        ("ShortCorridor-v0", None, -3.0, 1e-9),
    ],
)
def test_the_start_is_worth_what_is_published(solver, name, gamma, value, error):
    mdp = getattr(table(name), "mdp", table(name))  # the corridor is observed in part
    solution = adv.solve(mdp, solver(gamma=gamma))
    assert solution.converged
    assert mdp.start @ solution.value == pytest.approx(value, abs=error)


@pytest.mark.parametrize("solver", [adv.ModifiedPolicyIteration, adv.PolicyIteration, adv.GaussSeidel])
def test_taxi(solver):
    mdp = table("Taxi-v4")
    assert mdp.start @ adv.solve(mdp, solver(gamma=1.0)).value == pytest.approx(7.93, abs=1e-6)


@pytest.mark.parametrize("solver", DISCOUNTED[:-1])
def test_car_rental(solver):
    value = adv.solve(table("CarRental-v0"), solver()).value.reshape(21, 21)
    cells = [value[0, 0], value[10, 10], value[20, 20], value[20, 0], value[0, 20]]
    np.testing.assert_allclose(cells, [421.414, 574.948, 636.990, 554.948, 567.769], atol=6e-4)


@SOLVERS
def test_grids_and_gambler(solver):
    corner = np.array([[0, -1, -2, -3], [-1, -2, -3, -2], [-2, -3, -2, -1], [-3, -2, -1, 0]])
    np.testing.assert_allclose(adv.solve(table("GridWorld4x4-v0"), solver()).value, corner.ravel(), atol=1e-9)
    first = adv.solve(table("GridWorld5x5-v0"), solver(gamma=0.9)).value[:5]
    np.testing.assert_allclose(first, [21.977, 24.419, 21.977, 19.419, 17.477], atol=6e-4)
    solution = adv.solve(table("Gambler-v0"), solver())
    assert solution.error_bound <= 1e-6  # every policy ends
    known = {1: 0.00206562, 25: 0.16, 50: 0.4, 51: 0.403098, 75: 0.64, 99: 0.964333}
    np.testing.assert_allclose(solution.value[list(known)], list(known.values()), atol=2e-6)


def test_success_within_the_time_limit():
    for name, steps, value in (("FrozenLake-v1", 100, 0.744190), ("FrozenLake8x8-v1", 200, 0.913220)):
        mdp = table(name)
        solution = adv.solve(mdp, adv.BackwardInduction(gamma=1.0, horizon=steps))
        assert mdp.start @ solution.value[0] == pytest.approx(value, abs=1e-6)
        assert solution.value.shape == (steps + 1, mdp.n_states)
        assert solution.policy.shape == (steps, mdp.n_states)
        assert mdp.max_episode_steps == steps  # the default
        np.testing.assert_array_equal(adv.solve(mdp, adv.BackwardInduction(gamma=1.0)).value, solution.value)


# -- the optimum, and the bound on the error ---------------------------------------------------------------------


def dense(mdp):
    """`P [S, A, S]`, `r [S, A]`, of extended precision."""
    rows = mdp.transition
    if mdp.is_sparse:
        rows = rows.toarray().reshape(mdp.n_actions, mdp.n_states, mdp.n_states).swapaxes(0, 1)
    rows = rows.astype(np.longdouble)
    reward = mdp.reward
    if sparse.issparse(reward):
        reward = reward.toarray().reshape(mdp.n_actions, mdp.n_states, mdp.n_states).swapaxes(0, 1)
    reward = reward.astype(np.longdouble)
    return rows, (rows * reward).sum(axis=2) if reward.ndim == 3 else reward


def policy_value(mdp, gamma, policy):
    """A linear solve in float64, refined in extended precision."""
    rows, reward = dense(mdp)
    going, states = np.flatnonzero(~mdp.terminal), np.arange(mdp.n_states)
    chain, earned = rows[states, policy][np.ix_(going, going)], reward[states, policy][going]
    matrix = np.eye(len(going)) - np.longdouble(gamma) * chain
    x = np.zeros(len(going), np.longdouble)
    for _ in range(6):
        x += np.linalg.solve(matrix.astype(float), (earned - matrix @ x).astype(float))
    value = np.zeros(mdp.n_states, np.longdouble)
    value[going] = x
    return value


def optimum(mdp, gamma):
    """Policy iteration in extended precision; every policy must end where `gamma` is 1."""
    rows, reward = dense(mdp)
    policy = np.zeros(mdp.n_states, int)
    while True:
        value = policy_value(mdp, gamma, policy)
        q = reward + np.longdouble(gamma) * (rows @ value)
        better = q.max(axis=1) > q[np.arange(mdp.n_states), policy] + 1e-15
        if not better.any():
            return value
        policy = np.where(better, q.argmax(axis=1), policy)


def plans(solver, mdp, number):
    current = solver.start(mdp)
    for _ in range(number):
        current = solver.improve(mdp, current)
        yield current


def random_case(seed, **keywords):
    rng = np.random.default_rng(seed)
    gamma = [0.0, 0.5, 0.9, 0.99, 0.999, 1.0][seed]
    options = {"ends": gamma == 1 or seed == 2, "as_sparse": seed % 2 == 0, "by_successor": seed in (1, 4)}
    return random_mdp(rng, 7, 3, gamma, **(options | keywords)), gamma


@SOLVERS
@SEEDS
@pytest.mark.parametrize("as_sparse", [False, True])
def test_the_bound_holds_at_every_iteration_and_the_tolerance_is_met(solver, seed, as_sparse):
    mdp, gamma = random_case(seed, as_sparse=as_sparse)
    best = optimum(mdp, gamma)
    for tolerance in (1e-3, 1e-6, 1e-9):
        solution = adv.solve(mdp, solver(tolerance=tolerance))
        assert solution.converged
        assert np.abs(solution.value - best).max() <= solution.error_bound <= tolerance
        lost = best - policy_value(mdp, gamma, solution.policy)
        assert lost.max() <= 2 * solution.error_bound + 1e-12
    number = 1 if solver is adv.LinearProgramming else 40
    for current in plans(solver(tolerance=1e-300), mdp, number):  # to where rounding decides
        assert np.abs(current.value - best).max() <= current.error_bound
        assert (current.value[mdp.terminal] == 0).all()
        assert not current.converged
    q = dense(mdp)[1] + gamma * (dense(mdp)[0] @ solution.value)
    np.testing.assert_allclose(solution.action_value, q.astype(float), atol=1e-12)
    assert solution.policy.dtype == np.int32
    assert solution.residuals.shape == (solution.iterations,)


@SOLVERS
@pytest.mark.parametrize("scale", [1.0, 1e9])
def test_rounding_is_part_of_the_bound(solver, scale):
    """Large rewards that cancel, and rows that miss one by what a table may."""
    rng = np.random.default_rng(3)
    transition = rng.dirichlet(np.ones(5), (5, 2)) * (1 + 9e-9 * rng.choice([-1, 1], (5, 2, 1)))
    reward = rng.normal(size=(5, 2, 5))
    reward = scale * (reward - (transition * reward).sum(axis=2, keepdims=True)) + 1
    for mdp in (adv.MDP(transition, reward, gamma=0.99), adv.MDP(*as_rows(transition, reward), gamma=0.99)):
        best = optimum(mdp, 0.99)
        bounds = []
        for current in plans(solver(tolerance=1e-300), mdp, 1 if solver is adv.LinearProgramming else 40):
            assert np.abs(current.value - best).max() <= current.error_bound
            bounds.append(current.error_bound)
        assert bounds[-1] < 1e-2  # and it is of use: rounding alone


@SEEDS
def test_all_solvers_agree_on_larger_tables(seed):
    rng = np.random.default_rng(seed)
    mdp = random_mdp(rng, 60, 4, 0.95, as_sparse=seed % 2 == 0, concentration=0.05)
    solutions = [adv.solve(mdp, solver(tolerance=1e-8)) for solver in DISCOUNTED]
    for solution in solutions:
        assert (
            np.abs(solution.value - solutions[3].value).max()
            <= solution.error_bound + solutions[3].error_bound
        )


def test_a_bound_at_a_discount_of_one_needs_every_policy_to_end():
    assert np.isinf(adv.solve(table("Cliff-v0")).error_bound)
    assert adv.solve(table("Blackjack-v0")).error_bound <= 1e-6


# -- iterates by their definitions -------------------------------------------------------------------------------


def q_of(mdp, gamma, value, s, a):
    rows, reward = dense(mdp)
    total = float(reward[s, a])
    for successor in range(mdp.n_states):
        total += gamma * float(rows[s, a, successor]) * value[successor]
    return total


def backup_loop(mdp, gamma, value):
    return np.array(
        [max(q_of(mdp, gamma, value, s, a) for a in range(mdp.n_actions)) for s in range(mdp.n_states)]
    )


def greedy_loop(mdp, gamma, value):
    q = [[q_of(mdp, gamma, value, s, a) for a in range(mdp.n_actions)] for s in range(mdp.n_states)]
    return np.argmax(q, axis=1)


@pytest.mark.parametrize("seed", [2, 3])
def test_value_iteration_is_the_double_loop(seed):
    mdp, gamma = random_case(seed)
    value = np.zeros(mdp.n_states)
    for current in plans(adv.ValueIteration(tolerance=1e-12), mdp, 5):
        np.testing.assert_array_equal(current.policy, greedy_loop(mdp, gamma, value))
        new = backup_loop(mdp, gamma, value)
        change = new - value
        np.testing.assert_allclose(current.extra["iterate"], new, atol=1e-13)
        middle = new + gamma / (1 - gamma) * (change.min() + change.max()) / 2
        middle[mdp.terminal] = 0
        np.testing.assert_allclose(current.value, middle, atol=1e-12)
        half = gamma / (1 - gamma) * (change.max() - change.min()) / 2
        assert current.error_bound == pytest.approx(half, abs=1e-10)
        assert current.residual == pytest.approx((change.max() - change.min()) / 2, abs=1e-12)
        value = new


@pytest.mark.parametrize("seed", [2, 3])
@pytest.mark.parametrize("blocks", [1, 3, 7, 100])
def test_gauss_seidel_is_the_double_loop(seed, blocks):
    mdp, gamma = random_case(seed)
    value = np.zeros(mdp.n_states)
    edges = np.linspace(0, mdp.n_states, min(blocks, mdp.n_states) + 1).astype(int)
    for current in plans(adv.GaussSeidel(blocks=blocks), mdp, 3):
        for first, last in itertools.pairwise(edges):
            value[first:last] = backup_loop(mdp, gamma, value)[first:last]
        new = backup_loop(mdp, gamma, value)
        if not mdp.terminal.any():
            new = new + gamma / (1 - gamma) * ((new - value).min() + (new - value).max()) / 2
        value = new
        np.testing.assert_allclose(current.extra["iterate"], value, atol=1e-11)


@pytest.mark.parametrize(("seed", "batches"), [(2, 2), (2, 7), (2, 100), (3, 2), (3, 3)])
def test_prioritised_value_iteration_is_the_double_loop(seed, batches):
    mdp, gamma = random_case(seed)
    rows = dense(mdp)[0].astype(float)
    value = np.zeros(mdp.n_states)
    batch = -(-mdp.n_states // min(batches, mdp.n_states))
    for current in plans(adv.PrioritisedValueIteration(batches=batches, tolerance=1e-12), mdp, 3):
        change = backup_loop(mdp, gamma, value) - value
        middle = 0.0 if mdp.terminal.any() else (change.min() + change.max()) / 2
        value = value + middle / (1 - gamma)
        priority = np.abs(change - middle)
        for _ in range(-(-mdp.n_states // batch)):
            chosen = [s for s in np.argsort(-priority)[:batch] if priority[s] > 0]
            new = backup_loop(mdp, gamma, value)
            difference = {s: abs(new[s] - value[s]) for s in chosen}
            for s in chosen:
                value[s], priority[s] = new[s], 0.0
            for s in range(mdp.n_states):
                priority[s] += gamma * max(
                    sum(rows[s, a, t] * d for t, d in difference.items()) for a in range(mdp.n_actions)
                )
            residual = np.abs(backup_loop(mdp, gamma, value) - value)
            assert (priority >= residual - 1e-12).all()
        np.testing.assert_allclose(current.extra["iterate"], value, atol=1e-6 * np.abs(value).max())


@pytest.mark.parametrize("seed", [2, 3])
@pytest.mark.parametrize("sweeps", [1, 4])
def test_modified_policy_iteration_is_the_double_loop(seed, sweeps):
    mdp, gamma = random_case(seed)
    value = dense(mdp)[1].max(axis=1).astype(float)
    for current in plans(adv.ModifiedPolicyIteration(sweeps=sweeps, share=0.0, tolerance=1e-15), mdp, 3):
        policy = greedy_loop(mdp, gamma, value)
        value = backup_loop(mdp, gamma, value)
        for _ in range(sweeps):
            value = np.array([q_of(mdp, gamma, value, s, policy[s]) for s in range(mdp.n_states)])
        np.testing.assert_array_equal(current.policy, policy)
        np.testing.assert_allclose(current.extra["iterate"], value, atol=1e-12)


@pytest.mark.parametrize("seed", [2, 3, 5])
@pytest.mark.parametrize("how", ["solve", "sweeps", "automatic"])
def test_policy_iteration_is_the_double_loop(seed, how):
    mdp, gamma = random_case(seed)
    solver = adv.PolicyIteration(evaluation=how)
    policy = solver.start(mdp).policy
    if gamma < 1:
        np.testing.assert_array_equal(policy, dense(mdp)[1].argmax(axis=1))
    for current in plans(solver, mdp, 3):
        value = policy_value(mdp, gamma, policy).astype(float)
        np.testing.assert_allclose(current.extra["iterate"], value, atol=1e-8)
        best = greedy_loop(mdp, gamma, value)
        better = backup_loop(mdp, gamma, value) > value + 1e-7
        policy = np.where(better, best, policy)
        np.testing.assert_array_equal(current.policy, policy)


@SEEDS
def test_the_value_of_a_policy_is_within_its_error(seed):
    mdp, gamma = random_case(seed)
    policy = np.random.default_rng(seed).integers(0, 3, mdp.n_states)
    value = policy_value(mdp, gamma, policy)
    for how in ("solve", "sweeps", "automatic"):
        if how == "sweeps" and gamma == 1:
            continue
        found = evaluate(mdp, gamma, policy, np.ones(mdp.n_states), 1e-8, how)
        assert np.abs(found.value - value).max() <= found.error <= 1e-8


def test_a_policy_that_sweeps_cannot_evaluate_is_solved_for(monkeypatch):
    mdp = random_mdp(np.random.default_rng(0), 8, 2, 0.99, as_sparse=True)
    monkeypatch.setattr(evaluation, "PATIENCE", 1)
    policy = np.zeros(8, np.int32)
    found = evaluate(mdp, 0.99, policy, np.zeros(8), 1e-9)
    assert np.abs(found.value - policy_value(mdp, 0.99, policy)).max() <= found.error <= 1e-9
    monkeypatch.setattr(evaluation, "free_host_bytes", lambda: 0)  # then by sweeps after all
    monkeypatch.setattr(evaluation, "_by_solve", None)
    found = evaluate(mdp, 0.99, policy, np.zeros(8), 1e-9)
    assert np.abs(found.value - policy_value(mdp, 0.99, policy)).max() <= found.error


@SEEDS
def test_backward_induction_is_the_double_loop(seed):
    mdp, gamma = random_case(seed)
    solution = adv.solve(mdp, adv.BackwardInduction(horizon=5))
    value = np.zeros(mdp.n_states)
    np.testing.assert_array_equal(solution.value[5], value)
    for t in reversed(range(5)):
        np.testing.assert_array_equal(solution.policy[t], greedy_loop(mdp, gamma, value))
        if t == 0:
            q = [[q_of(mdp, gamma, value, s, a) for a in range(3)] for s in range(mdp.n_states)]
            np.testing.assert_allclose(solution.action_value, q, atol=1e-12)
        value = backup_loop(mdp, gamma, value)
        assert np.abs(solution.value[t] - value).max() <= solution.error_bound + 1e-14
    assert solution.converged and solution.iterations == 1
    assert 0 < solution.error_bound < 1e-12


@SEEDS
def test_the_occupancy_is_that_of_the_policy(seed):
    mdp, gamma = random_case(seed)
    solution = adv.solve(mdp, adv.LinearProgramming())
    occupancy, going = solution.extra["occupancy"], ~mdp.terminal
    rows, reward = (x.astype(float) for x in dense(mdp))
    n_states = mdp.n_states
    expected, states = np.zeros((n_states, mdp.n_actions)), np.flatnonzero(going)
    chain = rows[states, solution.policy[states]][:, states]
    visits = np.linalg.solve(np.eye(len(states)) - gamma * chain.T, np.full(len(states), 1 / n_states))
    expected[states, solution.policy[states]] = visits
    np.testing.assert_allclose(occupancy[going], expected[going], atol=1e-6)
    assert (occupancy[~going] == 0).all()
    assert (occupancy * reward).sum() == pytest.approx(solution.value.mean(), abs=1e-6)


# -- the average reward ------------------------------------------------------------------------------------------


def gain_of(rows):
    """The stationary distribution, by solving for it."""
    size = len(rows)
    system = np.vstack([rows.T - np.eye(size), np.ones(size)])
    return np.linalg.lstsq(system, np.append(np.zeros(size), 1), rcond=None)[0]


@SEEDS
@pytest.mark.parametrize("as_sparse", [False, True])
def test_the_gain_is_the_best_stationary_one(seed, as_sparse):
    mdp = random_mdp(np.random.default_rng(seed), 4, 3, as_sparse=as_sparse)
    rows, reward = (x.astype(float) for x in dense(mdp))
    states = np.arange(4)
    best = max(
        gain_of(rows[states, list(policy)]) @ reward[states, list(policy)]
        for policy in itertools.product(range(3), repeat=4)
    )
    for current in plans(adv.RelativeValueIteration(tolerance=1e-300), mdp, 80):
        assert abs(current.extra["gain"] - best) <= current.error_bound + 1e-14
    solution = adv.solve(mdp, adv.RelativeValueIteration(tolerance=1e-9))
    assert solution.converged and solution.error_bound <= 1e-9
    assert solution.extra["gain"] == pytest.approx(best, abs=1e-9)
    chain = rows[states, solution.policy]
    assert gain_of(chain) @ reward[states, solution.policy] == pytest.approx(best, abs=1e-8)
    bias = solution.value
    assert bias[0] == 0
    np.testing.assert_allclose((reward + rows @ bias).max(axis=1), best + bias, atol=1e-7)
    np.testing.assert_allclose(solution.action_value.max(axis=1), bias, atol=1e-7)


def test_a_periodic_chain_needs_a_share_of_staying():
    transition = np.array([[[0.0, 1.0]], [[1.0, 0.0]]])
    mdp = adv.MDP(transition, np.array([[0.0], [1.0]]))
    assert not adv.solve(mdp, adv.RelativeValueIteration(stay=0.0), max_iterations=500).converged
    solution = adv.solve(mdp, adv.RelativeValueIteration())
    assert solution.converged
    assert solution.extra["gain"] == pytest.approx(0.5, abs=1e-6)
    assert adv.solve(mdp, adv.RelativeValueIteration(stay=0.5)).iterations < solution.iterations


def test_a_reward_at_the_end_of_a_long_chain_is_found():
    """For as many iterations as there are states the bounds stay as they are; that is no reason to stop."""
    size = 30
    transition = np.zeros((size, 1, size))
    transition[np.arange(size), 0, np.minimum(np.arange(size) + 1, size - 1)] = 1
    reward = np.zeros((size, 1))
    reward[-1] = 1
    mdp = adv.MDP(transition, reward, gamma=0.5)
    assert adv.solve(mdp, adv.RelativeValueIteration()).extra["gain"] == pytest.approx(1, abs=1e-6)
    for solver in DISCOUNTED:
        value = adv.solve(mdp, solver(tolerance=1e-12)).value
        np.testing.assert_allclose(value, 2 * 0.5 ** np.arange(size - 1.0, -1, -1), atol=1e-12)


# -- undiscounted problems ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_sparse", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_the_horizon_is_no_less_than_the_longest_expected_episode(seed, as_sparse):
    """Five states, few successors: some policies end and some do not; all of them are tried."""
    rng = np.random.default_rng(seed)
    transition = np.zeros((5, 2, 5))
    for s, a in np.ndindex(4, 2):
        successors = rng.choice(5, 2, replace=False)
        transition[s, a, successors] = rng.dirichlet(np.ones(2))
    transition[:4, 0, 4] += 0.3
    transition[:4] /= transition[:4].sum(axis=2, keepdims=True)
    transition[4, :, 4] = 1
    terminal = np.arange(5) == 4
    reward = np.zeros((5, 2))
    rows = as_rows(transition, reward)[0] if as_sparse else transition
    mdp = adv.MDP(rows, reward, terminal=terminal, gamma=1.0)

    def steps(policy):
        chain = transition[np.arange(4), policy][:, :4]
        if np.linalg.matrix_power(chain, 100_000).max() > 1e-3:
            return np.inf
        return np.linalg.solve(np.eye(4) - chain, np.ones(4)).max()

    longest = max(steps(list(policy)) for policy in itertools.product(range(2), repeat=4))
    bound = horizon(mdp, 1.0)
    assert bound >= longest
    assert np.isinf(bound) == np.isinf(longest)
    assert horizon(mdp, 0.9) == 0
    assert np.isfinite(steps(proper_policy(mdp)[:4]))


def test_a_proper_policy_takes_the_shortest_way():
    mdp = table("Cliff-v0")
    value = policy_value(mdp, 1.0, proper_policy(mdp))
    assert np.isfinite(value.astype(float)).all()
    assert adv.solve(table("GridWorld4x4-v0"), adv.PolicyIteration()).iterations == 1


@SOLVERS
def test_no_way_to_an_end_is_refused_at_a_discount_of_one(solver):
    mdp = random_mdp(np.random.default_rng(0), gamma=1.0)
    with pytest.raises(ValueError, match=r"no terminal state can be reached from state 0; use gamma below 1"):
        adv.solve(mdp, solver())


# -- refusals and hyperparameters --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("solver", "field", "value"),
    [
        *((solver, "gamma", 1.5) for solver in (*DISCOUNTED, adv.BackwardInduction)),
        *((solver, "tolerance", 0.0) for solver in (*DISCOUNTED, adv.RelativeValueIteration)),
        (adv.GaussSeidel, "blocks", 0),
        (adv.PrioritisedValueIteration, "batches", 0),
        (adv.PolicyIteration, "evaluation", "guess"),
        (adv.ModifiedPolicyIteration, "sweeps", 0),
        (adv.ModifiedPolicyIteration, "share", 1.0),
        (adv.BackwardInduction, "horizon", 0),
        (adv.RelativeValueIteration, "stay", 1.0),
    ],
)
def test_a_value_that_is_not_allowed_is_named(solver, field, value):
    with pytest.raises(ValueError, match=f"{field}={value!r} is not allowed"):
        solver(**{field: value})


def test_no_iterations_are_refused():
    with pytest.raises(ValueError, match="max_iterations=0 is not allowed"):
        adv.solve(table("FrozenLake-v1"), max_iterations=0)


def test_what_does_not_fit_is_refused_before_it_is_allocated(monkeypatch):
    mdp = table("FrozenLake-v1")
    with pytest.raises(ValueError, match=r"10_000_000_000_000 steps in 16 states takes .* TiB"):
        adv.solve(mdp, adv.BackwardInduction(horizon=10**13))
    monkeypatch.setattr(memory, "free_host_bytes", lambda: 100)
    wide = random_mdp(np.random.default_rng(0), as_sparse=True)
    for solver, what in (
        (adv.LinearProgramming(), "linear programme"),
        (adv.PolicyIteration(evaluation="solve"), "sparse factorisation"),
        (adv.PrioritisedValueIteration(), "predecessors"),
    ):
        with pytest.raises(ValueError, match=rf"{what}.*takes .*, and 100 bytes of memory are free; "):
            adv.solve(wide, solver)
    monkeypatch.setattr(memory, "free_host_bytes", lambda: None)  # a system that does not say
    assert adv.solve(wide, adv.LinearProgramming()).converged


@pytest.mark.parametrize(
    ("solver", "field", "value"),
    [
        *((solver, "gamma", 0.5) for solver in (*DISCOUNTED, adv.BackwardInduction)),
        (adv.ValueIteration, "tolerance", 1e-2),
        (adv.GaussSeidel, "tolerance", 1e-2),
        (adv.PrioritisedValueIteration, "tolerance", 1e-2),
        (adv.PolicyIteration, "tolerance", 100.0),
        (adv.ModifiedPolicyIteration, "tolerance", 1e-2),
        (adv.RelativeValueIteration, "tolerance", 1e-2),
        (adv.GaussSeidel, "blocks", 2),
        (adv.PrioritisedValueIteration, "batches", 2),
        (adv.PolicyIteration, "evaluation", "solve"),
        (adv.ModifiedPolicyIteration, "sweeps", 2),
        (adv.ModifiedPolicyIteration, "share", 0.9),
        (adv.BackwardInduction, "horizon", 3),
        (adv.RelativeValueIteration, "stay", 0.6),
    ],
)
def test_every_hyperparameter_does_something(solver, field, value):
    mdp = random_mdp(np.random.default_rng(0), 40, 3, 0.97, as_sparse=True, concentration=0.03)
    default, changed = adv.solve(mdp, solver()), adv.solve(mdp, solver(**{field: value}))
    assert default.value.shape != changed.value.shape or (default.value != changed.value).any()


def test_the_tolerance_of_a_linear_programme_decides_whether_it_converged():
    mdp = random_mdp(np.random.default_rng(0))
    assert adv.solve(mdp, adv.LinearProgramming()).converged
    assert not adv.solve(mdp, adv.LinearProgramming(tolerance=1e-18)).converged


@SOLVERS
def test_a_tolerance_beyond_rounding_ends_all_the_same(solver):
    mdp, _ = random_case(3)
    solution = adv.solve(mdp, solver(tolerance=1e-30), max_iterations=20_000)
    assert not solution.converged
    assert solution.error_bound < 1e-9
    assert solution.iterations < 20_000


# -- one table, however it is stored and cut ---------------------------------------------------------------------


@pytest.mark.parametrize("solver", [*DISCOUNTED, adv.RelativeValueIteration, adv.BackwardInduction])
def test_blocks_and_cores_change_nothing(solver, monkeypatch):
    tables = [random_mdp(np.random.default_rng(1), 50, 3, 0.9, as_sparse=True) for _ in range(2)]
    whole = adv.solve(tables[0], solver())
    monkeypatch.setattr(backups, "CACHED", 7)
    monkeypatch.setattr(backups, "LARGE", 1)
    monkeypatch.setattr(backups, "available_cores", lambda: 3)
    assert len(backups.blocks(tables[1])) == 8
    cut = adv.solve(tables[1], solver())
    np.testing.assert_allclose(whole.value, cut.value, atol=1e-12)
    np.testing.assert_array_equal(whole.policy, cut.policy)
    np.testing.assert_allclose(whole.action_value, cut.action_value, atol=1e-12)


def test_ties_go_to_the_first_action_however_many_there_are():
    values = [np.array([0.0, 1.0]), *(np.array([0.0, 1.0]) for _ in range(299)), np.array([-1.0, 2.0])]
    policy, best = backups.greedy(values)
    np.testing.assert_array_equal(policy, [0, 300])
    np.testing.assert_array_equal(best, [0.0, 2.0])


def test_blocks_lie_in_the_memory_of_the_table():
    mdp = random_mdp(np.random.default_rng(0), 50, 2, as_sparse=True)
    for block in backups.blocks(mdp, 5):
        for rows in block.transition:
            assert np.shares_memory(rows.data, mdp.transition.data)
            assert np.shares_memory(rows.indices, mdp.transition.indices)


@SOLVERS
def test_the_same_table_gives_the_same_numbers_and_stays_as_it_is(solver):
    mdp, _ = random_case(2)
    before = mdp.transition.copy()
    first, second = adv.solve(mdp, solver()), adv.solve(mdp, solver())
    np.testing.assert_array_equal(first.value, second.value)
    assert (mdp.transition != before).nnz == 0


# -- as agents ---------------------------------------------------------------------------------------------------


def test_a_run_that_is_resumed_ends_as_one_that_was_not(tmp_path):
    options = {"eval_episodes": 0, "total_timesteps": 1000}
    solver = adv.ValueIteration(gamma=0.9)
    whole = adv.train(solver, "FrozenLake-v1", out=tmp_path / "whole", **options)
    adv.train(solver, "FrozenLake-v1", out=tmp_path / "run", **(options | {"total_timesteps": 4}))
    rest = adv.resume(tmp_path / "run", total_timesteps=1000)
    assert rest.step == whole.step == adv.solve(table("FrozenLake-v1"), solver).iterations
    agents = [adv.load(run.path) for run in (whole, rest)]
    for field in ("policy", "value"):
        np.testing.assert_array_equal(*(getattr(agent.state, field) for agent in agents))
    assert adv.resume(tmp_path / "run").finished


def test_the_agent_of_a_solver_acts_by_its_policy(tmp_path):
    run = adv.train(adv.PolicyIteration(), "jax/Cliff-v0", out=tmp_path / "run", eval_episodes=3)
    assert run.evaluation.mean == -13
    rows = (tmp_path / "run" / "progress.csv").read_text().splitlines()
    assert rows[0].split(",")[-2:] == ["train/residual", "train/start_value"]


def test_the_average_reward_reports_its_gain(tmp_path):
    mdp = table("RiverSwim-v0")
    adv.train(adv.RelativeValueIteration(), "jax/RiverSwim-v0", out=tmp_path / "run", eval_episodes=0)
    header, *_, last = (tmp_path / "run" / "progress.csv").read_text().splitlines()
    gain = float(dict(zip(header.split(","), last.split(","), strict=True))["train/gain"])
    assert gain == pytest.approx(adv.solve(mdp, adv.RelativeValueIteration()).extra["gain"], abs=1e-12)


def test_a_policy_that_depends_on_the_time_is_not_played(tmp_path):
    with pytest.raises(ValueError, match=r"depends on how many steps are left.*adv\.solve"):
        adv.train(adv.BackwardInduction(), "FrozenLake-v1", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_solvers_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        adv.ValueIteration().gamma = 0.5
