"""Returns and advantages against their textbook definitions, summed forward in float64, by episode."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advantage.estimators.returns import (
    credit,
    discounted_returns,
    explained_variance,
    gae,
    lambda_returns,
    n_step_returns,
    standardise,
    td_errors,
)
from advantage.estimators.reward_scale import reward_scale_init, reward_scale_update, scale_reward

SHAPES = [(1, 1), (1, 4), (2, 1), (7, 3), (30, 4)]
CASES = 12  # rollouts of each shape, each with its own pattern of ends
GAMMA, LAM = 0.97, 0.9


class Facts:
    """Random rollouts `[T, CASES, B]`: rewards, ends, and values of every state, of the true successors too.

    Case 0 has no end at all, case 1 ends everywhere, the others end at random; a step may terminate and be
    truncated at once.
    """

    def __init__(self, shape, seed=0):
        rng = np.random.default_rng(seed)
        num_steps, num_envs = shape
        self.shape = (num_steps, CASES, num_envs)
        rates = rng.uniform(0, 0.5, (2, 1, CASES, 1))
        rates[:, :, 0], rates[:, :, 1] = 0, 0.7
        self.terminated, self.truncated = rng.uniform(size=(2, *self.shape)) < rates
        self.done = self.terminated | self.truncated
        self.reward = rng.normal(size=self.shape).astype(np.float32)
        self.value = (3 * rng.normal(size=self.shape)).astype(np.float32)
        successor = (3 * rng.normal(size=self.shape)).astype(np.float32)
        later = np.concatenate([self.value[1:], successor[-1:]])
        self.next_value = np.where(self.done, successor, later)  # the reset state's value is value[t + 1]

    def coefficients(self, gamma=GAMMA, lam=LAM):
        """`discount` and `trace`, as an algorithm makes them."""
        discount = np.float32(gamma) * (1 - self.terminated.astype(np.float32))
        return discount, np.float32(lam) * (1 - self.done.astype(np.float32))

    def define(self, definition):
        """`definition(facts of one environment from t to the end of its episode)` for every start time."""
        result = np.zeros(self.shape)
        for t, case, env in np.ndindex(self.shape):
            ends = np.flatnonzero(self.done[t:, case, env])
            stop = t + ends[0] + 1 if len(ends) else self.shape[0]
            facts = (self.reward, self.value, self.next_value, self.terminated)
            reward, value, next_value, terminated = (x[t:stop, case, env].tolist() for x in facts)
            result[t, case, env] = definition(reward, value, next_value, terminated[-1])
        return result


def n_step(reward, next_value, terminated, n, gamma):
    """Sutton & Barto 2018, eq. 7.1: n rewards, or all there are, then the value unless the end is final."""
    n = min(n, len(reward))
    total = sum(gamma**k * reward[k] for k in range(n))
    final = terminated and n == len(reward)
    return total if final else total + gamma**n * next_value[n - 1]


def lambda_return(reward, next_value, terminated, gamma, lam):
    """Sutton & Barto 2018, eq. 12.3: n-step returns weighted (1 - lam) lam^(n - 1), the last by the rest."""
    last = len(reward)
    returns = [n_step(reward, next_value, terminated, n, gamma) for n in range(1, last + 1)]
    weighted = sum((1 - lam) * lam ** (n - 1) * returns[n - 1] for n in range(1, last))
    return weighted + lam ** (last - 1) * returns[-1]


def td_error(k, reward, value, next_value, terminated, gamma):
    """r + gamma V(s') - V(s), without V(s') where the MDP ended."""
    final = terminated and k == len(reward) - 1
    return reward[k] + (0 if final else gamma * next_value[k]) - value[k]


def advantage(reward, value, next_value, terminated, gamma, lam):
    """Schulman et al. 2016, eq. 16: TD errors weighted by (gamma lam)^k up to the episode's end."""
    facts = reward, value, next_value, terminated, gamma
    return sum((gamma * lam) ** k * td_error(k, *facts) for k in range(len(reward)))


@pytest.fixture(params=SHAPES, ids=lambda shape: f"T={shape[0]},B={shape[1]}")
def facts(request):
    return Facts(request.param)


def close(actual, expected, tolerance=3e-5):
    assert actual.shape == expected.shape
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


# --- definitions --------------------------------------------------------------------------------------------


