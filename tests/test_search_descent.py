"""Evolution strategies, augmented random search and finite differences: their gradients and steps by definition."""

import itertools

import numpy as np
import pytest
from search_problems import SPSA, ask, begin, doubles, quadratic, search, tell

from advantage.algorithms.search.evolution_strategy import EvolutionStrategy, smoothed_gradient
from advantage.algorithms.search.finite_differences import FiniteDifferences
from advantage.algorithms.search.random_search import AugmentedRandomSearch

D = 4
COST, A, B = quadratic(D)
X0 = np.array([1.0, -2.0, 0.5, 3.0])


def wavy(x):
    """Smooth, with third and fourth derivatives."""
    return np.sin(x).sum(-1) + x[..., 0] ** 3 * x[..., 1] / 4


def slope(x):
    gradient = np.cos(x)
    gradient[0] += 3 * x[0] ** 2 * x[1] / 4
    gradient[1] += x[0] ** 3 / 4
    return gradient


# --- evolution strategies -----------------------------------------------------------------------------------------


@doubles
def test_the_estimate_is_the_smoothed_gradient_of_a_quadratic():
    """A x + b, smoothed or not: exactly where sum eps eps^T is n times the identity, else within its error."""
    step = 0.3 * np.sqrt(D) * np.eye(D)
    x = X0 + np.concatenate([step, -step])
    np.testing.assert_allclose(smoothed_gradient(x, COST(x), 0.3), A @ X0 + B, rtol=1e-12)
    method = EvolutionStrategy(candidates=4000, sigma=0.3)
    x = np.asarray(ask(method, begin(method, X0), np.array([0, 0])))
    np.testing.assert_allclose((x[:2000] + x[2000:]) / 2, np.tile(X0, (2000, 1)), rtol=1e-12)
    eps = (x[:2000] - X0) / 0.3
    each = (COST(x[:2000]) - COST(x[2000:]))[:, None] * eps / 0.6
    error = each.std(0) / np.sqrt(2000)
    estimate = np.asarray(smoothed_gradient(x, COST(x), 0.3))
    np.testing.assert_allclose(estimate, each.mean(0), rtol=1e-10)
    assert (np.abs(estimate - (A @ X0 + B)) < 4 * error).all()
    assert (error < 0.1 * np.linalg.norm(A @ X0 + B)).all()


def ranked(cost):
    return np.array([((cost < c).sum() - (cost > c).sum()) / (2 * (len(cost) - 1)) for c in cost])


SHAPED = {
    "centred-ranks": ranked,
    "standardised": lambda c: (c - c.mean()) / c.std(),
    "none": lambda c: c,
}


@pytest.mark.parametrize("shaping", SHAPED)
@doubles
def test_steps_of_an_evolution_strategy_are_those_of_the_definition(shaping):
    sigma, rate, decay, n = 0.2, 0.05, 0.3, 12
    method = EvolutionStrategy(
        candidates=n, sigma=sigma, learning_rate=rate, weight_decay=decay, shaping=shaping
    )
    _, course = search(method, lambda x: np.round(wavy(x), 1), X0, 5)
    theta, first, second = X0.copy(), np.zeros(D), np.zeros(D)
    for t in range(5):
        u, gradient = SHAPED[shaping](course.cost[t]), np.zeros(D)
        for x, weight in zip(course.x[t], u, strict=True):
            gradient += weight * (x - theta) / sigma / (n * sigma)
        gradient += decay * theta
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        unbiased = first / (1 - 0.9 ** (t + 1)), second / (1 - 0.999 ** (t + 1))
        theta = theta - rate * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
        np.testing.assert_allclose(course.state.mean[t], theta, rtol=1e-7)
    assert EvolutionStrategy(sigma=sigma).spread(begin(method, X0)) == sigma


# --- augmented random search --------------------------------------------------------------------------------------


@pytest.mark.parametrize("top", [None, 3])
@doubles
def test_steps_of_augmented_random_search_are_those_of_the_paper(top):
    N, alpha, nu = 8, 0.7, 0.1
    method = AugmentedRandomSearch(directions=N, top_directions=top, learning_rate=alpha, sigma=nu)
    _, course = search(method, wavy, X0, 5)
    M, b = X0.copy(), top or N
    for t in range(5):
        deltas = [(course.x[t, k] - M) / nu for k in range(N)]
        pairs = [(-wavy(M + nu * delta), -wavy(M - nu * delta)) for delta in deltas]
        best = sorted(range(N), key=lambda k: -max(pairs[k]))[:b]
        sigma_r = np.std([r for k in best for r in pairs[k]])
        for k in best:
            M = M + alpha / (b * sigma_r) * (pairs[k][0] - pairs[k][1]) * deltas[k]
        np.testing.assert_allclose(course.state.mean[t], M, rtol=1e-8)
        M = course.state.mean[t].copy()
    draws = np.concatenate([course.x[t, :N] - (X0 if t == 0 else course.state.mean[t - 1]) for t in range(5)])
    assert draws.std() == pytest.approx(nu, rel=0.2)
    assert method.spread(course.state) == nu


# --- finite differences -------------------------------------------------------------------------------------------


