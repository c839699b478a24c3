"""Tuning: spaces, trials, pruning, what a killed process leaves, settings side by side, and the winner's preset."""

import dataclasses
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import optuna
import pytest

import advantage as adv
from advantage.algorithms.presets import FOLDER
from advantage.algorithms.registry import default_algorithm, to_json
from advantage.cli import main
from advantage.comparison.seed_statistics import interquartile_mean_interval
from advantage.environments.make import MissingExtra
from advantage.runs.checkpoint import CheckpointError
from advantage.runs.folder import RunFolder, write_config
from advantage.runs.log import Logger, read_evaluations
from advantage.training.options import Options
from advantage.training.reporting import Progress
from advantage.tuning import storage, work
from advantage.tuning.result import result_of
from advantage.tuning.space import Domain, read_space, suggest, with_settings
from advantage.tuning.study import Goal, Study, open_study, value_of

TINY = adv.PPO(n_steps=32, batch_size=32, n_epochs=1, hidden=(8,))
DEVICE = "jax/CartPole-v1"
ROOT = Path(__file__).parents[1]


# -- spaces ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", sorted((FOLDER / "spaces").glob("*.json")), ids=lambda file: file.stem)
def test_every_settings_of_the_librarys_spaces_is_allowed(file):
    """The lowest and the highest of each option together, and what was drawn stays what it was."""
    algorithm, options = default_algorithm(file.stem), Options(total_timesteps=102_400)
    space = read_space(algorithm, options)
    for end in (0, -1):
        settings = {name: domain.values[end] for name, domain in space.items()}
        chosen, of_run = with_settings(algorithm, options, settings)
        told = to_json(chosen) | {"num_envs": of_run.num_envs}
        assert {name: told[name] for name in settings} == settings
    assert "batch_size" not in space or max(space["batch_size"].values) <= np.prod(
        [min(space[name].values) for name in ("n_steps", "num_envs") if name in space] or [10**9]
    )


def test_domains_draw_what_they_say():
    space = {
        "a": Domain("uniform", [2.0, 3.0]),
        "b": Domain("log", [1e-4, 1.0]),
        "c": Domain("log_below_one", [0.9, 0.9999]),
        "d": Domain("integers", [1, 3]),
        "e": Domain("choices", [None, [8, 8], {"linear": [0.1, 0.0]}]),
    }
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = []
    for _ in range(100):
        trial = study.ask()
        drawn.append(suggest(space, trial))
        study.tell(trial, 0.0)
        assert suggest(space, study.trials[-1]) == drawn[-1]  # a finished trial says what it had
    a, b, c = (np.array([row[name] for row in drawn]) for name in "abc")
    assert 2 <= a.min() < 2.2 < 2.8 < a.max() <= 3
    assert b.min() >= 1e-4 and abs(np.mean(np.log10(b)) + 2) < 0.3  # uniform in the exponent
    assert c.min() >= 0.9 and c.max() <= 0.9999 and abs(np.mean(np.log10(1 - c)) + 2.5) < 0.3
    assert {row["d"] for row in drawn} == {1, 2, 3}
    assert {json.dumps(row["e"]) for row in drawn} == {"null", "[8, 8]", '{"linear": [0.1, 0.0]}'}


@pytest.mark.parametrize(
    ("space", "word"),
    [
        ({"gama": {"uniform": [0, 1]}}, "gama"),
        ({"gamma": {"uniform": [0.9, 1.5]}}, "gamma=1.5 is not allowed"),
        ({"gamma": {"uniform": [0.9]}}, "two numbers"),
        ({"gamma": {"uniform": [0.9, 0.1]}}, "the lower one first"),
        ({"gamma": {"normal": [0, 1]}}, "log_below_one"),
        ({"gamma": [0, 1]}, "is not allowed"),
        ({"gamma": {"log_below_one": [0.9, 1]}}, "below 1"),
        ({"learning_rate": {"log": [0, 1]}}, "above 0"),
        ({"n_epochs": {"integers": [1, 2.5]}}, "whole numbers"),
        ({"n_epochs": {"choices": [1]}}, "two or more"),
        ({"num_envs": {"choices": [3, 4]}}, "multiple of num_envs=3"),
        ({"total_timesteps": {"choices": [1, 2]}}, "total_timesteps"),
        ({"hidden": {"choices": [len, [8]]}}, "built-in function len.* has no form in JSON"),
        ({}, "not a search space"),
    ],
)
def test_what_is_no_space_is_refused(space, word):
    with pytest.raises(ValueError, match=word):
        read_space(TINY, Options(total_timesteps=64), space)


