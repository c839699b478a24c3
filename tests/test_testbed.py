"""The ten-armed testbed: what it draws, and the same on the device and in Gymnasium's interface."""

from __future__ import annotations

import dataclasses
import functools

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advantage.environments.check import check_environment
from advantage.environments.make import environment_names, make
from advantage.environments.worlds.testbed import Testbed, TestbedEnv

DRAWS = 20_000


def assert_moments(drawn, mean, variance):
    """Mean and variance within five standard errors, for numbers that are normal or bounded."""
    drawn = np.asarray(drawn, float).ravel()
    assert abs(drawn.mean() - mean) <= 5 * np.sqrt(variance / drawn.size)
    assert abs(drawn.var() - variance) <= 5 * variance * np.sqrt(2 / drawn.size)


@functools.cache
def starts(world):
    return np.asarray(jax.vmap(world.reset)(jax.random.split(jax.random.key(0), DRAWS // 5))[0])


def test_gaussian_means():
    means = starts(Testbed())
    assert means.shape == (DRAWS // 5, 10) and means.dtype == np.float32
    assert_moments(means, 0.0, 1.0)
    best = means.max(axis=1)
    assert best.mean() == pytest.approx(1.5388, abs=5 * 0.587 / np.sqrt(len(best)))  # of ten normal numbers
    assert np.abs(np.corrcoef(means.T) - np.eye(10)).max() < 0.1


def test_bernoulli_means():
    means = starts(Testbed(kind="bernoulli"))
    assert means.min() >= 0 and means.max() <= 1
    assert_moments(means, 0.5, 1 / 12)


@pytest.mark.parametrize(
    ("world", "means", "variances"),
    [
        (Testbed(3), [-1.0, 0.5, 2.0], [1.0, 1.0, 1.0]),
        (Testbed(3, reward_std=0.25), [-1.0, 0.5, 2.0], [0.0625] * 3),
        (Testbed(3, kind="bernoulli"), [0.1, 0.5, 0.75], [0.09, 0.25, 0.1875]),
    ],
)
def test_rewards(world, means, variances):
    """On the device and in Gymnasium: about the mean of the arm that was pulled, which stays where it is."""
    env = TestbedEnv(world.n_arms, world.reward_std, world.kind)
    env.reset(seed=1)
    env.means = np.array(means)
    step = jax.jit(jax.vmap(world.step, (None, None, 0)))
    for arm, (mean, variance) in enumerate(zip(means, variances, strict=True)):
        keys = jax.random.split(jax.random.key(arm), DRAWS)
        state, obs, reward, terminated = step(jnp.array(means, jnp.float32), arm, keys)
        assert (np.asarray(state) == np.float32(means)).all()
        assert not obs.any() and obs.dtype == jnp.int32 and reward.dtype == jnp.float32
        assert not terminated.any()
        assert_moments(reward, mean, variance)
        played = [env.step(arm) for _ in range(4000)]
        assert_moments([reward for _, reward, *_ in played], mean, variance)
        assert not any(obs or terminated or truncated for obs, _, terminated, truncated, _ in played)
        if world.kind == "bernoulli":
            assert set(np.asarray(reward).tolist()) == {0.0, 1.0}


def test_each_episode_has_its_own_means():
    env = make("advantage/Testbed-v0")
    first, second, again = (
        env.reset(seed=1)[1]["means"],
        env.reset()[1]["means"],
        env.reset(seed=1)[1]["means"],
    )
    np.testing.assert_array_equal(first, again)
    assert not np.isclose(first, second).any()
    info = env.step(3)[4]
    np.testing.assert_array_equal(info["means"], again)
    info["means"][:] = 9  # what is told is a copy
    np.testing.assert_array_equal(env.step(3)[4]["means"], again)
    many = np.array([env.reset()[1]["means"] for _ in range(1000)])
    assert_moments(many, 0.0, 1.0)
    bernoulli = make("advantage/Testbed-v0", kind="bernoulli", n_arms=2)
    assert_moments([bernoulli.reset(seed=i)[1]["means"] for i in range(2000)], 0.5, 1 / 12)


def test_regret_and_the_share_of_best_actions_can_be_computed():
    """Uniform play loses E[max q] a step and is right one time in ten."""
    means = starts(Testbed())
    arm = np.random.default_rng(0).integers(0, 10, len(means))
    regret = means.max(axis=1) - means[np.arange(len(means)), arm]
    assert regret.mean() == pytest.approx(1.5388, abs=0.1)
    assert (means.argmax(axis=1) == arm).mean() == pytest.approx(0.1, abs=0.025)


def test_names_spaces_and_clock():
    world, env = make("jax/Testbed-v0"), make("advantage/Testbed-v0")
    assert world == Testbed() and hash(world) == hash(Testbed())
    assert world.gymnasium_id == "advantage/Testbed-v0"
    assert world.observation_space == env.observation_space == gymnasium.spaces.Discrete(1)
    assert world.action_space == env.action_space == gymnasium.spaces.Discrete(10)
    assert {"jax/Testbed-v0", "advantage/Testbed-v0"} <= set(environment_names())
    env.reset(seed=0)
    truncated = [env.step(0)[3] for _ in range(1000)]
    assert truncated == [False] * 999 + [True] and world.max_episode_steps == 1000
    assert not list(check_environment(functools.partial(make, "advantage/Testbed-v0"), steps=100))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"n_arms": 0}, "n_arms=0 is not allowed"),
        ({"n_arms": 2.5}, "n_arms=2.5 is not allowed"),
        ({"reward_std": -1.0}, "reward_std=-1.0 is not allowed"),
        ({"reward_std": float("nan")}, "reward_std=nan is not allowed"),
        ({"kind": "poisson"}, "kind='poisson' is not allowed; use 'gaussian' or 'bernoulli'"),
    ],
)
def test_refuses(fields, words):
    for make_one in (Testbed, TestbedEnv, functools.partial(dataclasses.replace, Testbed())):
        with pytest.raises(ValueError, match=words):
            make_one(**fields)
