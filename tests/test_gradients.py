"""Estimates of the gradient of an expectation: no bias in any family, and who has the least variance."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advantage.estimators.expectation_gradients import (
    importance_gradients,
    pathwise_gradients,
    score_function_gradients,
)
from advantage.policies.distributions import Bernoulli, Categorical, Gaussian, Product, SquashedGaussian

SAMPLES, SEED = 40_000, 0
LOW, HIGH = np.float32([-1.0, -2.0]), np.float32([1.0, 3.0])
CURVE, GOAL = np.float32([1.0, 0.5]), np.float32([0.5, -1.0])
PAY = np.float32([1.0, -2.0, 0.5])


def quadratic(x):
    return (CURVE * jnp.square(x - GOAL)).sum()


def paid(action):
    return jnp.take(PAY, action)


def coins(action):
    """Not a sum over the coins."""
    return 1.0 + 3.0 * action[0] * action[1] - 2.0 * action[1]


def both(action):
    return paid(action[0]) * quadratic(action[1])


# family -> of parameters, the size of its noise, f, parameters of p, parameters of q
CASES = {
    "gaussian": (
        lambda p: Gaussian(p["mean"], p["log_std"]),
        2,
        quadratic,
        {"mean": np.float32([0.3, 0.2]), "log_std": np.float32([-0.5, 0.1])},
        {"mean": np.float32([0.5, 0.0]), "log_std": np.float32([-0.2, 0.3])},
    ),
    "squashed": (
        lambda p: SquashedGaussian(p["mean"], p["log_std"], LOW, HIGH),
        2,
        quadratic,
        {"mean": np.float32([0.3, 0.2]), "log_std": np.float32([-0.5, -0.9])},
        {"mean": np.float32([0.2, 0.3]), "log_std": np.float32([-0.4, -0.7])},
    ),
    "categorical": (
        lambda p: Categorical(p["logits"]),
        3,
        paid,
        {"logits": np.float32([0.5, -0.5, 1.0])},
        {"logits": np.float32([0.0, 0.0, 0.3])},
    ),
    "bernoulli": (
        lambda p: Bernoulli(p["logits"]),
        2,
        coins,
        {"logits": np.float32([0.5, -0.5])},
        {"logits": np.float32([0.0, 0.2])},
    ),
    "product": (
        lambda p: Product((Categorical(p["logits"]), Gaussian(p["mean"], p["log_std"]))),
        ((Categorical, 3), (Gaussian, 2)),
        both,
        {
            "logits": np.float32([0.5, -0.5, 1.0]),
            "mean": np.float32([0.3, 0.2]),
            "log_std": np.float32([-0.5, 0.1]),
        },
        {
            "logits": np.float32([0.0, 0.0, 0.3]),
            "mean": np.float32([0.5, 0.0]),
            "log_std": np.float32([-0.2, 0.3]),
        },
    ),
}
MOVING = ("gaussian", "squashed")


def expected_quadratic(params):
    """`Σ c ((mean - goal)^2 + std^2)`."""
    return (CURVE * (jnp.square(params["mean"] - GOAL) + jnp.exp(2 * params["log_std"]))).sum()


def expected_squashed(params):
    """By quadrature: a sum of functions of one number each."""
    node, weight = np.polynomial.hermite_e.hermegauss(60)
    u = params["mean"] + jnp.exp(params["log_std"]) * node[:, None]
    action = LOW + (HIGH - LOW) * (jnp.tanh(u) + 1) / 2
    return (weight[:, None] / weight.sum() * CURVE * jnp.square(action - GOAL)).sum()


def expected_pay(params):
    return jax.nn.softmax(params["logits"]) @ PAY


def expected_coins(params):
    p = jax.nn.sigmoid(params["logits"])
    return sum(
        jnp.prod(jnp.where(np.array(shown), p, 1 - p)) * coins(np.array(shown))
        for shown in itertools.product([0, 1], repeat=2)
    )


EXPECTED = {
    "gaussian": expected_quadratic,
    "squashed": expected_squashed,
    "categorical": expected_pay,
    "bernoulli": expected_coins,
    "product": lambda params: expected_pay(params) * expected_quadratic(params),
}


@functools.cache
def estimates(name):
    """`-> {estimator: per-sample gradients}, the exact gradient`, float64 NumPy."""
    distribution_of, size, f, params, other = CASES[name]

    @jax.jit
    def all_of_them(params, other):
        noise = distribution_of(params).noise(jax.random.key(SEED), (SAMPLES,), size)
        found = {
            "score": score_function_gradients(distribution_of, params, f, noise),
            "importance": importance_gradients(distribution_of, params, distribution_of(other), f, noise),
        }
        if name in MOVING:
            found["pathwise"] = pathwise_gradients(distribution_of, params, f, noise)
        return found, jax.grad(EXPECTED[name])(params)

    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), jax.device_get(all_of_them(params, other)))


@pytest.mark.parametrize(
    ("name", "estimator"),
    [
        (name, estimator)
        for name in CASES
        for estimator in ("score", "importance", "pathwise")
        if estimator != "pathwise" or name in MOVING
    ],
)
def test_the_mean_is_the_exact_gradient(name, estimator):
    found, exact = estimates(name)
    assert jax.tree.structure(found[estimator]) == jax.tree.structure(exact)
    for samples, truth in zip(*map(jax.tree.leaves, (found[estimator], exact)), strict=True):
        assert samples.shape == (SAMPLES, *truth.shape)
        error = samples.std(0) / np.sqrt(SAMPLES)
        assert (np.abs(samples.mean(0) - truth) < 3 * error + 1e-6).all()
        assert (error < 0.1 * max(np.abs(truth).max(), 0.3)).all(), "too few samples to tell"


def test_the_exact_gradient_of_the_quadratic_is_its_closed_form():
    params = CASES["gaussian"][3]
    _, exact = estimates("gaussian")
    np.testing.assert_allclose(exact["mean"], 2 * CURVE * (params["mean"] - GOAL), rtol=1e-5)
    np.testing.assert_allclose(exact["log_std"], 2 * CURVE * np.exp(2 * params["log_std"]), rtol=1e-5)


def test_the_path_has_less_variance_than_the_score_on_a_quadratic_and_importance_more():
    """Of the mean, the path's is `4 c^2 std^2`."""
    found, _ = estimates("gaussian")
    variance = {
        kind: np.concatenate([leaf.var(0) for leaf in jax.tree.leaves(tree)]) for kind, tree in found.items()
    }
    assert (variance["pathwise"] < 0.7 * variance["score"]).all()
    spread = 4 * CURVE**2 * np.exp(2 * CASES["gaussian"][3]["log_std"])
    np.testing.assert_allclose(found["pathwise"]["mean"].var(0), spread, rtol=0.03)
    assert not np.allclose(variance["importance"], variance["score"], rtol=0.05)