def test_a_space_from_python_is_what_a_file_would_hold():
    given = {
        "gamma": {"uniform": (np.float32(0.5), 0.9)},
        "gae_lambda": {"uniform": np.array([0.25, 0.75])},
        "n_epochs": {"choices": (np.int64(1), 2)},
        "hidden": {"choices": [(8,), (16,)]},
    }
    assert {name: domain.values for name, domain in read_space(TINY, Options(), given).items()} == {
        "gamma": [0.5, 0.9], "gae_lambda": [0.25, 0.75], "n_epochs": [1, 2], "hidden": [[8], [16]]
    }  # fmt: skip


def test_a_file_that_is_no_space_and_an_algorithm_without_one(tmp_path):
    file = tmp_path / "space.json"
    for text in ("{", "[1]", "\udcff"):
        file.write_bytes(text.encode(errors="surrogateescape"))
        with pytest.raises(ValueError, match=r"space\.json"):
            read_space(TINY, Options(), file)
    with pytest.raises(ValueError, match="no search space for vpg"):
        read_space(adv.VPG(), Options())


# -- the value of a run, from its logs ------------------------------------------------------------------------


def logged(path, returns, *, every=10, evaluations=()):
    """A run folder with the logs of these training episodes, one each `every` steps, and of evaluations."""
    path.mkdir(parents=True, exist_ok=True)
    with Logger(RunFolder(path), tensorboard=False) as logger:
        n = np.arange(len(returns))
        rows = {"r": np.array(returns, float), "l": n * 0 + every, "step": (n + 1) * every}
        logger.episodes(rows | {"env": n * 0, "episode": n})
        for step, value in evaluations:
            logger.evaluation(step, np.array([value - 1, value + 1.0]), np.array([5, 5]), True, 0)
    return RunFolder(path)


def test_the_value_of_a_run(tmp_path):
    returns = [0.0] * 150 + [10.0] * 200
    folder = logged(tmp_path / "run", returns, evaluations=[(10, 3.0), (3500, 7.0)])
    assert value_of(folder, None, 4000) == 7.0
    first = next(n for n in range(100, 351) if np.mean(returns[n - 100 : n]) >= 8)
    assert value_of(folder, Goal(8.0, "training"), 4000) == 10 * first
    assert value_of(folder, Goal(40.0, "training"), 4000) == 4000 * (1 + (40 - 10) / 40)
    assert value_of(folder, Goal(10.5, "training"), 4000) < value_of(folder, Goal(11.0, "training"), 4000)
    assert value_of(folder, Goal(2.5, "evaluation"), 4000) == 10
    assert value_of(folder, Goal(6.0, "evaluation"), 4000) == 3500
    assert value_of(folder, Goal(8.0, "evaluation"), 4000) == 4000 * (1 + (8 - 7) / 8)
    early = logged(tmp_path / "early", [50.0] * 99, evaluations=[])
    assert (
        value_of(early, Goal(8.0, "training"), 1000) == 1001
    )  # 99 episodes are not 100, and 1000 would be reached
    late = logged(tmp_path / "late", [50.0] * 100)
    assert value_of(late, Goal(8.0, "training"), 1000) == 1000
    with pytest.raises(ValueError, match="no evaluation"):
        value_of(early, None, 1000)
    with pytest.raises(ValueError, match="larger budget"):
        value_of(logged(tmp_path / "none", []), Goal(8.0, "training"), 1000)