def test_credit_is_the_sum_of_every_later_delta_times_the_coefficients_between():
    rng = np.random.default_rng(1)
    for num_steps, columns in itertools.product((1, 2, 16, 17, 48), (1, 3)):
        delta = rng.normal(size=(num_steps, columns)).astype(np.float32)
        discount, c = rng.uniform(0, 1, (2, num_steps, columns)).astype(np.float32)
        initial = rng.normal(size=columns).astype(np.float32)
        expected = np.zeros((num_steps, columns))
        for t in range(num_steps):
            weight = np.ones(columns)
            for k in range(t, num_steps):
                expected[t] += weight * delta[k]
                weight = weight * discount[k] * c[k]
            expected[t] += weight * initial
        close(credit(delta, discount, c, initial), expected)


def test_a_single_column_is_that_of_many():
    """Its rows go by strides of sixteen: ends of episodes fall before, on and after the ends of strides."""
    facts = Facts((48, 2), seed=3)
    assert set(np.argwhere(facts.done)[:, 0] % 16) == set(range(16))
    discount, trace = facts.coefficients()
    rows = facts.reward, discount, facts.value, facts.next_value, trace
    together = gae(*rows)
    for case, env in np.ndindex(facts.shape[1:]):
        alone = gae(*(x[:, case, env] for x in rows))
        close(alone, together[:, case, env])
        close(gae(*(x[:, case, env, None] for x in rows))[:, 0], alone)


def test_credit_takes_a_sequence_without_batch_axes():
    delta = jnp.array([1.0, 2.0, 4.0])
    close(credit(delta, 0.5 * jnp.ones(3), jnp.ones(3), 8.0), np.array([4.0, 6.0, 8.0]))


@pytest.mark.parametrize(("gamma", "lam"), [(GAMMA, LAM), (0.5, 0.3), (1.0, 1.0), (1.0, 0.5), (0.9, 0.0)])
def test_gae_is_the_sum_of_discounted_td_errors_up_to_the_end_of_the_episode(facts, gamma, lam):
    discount, trace = facts.coefficients(gamma, lam)
    actual = gae(facts.reward, discount, facts.value, facts.next_value, trace)
    expected = facts.define(lambda r, v, n, terminated: advantage(r, v, n, terminated, gamma, lam))
    close(actual, expected)


def test_td_errors_drop_the_successors_value_only_where_the_mdp_ended(facts):
    discount, _ = facts.coefficients()
    actual = td_errors(facts.reward, discount, facts.value, facts.next_value)
    expected = facts.define(lambda r, v, n, _: td_error(0, r, v, n, False, GAMMA))
    expected = np.where(facts.terminated, facts.reward.astype(np.float64) - facts.value, expected)
    close(actual, expected)


@pytest.mark.parametrize(("gamma", "lam"), [(GAMMA, LAM), (0.5, 0.3), (1.0, 1.0), (0.9, 0.0)])
def test_lambda_returns_are_the_weighted_n_step_returns(facts, gamma, lam):
    discount, trace = facts.coefficients(gamma, lam)
    actual = lambda_returns(facts.reward, discount, facts.next_value, trace)
    expected = facts.define(lambda r, _, n, terminated: lambda_return(r, n, terminated, gamma, lam))
    close(actual, expected)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 40])
def test_n_step_returns_are_n_discounted_rewards_and_a_value(facts, n):
    discount, trace = facts.coefficients(lam=1)
    actual = n_step_returns(facts.reward, discount, facts.next_value, trace, n)
    expected = facts.define(lambda r, _, v, terminated: n_step(r, v, terminated, n, GAMMA))
    close(actual, expected)


@pytest.mark.parametrize("terminated", [True, False])
@pytest.mark.parametrize("num_steps", [1, 2, 25])
def test_discounted_returns_are_the_sum_of_an_episodes_discounted_rewards(num_steps, terminated):
    rng = np.random.default_rng(num_steps)
    reward, value = rng.normal(size=(2, num_steps, 3)).astype(np.float32)
    discount = np.full((num_steps, 3), GAMMA, np.float32)
    discount[-1] *= not terminated
    expected = np.zeros((num_steps, 3))
    for t in range(num_steps):
        for env in range(3):
            rest, after = reward[t:, env].tolist(), value[t:, env].tolist()
            expected[t, env] = n_step(rest, after, terminated, num_steps, GAMMA)
    close(discounted_returns(reward, discount, value), expected)


