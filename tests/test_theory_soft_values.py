"""Soft values against their Bellman equation, the values of their policy, and their limits."""

import dataclasses

import numpy as np
import pytest
from random_tables import random_mdp, random_policy

from advantage.theory.policy_evaluation import action_values, values
from advantage.theory.soft_values import soft_value_iteration


def soft_values_of(mdp, policy, alpha):
    """The values of a policy whose entropy is part of the reward, by linear algebra."""
    entropy = -(policy * np.log(np.maximum(policy, 1e-300))).sum(1) * ~mdp.terminal
    rewards = np.where(mdp.terminal[:, None], 0.0, mdp.expected_reward + alpha * entropy[:, None])
    return values(dataclasses.replace(mdp, reward=rewards), policy)


@pytest.mark.parametrize("as_sparse", [False, True])
@pytest.mark.parametrize("ends", [False, True])
def test_it_solves_the_soft_bellman_equation_and_no_policy_is_better(ends, as_sparse):
    rng, alpha = np.random.default_rng(0), 0.3
    mdp = random_mdp(rng, ends=ends, as_sparse=as_sparse)
    value, q, policy = soft_value_iteration(mdp, alpha)
    running = ~mdp.terminal
    np.testing.assert_allclose(q[running], action_values(mdp, value)[running], atol=1e-9)
    np.testing.assert_allclose(value[running], alpha * np.log(np.exp(q / alpha).sum(1))[running], atol=1e-9)
    assert (value[~running] == 0).all()
    np.testing.assert_allclose(policy.sum(1), 1)
    np.testing.assert_allclose(value, soft_values_of(mdp, policy, alpha), atol=1e-8)
    for _ in range(20):
        other = random_policy(rng, mdp.n_states, mdp.n_actions)
        assert (soft_values_of(mdp, 0.9 * policy + 0.1 * other, alpha) <= value + 1e-9).all()


def test_without_temperature_it_is_the_best_value():
    mdp = random_mdp(np.random.default_rng(1))
    value, q, policy = soft_value_iteration(mdp, 1e-6)
    np.testing.assert_allclose(value, q.max(1), atol=1e-5)
    np.testing.assert_allclose(values(mdp, policy), value, atol=1e-4)


def test_large_rewards_end_at_the_limit_of_rounding():
    mdp = random_mdp(np.random.default_rng(2))
    large = dataclasses.replace(mdp, reward=1e12 * mdp.expected_reward)
    value, *_ = soft_value_iteration(large, 1e12 * 0.3)
    np.testing.assert_allclose(value / 1e12, soft_value_iteration(mdp, 0.3)[0], rtol=1e-9)


def test_a_myopic_table_needs_one_step():
    mdp = random_mdp(np.random.default_rng(3), gamma=0.0)
    value, q, _ = soft_value_iteration(mdp, 0.3)
    np.testing.assert_allclose(q, mdp.expected_reward)
    np.testing.assert_allclose(value, 0.3 * np.log(np.exp(q / 0.3).sum(1)))


def test_what_has_no_soft_values_is_refused():
    mdp = random_mdp(np.random.default_rng(4))
    with pytest.raises(ValueError, match="need gamma below 1"):
        soft_value_iteration(dataclasses.replace(mdp, gamma=1.0), 0.3)
    with pytest.raises(ValueError, match="alpha=0.0 is not allowed"):
        soft_value_iteration(mdp, 0.0)
    with pytest.raises(ValueError, match="tolerance=nan is not allowed"):
        soft_value_iteration(mdp, 0.3, tolerance=float("nan"))
