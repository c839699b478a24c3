"""Options are judged by value and not by type: numbers of NumPy and JAX, lists, names and classes of algorithms."""

import dataclasses
import fractions
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probe_runs import stop_at, tiny

import advantage as adv
from advantage.algorithms.hyperparameters import hyperparameters
from advantage.algorithms.registry import ALGORITHMS, algorithm_name, default_algorithm, to_json, trainable
from advantage.environments.tables.chain import chain
from advantage.environments.tables.random_mdp import random_mdp
from advantage.environments.tables.random_walk import random_walk
from advantage.environments.worlds.testbed import Testbed
from advantage.evaluation import check_request
from advantage.plain_values import (
    plain_bool,
    plain_number,
    plain_path,
    plain_paths,
    plain_tuple,
    whole_number,
)
from advantage.training.callbacks import stops
from advantage.training.options import Options
from advantage.training.train import Run

NO_NUMBERS = (
    None,
    "3",
    True,
    np.True_,
    [3],
    np.array([3]),
    3j,
    np.complex64(3),
    np.ndarray,
    fractions.Fraction(3),
)


def _same(found, wanted):
    return type(found) is type(wanted) and found == wanted


@pytest.mark.parametrize(
    ("value", "number", "whole"),
    [
        (3, 3, 3),
        (10**40, 10**40, 10**40),
        (3.0, 3.0, 3),
        (0.5, 0.5, None),
        (float("nan"), None, None),
        (np.uint8(3), 3, 3),
        (np.float32(0.5), 0.5, None),
        (np.float64(1e5), 1e5, 100_000),
        (np.array(3), 3, 3),
        (jnp.int32(3), 3, 3),
        (jnp.float32(0.5), 0.5, None),
        *((value, None, None) for value in NO_NUMBERS),
    ],
    ids=repr,
)
def test_numbers(value, number, whole):
    if isinstance(value, float) and np.isnan(value):
        assert np.isnan(plain_number(value))
    else:
        assert _same(plain_number(value), number)
    assert _same(whole_number(value), whole)


def test_bools_and_tuples():
    assert all(plain_bool(value) is True for value in (True, np.True_, np.array(True), jnp.array(True)))
    assert all(plain_bool(value) is None for value in (1, 0, None, "True", [True], np.array([True])))
    for items in ([3, 4], (3, 4), range(3, 5), np.array([3, 4]), jnp.array([3, 4])):
        assert plain_tuple(items) == (3, 4)
    assert all(plain_tuple(value) is None for value in (3, "34", None, np.eye(2), {3: 4}))


def test_paths(monkeypatch):
    monkeypatch.setenv("HOME", "/me")
    for value, wanted in (
        ("runs/a", "runs/a"),
        (Path("runs"), "runs"),
        (np.str_("runs"), "runs"),
        ("~/runs/*", "/me/runs/*"),
        (Path("~"), "/me"),
        ("~backup/a", "~backup/a"),  # a name that begins so is a name
        ("a/~", "a/~"),
    ):
        assert plain_path("out", value) == Path(wanted)
    assert plain_paths("runs", "~/a") == [Path("/me/a")]
    assert plain_paths("runs", (each for each in ("a", Path("b")))) == [Path("a"), Path("b")]
    for value in (None, 3, b"runs"):
        for function in (plain_path, plain_paths):
            with pytest.raises(ValueError, match=rf"^out={value!r} is not allowed; use a path"):
                function("out", value)
    with pytest.raises(ValueError, match="^runs=3 is not allowed"):
        plain_paths("runs", ["a", 3])


PPO = adv.PPO(n_steps=32, batch_size=32, hidden=(8,))
NO_PATHS = {
    "train": (lambda path: adv.train(PPO, "CartPole-v1", total_timesteps=64, out=path), "out"),
    "train, root": (lambda path: adv.train(PPO, "CartPole-v1", total_timesteps=64, root=path), "root"),
    "resume": (adv.resume, "path"),
    "load": (adv.load, "path"),
    "evaluate": (adv.evaluate, "path"),
    "compare": (adv.compare, "runs"),
    "diagnose": (adv.diagnose, "paths"),
    "load_dataset": (adv.load_dataset, "path"),
    "import_sb3": (lambda path: adv.import_sb3(path, "CartPole-v1"), "file"),
}


@pytest.mark.parametrize("name", NO_PATHS)
def test_what_is_no_path_is_refused_before_anything_is_done(name):
    function, argument = NO_PATHS[name]
    run = Run(Path("runs/first"), 0, 64, None, True, PPO, "CartPole-v1")
    for value in (3, run):
        with pytest.raises(ValueError, match=rf"^{argument}=.* is not allowed; use a path.*run\.path"):
            function(value)