# -- trials, without training: a run is a function of its settings that writes the logs of one ------------------


def study_in(path, *, trials=8, goal=None, space=None, batch=1):
    options = Options(total_timesteps=1000, eval_every=100, workers=0)
    space = read_space(TINY, options, space or {"gamma": {"uniform": [0.0, 1.0]}})
    return Study(
        dataclasses.replace(TINY, gamma=0.5),
        DEVICE,
        options,
        space,
        goal,
        path,
        trials,
        best=2,
        seeds=3,
        batch=batch,
    )


class Pretend:
    """Takes the place of `carry_on`: evaluations are 100 gamma at every tenth of the budget."""

    def __init__(self, study):
        self.study, self.begun, self.stop_at = study, [], None

    def __call__(self, cell, callback):
        self.begun.append((cell.path.name, cell.options.seed))
        folder, gamma = RunFolder(cell.path), cell.algorithm.gamma
        if gamma > 0.95:
            raise adv.NonFiniteUpdate("It diverged.")
        done = len(np.unique(read_evaluations(folder)["step"])) if cell.path.exists() else 0
        cell.path.mkdir(parents=True, exist_ok=True)
        write_config(folder, CONFIG)
        for n in range(done + 1, 11):
            with Logger(folder, tensorboard=False) as logger:
                logger.evaluation(100 * n, np.array([100 * gamma]), np.array([5]), True, 0)
            progress = Progress(cell.options.seed, n, 100 * n, 1000, {})
            if n == self.stop_at or (n < 10 and callback(progress) is False):
                return
        (cell.path / "ended").touch()


CONFIG = {"algorithm": "ppo", "environment": "x", "hyperparameters": {}, "training": {}, "seed": 0}


@pytest.fixture
def pretend(monkeypatch, tmp_path):
    study = study_in(tmp_path / "study")
    stand_in = Pretend(study)
    monkeypatch.setattr(work, "carry_on", stand_in)
    monkeypatch.setattr(work, "refuse_others", lambda cell, file: None)
    ended = property(lambda cell: (cell.path / "ended").exists())
    monkeypatch.setattr("advantage.cells.Cell.finished", ended)
    return stand_in


def opened(study):
    open_study(study)
    return storage.open_journal(study.journal, study.direction, study.warmup)


def done(study, journal, goes_on=lambda: True):
    said = []
    work.work(study, journal, goes_on=goes_on, say=said.append)
    return said


def test_a_study_prunes_trials_that_are_worse_than_half_of_the_others(pretend):
    study = pretend.study
    study = Study(**{**vars(study), "trials": 20})
    said = done(study, opened(study))
    trials = opened(study).trials
    assert [trial.number for trial in trials] == list(range(20))
    gammas = {trial.number: trial.params["gamma"] for trial in trials}
    complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
    for trial in trials:
        if trial.state.name == "COMPLETE":
            assert trial.value == pytest.approx(100 * gammas[trial.number])
            assert len(trial.intermediate_values) == 9  # the tenth comes after the last row
            continue
        if gammas[trial.number] > 0.95:
            assert trial.user_attrs["why"] == "It diverged."
            continue
        before = [gammas[other.number] for other in complete if other.number < trial.number]
        assert len(before) >= storage.UNPRUNED and gammas[trial.number] < np.median(before)
        assert len(trial.intermediate_values) == 2  # the first evaluation never prunes
        assert f"trial {trial.number}: pruned after 2 evaluations" in said
    assert any(line.endswith("evaluations") for line in said)
    best = sorted(complete, key=lambda trial: -trial.value)[:2]
    repeated = [(name, seed) for name, seed in pretend.begun if name.startswith("seed")]
    assert sorted(repeated) == sorted([(f"seed_{seed}", seed) for seed in (1, 2, 3)] * 3)
    assert {path.name for path in (study.path / "best").iterdir()} == {
        "default", *(f"trial_{trial.number:04d}" for trial in best)
    }  # fmt: skip


