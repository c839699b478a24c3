"""Comparing runs: the statistics are their definitions, bad runs are named and left out, the page works offline."""

import csv
import io
import itertools
import json
import re
import shutil
import sys

import matplotlib.image
import numpy as np
import pytest
import scipy.stats
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import advantage as adv
from advantage.cli import main
from advantage.cli.text_table import text_table
from advantage.comparison.picture import GREY, draw
from advantage.comparison.run_data import find_runs, group_runs, read_runs
from advantage.comparison.seed_statistics import (
    Curve,
    improvement_interval,
    interquartile_mean,
    interquartile_mean_interval,
    probability_of_improvement,
)
from advantage.figures import write_figure
from advantage.runs.checkpoint import CheckpointError
from advantage.runs.folder import RunFolder
from advantage.runs.log import read_episodes, read_progress

CONFIG = {
    "algorithm": "ppo",
    "environment": "Game-v0",
    "hyperparameters": {"clip_range": 0.2, "gamma": 0.99},
    "training": {"num_envs": 1, "total_timesteps": 1000, "workers": 0},
    "seed": 0,
}


def write_run(
    path, seed=0, level=100.0, *, evaluated=True, environment="Game-v0", algorithm="ppo", **hyperparameters
):
    """A run as `advantage train` leaves it: 200 episodes of 5 steps whose returns rise to about `level`."""
    path.mkdir(parents=True)
    config = CONFIG | {"seed": seed, "environment": environment, "algorithm": algorithm}
    config["hyperparameters"] = CONFIG["hyperparameters"] | hyperparameters
    (path / "config.json").write_text(json.dumps(config))
    step = np.arange(5, 1001, 5)
    returns = level * step / 1000 + np.random.default_rng(seed).normal(0, 5, 200)
    rows = (f"{r!r},5,{s},0,{n}\n" for n, (r, s) in enumerate(zip(returns.tolist(), step, strict=True)))
    (path / "episodes.csv").write_text("r,l,step,env,episode\n" + "".join(rows))
    rows = (f"{n},{100 * n},{2.0 * n},\n" for n in range(1, 11))
    (path / "progress.csv").write_text("iteration,step,time/elapsed,train/loss\n" + "".join(rows))
    if evaluated:
        rows = (
            f"{at},{n},{level * at / 1000 + seed + n},5,1,{seed}\n" for at in (500, 1000) for n in range(4)
        )
        (path / "evaluations.csv").write_text(
            "step,episode,return,length,deterministic,seed\n" + "".join(rows)
        )
    return path


@pytest.fixture
def runs(tmp_path):
    """Two groups of four seeds."""
    for seed in range(4):
        write_run(tmp_path / "runs" / "good" / f"seed_{seed}", seed)
        write_run(tmp_path / "runs" / "bad" / f"seed_{seed}", seed, 60.0, clip_range=0.5)
    return tmp_path / "runs"


def records_of(*paths):
    found, lost = find_runs(paths)
    records, left_out = read_runs(found)
    return records, lost + left_out


# Statistics