def test_n_below_one_is_an_error_that_says_what_to_use():
    one = jnp.ones((3, 1))
    with pytest.raises(ValueError, match=r"n=0 .*use a whole number of 1 or more"):
        n_step_returns(one, one, one, one, 0)


# --- identities ---------------------------------------------------------------------------------------------


def test_without_a_trace_gae_is_the_td_error(facts):
    discount, trace = facts.coefficients(lam=0)
    td = td_errors(facts.reward, discount, facts.value, facts.next_value)
    advantage = gae(facts.reward, discount, facts.value, facts.next_value, trace)
    np.testing.assert_allclose(advantage, td, rtol=1e-6, atol=1e-6)  # a compiled product and sum round once


def test_with_a_full_trace_gae_is_monte_carlo_minus_the_value(facts):
    discount, trace = facts.coefficients(lam=1)
    expected = facts.define(
        lambda r, v, n, terminated: n_step(r, n, terminated, len(r), GAMMA) - v[0],
    )
    close(gae(facts.reward, discount, facts.value, facts.next_value, trace), expected)


def test_gae_plus_the_value_is_the_lambda_return(facts):
    discount, trace = facts.coefficients()
    actual = gae(facts.reward, discount, facts.value, facts.next_value, trace) + facts.value
    close(actual, np.float64(lambda_returns(facts.reward, discount, facts.next_value, trace)))


def test_one_step_returns_are_td_targets(facts):
    discount, trace = facts.coefficients(lam=1)
    actual = n_step_returns(facts.reward, discount, facts.next_value, trace, 1)
    np.testing.assert_array_equal(actual, facts.reward + discount * facts.next_value)
    np.testing.assert_array_equal(
        lambda_returns(facts.reward, discount, facts.next_value, 0 * trace), np.asarray(actual)
    )


def test_more_steps_than_the_rollout_has_give_the_return_of_a_full_trace(facts):
    discount, trace = facts.coefficients(lam=1)
    actual = n_step_returns(facts.reward, discount, facts.next_value, trace, facts.shape[0] + 3)
    close(actual, np.float64(lambda_returns(facts.reward, discount, facts.next_value, trace)))


def test_without_a_future_every_return_is_the_reward(facts):
    discount, trace = facts.coefficients(gamma=0)
    for actual in (
        lambda_returns(facts.reward, discount, facts.next_value, trace),
        n_step_returns(facts.reward, discount, facts.next_value, trace, 3),
        discounted_returns(facts.reward, discount, facts.next_value),
        gae(facts.reward, discount, 0 * facts.value, facts.next_value, trace),
    ):
        np.testing.assert_array_equal(actual, facts.reward)


def test_promise_1_a_truncated_step_bootstraps_from_its_successor_and_a_terminated_one_does_not(facts):
    discount, trace = facts.coefficients()
    shifted = facts.next_value + np.float32(10) * facts.done
    for function in (
        lambda v: gae(facts.reward, discount, facts.value, v, trace),
        lambda v: lambda_returns(facts.reward, discount, v, trace),
        lambda v: n_step_returns(facts.reward, discount, v, np.sign(trace), 2),
    ):
        change = np.asarray(function(shifted) - function(facts.next_value))[facts.done]
        expected = np.where(facts.terminated, 0, 10 * GAMMA)[facts.done]
        np.testing.assert_allclose(change, expected, atol=1e-4)


def test_promise_1_the_value_of_the_observation_after_a_reset_changes_no_earlier_target(facts):
    discount, trace = facts.coefficients()
    after_reset = np.concatenate([np.zeros_like(facts.done[:1]), facts.done[:-1]])
    poisoned = np.where(after_reset, np.float32(1e6), facts.value)
    clean = np.asarray(gae(facts.reward, discount, facts.value, facts.next_value, trace))
    actual = np.asarray(gae(facts.reward, discount, poisoned, facts.next_value, trace))
    np.testing.assert_array_equal(actual[~after_reset], clean[~after_reset])
    np.testing.assert_allclose(actual[after_reset], -1e6, rtol=1e-4)


