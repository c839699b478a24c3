"""Callbacks, early stopping, films in the middle of a run, and others who read a run's metrics."""

import logging
import re
import sys
import time
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import jax.numpy as jnp
import numpy as np
import pytest

import advantage as adv
from advantage.environments.make import resolve
from advantage.runs.folder import RunFolder
from advantage.runs.log import read_episodes, read_evaluations
from advantage.training.callbacks import Ended, Started
from advantage.training.early_stopping import reason_to_stop
from advantage.training.evaluating import Films
from advantage.training.intervals import crossed, next_multiple
from advantage.training.reporting import Silent
from advantage.types import Spec


def small():
    return adv.A2C(hidden=(4,), n_steps=8)


def train(folder, environment="jax/CartPole-v1", **options):
    options = dict(total_timesteps=128, num_envs=2, eval_episodes=2, tensorboard=False) | options
    return adv.train(small(), environment, out=folder, **options)


def recording(seen, **answers):
    """Callbacks that append what they get, by the name of the moment, and answer as told."""
    moments = ("start", "iteration", "episode", "evaluation", "end")

    def of(name):
        return lambda event: seen.append((name, event)) or answers.get(name)

    return adv.Callbacks(**{name: of(name) for name in moments})


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    seen, plain = [], []
    folder = tmp_path_factory.mktemp("callbacks") / "run"
    callback = [recording(seen), lambda progress: plain.append(progress.step)]
    return train(folder, eval_every=64, callback=callback, seed=3), seen, plain


def test_each_moment_is_told_once_and_in_order(recorded):
    run, seen, plain = recorded
    names = [name for name, _ in seen]
    assert names[0] == "start" and names[-1] == "end"
    assert names.count("start") == names.count("end") == 1
    assert plain == [event.step for name, event in seen if name == "iteration"] == list(range(16, 129, 16))
    assert [event.step for name, event in seen if name == "evaluation"] == [64, 128]
    start, end = seen[0][1], seen[-1][1]
    assert (start.step, start.total_timesteps, start.folders) == (0, 128, [run.path])
    assert start.configs[0]["algorithm"] == "a2c" and start.configs[0]["hyperparameters"]["n_steps"] == 8
    assert (end.step, end.finished, end.folders) == (128, True, [run.path])


def test_episodes_and_evaluations_are_those_of_the_logs(recorded):
    run, seen, _ = recorded
    episodes = [event for name, event in seen if name == "episode"]
    logged = read_episodes(RunFolder(run.path))
    assert len(episodes) > 2
    for column, values in {"step": "step", "env": "env", "r": "total", "l": "length"}.items():
        np.testing.assert_array_equal(logged[column], [getattr(event, values) for event in episodes])
    evaluations = [event for name, event in seen if name == "evaluation"]
    returns = np.concatenate([event.evaluation.returns for event in evaluations])
    np.testing.assert_array_equal(read_evaluations(RunFolder(run.path))["return"], returns)
    assert [event.agent.step for event in evaluations] == [64, 128]


@pytest.mark.parametrize("moment", ["iteration", "episode", "evaluation"])
@pytest.mark.parametrize("answer", [False, np.False_, jnp.bool_(False)], ids=["bool", "numpy", "jax"])
def test_false_stops_after_a_checkpoint(tmp_path, moment, answer):
    seen = []
    run = train(tmp_path / "run", eval_every=64, callback=recording(seen, **{moment: answer}))
    assert not run.finished and run.step < 128
    assert seen[-1][0] == "end" and not seen[-1][1].finished
    assert adv.load(run.path).step == run.step


def test_true_none_and_zero_do_not_stop(tmp_path):
    assert train(tmp_path / "run", callback=recording([], iteration=0, episode=True)).finished


def test_the_end_is_told_after_an_error_too(tmp_path):
    seen = []

    def wrong(progress):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        train(tmp_path / "run", callback=[wrong, recording(seen)])
    assert [name for name, _ in seen][-1] == "end"


@pytest.mark.parametrize("callback", [3, "print", [None], [print, 4]])
def test_what_is_no_callback_is_refused(tmp_path, callback):
    with pytest.raises(ValueError, match=r"callback=.* is not allowed; use a function"):
        train(tmp_path / "run", callback=callback)
    assert not (tmp_path / "run").exists()


# -- early stopping ----------------------------------------------------------------------------------------------


def reason(means, **rules):
    steps = 10 * np.arange(1, len(means) + 1)
    return reason_to_stop(
        steps, np.array(means, float), **{"stop_at_return": None, "patience": None, **rules}
    )


def test_a_run_stops_when_the_last_evaluation_reaches_the_return():
    assert reason([1, 5], stop_at_return=5.0)
    assert reason([6, 4], stop_at_return=5.0) is None  # it was reached earlier only
    assert reason([], stop_at_return=-1.0) is None


