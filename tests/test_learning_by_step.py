"""Algorithms that learn at every step, on both drivers: same numbers, rows that cover many steps, exact resuming."""

import csv
import dataclasses

import gymnasium
import jax
import numpy as np
import pytest
from probe_runs import stop_at

import advantage as adv
from advantage import evaluation
from advantage.drivers.draws import draw, draw_block, of_block
from advantage.drivers.schedule import BLOCK, ROW_STEPS, rows_after
from advantage.environments.tables.world import TabularEnv, TabularWorld
from advantage.types import Spec


def outcomes(state, action):
    """A row of eight states with the end on the right; walking left from the first one costs more."""
    if action == 0:
        return [(1.0, max(state - 1, 0), -1.0 - (state == 0), False)]
    return [(1.0, min(state + 1, 7), -1.0, state >= 6)]


ROW = adv.MDP.from_function(8, 2, outcomes, start=np.eye(8)[2], max_episode_steps=40)
QUIET = {"checkpoint_every": 10_000, "eval_episodes": 0, "tensorboard": False}
OPTIONS = dict(learning_rate=0.3, learning_rate_power=0.5, epsilon=adv.Linear(0.9, 0.1), gamma=0.9)
LEARNER = adv.QLearning(**OPTIONS)
WORLD = TabularWorld(ROW)


def on_host():
    return gymnasium.wrappers.TimeLimit(TabularEnv(ROW), ROW.max_episode_steps)


def train(environment, path, algorithm=LEARNER, **options):
    options = {"total_timesteps": 1500, "eval_episodes": 0, "tensorboard": False} | options
    return adv.train(algorithm, environment, out=path, **options)


def table(run):
    return jax.device_get((run.agent.state.table.q, run.agent.state.table.visits))


def rows(path, name="progress"):
    with open(path / f"{name}.csv") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("algorithm", "num_envs"),
    [
        pytest.param(adv.DoubleQLearning(**OPTIONS), 3, id="an update that draws"),
        pytest.param(LEARNER, 1, id="one environment"),
    ],
)
def test_promise_2_host_and_device_learn_the_same(tmp_path, algorithm, num_envs):
    host = train(on_host, tmp_path / "host", algorithm, num_envs=num_envs)
    device = train(WORLD, tmp_path / "device", algorithm, num_envs=num_envs)
    for here, there in zip(table(host), table(device), strict=True):
        np.testing.assert_array_equal(here, there)
    assert np.abs(table(host)[0]).max() > 1
    for name in ("episodes", "progress"):
        for here, there in zip(rows(host.path, name), rows(device.path, name), strict=True):
            for column in here:
                if not column.startswith("time/"):
                    assert float(here[column]) == pytest.approx(float(there[column]), rel=1e-6), column


def test_a_network_with_memory_learns_the_same_on_both_drivers(tmp_path):
    algorithm = adv.OneStepActorCritic(network="gru", hidden=(4,), learning_rate=1e-2)
    host, device = (
        train(where, tmp_path / str(n), algorithm, num_envs=2, total_timesteps=400)
        for n, where in enumerate((on_host, WORLD))
    )
    assert len(rows(host.path, "episodes")) > 5
    for here, there in zip(*(jax.tree.leaves(run.agent.state.params) for run in (host, device)), strict=True):
        np.testing.assert_allclose(here, there, rtol=1e-3, atol=1e-5)


def test_every_iteration_has_its_own_noise_and_keys():
    """Of two blocks and of iterations that share none: nothing is drawn twice."""
    state = LEARNER.init(jax.random.key(0), Spec(WORLD.observation_space, WORLD.action_space, 2, 100))

    def of_iteration(run_key, iteration):
        return of_block(draw_block(LEARNER, state, run_key, iteration, 2), iteration)

    def alone(run_key, iteration):
        return draw(LEARNER, state, run_key, iteration, (1, 2))[1]

    for draws in (of_iteration, alone):
        every = jax.vmap(draws, (None, 0))(jax.random.key(1), np.arange(2 * BLOCK))
        other = jax.vmap(draws, (None, 0))(jax.random.key(2), np.arange(2 * BLOCK))
        keys = [np.asarray(jax.random.key_data(key)) for pair in (every[1:], other[1:]) for key in pair]
        assert len(np.unique(np.concatenate(keys), axis=0)) == 8 * BLOCK
        noise = np.concatenate([every.noise.ravel(), other.noise.ravel()])
        assert len(np.unique(noise)) == noise.size == 8 * BLOCK