def test_samples_from_the_distribution_itself_need_no_weight():
    distribution_of, size, f, params, _ = CASES["product"]
    distribution = distribution_of(params)
    noise = distribution.noise(jax.random.key(0), (5,), size)
    pair = (
        score_function_gradients(distribution_of, params, f, noise),
        importance_gradients(distribution_of, params, distribution, f, noise),
    )
    for here, there in zip(*map(jax.tree.leaves, pair), strict=True):
        np.testing.assert_array_equal(here, there)
    action = distribution.sample(jax.tree.map(lambda leaf: leaf[2], noise))
    score = np.eye(3)[action[0]] - np.asarray(jax.nn.softmax(params["logits"]))
    np.testing.assert_allclose(pair[0]["logits"][2], both(action) * score, rtol=1e-4)


@pytest.mark.parametrize("name", ["categorical", "bernoulli", "product"])
def test_samples_that_jump_have_no_path(name):
    distribution_of, size, f, params, _ = CASES[name]
    noise = distribution_of(params).noise(jax.random.key(0), (5,), size)
    family = "Bernoulli" if name == "bernoulli" else "Categorical"
    with pytest.raises(ValueError, match=f"{family} has no pathwise gradient.*use score_function_gradients"):
        pathwise_gradients(distribution_of, params, f, noise)
