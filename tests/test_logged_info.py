"""Numbers of an environment's info in the logs and in callbacks, by name."""

import contextlib
import json
import warnings

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from probe_drivers import begin, first_state, random_policy, spec_of
from probe_worlds import Native

import advantage as adv
from advantage.cli import main
from advantage.drivers.host.driver import HostDriver
from advantage.environments.defect import EnvironmentDefect, EnvironmentWarning
from advantage.environments.logged_info import names_in_batch, number_in, numbers_in_batch
from advantage.runs.folder import RunFolder
from advantage.runs.log import read_progress
from advantage.types import Span

NAMES = ("t", "is_even", "deep.x", "last", "never")
LENGTH = 5


class Informs(gymnasium.Env):
    """Episodes of five steps, which say in their infos where they are."""

    observation_space, action_space = spaces.Box(0, 9, (1,), np.float32), spaces.Discrete(2)

    def __init__(self, extra=()):
        self.extra = dict(extra)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {"t": 1000, "is_even": 7}

    def step(self, action):
        self.t += 1
        info = {"t": self.t, "deep": {"x": np.float32(self.t / 2), "y": np.array(1)}, **self.extra}
        if self.t % 2 == 0:
            info["is_even"] = True
        if self.t == LENGTH:
            info["last"] = np.bool_(False)
        return np.full(1, self.t, np.float32), 1.0, self.t == LENGTH, False, info


def expected(n_steps, iterations):
    """The means of each iteration, by hand."""
    rows = []
    for i in range(iterations):
        t = np.arange(i * n_steps, (i + 1) * n_steps) % LENGTH + 1
        row = {"t": t.mean(), "is_even": 1.0 if (t % 2 == 0).any() else None, "deep.x": t.mean() / 2}
        rows.append(row | {"last": 0.0 if (t == LENGTH).any() else None, "never": None})
    return rows


def logged(environments, n_steps=8, names=NAMES, iterations=3, **options):
    """The rows of a driver of two environments, which warns about a name; None where it has no number."""
    with pytest.warns(EnvironmentWarning, match="had never .*there is .*deep.y"):
        return silently(environments, n_steps, names, iterations, **options)


def silently(environments, n_steps=8, names=NAMES, iterations=3, **options):
    space = environments if isinstance(environments, gymnasium.vector.VectorEnv) else environments()
    policy, spec = random_policy(Informs, n_steps), spec_of(space, 2)
    driver = HostDriver(policy, environments, spec, 3, log_info=names, **options)
    with contextlib.closing(driver):
        return rows_of(driver, iterations)


def rows_of(driver, iterations):
    begin(driver)
    state, per_row, rows, n_steps = first_state(driver), driver.per_row, [], driver.algorithm.n_steps
    for i in range(iterations):
        span = Span(i * per_row, per_row, i * per_row * n_steps * driver.spec.num_envs, n_steps)
        state, metrics, *_ = driver.iterate(state, jax.random.key(0)[None], span)
        values = {name.removeprefix("info/"): x[0, 0] for name, x in metrics.items() if name != "reward"}
        rows.append({name: None if x is np.ma.masked else float(x) for name, x in values.items()})
    driver.conclusion(0)
    return rows


@pytest.mark.parametrize("workers", [0, 1])
def test_means_over_the_steps_that_carry_a_name(workers):
    assert logged(Informs, workers=workers) == expected(8, 3)


def test_iterations_of_few_steps_share_a_row():
    ((row,), (same,)) = (logged(Informs, n_steps=n, iterations=1) for n in (1, 4))
    assert row == same == expected(128, 1)[0]


MODES = pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.name)


@MODES
def test_vector_environments_in_every_mode(mode):
    assert logged(SyncVectorEnv([Informs] * 2, autoreset_mode=mode)) == expected(8, 3)


@MODES
def test_a_native_vector_environment(mode):
    """Its infos are arrays without masks."""

    class Says(Native):
        def step(self, actions):
            was = self.done.copy()  # a step of these is a reset
            obs, reward, *ends, info = super().step(actions)
            ended = ends[0] | ends[1]
            t = np.array([LENGTH if done else env.t for env, done in zip(self.envs, ended, strict=True)])
            return obs, reward, *ends, info | {"t": np.where(was, 1000, t), "deep": {"y": t}}

    envs = Says([(LENGTH,)] * 2, mode)
    rows = logged(envs, names=("t", "never"))
    assert [row["t"] for row in rows] == [row["t"] for row in expected(8, 3)]


@MODES
def test_what_a_vector_wrapper_adds(mode):
    envs = RecordEpisodeStatistics(SyncVectorEnv([Informs] * 2, autoreset_mode=mode))
    rows = logged(envs, names=("episode.r", "t", "never"))
    misses = mode is AutoresetMode.SAME_STEP and gymnasium.__version__.startswith(
        "1.3"
    )  # a first step, mended in 1.4
    assert [row["episode.r"] for row in rows] == [5.0, *[5.0 - misses] * 2]
    assert [row["t"] for row in rows] == [row["t"] for row in expected(8, 3)]