@pytest.mark.parametrize("environment", [on_host, WORLD], ids=["host", "device"])
def test_a_row_is_the_mean_of_the_steps_that_it_covers(tmp_path, environment):
    run = train(environment, tmp_path / "run", checkpoint_every=700)
    steps = [int(row["step"]) for row in rows(run.path)]
    assert steps == [256, 512, 700, 956, 1212, 1400, 1500], "a checkpoint cuts a row short"
    constant = dataclasses.replace(LEARNER, learning_rate=0.25, learning_rate_power=None)
    run = adv.train(constant, environment, out=tmp_path / "other", total_timesteps=600, **QUIET)
    assert [float(row["train/learning_rate"]) for row in rows(run.path)] == pytest.approx([0.25] * 3)
    assert [int(row["iteration"]) for row in rows(run.path)] == [256, 512, 600]
    assert ROW_STEPS == 256


@pytest.mark.parametrize("environment", [on_host, WORLD], ids=["host", "device"])
def test_promise_11_a_stopped_run_goes_on_to_the_same_numbers(tmp_path, environment):
    """Rows end where checkpoints do, and inside blocks of noise."""
    assert 700 % BLOCK and 700 % ROW_STEPS
    whole = train(environment, tmp_path / "whole", checkpoint_every=700, total_timesteps=2100)
    options = {"checkpoint_every": 700, "total_timesteps": 2100}
    train(environment, tmp_path / "part", callback=stop_at(700), **options)
    assert adv.load(tmp_path / "part").step < 2100
    adv.resume(tmp_path / "part", environment=environment)
    files = [tmp_path / name / "last" / "state.safetensors" for name in ("whole", "part")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert (whole.path / "episodes.csv").read_text() == (tmp_path / "part" / "episodes.csv").read_text()
    for one, other in zip(rows(whole.path), rows(tmp_path / "part"), strict=True):
        assert {k: v for k, v in one.items() if "time/" not in k} == {
            k: v for k, v in other.items() if "time/" not in k
        }


def test_one_seed_alone_is_that_seed_among_many(tmp_path):
    many = train(WORLD, tmp_path / "many", num_seeds=3)
    alone = train(WORLD, tmp_path / "alone", seed=1)
    for here, there in zip(table(many[1]), table(alone), strict=True):
        np.testing.assert_allclose(
            here, there, rtol=1e-6
        )  # powers of one number and of several round differently
    assert (table(many[0])[0] != table(many[1])[0]).any()


def test_an_evaluation_that_walks_in_a_circle_is_cut_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "LONGEST", 50)
    run = train(
        on_host, tmp_path / "run", total_timesteps=1
    )  # all values are 0: the first action, left for ever
    result = adv.evaluate(run.agent, lambda: TabularEnv(ROW), episodes=2)
    assert result.cut == 2
    assert list(result.lengths) == [50, 50]
    assert "2 of them endless, cut at 50 steps" in str(result)
    limited = adv.evaluate(run.agent, on_host, episodes=2)
    assert limited.cut == 0
    assert list(limited.lengths) == [40, 40]


def test_a_call_that_takes_long_is_followed_by_shorter_ones():
    """So that a run in which a decision takes long reports and stops every ten seconds."""
    assert rows_after(64, 64, ran=40, seconds=100.0) == 4
    assert rows_after(64, 64, ran=1, seconds=100.0) == 1
    assert rows_after(4, 64, ran=4, seconds=5.0) == 4
    assert rows_after(4, 64, ran=4, seconds=1.0) == 8
    assert rows_after(40, 64, ran=40, seconds=0.1) == 64