def estimated(method, cost, x0=X0):
    """The gradient that a step of length 1 shows."""
    state = begin(method, x0)
    x = np.asarray(ask(method, state, np.array([1, 0])))
    return x0 - np.asarray(tell(method, state, x, cost(x)).mean)


def differences(difference, width=0.1, **options):
    return FiniteDifferences(difference=difference, width=width, learning_rate=1.0, **options)


@doubles
def test_forward_differences_are_exact_on_lines_and_central_ones_on_parabolas():
    np.testing.assert_allclose(estimated(differences("forward"), lambda x: x @ B - 3), B, rtol=1e-11)
    np.testing.assert_allclose(estimated(differences("central"), COST), A @ X0 + B, rtol=1e-11)
    bias = estimated(differences("forward"), COST) - (A @ X0 + B)
    np.testing.assert_allclose(bias, 0.1 * np.diagonal(A) / 2, rtol=1e-10)


@pytest.mark.parametrize(("difference", "order"), [("forward", 1), ("central", 2)])
@doubles
def test_half_the_width_has_a_half_or_a_quarter_of_the_error(difference, order):
    errors = [estimated(differences(difference, width), wavy) - slope(X0) for width in (0.02, 0.01, 0.005)]
    for larger, smaller in itertools.pairwise(errors):
        np.testing.assert_allclose(larger / smaller, 2.0**order, rtol=0.05)


@doubles
def test_the_mean_of_all_simultaneous_perturbations_is_the_gradient_of_a_quadratic():
    method = differences(SPSA, directions=2**D)
    signs = np.array(list(itertools.product([-1.0, 1.0], repeat=D)))
    x = X0 + 0.1 * np.concatenate([signs, -signs])
    mean = X0 - tell(method, begin(method, X0), x, COST(x)).mean
    np.testing.assert_allclose(mean, A @ X0 + B, rtol=1e-10)


@doubles
def test_simultaneous_perturbations_are_signs_and_their_gradient_is_that_of_the_definition():
    method = differences(SPSA, directions=500)
    state = begin(method, X0)
    x = np.asarray(ask(method, state, np.array([2, 0])))
    signs = (x[:500] - X0) / 0.1
    np.testing.assert_allclose(np.abs(signs), 1, rtol=1e-10)
    np.testing.assert_allclose(x[500:] - X0, -0.1 * signs, rtol=1e-10)
    np.testing.assert_allclose(signs.T @ signs / 500, np.eye(D), atol=0.2)
    expected = np.zeros(D)
    for up, down, sign in zip(x[:500], x[500:], signs, strict=True):
        expected += (wavy(up) - wavy(down)) / (2 * 0.1 * sign) / 500
    np.testing.assert_allclose(X0 - tell(method, state, x, wavy(x)).mean, expected, rtol=1e-8)
    assert method.population(D) == 1000
    assert FiniteDifferences(difference=SPSA).population(D) == 2


@pytest.mark.parametrize(
    ("options", "rate", "width"),
    [
        (dict(difference=SPSA, stability=10.0), lambda k: 0.2 / (10 + k) ** 0.602, lambda k: 0.3 / k**0.101),
        (
            dict(difference=SPSA, learning_rate_power=1.0, width_power=0.25),
            lambda k: 0.2 / k,
            lambda k: 0.3 / k**0.25,
        ),
        (dict(difference="forward"), lambda k: 0.2, lambda k: 0.3),
        (
            dict(difference="central", learning_rate_power=0.5, width_power=0.5, stability=2.0),
            lambda k: 0.2 / (2 + k) ** 0.5,
            lambda k: 0.3 / k**0.5,
        ),
    ],
    ids=["SPSA with a stability", "SPSA with powers", "forward", "central with powers"],
)
@doubles
def test_gains_follow_their_sequences(options, rate, width):
    """On a line the gradient is b whatever the width, or for one perturbation (b^T D) D."""
    method = FiniteDifferences(**options, learning_rate=0.2, width=0.3)
    _, course = search(method, lambda x: x @ B, X0, 6)
    x = X0
    for k in range(1, 7):
        offset = course.x[k - 1, -1] - x
        far = np.abs(offset).max()
        assert far == pytest.approx(width(k))
        gradient = (offset @ B) * offset / far**2 if options["difference"] == SPSA else B
        x = x - rate(k) * gradient
        np.testing.assert_allclose(course.state.mean[k - 1], x, rtol=1e-9)
        if k < 6:
            state = type(course.state)(*(leaf[k - 1] for leaf in course.state))
            assert method.spread(state) == pytest.approx(width(k + 1))


def test_in_float32_quotients_are_over_the_distance_that_was_rounded():
    """At 1000 numbers are 6e-5 apart, so that a width of 1e-3 is wrong by 3 % as it was meant."""
    x0 = np.full(2, 1000.0, np.float32)
    gradient = estimated(differences("central", 1e-3), lambda x: x[..., 0] - 1000 + 0 * x[..., 1], x0)
    assert gradient[0] == pytest.approx(1, rel=1e-3)
    assert estimated(differences("central", 1e-6), lambda x: x[..., 0], x0).tolist() == [0, 0]