# --- the scale of rewards -----------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.0, 0.9, 1.0])
def test_the_reward_scale_is_the_deviation_of_a_return_that_each_environment_carries(gamma):
    rng = np.random.default_rng(3)
    num_envs = 3
    scale, carried, seen = reward_scale_init(num_envs), np.zeros(num_envs), []
    for num_steps in (1, 7, 1, 7):
        reward = (2 + 3 * rng.normal(size=(num_steps, num_envs))).astype(np.float32)
        done = rng.uniform(size=reward.shape) < 0.3
        for t in range(num_steps):
            for env in range(num_envs):
                carried[env] = reward[t, env] + gamma * carried[env]
                seen.append(carried[env])
                if done[t, env]:
                    carried[env] = 0
        scale = reward_scale_update(scale, jnp.asarray(reward), jnp.asarray(done), gamma)
        np.testing.assert_allclose(scale.running_return, carried, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(scale.moments.variance.value, np.var(seen), rtol=1e-5)
        assert scale.moments.count.value == len(seen)
        probe = jnp.array([-1.0, 0.0, 0.25, 100.0])
        expected = np.clip(np.array([-1.0, 0.0, 0.25, 100.0]) / np.std(seen), -10, 10)
        np.testing.assert_allclose(scale_reward(scale, probe, 10.0), expected, rtol=1e-5)


def test_before_anything_is_seen_a_reward_is_only_clipped():
    actual = scale_reward(reward_scale_init(2), jnp.array([-7.0, -2.0, 0.5, 9.0]), 5.0)
    np.testing.assert_allclose(actual, [-5.0, -2.0, 0.5, 5.0], rtol=1e-6)


def test_scaling_keeps_the_sign_and_the_order_of_rewards():
    rng = np.random.default_rng(4)
    reward = jnp.asarray(50 + rng.normal(size=(40, 2)).astype(np.float32))  # a mean far from zero
    scale = reward_scale_update(reward_scale_init(2), reward, jnp.zeros((40, 2), bool), 0.99)
    probe = jnp.linspace(-100, 100, 41)
    scaled = np.asarray(scale_reward(scale, probe, 1e6))
    np.testing.assert_array_equal(np.sign(scaled), np.sign(probe))
    np.testing.assert_allclose(scaled, np.asarray(probe) * scaled[-1] / 100, rtol=1e-5)


@pytest.mark.parametrize("constant", [0.0, 1.0, -1e4])
def test_constant_rewards_keep_the_scale_finite(constant):
    scale = reward_scale_init(1)
    for _ in range(5):
        reward, done = jnp.full((1, 1), constant), jnp.ones((1, 1), bool)
        scale = reward_scale_update(scale, reward, done, 0.99)
        scaled = scale_reward(scale, reward, 10.0)
        assert jnp.isfinite(jnp.stack(jax.tree.leaves(scale.moments))).all()
        np.testing.assert_array_equal(scaled, np.clip(1e4 * constant, -10, 10))


# --- summaries ----------------------------------------------------------------------------------------------


def test_standardised_samples_have_mean_zero_and_deviation_one():
    x = (5 + 3 * np.random.default_rng(5).normal(size=(7, 9))).astype(np.float32)
    exact = (x.astype(np.float64) - x.mean(dtype=np.float64)) / x.std(dtype=np.float64)
    close(standardise(jnp.asarray(x)), exact, 1e-5)


def test_a_single_sample_and_equal_samples_become_zero():
    np.testing.assert_array_equal(standardise(jnp.array([3.7])), [0.0])
    np.testing.assert_array_equal(standardise(jnp.full(64, 2.5)), np.zeros(64))


def test_explained_variance_is_one_for_a_perfect_critic_zero_for_a_constant_and_less_for_a_worse_one():
    target = np.random.default_rng(6).normal(size=200).astype(np.float32)
    noise = np.random.default_rng(7).normal(size=200).astype(np.float32)
    np.testing.assert_allclose(explained_variance(target, target), 1, rtol=1e-6)
    np.testing.assert_allclose(
        explained_variance(target + 4, target), 1, rtol=1e-5
    )  # a bias explains nothing away
    np.testing.assert_allclose(explained_variance(np.full(200, 3.0, np.float32), target), 0, atol=1e-5)
    np.testing.assert_allclose(explained_variance(-target, target), -3, rtol=1e-5)
    expected = 1 - np.var((noise - target).astype(np.float64)) / np.var(target.astype(np.float64))
    np.testing.assert_allclose(explained_variance(noise, target), expected, rtol=1e-4)
    assert np.isfinite(explained_variance(noise, np.ones(200, np.float32)))
