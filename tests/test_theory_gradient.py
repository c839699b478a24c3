"""The exact gradient in both its forms against finite differences, and its natural kind against its closed form."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from random_tables import random_mdp

from advantage import machine as memory
from advantage.environments.tables.mdp import MDP
from advantage.environments.tables.two_arms import two_arms
from advantage.policies.networks import MLP, linear, linear_init
from advantage.theory.objectives import finite_horizon_performance, gain_and_bias
from advantage.theory.policy_evaluation import action_values, advantages, expected_visits, performance, values
from advantage.theory.policy_gradient import (
    finite_horizon_gradient,
    fisher_matrix,
    gain_gradient,
    natural_gradient,
    performance_gradient,
    policy_gradient,
    probabilities,
)

N_STATES, N_ACTIONS = 6, 3
SETTINGS = pytest.mark.parametrize(
    ("gamma", "ends", "as_sparse"),
    [(0.9, False, False), (0.9, True, False), (1.0, True, False), (0.95, False, True), (1.0, True, True)],
)


@cache
def table_of_logits():
    theta = jax.random.normal(jax.random.key(0), (N_STATES, N_ACTIONS))
    return jax.nn.softmax, theta


@cache
def features():
    """Fewer parameters than entries, so that the policy is no free table."""
    x = np.random.default_rng(1).normal(size=(N_STATES, N_ACTIONS, 4))
    return lambda theta: jax.nn.softmax(x @ theta["w"]), {"w": np.random.default_rng(2).normal(size=4)}


@cache
def network():
    body, states = MLP(hidden=(8,)), jnp.eye(N_STATES)
    keys = jax.random.split(jax.random.key(3))
    theta = {
        "body": body.init(keys[0], states),
        "head": linear_init(keys[1], [(8, N_ACTIONS)], [1.0])[0],
    }

    def policy(theta):
        return jax.nn.softmax(linear(theta["head"], body.apply(theta["body"], states)))

    return policy, theta


POLICIES = pytest.mark.parametrize("make", [table_of_logits, features, network])


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def neighbours(policy, theta, step=1e-5):
    """The policy's tables a step ahead and a step behind for each parameter, `[N, S, A]` twice."""
    with jax.enable_x64(True):
        vector, unravel = ravel_pytree(jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), theta))
        tables = jax.jit(jax.vmap(lambda vector: policy(unravel(vector))))
        moves = step * np.eye(len(vector))
        return np.asarray(tables(vector + moves)), np.asarray(tables(vector - moves))


def central_differences(function, policy, theta, step=1e-5):
    """The slopes of a function of the policy's table, one parameter after the other."""
    pairs = zip(*neighbours(policy, theta, step), strict=True)
    return np.array([(function(ahead) - function(behind)) / (2 * step) for ahead, behind in pairs])


@SETTINGS
@POLICIES
def test_both_forms_and_finite_differences_agree(make, gamma, ends, as_sparse):
    policy, theta = make()
    mdp = random_mdp(np.random.default_rng(4), N_STATES, N_ACTIONS, gamma, ends=ends, as_sparse=as_sparse)
    by_solve, by_theorem = performance_gradient(mdp, policy, theta), policy_gradient(mdp, policy, theta)
    assert jax.tree.structure(by_solve) == jax.tree.structure(by_theorem) == jax.tree.structure(theta)
    assert all(leaf.dtype == np.float64 for leaf in jax.tree.leaves((by_solve, by_theorem)))
    size = np.abs(flat(by_solve)).max()
    assert size > 1e-3
    np.testing.assert_allclose(flat(by_solve), flat(by_theorem), rtol=0, atol=1e-12 * size)
    slopes = central_differences(lambda pi: performance(mdp, pi), policy, theta)
    np.testing.assert_allclose(flat(by_solve), slopes, rtol=0, atol=1e-6 * size)


