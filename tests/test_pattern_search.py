"""Pattern search: what it evaluates and in which order, where it ends, and what the mesh says of the gradient."""

import numpy as np
import pytest
from search_problems import doubles, quadratic, rosenbrock, search, sphere, tell

from advantage.algorithms.search.pattern_search import PatternSearch


def stairs(x):
    """Steps of a half: many points cost the same."""
    return np.abs(np.floor(2 * x)).sum(-1)


def holes(x):
    """Rosenbrock's function where the first coordinate is not above 1, else no number."""
    return np.where(x[..., 0] > 1, np.nan, rosenbrock(x))


def hooke_jeeves(cost, x0, step, contraction, minimum_step, evaluations):
    """The procedure as its authors wrote it: yields each point it evaluates, and the base point and step by then."""
    seen = []

    def S(x):
        seen.append((x.copy(), psi.copy(), step))
        value = cost(x)
        return value if np.isfinite(value) else np.inf

    def explore(phi, value):
        for k in range(len(phi)):
            phi[k] += step
            trial = S(phi)
            if trial < value:
                value = trial
                continue
            phi[k] -= 2 * step
            trial = S(phi)
            if trial < value:
                value = trial
            else:
                phi[k] += step
        return value

    psi = x0.copy()
    S_psi = S(psi)
    while len(seen) < evaluations:
        phi = psi.copy()
        value = explore(phi, S_psi)
        if value >= S_psi:
            if step < minimum_step:
                break
            step *= contraction
        while value < S_psi:
            theta, psi, S_psi = psi, phi.copy(), value
            phi = 2 * psi - theta
            value = explore(phi, S(phi))
    return seen[:evaluations]


def compass(cost, x0, step, contraction, expansion, minimum_step, polls):
    """Base point, its cost and step after each poll: the first has x0 in place of its first neighbour."""
    x, value = x0.copy(), np.inf
    for poll in range(polls):
        around = [x + step * e for e in np.eye(len(x))] + [x - step * e for e in np.eye(len(x))]
        if poll == 0:
            around[0] = x
        costs = [c if np.isfinite(c) else np.inf for c in map(cost, around)]
        best = costs.index(min(costs))
        better = costs[best] < value
        if better:
            x, value = around[best], costs[best]
        if poll > 0:
            step = step * expansion if better else 0.0 if step < minimum_step else step * contraction
        yield x, value, step


# Halves and quarters, so that float64 makes no rounding errors, and every decision is the same.
PROBLEMS = {
    "rosenbrock": (rosenbrock, [-1.25, 1.0], 250),
    "sphere": (sphere, [1.75, -2.5], 200),
    "stairs": (stairs, [3.5, -2.25], 150),
    "no numbers": (holes, [-0.5, 2.0], 200),
}


@pytest.mark.parametrize("problem", PROBLEMS)
@doubles
def test_hooke_and_jeeves_evaluate_what_the_procedure_does_in_its_order(problem):
    cost, x0, evaluations = PROBLEMS[problem]
    x0 = np.array(x0)
    expected = hooke_jeeves(cost, x0, 0.5, 0.5, 2.0**-12, evaluations)
    state, course = search(PatternSearch(minimum_step=2.0**-12), cost, x0, len(expected))
    assert len(expected) > 70
    np.testing.assert_array_equal(course.x[:, 0], [x for x, _, _ in expected])
    np.testing.assert_array_equal(course.state.mean[:-1], [base for _, base, _ in expected[1:]])
    np.testing.assert_array_equal(course.state.step[:-1], [step for _, _, step in expected[1:]])
    assert state.cost == np.nanmin(course.cost) or problem != "sphere"


@doubles
def test_a_search_of_hooke_and_jeeves_that_has_ended_stands_still():
    x0 = np.array([1.75, -2.625])
    expected = hooke_jeeves(sphere, x0, 0.5, 0.5, 2.0**-5, 10**6)
    n = len(expected)
    state, course = search(PatternSearch(minimum_step=2.0**-5), sphere, x0, n + 20)
    assert course.state.step[n - 2] == 2.0**-6
    assert (course.state.step[n - 1 :] == 0).all()
    np.testing.assert_array_equal(course.x[n:, 0], np.tile(state.mean, (20, 1)))
    assert sphere(state.mean) < 2 * 2.0**-10