def test_a_study_goes_on_where_a_killed_process_left_it(pretend):
    """A trial whose process is gone is taken up first, with the settings it had, and reports no evaluation twice."""
    study, journal = pretend.study, opened(pretend.study)
    number = storage.ask(journal, 0, study.space)
    settings = suggest(study.space, storage.trial_of(journal, number))
    pretend.stop_at = 4
    work.carry_on(study.trial_cell(number, settings), lambda progress: True)
    pretend.stop_at, pretend.begun = None, []
    with study.journal.open("ab") as file:
        file.write(b'{"op_code": 4, "stu')  # the line that the kill cut off
    journal = opened(study)
    done(study, journal)
    assert pretend.begun[0] == ("0000", 0)
    (first, *_) = trials = opened(study).trials
    assert first.params == {"gamma": settings["gamma"]}
    assert sorted(first.intermediate_values) == list(range(1, 10))
    assert len(trials) == study.trials and all(trial.state.is_finished() for trial in trials)
    assert [name for name, _ in pretend.begun].count("0000") == 1
    again = len(pretend.begun)
    assert done(study, opened(study)) == [] and len(pretend.begun) == again  # nothing is left
    fewer = dataclasses.replace(study, trials=3)
    assert done(fewer, opened(fewer)) == [] and len(opened(fewer).trials) == 8  # what is there stays


def test_a_trial_belongs_to_the_process_that_has_its_lock(pretend):
    study, journal = pretend.study, opened(pretend.study)
    number = storage.ask(journal, 0, study.space)
    lock = storage.claim(study.lock(f"trial_{number:04d}"))
    others = study.trials - 1
    done(study, journal, lambda: sum(trial.state.is_finished() for trial in journal.trials) < others)
    assert ("0000", 0) not in pretend.begun
    assert len(opened(study).trials) == study.trials  # the others are done, and nothing is repeated yet
    assert not (study.path / "best").exists()
    lock.release()
    done(study, journal)
    assert ("0000", 0) in pretend.begun and (study.path / "best").exists()


def test_a_trial_ends_when_it_reaches_the_target(pretend):
    """By evaluations: 100 gamma is there from the first one on, so a trial that reaches 60 has the value 100 steps."""
    study = dataclasses.replace(pretend.study, goal=Goal(60.0, "evaluation"))
    pretend.study = study
    said = done(study, opened(study))
    finished = [trial for trial in opened(study).trials if trial.state.name == "COMPLETE"]
    for trial in opened(study).trials:
        gamma = trial.params["gamma"]
        if 0.6 <= gamma <= 0.95:
            assert trial.value == 100 and f"trial {trial.number}: 100 steps to 60" in said
            run = RunFolder(study.path / "trials" / f"{trial.number:04d}")
            assert len(read_evaluations(run)["step"]) == 1
        elif trial.state.name == "PRUNED" and gamma <= 0.95:
            earlier = [other.value for other in finished if other.datetime_complete < trial.datetime_complete]
            assert len(earlier) >= storage.UNPRUNED
            late = 100 * len(trial.intermediate_values) > np.median(earlier)
            assert late or len(trial.intermediate_values) >= study.warmup
        elif trial.state.name == "COMPLETE":
            assert trial.value == pytest.approx(1000 * (1 + (60 - 100 * gamma) / 60))
            assert all(value < 0 for value in trial.intermediate_values.values())  # lower is better here
    assert min(trial.value for trial in finished) == 100