@POLICIES
@pytest.mark.parametrize("as_sparse", [False, True])
def test_the_gradients_of_the_other_objectives(make, as_sparse):
    policy, theta = make()
    mdp = random_mdp(np.random.default_rng(4), N_STATES, N_ACTIONS, 0.5, as_sparse=as_sparse)
    of_sum, of_gain = finite_horizon_gradient(mdp, policy, theta, 5), gain_gradient(mdp, policy, theta)
    for gradient, objective in (
        (of_sum, lambda pi: finite_horizon_performance(mdp, pi, 5)),
        (of_gain, lambda pi: gain_and_bias(mdp, pi)[0]),
    ):
        assert jax.tree.structure(gradient) == jax.tree.structure(theta)
        size = np.abs(flat(gradient)).max()
        assert size > 1e-3
        slopes = central_differences(objective, policy, theta)
        np.testing.assert_allclose(flat(gradient), slopes, rtol=0, atol=1e-6 * size)


@pytest.mark.parametrize(("logit", "slope"), [(-0.2, 0.0), (0.1, 3.0), (0.9, 3.0), (1.3, 0.0)])
def test_a_clamped_parameter_learns_only_within_its_bounds(logit, slope):
    """π(L) = clamp(θ, 0, 1): J = 2 π(L) - (1 - π(L)) rises by 3 per unit, or not at all, even at the worst policy."""

    def policy(theta):
        left = jnp.clip(theta, 0, 1)
        return jnp.tile(jnp.stack([left, 1 - left]), (2, 1))

    mdp, theta = two_arms(2.0, -1.0), np.float64(logit)
    left = float(np.clip(logit, 0, 1))
    np.testing.assert_allclose(probabilities(policy, theta)[0], [left, 1 - left], rtol=1e-15)
    assert performance(mdp, probabilities(policy, theta)) == pytest.approx(3 * left - 1, rel=1e-14)
    for gradient in (performance_gradient, policy_gradient):
        np.testing.assert_allclose(gradient(mdp, policy, theta), slope, rtol=1e-14)


def test_arrays_that_do_not_fit_are_refused(monkeypatch):
    mdp = random_mdp(np.random.default_rng(0), N_STATES, N_ACTIONS)
    theta = np.zeros((N_STATES, N_ACTIONS))
    monkeypatch.setattr(memory, "free_host_bytes", lambda: 18**2 * 8 - 1)
    with pytest.raises(
        ValueError, match=r"∇π has shape \[6, 3, 18\] and takes 2.53 KiB.*2.53 KiB of memory are free"
    ):
        fisher_matrix(mdp, jax.nn.softmax, theta)
    monkeypatch.setattr(memory, "free_host_bytes", lambda: 18**2 * 8)
    fisher_matrix(mdp, jax.nn.softmax, theta)
    sparse = random_mdp(np.random.default_rng(0), N_STATES, N_ACTIONS, as_sparse=True)
    monkeypatch.setattr(memory, "free_host_bytes", lambda: 6 * 6 * 3 * 8 - 1)
    with pytest.raises(
        ValueError, match=r"A dense table of 6 states and 3 actions takes 864 bytes, and 863 bytes"
    ):
        performance_gradient(sparse, jax.nn.softmax, theta)


def test_a_table_of_probabilities_is_a_policy_too():
    """Its gradient is ρ(s) Q(s, a), also where an action is never taken."""
    mdp = random_mdp(np.random.default_rng(5), N_STATES, N_ACTIONS)
    pi = np.eye(N_ACTIONS)[np.arange(N_STATES) % N_ACTIONS]
    expected = expected_visits(mdp, pi)[:, None] * action_values(mdp, values(mdp, pi))
    for gradient in (performance_gradient, policy_gradient):
        np.testing.assert_allclose(gradient(mdp, lambda theta: theta, pi), expected, rtol=1e-12)


def test_with_gamma_one_states_beyond_reach_do_not_matter():
    """Episodes end in state 0; state 2 goes on forever, but the start does not lead there."""
    transition = np.zeros((4, 2, 4))
    transition[0], transition[2] = np.eye(4)[0], np.eye(4)[2]
    transition[1] = [[0, 0.5, 0, 0.5], [0.8, 0.2, 0, 0]]
    transition[3] = [[0.9, 0, 0, 0.1], [0, 1, 0, 0]]
    reward = np.array([[0.0, 0], [1, 2], [7, 8], [3, 4]])
    mdp = MDP(transition, reward, np.eye(4)[1], np.arange(4) == 0, gamma=1.0)
    theta = np.random.default_rng(0).normal(size=(4, 2))
    by_solve, by_theorem = (g(mdp, jax.nn.softmax, theta) for g in (performance_gradient, policy_gradient))
    np.testing.assert_allclose(by_solve, by_theorem, atol=1e-13)
    slopes = central_differences(lambda pi: performance(mdp, pi), jax.nn.softmax, theta)
    np.testing.assert_allclose(by_solve.ravel(), slopes, atol=1e-7)
    assert np.isfinite(natural_gradient(mdp, jax.nn.softmax, theta)).all()


