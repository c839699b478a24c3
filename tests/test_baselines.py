"""Baselines: their definitions as loops over other episodes, no bias at all, and the least variance."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_tables import random_mdp
from scipy.special import log_softmax

from advantage.estimators.baselines import mean_baseline, optimal_baseline, time_mean_baseline
from advantage.theory.policy_gradient import finite_horizon_gradient

STATES, ACTIONS, HORIZON = 4, 3, 4
mean_of, time_mean_of, optimal_of = map(jax.jit, (mean_baseline, time_mean_baseline, optimal_baseline))


# --- definitions ----------------------------------------------------------------------------------------------


def random_episodes(seed, steps=60):
    """Episodes of random lengths, in no order: returns, episode, time, used, scores."""
    rng = np.random.default_rng(seed)
    lengths = []
    while sum(lengths) < steps:
        lengths.append(min(int(rng.integers(1, 12)), steps - sum(lengths)))
    numbers = rng.permutation(steps)[: len(lengths)]  # no more than below `steps`: not dense
    episode = np.concatenate([np.full(n, number) for n, number in zip(lengths, numbers, strict=True)])
    time = np.concatenate([np.arange(n) + rng.integers(0, 4) * (rng.random() < 0.5) for n in lengths])
    used = rng.random(steps) < 0.7
    returns, scores = rng.normal(3, 2, steps), rng.normal(size=(steps, 5))
    order = rng.permutation(steps)
    return tuple(x[order] for x in (returns, episode, time, used, scores))


def mean_over(values, default=0.0):
    return sum(values) / len(values) if values else default


@pytest.mark.parametrize("seed", range(3))
def test_a_mean_is_over_the_used_steps_of_all_other_episodes(seed):
    returns, episode, _, used, _ = random_episodes(seed)
    expected = [
        mean_over([returns[j] for j in range(60) if used[j] and episode[j] != episode[i]]) for i in range(60)
    ]
    actual = mean_of(returns.astype(np.float32), episode, used)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_a_mean_for_each_time_is_over_the_same_step_of_all_other_episodes(seed):
    returns, episode, time, used, _ = random_episodes(seed)
    expected = [
        mean_over(
            [returns[j] for j in range(60) if used[j] and episode[j] != episode[i] and time[j] == time[i]]
        )
        for i in range(60)
    ]
    actual = time_mean_of(returns.astype(np.float32), episode, time.astype(np.int32), used)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_the_optimal_baseline_is_a_quotient_of_moments_over_all_other_episodes(seed):
    returns, episode, _, used, scores = random_episodes(seed)
    scores = scores * used[:, None]
    expected = np.zeros((60, 5))
    for i in range(60):
        others = [j for j in range(60) if used[j] and episode[j] != episode[i]]
        for p in range(5):
            square = [scores[j, p] ** 2 for j in others]
            expected[i, p] = sum(g * returns[j] for g, j in zip(square, others, strict=True)) / sum(square)
    actual = optimal_of(scores.astype(np.float32), returns.astype(np.float32), episode)
    np.testing.assert_allclose(actual, expected, rtol=2e-4, atol=1e-4)


@pytest.mark.parametrize("used", [True, False])
def test_without_another_episode_there_is_no_baseline(used):
    returns, episode, time = jnp.full(60, 7.0), jnp.full(60, 3), jnp.arange(60)
    mask, scores = jnp.full(60, used), used * jnp.linspace(-1, 1, 300).reshape(60, 5)
    for baseline in (
        mean_of(returns, episode, mask),
        time_mean_of(returns, episode, time, mask),
        optimal_of(scores, returns, episode),
    ):
        np.testing.assert_array_equal(baseline, 0)


def test_a_parameter_that_only_one_episode_moves_has_no_optimal_baseline_there():
    """What rounding leaves of the other episodes' squares is nothing to divide by."""
    scores = np.array([[1000.1, 1.0], [777.3, 2.0], [0.0, 1.0]], np.float32)
    baseline = optimal_of(scores, np.float32([5, 6, 7]), np.array([0, 0, 2]))
    np.testing.assert_array_equal(baseline[:2, 0], 0)
    np.testing.assert_allclose(baseline[:, 1], [7, 7, (5 + 4 * 6) / 5], rtol=1e-6)
    np.testing.assert_allclose(
        baseline[2, 0], (1000.1**2 * 5 + 777.3**2 * 6) / (1000.1**2 + 777.3**2), rtol=1e-5
    )


