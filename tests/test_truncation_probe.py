"""Worlds whose values are known: PPO learns them on both drivers, or mistakes a clock for an end.

Rewards are not scaled and gamma is 0.9, so a reward of 1 for ever is worth 10.
"""

import jax
import numpy as np
import pytest
from probe_drivers import Door, Match, OnHost, TenStepsWorld
from probe_worlds import TenSteps

import advantage as adv
from advantage.algorithms.policy_gradient.shared.acting import encode
from advantage.training import results

PPO = adv.PPO(
    gamma=0.9,
    learning_rate=adv.Linear(1e-2, 0.0),
    n_steps=32,
    batch_size=32,
    n_epochs=8,
    hidden=(16,),
    max_grad_norm=None,
    normalize_reward=False,
)
BOTH = pytest.mark.parametrize("on_device", [False, True], ids=["host", "device"])


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch):
    monkeypatch.setattr(results, "plot_curve", lambda folder: None)


def learn(world, on_device, path, steps=5120):
    environment = world if on_device or isinstance(world, type) else lambda: OnHost(world)
    return adv.train(
        PPO,
        environment,
        out=path,
        num_envs=4,
        total_timesteps=steps,
        workers=0,
        eval_episodes=0,
        tensorboard=False,
    )


def values(run, *observations):
    """V of each observation, as PPO sees it."""
    state = run.agent.state
    x = encode(state.policy, PPO.actor(state).normaliser, np.array(observations, np.float32))
    return np.asarray(state.policy.value(jax.tree.map(np.asarray, state.params), x))


@pytest.mark.parametrize("world", [TenSteps, TenStepsWorld()], ids=["host", "device"])
def test_a_clock_is_not_an_end(world, tmp_path):
    """1 + 0.9 + 0.81 + ... = 10; an end after ten steps would make it less than 6.6."""
    run = learn(world, world is not TenSteps, tmp_path / "run")
    assert values(run, (0, 0)) == pytest.approx(10, rel=0.02)
    episodes = np.loadtxt(run.path / "episodes.csv", delimiter=",", skiprows=1)
    assert len(episodes) == 512 and (episodes[:, :2] == 10).all()


@BOTH
def test_the_start_of_the_next_episode_is_no_successor(on_device, tmp_path):
    """The room is worth 10, the door 9; did the door follow the clock, the room would be worth 7.7."""
    run = learn(Door(), on_device, tmp_path / "run")
    np.testing.assert_allclose(values(run, (1, 0), (0, 1)), [9, 10], rtol=0.03)


@BOTH
def test_an_end_is_an_end(on_device, tmp_path):
    """Two steps, of which the second earns 1: nothing follows it."""
    run = learn(Door(last=2), on_device, tmp_path / "run", steps=2560)
    np.testing.assert_allclose(values(run, (1, 0), (0, 1)), [0.9, 1.0], atol=0.02)


@BOTH
def test_the_action_counts(on_device, tmp_path):
    """The reward belongs to the action that was taken on seeing the coin."""
    run = learn(Match(), on_device, tmp_path / "run", steps=2560)
    for coin in (0, 1):
        assert run.agent.act(np.eye(2, dtype=np.float32)[coin]) == coin
    rewards = np.loadtxt(run.path / "episodes.csv", delimiter=",", skiprows=1)[:, 0]
    assert rewards[:200].mean() < 0.8 < 0.95 < rewards[-200:].mean()