def test_patience_counts_evaluations_without_improvement():
    assert reason([1, 2, 2, 1.5], patience=3) is None
    assert "step 20" in reason([1, 2, 2, 1.5, 1], patience=3)
    assert reason([3, 2, 1, 4], patience=3) is None  # the last one is the best
    assert reason([5], patience=1) is None


def test_a_run_that_stops_early_stays_stopped_until_it_gets_a_new_budget(tmp_path):
    run = train(tmp_path / "run", eval_every=32, stop_at_return=1.0)
    assert (run.step, run.finished) == (32, False)
    assert adv.resume(run.path).step == 32
    part = adv.resume(run.path, total_timesteps=96, callback=lambda progress: progress.step < 64)
    assert not part.finished
    assert adv.resume(run.path).finished  # the new budget is the run's from now on


def test_patience_and_resume_give_one_end(tmp_path):
    options = dict(total_timesteps=640, eval_every=32, patience=2)
    whole = train(tmp_path / "whole", **options)
    part = train(tmp_path / "part", callback=lambda progress: progress.step < 48, **options)
    assert part.step < whole.step < 640
    assert adv.resume(part.path).step == whole.step
    evaluated = [read_evaluations(RunFolder(run.path))["return"] for run in (whole, part)]
    np.testing.assert_array_equal(*evaluated)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (dict(stop_at_return=5.0), "stop_at_return goes by the evaluations"),
        (dict(patience=2, eval_every=32, eval_episodes=0), "patience goes by the evaluations"),
        (dict(patience=0, eval_every=32), "whole number of evaluations"),
        (dict(stop_at_return=float("nan"), eval_every=32), "finite number"),
        (dict(video_every=0), "video_every=0 is not allowed"),
    ],
)
def test_rules_that_cannot_work_are_refused(tmp_path, options, said):
    with pytest.raises(ValueError, match=said):
        train(tmp_path / "run", **options)


def test_a_film_every_so_many_steps(tmp_path):
    run = train(tmp_path / "run", "CartPole-v1", video_every=64, workers=0, eval_episodes=0)
    films = sorted((run.path / "videos").iterdir())
    assert [film.name for film in films] == ["step_0000000064.mp4", "step_0000000128.mp4"]
    assert all(film.stat().st_size > 500 for film in films)


def test_a_run_goes_on_without_a_film_that_is_not_possible(tmp_path):
    said = []
    reporter = Silent()
    reporter.message = said.append
    undrawable = {"eval_environment": "jax/CartPoleSwingUp-v0", "eval_episodes": 0}
    run = train(tmp_path / "run", video_every=32, reporter=reporter, **undrawable)
    assert run.finished
    (line,) = [text for text in said if "film" in text]
    assert "step 32" in line and "cannot be rendered" in line


class NoScreen(gymnasium.Env):
    """Cannot be reset where it is drawn."""

    observation_space, action_space = gymnasium.spaces.Discrete(2), gymnasium.spaces.Discrete(2)
    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        raise RuntimeError("no OpenGL context")


def test_a_run_goes_on_where_the_environment_of_a_film_fails(tmp_path):
    said, actor = list[str](), SimpleNamespace(initial_memory=lambda: ())
    spec = Spec(NoScreen.observation_space, NoScreen.action_space)
    agent: Any = SimpleNamespace(step=32, spec=spec, actor=actor)
    films = Films(resolve(NoScreen), said.append)
    for _ in range(2):
        films.add(agent, RunFolder(tmp_path), seed=0)
    (line,) = said
    assert (
        line.startswith("Traceback")
        and "No film at step 32" in line
        and "reset(seed=" in line
        and "no OpenGL context" in line
    )


def test_intervals():
    for every in (1, 3, 7):
        for before in range(20):
            after = next_multiple(before, every)
            assert after == min(n for n in range(before + 1, 40) if n % every == 0)
            assert crossed(before, after, every) and not crossed(before, after - 1, every)
    assert not crossed(0, 100, None)


# -- others who read the metrics -----------------------------------------------------------------------------------


def test_a_logger_is_told_everything(tmp_path, caplog):
    logger = logging.getLogger("of a test")
    with caplog.at_level(logging.INFO, logger.name):
        run = train(tmp_path / "run", eval_every=64, callback=adv.log_to_logging(logger))
    text = caplog.text
    assert f"a2c on jax/CartPole-v1, seed 0, from step 0 of 128: {run.path}" in text
    assert (
        "step 16: train/" in text and "step 64: evaluation: return" in text and "finished at step 128" in text
    )


class Wandb:
    """What `log_to_wandb` calls, written down."""

    def __init__(self):
        self.made, self.rows, self.finished = [], [], 0

    def init(self, **options):
        self.made.append(options)
        return types.SimpleNamespace(log=self.log, finish=self.finish)

    def log(self, row, step):
        self.rows.append((step, row))

    def finish(self):
        self.finished += 1