def test_settings_with_a_run_that_cannot_be_judged_have_no_standing(pretend):
    """The last evaluation is the value; a repeated run without one is named, whether or not its process said so."""
    study = study_in(pretend.study.path, trials=2, space={"gamma": {"uniform": [0.4, 0.9]}})
    journal = opened(study)
    done(study, journal)
    whole = result_of(study, journal)
    assert len(whole.standings) == 3 and not whole.failed and whole.preset.exists()
    first, second = (study.path / "best" / row.name / "seed_2" for row in whole.standings[:2])
    for path in (first, second):
        RunFolder(path).evaluations_path.unlink()
    journal.set_user_attr(f"failed {second.relative_to(study.path)}", "It has no evaluation.")
    rest = result_of(study, journal)
    assert [row.name for row in rest.standings] == [whole.standings[2].name]
    assert set(rest.failed) == {first, second} and "has no evaluation" in rest.failed[first]
    nothing = dataclasses.replace(rest, standings=[])
    with pytest.raises(ValueError, match="no winner: .* has no evaluation"):
        _ = nothing.winner


def test_nothing_is_repeated_where_no_trial_has_a_value(pretend):
    gammas = {"gamma": {"uniform": [0.96, 1.0]}}  # all of which diverge
    study = study_in(pretend.study.path, trials=2, space=gammas)
    journal = opened(study)
    done(study, journal)
    assert [name for name, _ in pretend.begun] == ["0000", "0001"]
    assert not result_of(study, journal).standings


def test_stopping_leaves_the_trial_for_later(pretend):
    study, journal = pretend.study, opened(pretend.study)
    looks = iter([True, True, True, False, False])
    done(study, journal, lambda: next(looks))
    assert [trial.state.name for trial in opened(study).trials] == ["RUNNING"]


def test_trials_do_not_depend_on_which_process_asks(tmp_path):
    """Settings follow from the trials before, so two processes draw different ones."""
    drawn = []
    for name in ("a", "b"):
        study = study_in(tmp_path / name)
        drawn.append([])
        for _ in range(3):
            journal = opened(study)  # as another process would
            number = storage.ask(journal, 7, study.space)
            drawn[-1].append(suggest(study.space, storage.trial_of(journal, number))["gamma"])
    assert drawn[0] == drawn[1] and len(set(drawn[0])) == 3


# -- bad input ------------------------------------------------------------------------------------------------


def refused(capsys, *words):
    code = main(["tune", "ppo", DEVICE, "--processes", "1", *words])
    said = capsys.readouterr().err
    assert code in (1, 2) and said.startswith("advantage: ") and said.count("\n") == 1, said
    return said


def test_another_study_and_a_folder_that_is_none(tmp_path, capsys):
    space = tmp_path / "space.json"
    space.write_text(json.dumps({"gamma": {"uniform": [0.0, 0.5]}}))
    study = study_in(tmp_path / "study")
    open_study(study)
    open_study(study)
    with pytest.raises(ValueError, match=r"differs from this one in space\.gamma, goal"):
        open_study(
            study_in(tmp_path / "study", goal=Goal(3.0, "training"), space={"gamma": {"uniform": [0.0, 0.5]}})
        )
    said = refused(capsys, "--out", str(study.path), "--space", str(space))
    assert "differs from this one in" in said and "space.gamma" in said and "--out" in said
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    said = refused(capsys, "--out", str(tmp_path / "other"), "--space", str(space))
    assert "is not a study" in said
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["thesis.txt"]
    foreign = json.loads((study.path / "study.json").read_text()) | {"environment": "evil:Env-v0"}
    (study.path / "study.json").write_text(json.dumps(foreign))
    assert "environment" in refused(capsys, "--out", str(study.path), "--space", str(space))
    assert "evil" not in sys.modules  # the environment is the command's, never the file's
    (study.path / "study.json").write_text("{")
    assert "study.json" in refused(capsys, "--out", str(study.path), "--space", str(space))


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (b'{"op_code": 0}\n', "is not the journal of a study"),
        (b"rubbish\n", "line 1"),
        (b"[]\n", "line 1"),
        (b'{"op_code": 99, "worker_id": "a"}\n', "is not the journal of a study"),
    ],
)
def test_a_damaged_journal_is_named(text, word, tmp_path):
    study = study_in(tmp_path / "study")
    open_study(study)
    study.journal.write_bytes(text)
    with pytest.raises(CheckpointError, match=word):
        storage.open_journal(study.journal, study.direction, study.warmup)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"trials": 0}, "trials=0"),
        ({"seeds": 2}, "seeds=2"),
        ({"best": 0}, "best=0"),
        ({"target": float("nan")}, "target=nan"),
        ({"target_by": "luck"}, "target_by='luck'"),
        ({"eval_episodes": 0}, "eval_episodes=0"),
        ({"num_seeds": 2}, "num_seeds=2"),
        ({"stop_at_return": 1.0, "eval_every": 64}, "stop_at_return=1 is not allowed"),
        ({"patience": 3, "eval_every": 64}, "patience=3 is not allowed"),
        ({"processes": 2, "environment": lambda: None}, "processes=1"),
        ({"processes": 2, "environment": "CartPole-v1", "env_options": {"x": np.int64(3)}}, "processes=1"),
        ({"processes": 2, "environment": "CartPole-v1", "env_options": {"x": {1: 2}}}, "processes=1"),
        ({"environment": "NoSuch-v0"}, "NoSuch-v0"),
        ({"algorithm": "value-iteration", "environment": "jax/Cliff-v0"}, "adv.solve"),
    ],
)
def test_arguments_that_are_not_allowed(arguments, word, tmp_path):
    given = {"algorithm": TINY, "environment": DEVICE, "total_timesteps": 102_400} | arguments
    with pytest.raises(ValueError, match=word):
        adv.tune(out=tmp_path / "study", **given)
    assert not (tmp_path / "study").exists()