@pytest.mark.parametrize("n", range(1, 14))
def test_the_interquartile_mean_is_the_mean_without_a_quarter_at_either_end(n):
    x = np.random.default_rng(n).normal(size=(3, n))
    np.testing.assert_allclose(interquartile_mean(x), scipy.stats.trim_mean(x, 0.25, axis=-1), rtol=1e-12)
    for row, mean in zip(x, interquartile_mean(x), strict=True):
        kept = [v for v in row if n // 4 <= sum(other < v for other in row) < n - n // 4]
        assert mean == pytest.approx(sum(kept) / len(kept))


def test_the_interquartile_mean_of_what_is_not_known_is_not_known():
    x = np.array([[1.0, 2, 3, 4, np.nan], [1, 2, 3, 4, 100]])
    np.testing.assert_array_equal(interquartile_mean(x), [np.nan, 3])


def resamples(scores):
    """Every way to draw as many as there are: all are equally likely."""
    return itertools.product(scores, repeat=len(scores))


@pytest.mark.parametrize("n", [5, 6])
def test_the_interval_is_that_of_all_resamples(n):
    scores = np.random.default_rng(7).normal(size=n)
    every = scipy.stats.trim_mean(list(resamples(scores)), 0.25, axis=1)
    interval = interquartile_mean_interval(scores, resamples=100_000)
    np.testing.assert_allclose(interval, np.percentile(every, [2.5, 97.5]), atol=0.02)


def test_the_interval_of_an_improvement_is_that_of_all_resamples():
    x, y = [1.0, 4, 6, 2], [3.0, 4, 1]
    every = [
        np.mean([(p > q) + (p == q) / 2 for p in a for q in b]) for a in resamples(x) for b in resamples(y)
    ]
    interval = improvement_interval(x, y, resamples=200_000)
    np.testing.assert_allclose(interval, np.percentile(every, [2.5, 97.5]), atol=1e-9)


def test_the_probability_of_improvement_counts_pairs_and_halves_ties():
    x, y = [1.0, 2, 3], [2.0, 2]
    u = scipy.stats.mannwhitneyu(x, y).statistic / 6
    assert probability_of_improvement(x, y) == pytest.approx(u) == pytest.approx(1 / 2)
    assert probability_of_improvement([5, 5], [5, 1, 9]) == pytest.approx(1 / 2)
    assert probability_of_improvement([9.0, 2], [1, 2, 3]) == pytest.approx(4.5 / 6)
    assert probability_of_improvement([1, 2, 3], [9.0, 2]) == pytest.approx(1.5 / 6)
    assert probability_of_improvement([2.0], [1.0]) == 1
    assert improvement_interval([3.0, 4], [1.0, 2]) == (1, 1)


X = np.array([
    [0.67, 0.76, 0.67], [0.34, 0.78, 0.69], [0.49, 0.72, 0.67], [0.66, 0.61, 0.71], [0.45, 0.57, 0.5],
    [0.72, 0.61, 0.54], [0.44, 0.55, 0.6], [0.54, 0.86, 0.8], [0.06, 0.22, 0.57], [0.52, 0.64, 0.64],
])  # fmt: skip
Y = np.array([
    [0.54, 0.4, 0.42], [0.01, 0.86, 0.73], [0.43, 0.65, 0.56], [0.39, 0.7, 0.44],
    [0.43, 0.34, 0.59], [0.48, 0.61, 0.38], [0.53, 0.32, 0.67], [0.54, 0.57, 0.58],
])  # fmt: skip

Z = np.array([[0.4797, 0.4013, 0.5627, 0.6631, 0.7704, 0.6165, 0.5171, 0.4823, 0.7123, 0.8452]])


@pytest.mark.parametrize(
    ("scores", "mean", "low", "high"),
    [
        (X, 0.609375, 0.55625, 0.65875),
        (Y, 0.5091667, 0.445, 0.5775),
        (Z, 0.5923333, 0.5006333, 0.7070667),
    ],
)
def test_intervals_are_those_of_rliable(scores, mean, low, high):
    """`rliable.library.get_interval_estimates` with 200,000 resamples or more: rliable 1.2.0, arch 7.2.0."""
    interval = interquartile_mean_interval(scores.ravel(), resamples=300_000)
    np.testing.assert_allclose([interquartile_mean(scores.ravel()), *interval], [mean, low, high], atol=1e-3)


def test_the_improvement_is_that_of_rliable():
    """As above, `rliable.metrics.probability_of_improvement`, with 50,000 resamples."""
    interval = improvement_interval(X.ravel(), Y.ravel(), resamples=200_000)
    numbers = [probability_of_improvement(X.ravel(), Y.ravel()), *interval]
    np.testing.assert_allclose(numbers, [0.6694444, 0.51875, 0.8083333], atol=3e-3)


def test_a_seed_is_drawn_with_its_whole_curve():
    """So points of a curve have the intervals that they have alone, also where they are resampled in blocks."""
    curve = np.random.default_rng(3).normal(size=(1200, 2, 6)) * np.arange(1, 3)[:, None]
    low, high = interquartile_mean_interval(curve, resamples=1000)
    assert np.shape(low) == (1200, 2)
    for point in ((0, 0), (700, 1), (1199, 1)):
        assert (low[point], high[point]) == interquartile_mean_interval(curve[point], resamples=1000)
    assert not np.array_equal(interquartile_mean_interval(curve, resamples=1000, seed=1).low, low)


@pytest.mark.parametrize(
    "call",
    [
        lambda: interquartile_mean_interval([]),
        lambda: interquartile_mean_interval(1.0),
        lambda: improvement_interval([1.0], []),
        lambda: probability_of_improvement([], [1.0]),
    ],
)
def test_no_scores_are_refused(call):
    with pytest.raises(ValueError, match="no scores"):
        call()


# Reading runs


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Three seeds of a real training."""
    path = tmp_path_factory.mktemp("real") / "runs"
    options = {"total_timesteps": 2048, "num_seeds": 3, "eval_episodes": 2}
    adv.train(adv.QLearning(gamma=1.0), "jax/Cliff-v0", out=path, **options)
    return path


def test_what_training_writes_is_read(trained):
    comparison = adv.compare(trained, threshold=-1e6)
    (score,) = comparison.scores
    assert (score.label, score.seeds, score.steps) == ("q-learning", 3, 2048)
    assert score.lowest <= score.mean <= score.highest and score.seconds > 0
    assert comparison.reached[0].reached in (0, 3) and not comparison.left_out
    assert comparison.score_of == "mean return of the evaluation after the last step"


def test_a_curve_is_the_mean_of_the_last_hundred_episodes(tmp_path):
    (record,), _ = records_of(write_run(tmp_path / "a"))
    episodes = read_episodes(RunFolder(record.path))
    for step, value in zip((4, 5, 7, 503, 1000), record.curve(np.array([4, 5, 7, 503, 1000])), strict=True):
        ended = [r for r, at in zip(episodes["r"], episodes["step"], strict=True) if at <= step][-100:]
        np.testing.assert_allclose(value, np.mean(ended) if ended else np.nan)
    assert np.isnan(record.curve(np.array([1001]))).all()
    assert record.evaluation == 101.5  # of the last evaluation alone


def test_a_threshold_needs_a_hundred_episodes(tmp_path):
    path = write_run(tmp_path / "a")
    text = (path / "episodes.csv").read_text().splitlines()
    text[1] = "1000.0,5,5,0,0"  # a lucky first episode
    (path / "episodes.csv").write_text("\n".join(text) + "\n")
    (record,), _ = records_of(path)
    steps, seconds = record.reaches(70)
    means = [record.returns[n - 100 : n].mean() for n in range(100, 201)]
    first = next(n for n, mean in enumerate(means, 100) if mean >= 70)
    assert steps == 5 * first and seconds == 2 * np.ceil(steps / 100)
    assert record.reaches(1e6) == (np.inf, np.inf)


def test_the_clock_of_a_resumed_run_goes_on(tmp_path):
    path = write_run(tmp_path / "a")
    elapsed = [1, 3, 6, 2, 3, 4, 1, 2, 3, 5]
    rows = "".join(f"{n},{100 * n},{t}.0\n" for n, t in enumerate(elapsed, 1))
    (path / "progress.csv").write_text("iteration,step,time/elapsed\n" + rows)
    (record,), _ = records_of(path)
    np.testing.assert_array_equal(record.clock, [1, 3, 6, 8, 9, 10, 11, 12, 13, 15])


def test_runs_are_found_and_taken_once(runs, monkeypatch):
    monkeypatch.chdir(runs.parent)
    for paths in (["runs"], ["runs/*"], ["runs/*/*"], ["runs/good", "runs/*/seed_*", runs]):
        found, lost = find_runs(paths)
        assert len(found) == 8 and not lost
    found, lost = find_runs(["runs/nothing", "runs/x*", "runs/good/seed_0/config.json", "runs/good"])
    assert len(found) == 4
    assert [(str(path), reason[:12]) for path, reason in lost] == [
        ("runs/nothing", "does not exi"),
        ("runs/x*", "no file matc"),
        ("runs/good/seed_0/config.json", "is a file; g"),
    ]


def test_labels_say_what_differs_and_no_more(tmp_path):
    write_run(tmp_path / "a", learning_rate={"linear": [3e-4, 0.0]}, hidden=[64, 64])
    write_run(tmp_path / "b", learning_rate=1e-3, hidden=[64, 64])
    write_run(tmp_path / "c", algorithm="a2c", ent_coef=0.1)
    write_run(tmp_path / "d", learning_rate=1e-3, hidden=[8])
    records, _ = records_of(tmp_path)
    assert [group.label for group in group_runs(records)] == [
        "ppo hidden=64,64 learning_rate=linear:0.0003:0",
        "ppo hidden=64,64 learning_rate=0.001",
        "a2c",
        "ppo hidden=8 learning_rate=0.001",
    ]


def test_values_that_look_alike_in_short_are_written_in_full(tmp_path):
    """And each group has its own scores: a float32 that a library wrote is another value than 0.1."""
    exact = float(np.float32(0.1))
    for seed, rate in enumerate((0.1, exact, 0.1, 0.3)):
        write_run(tmp_path / str(seed), seed, 100.0 * seed, learning_rate=rate)
    comparison = adv.compare(tmp_path)
    told = {score.label: (score.seeds, score.lowest, score.highest) for score in comparison.scores}
    assert told == {
        "ppo learning_rate=0.3": (1, 304.5, 304.5),
        f"ppo learning_rate={exact!r}": (1, 102.5, 102.5),
        "ppo learning_rate=0.1": (2, 1.5, 203.5),
    }
    assert {(row.better, row.worse) for row in comparison.improvements} == set(
        itertools.combinations([score.label for score in comparison.scores], 2)
    )


def test_runs_belong_together_unless_what_they_learn_differs(runs):
    path = runs / "good" / "seed_3" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"training": config["training"] | {"workers": 2}}))
    assert [len(group.records) for group in group_runs(records_of(runs)[0])] == [4, 4]
    path.write_text(json.dumps(config | {"training": config["training"] | {"num_envs": 2}}))
    labels = {group.label for group in group_runs(records_of(runs)[0])}
    assert labels == {
        "ppo clip_range=0.2 num_envs=1",
        "ppo clip_range=0.2 num_envs=2",
        "ppo clip_range=0.5 num_envs=1",
    }


def test_runs_that_saw_other_observations_or_other_environments_are_no_seeds_of_one_another(runs):
    path = runs / "good" / "seed_3" / "config.json"
    config = json.loads(path.read_text())

    def labels(**training):
        path.write_text(json.dumps(config | {"training": config["training"] | training}))
        return {group.label for group in group_runs(records_of(runs)[0])}

    alike = labels(frame_stack=1, observe_last=[], env_options={}, wrappers=[], cluster_mode="synchronous")
    assert alike == {"ppo clip_range=0.2", "ppo clip_range=0.5"}, "as it was before the options"
    for option, value, text, other in (
        ("frame_stack", 4, "4", "1"),
        ("observe_last", ["action", "reward"], "action,reward", "none"),
        ("env_options", {"size": 8}, "size:8", "none"),
        ("wrappers", ["some.module:Wrapper(2)"], "some.module:Wrapper(2)", "none"),
        ("ignore_observation", ["mission"], "mission", "none"),
        ("data", "expert.safetensors", "expert.safetensors", "None"),
        ("cluster_mode", "a3c", "a3c", "synchronous"),
    ):
        assert labels(**{option: value}) == {
            f"ppo clip_range=0.2 {option}={text}",
            f"ppo clip_range=0.2 {option}={other}",
            f"ppo clip_range=0.5 {option}={other}",
        }


def edit(name, *changes):
    def apply(path):
        text = (path / name).read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new, 1)
        (path / name).write_text(text)

    return apply


def empty(path):
    shutil.rmtree(path)
    path.mkdir()


def stopped(path):
    for name in ("episodes.csv", "progress.csv"):
        lines = (path / name).read_text().splitlines()
        (path / name).write_text("\n".join(lines[: len(lines) // 2 + 1]) + "\n")
    (path / "evaluations.csv").unlink()


BAD = {
    "empty": (empty, "the folder is empty; give the folder of a run"),
    "no config": (lambda path: (path / "config.json").unlink(), "no config.json; give the folder"),
    "half a config": (edit("config.json", ("}", "")), "not readable as JSON.*restore the file"),
    "no seed": (edit("config.json", ('"seed"', '"sead"')), "seed: found nothing"),
    "seed in words": (edit("config.json", ('"seed": 2', '"seed": "two"')), "config.json: seed: found 'two'"),
    "no budget": (edit("config.json", ('"total_timesteps": 1000', '"total_timesteps": 0')), "total_timesteps: found 0"),
    "no episodes": (lambda path: (path / "episodes.csv").unlink(), "no training episode has ended"),
    "stopped": (stopped, "stopped after 500 of its 1,000 steps; resume it: advantage resume .*seed_2"),
    "words": (edit("episodes.csv", (",5,15,0", ",5,many,0")), "episodes.csv: line 4: could not convert.*correct"),
    "half a step": (edit("episodes.csv", (",5,15,0", ",5,15.5,0")), "line 4, column step: found 15.5"),
    "a cell less": (edit("episodes.csv", (",5,15,0", ",5,15")), "line 4: found 4 cells, expected 5"),
    "an empty line": (edit("episodes.csv", ("\n", "\n\n")), "line 2: found 1 cells"),
    "no return": (edit("episodes.csv", ("\n", "\nnan,5,1,0,0\n")), "line 2, column r: found nan, expected a finite"),
    "an infinite evaluation": (edit("evaluations.csv", ("\n", "\n1000,9,inf,5,1,0\n")), "column return: found inf"),
    "no column": (edit("episodes.csv", ("r,l,", "r,")), "episodes.csv: header: found"),
    "not text": (lambda path: (path / "progress.csv").write_bytes(b"\xff\xfe"), "not readable as CSV"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_run_is_named_and_the_others_are_compared(runs, kind):
    spoil, reason = BAD[kind]
    spoil(runs / "good" / "seed_2")
    comparison = adv.compare(runs)
    assert {score.label: score.seeds for score in comparison.scores} == {
        "ppo clip_range=0.2": 3,
        "ppo clip_range=0.5": 4,
    }
    ((path, why),) = comparison.left_out
    assert path == runs / "good" / "seed_2"
    assert re.search(reason, why), why
    assert "different numbers of seeds" in " ".join(comparison.notes)


def test_the_same_seed_again_is_no_further_seed(runs):
    shutil.copytree(runs / "good" / "seed_1", runs / "good" / "seed_1_again")
    comparison = adv.compare(runs)
    assert [score.seeds for score in comparison.scores] == [4, 4]
    assert "adds no seed; train other seeds" in comparison.left_out[0].reason


def test_columns_that_are_not_wanted_are_not_read(tmp_path):
    path = write_run(tmp_path / "a")
    edit("progress.csv", (",2.0,", ",2.0,broken"))(path)
    with pytest.raises(CheckpointError, match="line 2: could not convert"):
        read_progress(RunFolder(path))
    part = read_progress(RunFolder(path), ("step", "time/elapsed", "absent"))
    assert list(part) == ["step", "time/elapsed"] and part["step"].dtype == np.int64
    np.testing.assert_array_equal(part["time/elapsed"], 2.0 * np.arange(1, 11))
    (path / "progress.csv").write_text("step\n1\n\n2\n")
    with pytest.raises(CheckpointError, match="line 3, column step"):
        read_progress(RunFolder(path))


# The comparison


def test_the_tables_hold_what_the_runs_say(runs):
    comparison = adv.compare(runs, threshold=70)
    good, bad = comparison.scores
    assert (good.label, bad.label) == ("ppo clip_range=0.2", "ppo clip_range=0.5")
    final = 100 + np.arange(4) + 1.5  # of each seed
    assert (good.mean, good.lowest, good.highest, good.seconds) == (
        final[1:3].mean(),
        final[0],
        final[-1],
        20,
    )
    assert good.interval == interquartile_mean_interval(final)
    (improvement,) = comparison.improvements
    assert improvement == (good.label, bad.label, 1.0, (1.0, 1.0))
    assert "every pair of these seeds was won" in comparison.notes[0]
    first, second = comparison.reached
    assert (first.reached, second.reached) == (4, 0) and np.isinf(second.steps)
    records, _ = records_of(runs / "good")
    assert first.steps == np.median([record.reaches(70)[0] for record in records])
    curve = comparison.curves[0]
    seeds = np.array([record.curve(curve.step) for record in records])
    np.testing.assert_array_equal(curve.seeds, seeds)
    np.testing.assert_allclose(curve.mean, scipy.stats.trim_mean(seeds, 0.25, axis=0))
    known = ~np.isnan(curve.mean)
    assert curve.interval is not None
    assert (
        np.all((curve.interval.low <= curve.mean) & (curve.mean <= curve.interval.high) | ~known)
        and known.sum() > 190
    )


def test_without_an_evaluation_everywhere_training_episodes_count(tmp_path):
    for seed in range(3):
        write_run(tmp_path / f"a{seed}", seed, evaluated=seed != 1)
    comparison = adv.compare([tmp_path])
    assert comparison.score_of == "mean return of the last 100 training episodes"
    assert any("Not every run was evaluated" in note for note in comparison.notes)
    records, _ = records_of(tmp_path)
    assert comparison.scores[0].mean == pytest.approx(np.mean([r.returns[-100:].mean() for r in records]))


@pytest.mark.parametrize("seeds", [1, 2])
def test_too_few_seeds_have_no_interval(tmp_path, seeds):
    for seed in range(seeds):
        write_run(tmp_path / "few" / f"{seed}", seed)
    for seed in range(3):
        write_run(tmp_path / "more" / f"{seed}", seed, algorithm="a2c")
    comparison = adv.compare(tmp_path)
    by_label = {score.label: score for score in comparison.scores}
    assert by_label["ppo"].interval is None and by_label["a2c"].interval is not None
    assert comparison.improvements[0].interval is None
    assert {len(curve.seeds): curve.interval is None for curve in comparison.curves} == {
        seeds: True,
        3: False,
    }
    assert "an interval is not meaningful below 3 seeds, and none is given for ppo" in comparison.notes[0]
    assert "not meaningful" in comparison.tables()[0].rows[[s.label for s in comparison.scores].index("ppo")]


def test_environments_are_compared_one_at_a_time(runs):
    write_run(runs / "other", 9, environment="Other-v0")
    with pytest.raises(
        ValueError, match=r"Game-v0 \(8 runs\), Other-v0 \(1 runs\)\. Compare one at a time: --env"
    ):
        adv.compare(runs)
    assert [score.seeds for score in adv.compare(runs, environment="Game-v0").scores] == [4, 4]
    with pytest.raises(ValueError, match="holds a run of None-v0 that can be compared"):
        adv.compare(runs, environment="None-v0")


def test_nothing_to_compare_is_an_error_with_every_reason(tmp_path):
    (tmp_path / "hollow").mkdir()
    with pytest.raises(ValueError, match=r"(?s)None of the 1 folders.*hollow: the folder is empty"):
        adv.compare([tmp_path / "hollow", tmp_path / "nix"])
    with pytest.raises(ValueError, match="threshold=nan"):
        adv.compare([tmp_path], threshold=float("nan"))


def test_curves_of_other_budgets_end_where_they_end(runs):
    for path in (runs / "bad").glob("*/config.json"):
        path.write_text(path.read_text().replace('"total_timesteps": 1000', '"total_timesteps": 500'))
    comparison = adv.compare(runs)
    assert "The budgets differ" in " ".join(comparison.notes)
    curve = next(curve for curve in comparison.curves if "0.5" in curve.label)
    np.testing.assert_array_equal(np.isnan(curve.mean), curve.step > 500)
    assert "total_timesteps=500" in curve.label


def test_budgets_that_differ_by_more_than_the_points_of_a_curve_are_compared(tmp_path):
    """The shorter curve ends before the first of the 200 points."""
    for seed in range(3):
        write_run(tmp_path / "runs" / f"long{seed}", seed)
        path = write_run(tmp_path / "runs" / f"short{seed}", seed)
        edit("config.json", ('"total_timesteps": 1000', '"total_timesteps": 4'))(path)
    comparison = adv.compare(tmp_path / "runs")
    short = next(curve for curve in comparison.curves if "total_timesteps=4" in curve.label)
    assert short.interval is not None and np.isnan([short.mean, *short.interval]).all()
    assert len(comparison.write(tmp_path / "out")[0]) == 3


# What is written


def test_the_files(runs, tmp_path, monkeypatch):
    comparison = adv.compare(runs, threshold=70)
    files, missing = comparison.write(tmp_path / "out")
    assert [file.name for file in files] == [
        "comparison.csv",
        "comparison.png",
        "comparison.html",
    ] and not missing
    assert matplotlib.image.imread(files[1]).shape[1] == 1200
    rows = list(csv.DictReader(io.StringIO(files[0].read_text())))
    assert len(rows) == 2 * 200 and rows[0]["seeds"] == "4"
    assert float(rows[199]["interquartile_mean"]) == pytest.approx(comparison.curves[0].mean[-1], rel=1e-5)
    with pytest.raises(FileExistsError, match="choose another one: --out"):
        comparison.write(tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    assert [comparison.write()[0][0].parent.name for _ in range(3)] == [
        "comparison",
        "comparison-2",
        "comparison-3",
    ]


def test_the_page_stands_alone_and_shows_names_as_they_are(tmp_path):
    for seed in range(3):
        write_run(tmp_path / "runs" / f"{seed}", seed, environment="<i>&</script>", algorithm="</script><b>")
    (tmp_path / "runs" / "<hollow>").mkdir()
    files, _ = adv.compare(tmp_path / "runs").write(tmp_path / "out")
    text = files[-1].read_text()
    assert text.count("</script>") == 2 and "<b>" not in text.partition("<script>")[0]
    assert "Comparison on &lt;i&gt;&amp;&lt;/script&gt;" in text and "&lt;hollow&gt;" in text
    head = text.partition("<script>")[0]
    assert "http" not in head and "src=" not in head


def test_without_the_libraries_the_numbers_are_written(runs, tmp_path, monkeypatch):
    for name in ("plotly.offline", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    files, missing = adv.compare(runs).write(tmp_path / "out")
    assert (
        [file.name for file in files] == ["comparison.csv"] == [p.name for p in (tmp_path / "out").iterdir()]
    )
    assert "advantage[plot]" in missing[0] and "advantage[page]" in missing[1]


def test_the_command(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "140")
    empty(runs / "bad" / "seed_0")
    assert main(["compare", "runs/good", "runs/bad", "--threshold", "70", "--out", "here"]) == 0
    printed = capsys.readouterr().out
    for text in (
        "Comparison on Game-v0",
        "clip_range=0.2",
        "103.0",
        "not reached",
        "the folder is empty",
        "Note: ",
    ):
        assert text in printed
    assert "Wrote here/comparison.csv, here/comparison.png, here/comparison.html" in printed
    page = (tmp_path / "here" / "comparison.html").read_text()
    assert "advantage compare runs/good runs/bad --threshold 70" in page
    assert main(["compare", "runs/*", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [score["seeds"] for score in told["scores"]] == [4, 3] and told["left_out"][0][
        "path"
    ] == "runs/bad/seed_0"
    assert told["files"][0] == "comparison/comparison.csv"
    assert main(["compare", "runs", "--out", "here"]) == 2
    assert "here exists already" in capsys.readouterr().err
    assert main(["compare"]) == 2
    assert "needs RUN" in capsys.readouterr().err
    assert main(["compare", "--help"]) == 0
    assert "--threshold" in capsys.readouterr().out


# In a browser


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_in_a_browser(runs, tmp_path, width):
    from playwright import sync_api as playwright

    chromium = shutil.which("chromium")
    assert chromium, "install chromium, on Debian and Ubuntu `apt-get install chromium`"
    write_run(runs / "few", 0, 30.0, algorithm="a-method-with-a-long-name", clip_range=0.123456)
    (runs / "hollow").mkdir()
    files, _ = adv.compare(runs, threshold=70).write(tmp_path / "out")
    with playwright.sync_playwright() as player:
        browser = player.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": width, "height": 844})
        context.set_offline(True)
        page, wrong = context.new_page(), []
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "request", lambda request: wrong.append(request.url) if request.url.startswith("http") else None
        )
        page.goto(files[-1].as_uri())
        page.wait_for_selector("#curves .legendtext")

        def drawn():
            """What has a shape: three curves, two bands, and the one seed."""
            return page.locator("#curves .scatterlayer .trace").evaluate_all(
                "traces => traces.filter(trace => trace.getBBox().width > 50 && trace.getBBox().height > 10).length"
            )

        assert drawn() == 6
        box = page.locator("#curves .nsewdrag").first.bounding_box()
        assert box["width"] > 0.6 * min(width, 1080) and box["height"] > 200
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.5 * box["height"])
        page.wait_for_selector("#curves .hoverlayer .legendtext")
        hover = page.locator("#curves .hoverlayer").text_content()
        assert "clip_range=0.2" in hover and "[" in hover
        page.mouse.move(0, 0)
        page.locator("#curves .legendtoggle").first.click()
        page.wait_for_function("document.querySelectorAll('#curves .scatterlayer .trace').length == 4")
        assert drawn() == 4  # the line and its band are gone
        page.locator("#curves .legendtoggle").first.click()
        page.wait_for_function("document.querySelectorAll('#curves .scatterlayer .trace').length == 6")
        for text in ("Final scores", "Probability that", "Left out", "Made by", "103.0", "hollow"):
            assert page.get_by_text(text).first.is_visible()
        assert not wrong
        browser.close()


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_the_tables_of_many_groups_are_folded_on_a_phone(many_runs, tmp_path, width):
    from playwright import sync_api as playwright

    files, _ = adv.compare(many_runs).write(tmp_path / "out")
    with playwright.sync_playwright() as player:
        browser = player.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_context(viewport={"width": width, "height": 844}).new_page()
        page.goto(files[-1].as_uri())
        box = page.locator("input[data-group]").first
        assert box.is_visible() == (width > 640)
        assert width > 640 or page.evaluate("document.documentElement.scrollHeight") < 1500
        if width < 640:
            page.get_by_text("Final scores").click()
        box.uncheck()
        browser.close()


# Many groups, and terminals of every width


def test_tables_fit_the_terminal_without_breaking_a_word():
    header = ("runs", "mean", "95% interval")
    rows = [("ppo clip_range=0.2 gamma=0.99", "100.0", "[90.0, 110.0]"), ("a2c", "3.25", "not meaningful")]
    numeric = [False, True, True]
    words = {word.strip(",") for word in " ".join([*header[1:], *map(" ".join, rows)]).split()}
    for width in (20, 32, 60, 200):
        lines = text_table(header, rows, numeric, width)
        assert max(map(len, lines)) <= max(width, max(map(len, words)) + 2)
        assert words <= {part.strip(":,") for part in " ".join(lines).split()}
    assert text_table(header, rows, numeric, 60)[0].split() == ["runs", "mean", "95%", "interval"]
    assert text_table(header, rows, numeric, 32)[0] == "runs"
    assert text_table(header, [], numeric, 60) == []


@pytest.fixture
def many_runs(tmp_path):
    for place in range(10):
        write_run(tmp_path / "many" / f"{place}", 0, 100.0 + (7 * place) % 10, clip_range=place / 4)
    return tmp_path / "many"


def test_many_groups_are_summarised_and_chosen(many_runs, tmp_path, capsys):
    assert main(["compare", str(many_runs), "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert out.count("ppo clip_range=") < 45
    assert "and 33 more rows, which the page and --json have" in out
    page = (tmp_path / "out" / "comparison.html").read_text(encoding="utf-8")
    assert len(re.findall(r"<input type=.checkbox. data-group=", page)) == 10
    assert len(re.findall(r"<input type=.checkbox. data-group=.\d. checked", page)) == 6
    first = page[page.index("<table>") : page.index("</table>")]
    labels = re.findall(r"ppo clip_range=([\d.]+)<", first)
    assert labels == [f"{place / 4:g}" for place in range(10)]
    assert "<details><summary>Probability" in page and "<details open><summary><h2>Final scores" in page
    assert '"hovermode": "closest"' in page and '"showlegend": false' in page


@pytest.mark.parametrize("groups", [8, 9, 30])
def test_the_picture_names_the_best_of_many(groups, tmp_path, monkeypatch):
    steps = np.arange(1, 6) * 100
    curves = [
        Curve(
            label=f"ppo gamma={n}",
            step=steps,
            mean=np.full(5, -float(n)),
            interval=(np.full(5, -n - 1.0), np.full(5, -n + 1.0)),
            seeds=np.full((3, 5), -float(n)),
        )
        for n in range(groups)
    ]
    legends, bands, plotted = [], [], []
    legend, fill, plot = Figure.legend, Axes.fill_between, Axes.plot
    monkeypatch.setattr(Figure, "legend", lambda *a, **k: legends.append(legend(*a, **k)) or legends[0])
    monkeypatch.setattr(Axes, "fill_between", lambda *a, **k: bands.append(k["color"]) or fill(*a, **k))
    monkeypatch.setattr(Axes, "plot", lambda *a, **k: plotted.append((a[2][0], k["color"])) or plot(*a, **k))
    picture = draw(curves, tmp_path / "a.png", environment="E")
    named = groups if groups <= 8 else 6
    assert [text.get_text() for text in legends[0].get_texts()] == [
        f"ppo gamma={n}, 3 seeds" for n in range(named)
    ]
    assert len(bands) == named and len(plotted) == groups
    assert sorted(mean for mean, colour in plotted if colour == GREY) == [
        -float(n) for n in range(groups - 1, named - 1, -1)
    ]
    title = {8: "", 9: "3 more groups are grey", 30: "24 more groups are grey"}[groups]
    assert title in legends[0].get_title().get_text()
    assert matplotlib.image.imread(picture).shape[1] == 1200


def test_the_best_group_of_many_is_named_once(tmp_path, capsys):
    for place in range(14):
        write_run(tmp_path / "many" / f"{place}", 0, 100.0 + place, gamma=place / 14)
    assert main(["compare", str(tmp_path / "many"), "--out", str(tmp_path / "out")]) == 0
    lines = capsys.readouterr().out.splitlines()
    begin = lines.index("Probability that a run of one group scores above a run of another")
    assert lines[begin + 1] == "one group: ppo gamma=0.928571"
    assert lines[begin + 2].split() == ["another", "probability", "95%", "interval"]
    assert [line.split()[1] for line in lines[begin + 4 : begin + 7]] == [
        "gamma=0.857143",
        "gamma=0.785714",
        "gamma=0.714286",
    ]
    assert "and 79 more rows, which the page and --json have" in lines


def test_notes_are_broken_where_a_terminal_ends(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "70")
    monkeypatch.chdir(tmp_path)
    assert main(["compare", str(runs), "--out", "out"]) == 0
    out = capsys.readouterr().out
    assert "Note: " in out and max(map(len, out.splitlines())) <= 70


def test_few_groups_have_a_legend(runs, tmp_path):
    adv.compare(runs).write(tmp_path / "out")
    page = (tmp_path / "out" / "comparison.html").read_text(encoding="utf-8")
    assert '"hovermode": "x unified"' in page and '"showlegend": true' in page
    assert '<input type="checkbox"' not in page and "<details>" not in page


def test_a_picture_is_whole_and_never_written_through_a_link(tmp_path):
    picture, mine = tmp_path / "a.png", tmp_path / "mine.txt"
    mine.write_text("mine")
    (tmp_path / ".a.png.tmp").symlink_to(mine)
    write_figure(picture, (3, 2), lambda figure: figure.add_subplot())
    assert matplotlib.image.imread(picture).shape[:2] == (200, 300)
    assert mine.read_text() == "mine" and not picture.is_symlink()
    with pytest.raises(ZeroDivisionError):
        write_figure(picture, (3, 2), lambda figure: 1 // 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "mine.txt"]