def test_dicts_for_each_environment():
    final = [None, {"x": 2, "deep": {"y": 3}}]
    infos = {"final_info": final, "_final_info": np.array([False, True]), "x": [4, 5]}
    both, ended = np.array([True, True]), np.array([False, True])
    assert numbers_in_batch(infos, "x", both, ended, "").tolist() == [4, 2]
    np.testing.assert_array_equal(numbers_in_batch(infos, "x", ended, ended, ""), [np.nan, 2])
    np.testing.assert_array_equal(numbers_in_batch(infos, "deep.y", both, ended, ""), [np.nan, 3])
    assert np.isnan(numbers_in_batch([{}, {}], "x", both, ended, "")).all()
    infos = {"x": 1, "_x": 2, "deep": {"y": 1, "_y": 2}, "final_info": {"z": 1}}
    assert names_in_batch(infos) == {"x", "deep.y", "z"}


def test_a_key_with_a_dot_comes_first():
    assert number_in({"a.b": 1, "a": {"b": 2}}, "a.b", "") == 1
    assert number_in({"a": {"b.c": 2}}, "a.b.c", "") == 2
    assert np.isnan([number_in(info, "a.b", "") for info in ({}, {"a": 1}, {"a": {"b": None}})]).all()


@pytest.mark.parametrize("value", ["high", (1, 2), {"x": 1}, 1j, np.inf, 10**400, [1]], ids=str)
def test_what_is_no_number_is_named(value):
    def make():
        return Informs({"bad": value})

    with pytest.raises(EnvironmentDefect, match=r"environment 0, step 1, info\['bad'\]: expected one finite"):
        silently(make, names=("bad",))
    if not isinstance(value, int):  # for which Gymnasium has no array
        with pytest.raises(
            EnvironmentDefect, match=r"step 1, (environment 0, info|infos)\['bad'\]: expected"
        ):
            silently(SyncVectorEnv([make] * 2), names=("bad",))


PPO = adv.PPO(n_steps=8, batch_size=16, n_epochs=1, hidden=(4,))


def test_logs_callbacks_and_resume(tmp_path):
    options = {"num_envs": 2, "workers": 0, "eval_episodes": 0, "log_info": ["t", "last"]}
    rows = []
    adv.train(
        PPO,
        Informs,
        out=tmp_path / "run",
        total_timesteps=32,
        callback=lambda progress: rows.append(progress.row),
        **options,
    )
    adv.resume(tmp_path / "run", environment=Informs, total_timesteps=48)
    adv.train(PPO, Informs, out=tmp_path / "whole", total_timesteps=48, **options)
    assert [row["info/t"] for row in rows] == [row["t"] for row in expected(8, 2)]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["training"]["log_info"] == ["t", "last"]
    for name in ("run", "whole"):
        columns = read_progress(RunFolder(tmp_path / name))
        assert columns["info/t"].tolist() == [row["t"] for row in expected(8, 3)]
        assert columns["info/last"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_search_logs_too(workers, tmp_path):
    algorithm, names = adv.CEM(candidates=4, elite=0.5), ["deep.x", "last", "never"]
    options = {"workers": workers, "eval_episodes": 0, "tensorboard": False, "log_info": names}
    with pytest.warns(EnvironmentWarning, match="No step of this process has had never.*deep.y"):
        run = adv.train(algorithm, Informs, out=tmp_path / "run", total_timesteps=60, **options)
    columns = read_progress(RunFolder(run.path))
    assert columns["info/deep.x"].tolist() == [1.5] * 3
    assert columns["info/last"].tolist() == [0] * 3
    assert "info/never" not in columns


def test_what_has_no_info_is_refused_before_training(tmp_path, capsys):
    for method, world in (
        ("ppo", "jax/CartPole-v1"),
        ("value-iteration", "FrozenLake-v1"),
        ("cem", "jax/CartPole-v1"),
    ):
        out = tmp_path / "run"
        assert main(["train", method, world, "--log-info", "x", "--log-info", "y", "--out", str(out)]) == 2
        said = capsys.readouterr().err
        assert "log_info=['x', 'y']" in said and "not possible here" in said
        assert not out.exists()


@pytest.mark.parametrize("names", ["t", [1], ["a,b"], [""], ["t", "t"]], ids=repr)
def test_names_of_another_form_are_refused(names):
    with pytest.raises(ValueError, match="log_info"):
        adv.train(PPO, Informs, log_info=names)


def test_nothing_is_said_where_nothing_is_missing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        driver = HostDriver(random_policy(Informs, 64), Informs, spec_of(Informs(), 1), 3, log_info=("last",))
        with contextlib.closing(driver):
            begin(driver)
            driver.iterate(first_state(driver), jax.random.key(0)[None], Span(0, 1, 0, 64))
            driver.conclusion(64)