def test_weights_and_biases_gets_every_row_and_evaluation(tmp_path, monkeypatch):
    service = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", service)
    runs = train(tmp_path / "runs", num_seeds=2, callback=adv.log_to_wandb("study", mode="offline"))
    made = service.made
    assert [each["name"] for each in made] == [run.path.name for run in runs] and service.finished == 2
    assert all((each["project"], each["mode"]) == ("study", "offline") for each in made)
    assert [each["config"]["seed"] for each in made] == [0, 1]
    assert len([row for _, row in service.rows if "train/entropy_loss" in row or "train/loss" in row]) > 0
    evaluated = [(step, row["eval/mean_reward"]) for step, row in service.rows if "eval/mean_reward" in row]
    assert evaluated == [(128, run.evaluation.mean) for run in runs]


def test_a_run_is_known_to_weights_and_biases_by_its_whole_path(tmp_path, monkeypatch):
    """Seeds of different studies have folders of the same name; a run that is resumed keeps its own."""
    service = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", service)
    monkeypatch.chdir(tmp_path)
    for folder in (Path("a/seed_0"), Path("b/seed_0"), tmp_path / "a" / "seed_0"):
        adv.log_to_wandb("study").start(Started([0], [{}], [folder], 0, 8))
    first, second, again = (each["id"] for each in service.made)
    assert first == again != second and all(each["name"] == "seed_0" for each in service.made)
    assert all(re.fullmatch("[A-Za-z0-9_-]{1,64}", each) for each in (first, second))


class MlflowClient:
    """What `log_to_mlflow` calls, written down."""

    experiments, batches, ended = {}, [], {}

    def __init__(self, tracking_uri):
        assert tracking_uri == "somewhere"

    def get_experiment_by_name(self, name):
        return self.experiments.get(name)

    def create_experiment(self, name):
        self.experiments[name] = types.SimpleNamespace(experiment_id="7")
        return "7"

    def create_run(self, experiment, run_name):
        assert experiment == "7"
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id=f"id of {run_name}"))

    def log_batch(self, run, metrics=(), params=()):
        self.batches.append((run, list(metrics), list(params)))

    def set_terminated(self, run, status):
        self.ended[run] = status


def test_mlflow_gets_hyperparameters_rows_and_evaluations(tmp_path, monkeypatch):
    entities = types.SimpleNamespace(Metric=lambda *each: each, Param=lambda *each: each)
    monkeypatch.setitem(sys.modules, "mlflow", types.SimpleNamespace(MlflowClient=MlflowClient))
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    run = train(tmp_path / "run", callback=adv.log_to_mlflow("study", "somewhere"))
    name = f"id of {run.path.name}"
    assert MlflowClient.ended == {name: "FINISHED"} and {each[0] for each in MlflowClient.batches} == {name}
    params = dict(MlflowClient.batches[0][2])
    assert (params["algorithm"], params["n_steps"], params["seed"]) == ("a2c", "8", "0")
    metrics = [metric for _, several, _ in MlflowClient.batches for metric in several]
    assert ("eval/mean_reward", run.evaluation.mean, 128) in {(*each[:2], each[3]) for each in metrics}
    assert all(0 <= time.time() - each[2] / 1000 < 600 for each in metrics)
    assert {metric[3] for metric in metrics} == set(range(16, 129, 16))


def test_each_seed_ends_with_its_own_status(tmp_path, monkeypatch):
    """Seeds that are trained one after the other tell one callback of their ends."""
    entities = types.SimpleNamespace(Metric=None, Param=lambda *each: each)
    monkeypatch.setitem(sys.modules, "mlflow", types.SimpleNamespace(MlflowClient=MlflowClient))
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    monkeypatch.setattr(MlflowClient, "ended", {})
    service = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", service)
    config = {"algorithm": "a2c", "environment": "x", "hyperparameters": {}}
    for sink in (adv.log_to_mlflow("study", "somewhere"), adv.log_to_wandb("study")):
        for seed, finished in ((0, True), (1, False)):
            folders = [tmp_path / f"seed_{seed}"]
            sink.start(Started([seed], [config], folders, 0, 8))
            sink.end(Ended([seed], folders, 8, finished))
    assert MlflowClient.ended == {"id of seed_0": "FINISHED", "id of seed_1": "KILLED"}
    assert service.finished == 2


def test_a_service_that_is_not_installed_is_named(monkeypatch):
    for module, function, extra in (
        ("wandb", adv.log_to_wandb, "wandb"),
        ("mlflow", adv.log_to_mlflow, "mlflow"),
    ):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(adv.MissingExtra, match=rf"advantage\[{extra}\]"):
            function("study")
