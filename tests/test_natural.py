"""Natural steps: the Fisher matrix three ways for every family, its inverse by products, and the line search."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_tables import random_mdp

from advantage.objectives.natural_steps import (
    backtracking,
    conjugate_gradient,
    fisher_vector_product,
    kl_hessian_vector_product,
)
from advantage.policies.distributions import Bernoulli, Categorical, Gaussian, Product, SquashedGaussian
from advantage.theory.policy_evaluation import advantages
from advantage.theory.policy_gradient import fisher_matrix, natural_gradient, policy_gradient, probabilities

STATES, FEATURES = 3, 2
fisher_product = jax.jit(fisher_vector_product, static_argnums=0)
LOW, HIGH = np.array([-1.0, 2.0]), np.array([1.0, 5.0])


# --- the Fisher matrix, for every family ----------------------------------------------------------------------

# Each takes the outputs of a linear layer `[S, 4]` and a shared vector `[2]`: some families leave parts unused.
FAMILIES = {
    "categorical": lambda z, shared: Categorical(z),
    "gaussian": lambda z, shared: Gaussian(z[..., :2], shared),
    "state-dependent gaussian": lambda z, shared: Gaussian(z[..., :2], z[..., 2:]),
    "squashed": lambda z, shared: SquashedGaussian(z[..., :2], shared, LOW, HIGH),
    "state-dependent squashed": lambda z, shared: SquashedGaussian(z[..., :2], z[..., 2:], LOW, HIGH),
    "bernoulli": lambda z, shared: Bernoulli(z),
    "product": lambda z, shared: Product(
        (Categorical(z[..., :3]), Product((Gaussian(z[..., 2:], shared), Bernoulli(z[..., 1:3]))))
    ),
}


@functools.cache
def points():
    """Gauss-Hermite in two dimensions, for a standard normal; exact to degree 7, and products of scores have 4."""
    node, weight = np.polynomial.hermite_e.hermegauss(4)
    nodes = np.stack(np.meshgrid(node, node, indexing="ij"), -1).reshape(-1, 2)
    return nodes, np.outer(weight, weight).ravel() / (2 * np.pi)


def outcomes(distribution):
    """Every action of a batch, or nodes of a quadrature: `[(action [S, ...], probability [S])]`."""
    states = distribution.entropy().shape
    if isinstance(distribution, Product):
        parts = [outcomes(part) for part in distribution.parts]
        return [
            (tuple(action for action, _ in chosen), functools.reduce(lambda a, b: a * b[1], chosen, 1.0))
            for chosen in itertools.product(*parts)
        ]
    if isinstance(distribution, Categorical | Bernoulli):
        size = distribution.logits.shape[-1]
        coins = itertools.product([0, 1], repeat=size)
        every = range(size) if isinstance(distribution, Categorical) else coins
        actions = [np.broadcast_to(np.array(a), (*states, *np.shape(a))) for a in every]
        return [(action, np.exp(distribution.log_prob(action))) for action in actions]
    nodes, weights = points()
    return [
        (distribution.sample(node), np.full(states, weight))
        for node, weight in zip(nodes, weights, strict=True)
    ]


@functools.cache
def three_matrices(name):
    """`-> E[g g^T] by enumeration, F from its products, the Hessian of the KL from its products`, in float64."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(STATES, FEATURES))
    # Spreads near exp(-1), so that a squashed action stays within what can be inverted.
    theta = np.concatenate([0.4 * rng.normal(size=FEATURES * 4), [-1.0, -0.7]])

    def distribution_of(theta):
        z = x @ theta[:-2].reshape(FEATURES, 4) - np.array([0, 0, 1.0, 1.0])
        return FAMILIES[name](z, theta[-2:])

    actions, probability = (
        jax.tree.map(lambda *leaves: np.stack(leaves), *column)
        for column in zip(*outcomes(distribution_of(theta)), strict=True)
    )
    np.testing.assert_allclose(probability.sum(0), 1, rtol=1e-12)
    with jax.enable_x64(True):

        @jax.jit
        def matrices(theta):
            scores = jax.vmap(
                jax.jacrev(lambda theta, action: distribution_of(theta).log_prob(action)), (None, 0)
            )(theta, actions)
            expected = jnp.einsum("ks,ksi,ksj->ij", probability, scores, scores) / STATES
            eye = jnp.eye(len(theta))
            fisher, hessian = (
                jax.vmap(functools.partial(product, distribution_of, theta))(eye)
                for product in (fisher_vector_product, kl_hessian_vector_product)
            )
            return expected, fisher, hessian

        return tuple(np.asarray(matrix) for matrix in matrices(theta))