@pytest.mark.parametrize("expansion", [None, 2.0])
@pytest.mark.parametrize("problem", PROBLEMS)
@doubles
def test_compass_search_is_that_of_the_definition(problem, expansion):
    cost, x0, _ = PROBLEMS[problem]
    method = PatternSearch(variant="compass", expansion=expansion, minimum_step=2.0**-6)
    x0 = np.array(x0)
    expected = list(compass(cost, x0, 0.5, 0.5, expansion or 1.0, 2.0**-6, 60))
    _, course = search(method, cost, x0, 60)
    for name, values in zip(("mean", "cost", "step"), zip(*expected, strict=True), strict=True):
        np.testing.assert_array_equal(getattr(course.state, name), values)
    np.testing.assert_array_equal(course.x[0, 0], x0)
    if problem == "sphere" and expansion is None:
        assert course.state.step[-1] == 0


def failures(course):
    """Where no step helped, before rounding decides: points, and the steps that did not."""
    step = course.state.step
    fails = np.flatnonzero((step[1:] < step[:-1]) & (step[:-1] > 1e-4))
    return course.state.mean[fails + 1], step[fails]


@pytest.mark.parametrize("d", [2, pytest.param(5, marks=pytest.mark.slow)])
@pytest.mark.parametrize("variant", ["hooke-jeeves", "compass"])
@doubles
def test_where_no_step_helps_the_gradient_is_as_small_as_the_mesh_says(variant, d):
    """sqrt(d) L Delta / 2, for a quadratic whose gradient has the Lipschitz constant L, and for a smooth other one."""
    cost, A, b = quadratic(d, seed=d)

    def smooth(x):
        return np.log(np.cosh(x - 1)).sum(-1) + np.log(np.cosh(x[..., :1] + x[..., 1:2]))[..., 0]

    def slope(x):
        gradient = np.tanh(x - 1)
        gradient[:, :2] += np.tanh(x[:, :1] + x[:, 1:2])
        return gradient

    generations = 200 * d if variant == "hooke-jeeves" else 150
    for f, gradient, lipschitz in (
        (cost, lambda x: x @ A + b, np.linalg.eigvalsh(A)[-1]),
        (smooth, slope, 3.0),
    ):
        _, course = search(PatternSearch(variant=variant, step=1.0), f, np.full(d, 2.0), generations)
        points, steps = failures(course)
        assert len(points) >= 6
        norms = np.linalg.norm(gradient(points), axis=1)
        assert (norms <= np.sqrt(d) * lipschitz * steps / 2).all()
        assert norms[-1] < 0.1 * norms[0]


def test_a_pattern_move_is_twice_the_last_step_and_is_taken_back_where_it_fails():
    method = PatternSearch(step=1.0)
    valley = [
        0.0,
        -1.0,
        -2.0,
        -3.0,
    ]  # costs of x0, a step up, the pattern move from 1 to 2, a step up from there

    def at(x):
        return np.interp(x[..., 0], [-10, 0, 1, 2, 3, 4, 5, 9], [9, *valley, 0.0, 7.0, 9.0])

    _, course = search(method, at, np.zeros(1, np.float32), 14)
    # x0; up; pattern 2; up 3; pattern 5; up 6, down 4; taken back: up 4, down 2; half a step: up, down; a quarter
    assert course.x.ravel().tolist() == [0, 1, 2, 3, 5, 6, 4, 4, 2, 3.5, 2.5, 3.25, 2.75, 3.125]
    assert course.state.mean.ravel().tolist() == [0, 1, 1, 3] + [3] * 10


@doubles
def test_a_lucky_cost_is_remembered():
    method = PatternSearch(variant="compass")
    state, course = search(method, sphere, np.ones(2), 3)
    worse = tell(method, state, course.x[-1], np.full(4, state.cost))
    assert worse.mean.tolist() == state.mean.tolist()
    assert worse.step == state.step / 2