def test_the_home_folder_is_found_by_its_sign(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    made = adv.train(
        adv.QLearning(), "FrozenLake-v1", total_timesteps=64, eval_episodes=0, out="~/runs/first"
    )
    assert made.path == tmp_path / "runs" / "first"
    assert adv.load("~/runs/first").step == 64
    assert adv.compare("~/run*/fir*").left_out == []
    assert list((tmp_path / "here").iterdir()) == []


@pytest.mark.parametrize("threshold", ["3", float("nan"), True])
def test_a_threshold_that_is_no_number(threshold):
    with pytest.raises(
        ValueError, match=f"threshold={threshold!r} is not allowed; use a finite return, or None"
    ):
        adv.compare("runs", threshold=threshold)


def test_hyperparameters_of_numpy_are_those_of_python():
    plain = adv.PPO(n_steps=64, hidden=(8, 4), learning_rate=0.25, clip_range=adv.Linear(0.5, 0), n_epochs=2)
    given = adv.PPO(
        n_steps=np.int64(64), hidden=[np.int32(8), 4], learning_rate=np.float32(0.25),
        clip_range=adv.Linear(np.float64(0.5), np.int8(0)), n_epochs=2.0, normalize_reward=np.True_,
    )  # fmt: skip
    assert given == plain
    assert repr(given) == repr(plain)
    assert hash(jax.tree.structure(given)) == hash(jax.tree.structure(plain))
    assert json.dumps(to_json(given)) == json.dumps(to_json(plain))


@pytest.mark.parametrize(
    ("field", "value"),
    [("n_steps", np.float32(2.5)), ("n_steps", np.True_), ("hidden", np.eye(2)), ("hidden", [8, 0]),
     ("gamma", np.float32(1.5)), ("gamma", jnp.float32(1.5)), ("learning_rate", np.nan), ("normalize_reward", 1)],
)  # fmt: skip
def test_values_that_are_not_allowed_are_refused_of_every_type(field, value):
    with pytest.raises(ValueError, match=f"(?s){field}=.* is not allowed; use"):
        adv.PPO(**{field: value})


def test_traced_hyperparameters_stay_what_they_are():
    rates = jnp.array([0.0, 1.0])
    assert adv.PPO(learning_rate=rates).learning_rate is rates
    assert jax.vmap(lambda rate: adv.PPO(learning_rate=rate).learning_rate)(rates).tolist() == [0, 1]


def test_options_of_numpy_are_those_of_python():
    plain = Options(
        total_timesteps=128, seed=3, workers=0, tensorboard=False, eval_every=64, worker_timeout=3.0
    )
    given = Options(
        total_timesteps=1.28e2, seed=np.arange(4)[3], workers=np.int8(0), tensorboard=np.False_,
        eval_every=jnp.int32(64), worker_timeout=np.float32(3),
    )  # fmt: skip
    assert json.dumps(dataclasses.asdict(given)) == json.dumps(dataclasses.asdict(plain))


def test_sizes_of_worlds_and_evaluations():
    assert chain(np.int64(3)).n_states == 3
    assert random_walk(np.int64(3)).n_states == 5
    assert random_mdp(*np.array([4, 2, 2])).n_states == 4
    assert Testbed(n_arms=np.int64(3)) == Testbed(n_arms=3)
    assert _same(check_request(np.int64(2), np.uint8(5)), (2, 5))
    mdp = adv.MDP(np.ones((1, 1, 1)), np.ones((1, 1)), gamma=np.float32(0.5), max_episode_steps=np.int64(7))
    assert _same(mdp.gamma, 0.5)
    assert _same(mdp.max_episode_steps, 7)
    assert adv.solve(mdp, max_iterations=np.int64(1000)).converged
    with pytest.raises(ValueError, match=r"steps=2\.5 is not allowed; use a whole number of 1 or more"):
        adv.check_environment(object, steps=2.5)


def test_an_algorithm_by_its_name_or_class():
    for name in ALGORITHMS:
        assert algorithm_name(trainable(name)) == name
    assert trainable("ppo") == trainable(adv.PPO) == adv.PPO()
    assert trainable("cem") == default_algorithm("cem")
    given = tiny()
    assert trainable(given) is given


def test_training_by_name_and_numbers_of_numpy(tmp_path):
    run = adv.train(
        "q-learning", "jax/Chain-v0", total_timesteps=np.float64(512), seed=np.int64(3), eval_episodes=np.int64(0),
        out=tmp_path / "run", callback=lambda progress: np.bool_(progress.step < 0), tensorboard=np.False_,
    )  # fmt: skip
    assert not run.finished
    assert run.seed == 3
    assert adv.resume(run.path, algorithm="q-learning").finished
    assert adv.load(run.path, algorithm=adv.QLearning).step == 512


@dataclasses.dataclass(frozen=True)
class Bare:
    """All functions of an algorithm, but JAX cannot take it apart."""

    n_steps = 1
    init = actor = initial_memory = noise = act = greedy = update = print


@hyperparameters
class NeedsSomething:
    size: int


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("pppo", "no algorithm 'pppo'; did you mean ppo?"),
        ("Q_Learning", "did you mean q-learning?"),
        ("MyPPO", r"A class of your own .* adv\.load\(path, algorithm=YourClass"),
        ("CartPole-v1", r"no algorithm 'CartPole-v1'\. The algorithms are"),
        ("DQN", "no algorithm 'DQN'; did you mean dqn"),
        ("redq", "no algorithm 'redq'; use sac or td3"),
        (None, "None is not an algorithm; give a name such as 'ppo'"),
        ([adv.PPO], "is not an algorithm"),
        (dict, "is not an algorithm"),
        (adv.PolicySearch, r"without its arguments: .*'optimiser'; write PolicySearch\(\.\.\.\)"),
        (NeedsSomething, r"write NeedsSomething\(\.\.\.\)"),
        (Bare(), "JAX does not know how to take the Bare apart.*@hyperparameters"),
    ],
    ids=repr,
)
def test_what_is_no_algorithm(given, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        adv.train(given, "CartPole-v1", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("answer", [False, np.False_, np.array(False), jnp.array(False)])
def test_what_stops_a_run(answer):
    assert stops(answer)


@pytest.mark.parametrize("answer", [None, True, np.True_, 0, "", [], [False], np.array([False]), stop_at])
def test_what_does_not_stop_a_run(answer):
    assert not stops(answer)