@pytest.mark.parametrize("name", FAMILIES)
def test_fisher_is_the_scores_covariance_and_the_hessian_of_the_kl(name):
    expected, fisher, hessian = three_matrices(name)
    np.testing.assert_allclose(fisher, expected, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(hessian, fisher, rtol=1e-9, atol=1e-11)
    assert np.abs(fisher).max() > 0.05


@pytest.mark.parametrize("name", FAMILIES)
def test_fisher_is_symmetric_and_positive(name):
    _, fisher, _ = three_matrices(name)
    np.testing.assert_allclose(fisher, fisher.T, atol=1e-14)
    assert np.linalg.eigvalsh(fisher).min() > -1e-13
    assert np.trace(fisher) > 0


def test_a_parameter_that_a_single_state_has_counts_once():
    """The shared spread of one state: the axis that broadcasting adds, and the one of size one that it does not."""
    for shape in ((2,), (1, 2)):
        theta, vector = np.full(shape, 0.2, np.float32), np.ones(shape, np.float32)
        product = fisher_product(lambda log_std: Gaussian(jnp.zeros((7, 2)), log_std), theta, vector)
        np.testing.assert_allclose(product, 2 * vector, rtol=1e-6)


# --- the natural gradient -------------------------------------------------------------------------------------


def test_the_natural_gradient_of_a_table_of_logits_is_the_advantage():
    """`A(s, a) / (1 - gamma)`: solved by conjugate gradients on products over the states as they are visited."""
    mdp = random_mdp(np.random.default_rng(3), 4, 3, gamma=0.8)
    theta = np.random.default_rng(4).normal(size=(4, 3))
    pi = probabilities(jax.nn.softmax, theta)
    closed = advantages(mdp, pi) / (1 - mdp.gamma)
    gradient, matrix = (
        np.ravel(policy_gradient(mdp, jax.nn.softmax, theta)),
        fisher_matrix(mdp, jax.nn.softmax, theta),
    )
    solved = solve(matrix.astype(np.float32), gradient.astype(np.float32), 30)
    direction = np.asarray(solved.x).reshape(4, 3)
    # The matrix says nothing about a constant in each state; the advantage's mean under the policy is zero.
    centred = direction - (pi * direction).sum(1, keepdims=True)
    np.testing.assert_allclose(centred, closed, rtol=1e-3, atol=1e-4)
    exact = np.asarray(natural_gradient(mdp, jax.nn.softmax, theta))
    np.testing.assert_allclose(exact - (pi * exact).sum(1, keepdims=True), closed, rtol=1e-9, atol=1e-12)


def test_products_over_sampled_states_are_the_matrix_of_their_frequencies():
    """A state that was seen twice counts twice: the mean is over the batch."""
    theta = np.random.default_rng(4).normal(size=(4, 3)).astype(np.float32)
    batch, v = np.array([0, 0, 0, 1, 2, 2]), np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
    product = fisher_product(lambda theta: Categorical(theta[batch]), theta, v)
    pi, frequency = probabilities(jax.nn.softmax, theta), np.array([3, 1, 2, 0]) / 6
    expected = frequency[:, None] * pi * (v - (pi * v).sum(1, keepdims=True))
    np.testing.assert_allclose(product, expected, atol=1e-6)


# --- conjugate gradients --------------------------------------------------------------------------------------


def positive(rng, size, condition):
    """A symmetric matrix whose eigenvalues go from 1 to `condition`."""
    basis = np.linalg.qr(rng.normal(size=(size, size)))[0]
    return (basis * np.logspace(0, np.log10(condition), size)) @ basis.T


@functools.partial(jax.jit, static_argnames="iterations")
def solve(matrix, b, iterations, tolerance=1e-10):
    return conjugate_gradient(lambda v: matrix @ v, b, iterations, tolerance)


@pytest.mark.parametrize("seed", range(3))
def test_conjugate_gradients_are_exact_after_as_many_iterations_as_dimensions(seed):
    rng = np.random.default_rng(seed)
    matrix, b = positive(rng, 12, 30), rng.normal(size=12)
    with jax.enable_x64(True):
        solved = solve(jnp.asarray(matrix), jnp.asarray(b), 12, 0.0)
    np.testing.assert_allclose(solved.x, np.linalg.solve(matrix, b), rtol=1e-7)
    assert solved.iterations == 12


def test_conjugate_gradients_stop_at_their_tolerance_and_at_once_where_nothing_is_to_solve():
    rng = np.random.default_rng(0)
    matrix, b = positive(rng, 12, 30), rng.normal(size=12)
    with jax.enable_x64(True):
        rough = solve(jnp.asarray(matrix), jnp.asarray(b), 50, 1e-4)
        nothing = solve(jnp.asarray(matrix), jnp.zeros(12), 50, 1e-4)
        one = solve(jnp.eye(12), jnp.asarray(b), 50, 1e-4)
        large = solve(jnp.asarray(matrix), jnp.asarray(1e6 * b), 50, 1e-4)
    rough, nothing, one, large = jax.device_get((rough, nothing, one, large))
    size = np.linalg.norm(b)
    assert 1e-5 * size < rough.residual < 1e-2 * size
    assert rough.iterations == large.iterations < 12
    np.testing.assert_array_equal(nothing.x, 0)
    assert (nothing.iterations, nothing.residual) == (0, 0)
    assert one.iterations == 1


@pytest.mark.parametrize("condition", [10, 1e3, 1e6])
def test_the_residual_that_is_reported_is_the_true_one(condition):
    """Also where float32 has lost what the recursion believes."""
    rng = np.random.default_rng(1)
    matrix, b = positive(rng, 40, condition).astype(np.float32), rng.normal(size=40).astype(np.float32)
    for iterations in (1, 5, 40, 150):
        solved = solve(matrix, b, iterations)
        true = np.linalg.norm(np.float64(matrix) @ np.float64(solved.x) - b)
        scale = np.linalg.norm(np.float64(matrix), 2) * np.linalg.norm(solved.x)
        assert float(solved.residual) == pytest.approx(true, rel=1e-3, abs=1e-7 * scale), iterations


# --- the line search ------------------------------------------------------------------------------------------

START, STEP = jnp.float32([0.3, -1 / 3, 1e-8]), jnp.float32([2.0, 1.0, 4.0])


@functools.partial(jax.jit, static_argnames=("acceptable", "attempts"))
def search(acceptable, shrink, attempts):
    return backtracking(acceptable, START, STEP, shrink, attempts)


def shortened_at_least(times):
    return lambda point: jnp.linalg.norm(point - START) <= 1.0001 * 0.5**times * jnp.linalg.norm(STEP)


@pytest.mark.parametrize("times", [0, 1, 4])
def test_the_first_acceptable_point_is_taken(times):
    found = search(shortened_at_least(times), 0.5, 5)
    assert found.accepted
    assert found.shortened == times
    np.testing.assert_allclose(found.point, START + 0.5**times * STEP, rtol=1e-6)


def test_a_gap_is_not_skipped():
    """Points 1 and 3 would do; 1 comes first."""
    sizes = jnp.float32([0.5, 0.125]) * jnp.linalg.norm(STEP)
    found = search(lambda point: (jnp.abs(jnp.linalg.norm(point - START) - sizes) < 1e-3).any(), 0.5, 9)
    assert found.shortened == 1


@pytest.mark.parametrize(
    "acceptable",
    [
        lambda point: jnp.asarray(False),
        shortened_at_least(5),
        lambda point: jnp.log(-jnp.abs(point - START).sum()) < 1,  # NaN, which no comparison is true of
        lambda point: (point * jnp.nan).sum() <= 1,
    ],
    ids=["never", "too short a search", "not a number", "a broken network"],
)
def test_a_search_that_fails_ends_bit_for_bit_where_it_began(acceptable):
    found = search(acceptable, 0.5, 5)
    assert not found.accepted
    np.testing.assert_array_equal(np.asarray(found.point).view(np.int32), np.asarray(START).view(np.int32))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_step_that_is_not_finite_is_never_taken(bad):
    """Even by a criterion that forgot to look."""
    found = backtracking(lambda point: jnp.asarray(True), START, STEP.at[1].set(bad), 0.5, 3)
    assert not found.accepted
    np.testing.assert_array_equal(found.point, START)