def test_optuna_is_an_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtra, match=r"advantage\[tune\]"):
        adv.tune(TINY, DEVICE, out=tmp_path / "study")


# -- many trials in one program -------------------------------------------------------------------------------


def test_trials_that_are_not_trained_side_by_side(tmp_path):
    for space, environment, word in (
        ({"gamma": {"uniform": [0, 1]}, "n_epochs": {"integers": [1, 2]}}, DEVICE, "n_epochs is not a float"),
        ({"gamma": {"uniform": [0, 1]}, "num_envs": {"choices": [1, 2]}}, DEVICE, "num_envs is not a float"),
        ({"gamma": {"uniform": [0, 1]}}, "CartPole-v1", "not trained by one program"),
    ):
        with pytest.raises(ValueError, match=word):
            adv.tune(TINY, environment, space=space, batch=2, out=tmp_path / "study", total_timesteps=64)
    assert not list(tmp_path.iterdir())


def test_of_trials_side_by_side_those_that_are_not_possible_are_told_alone(pretend, monkeypatch):
    """As with a batch of one. What refuses all of them together leaves each to itself, but for what is damaged."""
    together = []

    def side_by_side(algorithms, environment, *, out, **options):
        together.append([int(path.name) for path in out])
        if len(together) > 1:
            raise (ValueError if len(together) < 3 else CheckpointError)("None of this.")

    monkeypatch.setattr(work, "train_side_by_side", side_by_side)
    algorithm = adv.Impala(rho_clip=2.0, gamma=0.5)
    clips = {"rho_clip": {"uniform": [1.0, 1.1]}, "c_clip": {"uniform": [0.9, 1.2]}}
    space = read_space(algorithm, pretend.study.options, clips)
    study = dataclasses.replace(pretend.study, algorithm=algorithm, space=space, batch=4, trials=12)
    with pytest.raises(CheckpointError, match="None of this"):
        done(study, opened(study))
    trials = opened(study).trials
    possible = [trial.number for trial in trials if trial.params["c_clip"] <= trial.params["rho_clip"]]
    assert together == [[n for n in possible if n // 4 == batch] for batch in range(3)] and all(together)
    for trial in trials[:8]:
        assert (trial.state.name == "COMPLETE") == (trial.number in possible)
        assert (trial.number in possible) != ("rho_clip" in trial.user_attrs.get("why", ""))
    assert len(possible) < 12


RUN = dict(num_envs=2, total_timesteps=256, eval_episodes=2, tensorboard=False)


# -- whole studies --------------------------------------------------------------------------------------------

SPACE = {"learning_rate": {"log": [1e-3, 1e-1]}, "gamma": {"log_below_one": [0.5, 0.99]}}
FLAGS = shlex.split(
    "--preset none --n-steps 32 --batch-size 32 --n-epochs 1 --hidden 8 --num-envs 2 --total-timesteps 512 "
    "--eval-episodes 2 --no-tensorboard --trials 3 --best 1 --seeds 3"
)


@pytest.mark.slow
def test_a_study_from_the_command_line(tmp_path, capsys):
    space, out = tmp_path / "space.json", tmp_path / "study"
    space.write_text(json.dumps(SPACE))
    words = ["tune", "ppo", DEVICE, *FLAGS, "--processes", "1", "--space", str(space), "--out", str(out)]
    assert main(words) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    standings = said.partition("better than default")[2]
    assert "default" in standings and "trial_000" in standings and "3 trials in" in said
    options = dict(RUN, total_timesteps=512, trials=3, best=1, seeds=3, space=SPACE, out=out)
    again = adv.tune(TINY, DEVICE, **options)  # everything is there already
    assert again.trials == 3 and {row.name for row in again.standings} > {"default"}
    for row in again.standings:
        finals = [
            adv.evaluate(out / "best" / row.name / f"seed_{seed}", episodes=2, seed=seed).mean
            for seed in (1, 2, 3)
        ]
        np.testing.assert_allclose(row.values, finals)
        assert row.mean == pytest.approx(np.mean(finals))
        np.testing.assert_allclose(row.interval, interquartile_mean_interval(np.array(finals)))
    assert again.winner.mean == max(row.mean for row in again.standings)
    assert str(again.preset) in said
    tuned = adv.preset("ppo", DEVICE, again.preset)
    config = json.loads((out / "best" / again.winner.name / "seed_1" / "config.json").read_text())
    assert to_json(tuned.algorithm) == config["hyperparameters"]
    assert tuned.options == {"num_envs": 2, "total_timesteps": 512}
    assert main(["eval", str(out / "trials" / "0001"), "--episodes", "1"]) == 0
    assert main(["train", "ppo", DEVICE, "--preset", str(again.preset), "--out", str(tmp_path / "run")]) == 0
    assert main(["compare", str(out / "best"), "--out", str(tmp_path / "comparison")]) == 0


SCRIPT = """
import sys, advantage as adv
algorithm = adv.PPO(n_steps=32, batch_size=32, n_epochs=1, hidden=(8,))
if __name__ == "__main__":
    adv.tune(algorithm, "CartPole-v1", num_envs=2, total_timesteps=4096, eval_episodes=2, tensorboard=False, trials=4,
             best=1, seeds=3, space={"learning_rate": {"log": [1e-3, 1e-1]}}, out=sys.argv[1], processes=2, say=print)
"""


@pytest.mark.slow
def test_a_study_of_several_processes_survives_kills(tmp_path):
    """Killed with all its processes at three moments, and then carried on: each trial is there once, and finished."""
    script, out = tmp_path / "script.py", tmp_path / "study"
    script.write_text(SCRIPT)
    variables = os.environ | {"PYTHONPATH": str(ROOT)}
    for seconds in (8, 14, 20):
        process = subprocess.Popen([sys.executable, script, out], env=variables, start_new_session=True)
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = subprocess.run(
        [sys.executable, script, out], env=variables, capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr
    journal = storage.open_journal(out / "journal.log", "maximize", 2)
    assert [trial.number for trial in journal.trials] == [0, 1, 2, 3]
    assert all(trial.state.is_finished() for trial in journal.trials)
    for trial in journal.trials:
        told = sorted(trial.intermediate_values)
        assert told == list(range(1, len(told) + 1))
    assert len(list((out / "best").glob("*/seed_*"))) == 6
    preset = json.loads((out / "ppo.json").read_text())["CartPole-v1"]
    assert preset["num_envs"] == 2 and preset["hidden"] == [8]