@SETTINGS
@POLICIES
def test_fisher_is_the_sum_of_its_definition(make, gamma, ends, as_sparse):
    policy, theta = make()
    mdp = random_mdp(np.random.default_rng(4), N_STATES, N_ACTIONS, gamma, ends=ends, as_sparse=as_sparse)
    pi, visits = probabilities(policy, theta), expected_visits(mdp, probabilities(policy, theta))
    weight = visits if gamma == 1 else (1 - gamma) * visits
    scores, expected = central_differences(np.log, policy, theta), 0
    for state, action in np.ndindex(pi.shape):
        score = scores[:, state, action]
        expected += weight[state] * pi[state, action] * np.outer(score, score)
    matrix = fisher_matrix(mdp, policy, theta)
    np.testing.assert_allclose(matrix, expected, rtol=0, atol=1e-8)
    np.testing.assert_allclose(matrix, matrix.T, rtol=0, atol=1e-15)
    assert np.linalg.eigvalsh(matrix).min() > -1e-14
    natural = flat(natural_gradient(mdp, policy, theta))
    np.testing.assert_allclose(matrix @ natural, flat(policy_gradient(mdp, policy, theta)), atol=1e-11)


@SETTINGS
def test_the_natural_gradient_of_a_table_is_the_advantage(gamma, ends, as_sparse):
    policy, theta = table_of_logits()
    mdp = random_mdp(np.random.default_rng(6), N_STATES, N_ACTIONS, gamma, ends=ends, as_sparse=as_sparse)
    pi = probabilities(policy, theta)
    expected = advantages(mdp, pi) / (1 if gamma == 1 else 1 - gamma)
    difference = natural_gradient(mdp, policy, theta) - expected
    difference -= difference.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(difference, 0, atol=1e-10 * np.abs(expected).max())


def test_parameters_of_any_type_are_taken_as_float64():
    mdp = random_mdp(np.random.default_rng(7), N_STATES, N_ACTIONS)
    theta = np.arange(N_STATES * N_ACTIONS).reshape(N_STATES, N_ACTIONS) % 4
    expected = performance_gradient(mdp, jax.nn.softmax, theta.astype(float))
    for dtype in (np.int32, np.float32):
        found = performance_gradient(mdp, jax.nn.softmax, jnp.asarray(theta, dtype))
        np.testing.assert_array_equal(found, expected)
    assert jnp.zeros(1).dtype == np.float32  # and nothing else computes in float64 afterwards


def test_a_policy_that_computes_in_float32_is_refused():
    with pytest.raises(ValueError, match="policy returned float32"):
        probabilities(lambda theta: jax.nn.softmax(theta.astype(jnp.float32)), np.zeros((2, 2)))
    mdp = random_mdp(np.random.default_rng(7), N_STATES, N_ACTIONS)
    with pytest.raises(ValueError, match=r"policy\[0\] sums to"):
        performance_gradient(mdp, jnp.exp, np.ones((N_STATES, N_ACTIONS)))


def test_the_gradient_of_a_large_sparse_world():
    """The theorem needs no dense table; a direction's slope is checked."""
    mdp = random_mdp(np.random.default_rng(8), 300, 2, as_sparse=True, concentration=0.02)
    rng = np.random.default_rng(9)
    theta, direction = rng.normal(size=(2, 300, 2))
    slope = (policy_gradient(mdp, jax.nn.softmax, theta) * direction).sum()
    ahead, behind = (
        performance(mdp, probabilities(jax.nn.softmax, theta + step * direction)) for step in (1e-5, -1e-5)
    )
    assert slope == pytest.approx((ahead - behind) / 2e-5, rel=1e-6)