# --- no bias, and the least variance --------------------------------------------------------------------------


@functools.cache
def table():
    """A table that pays at least about 2 a step, and logits: `-> mdp, theta`."""
    rng = np.random.default_rng(0)
    mdp = random_mdp(rng, STATES, ACTIONS, gamma=1.0)
    return type(mdp)(mdp.transition, mdp.reward + 2, start=mdp.start, gamma=1.0), rng.normal(
        size=(STATES, ACTIONS)
    )


def draw(rng, probability):
    return (probability.cumsum(-1) < rng.random((*probability.shape[:-1], 1))).sum(-1)


@functools.cache
def sampled(batches, episodes):
    """Episodes of HORIZON steps: scores `[K, E, T, P]` and rewards `[K, E, T]`, float64."""
    mdp, theta = table()
    rng, pi = np.random.default_rng(1), np.exp(log_softmax(theta, -1))
    state = draw(rng, np.broadcast_to(mdp.start, (batches, episodes, STATES)))
    scores, rewards = [], []
    for _ in range(HORIZON):
        action = draw(rng, pi[state])
        chosen = np.eye(STATES * ACTIONS)[state * ACTIONS + action]
        rest = (np.eye(STATES)[state][..., None] * pi).reshape(*state.shape, -1)
        scores.append(chosen - rest)
        rewards.append(mdp.reward[state, action])
        state = draw(rng, mdp.transition[state, action])
    return np.stack(scores, 2), np.stack(rewards, 2)


BASELINES = {
    "none": lambda score, returns, episode, time, used: jnp.zeros((len(returns), 1)),
    "mean": lambda score, returns, episode, time, used: mean_baseline(returns, episode, used)[:, None],
    "time-mean": lambda score, returns, episode, time, used: time_mean_baseline(returns, episode, time, used)[
        :, None
    ],
    "optimal": lambda score, returns, episode, time, used: optimal_baseline(score, returns, episode),
}


@functools.partial(jax.jit, static_argnames="name")
@functools.partial(jax.vmap, in_axes=(None, 0, 0, None, None))
def weighted(name, score, returns, episode, time):
    """`g (R - b)` of every row, `[K, N, P]`."""
    baseline = BASELINES[name](score, returns, episode, time, jnp.ones(len(returns), bool))
    return score * (returns[:, None] - baseline)


def episode_rows(batches, episodes):
    """One row for each episode: `-> scores [K, E, P], returns [K, E], episode, time`."""
    scores, rewards = sampled(batches, episodes)
    return scores.sum(2), rewards.sum(2), np.arange(episodes), np.zeros(episodes, int)


def step_rows(batches, episodes):
    """One row for each step: `-> scores [K, E T, P], returns to go [K, E T], episode, time`."""
    scores, rewards = sampled(batches, episodes)
    to_go = rewards[..., ::-1].cumsum(-1)[..., ::-1]
    episode, time = np.divmod(np.arange(episodes * HORIZON), HORIZON)
    return scores.reshape(batches, -1, scores.shape[-1]), to_go.reshape(batches, -1), episode, time


def exact():
    mdp, theta = table()
    return np.ravel(finite_horizon_gradient(mdp, jax.nn.softmax, theta, HORIZON))


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("rows", [episode_rows, step_rows])
def test_no_baseline_changes_the_mean(rows, name):
    """Three episodes a batch: a baseline that knew its own episode would take a third of the gradient."""
    gradient = np.asarray(weighted(name, *rows(20_000, 3)), np.float64).sum(1) / 3
    error = gradient.std(0) / np.sqrt(len(gradient))
    assert (np.abs(gradient.mean(0) - exact()) < 3 * error).all()
    assert (error < 0.1 * np.abs(exact()).max()).all(), "too few samples to tell"


def test_the_optimal_baseline_has_the_least_variance_of_those_that_see_no_state():
    """For every parameter, of the episodes' whole returns."""
    variance = {
        name: np.asarray(weighted(name, *episode_rows(1, 60_000)))[0].var(0)
        for name in ("none", "mean", "optimal")
    }
    assert (variance["optimal"] < 0.5 * variance["none"]).all()
    assert (variance["optimal"] < 1.0001 * variance["mean"]).all()
    assert (variance["optimal"] < 0.98 * variance["mean"]).any()
