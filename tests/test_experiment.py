"""Experiments: every cell is trained once, whatever is killed in between, and a wrong grid is refused by its line."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import advantage as adv
from advantage.cells import Cell, declaration, serve
from advantage.cli import main
from advantage.experiment import read_experiment, run_experiment
from advantage.runs.folder import RunFolder
from advantage.runs.log import Logger, read_episodes
from advantage.training.options import Options

GRID = """environments = ["jax/Cliff-v0"]
seeds = [0, 1]
[training]
total_timesteps = 512
eval_episodes = 1

[[algorithms]]
name = "q-learning"
options = {gamma = 1.0}
grid = {learning_rate = [0.1, 0.5]}

[[algorithms]]
name = "ppo"
options = {hidden = [8], learning_rate = {linear = [1e-3, 0.0]}}
"""


@pytest.fixture
def grid(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "grid.toml"
    file.write_text(GRID)
    return file


def test_the_grid_is_every_combination(grid):
    cells = read_experiment(grid)
    assert len({cell.path for cell in cells}) == len(cells) == 6
    assert {str(cell.path.parent) for cell in cells} == {
        "runs/grid/jax-Cliff-v0/q-learning-learning_rate=0.1",
        "runs/grid/jax-Cliff-v0/q-learning-learning_rate=0.5",
        "runs/grid/jax-Cliff-v0/ppo",
    }
    first, last = cells[0], cells[-1]
    assert first.algorithm == adv.QLearning(gamma=1.0, learning_rate=0.1)
    assert cells[2].algorithm == adv.QLearning(gamma=1.0, learning_rate=0.5)
    assert last.algorithm == adv.PPO(hidden=(8,), learning_rate=adv.Linear(1e-3, 0.0))
    assert [cell.options.seed for cell in cells] == [0, 1] * 3 and first.options.total_timesteps == 512
    assert not any(cell.finished for cell in cells)


def test_the_process_of_a_cell_is_told_the_cell(grid, monkeypatch):
    """So a file that is edited while it runs changes none of its runs."""
    trained = []
    monkeypatch.setattr("advantage.cells.carry_on", lambda cell, callback: trained.append(cell))
    monkeypatch.setattr("advantage.cells._output_in_log", contextlib.nullcontext)
    grid.write_text(GRID.replace("eval", 'env_options = {size = 8}\nobserve_last = ["reward"]\neval'))
    cells = read_experiment(grid)
    assert [serve(declaration(cell), os.getppid()) for cell in cells] == [0] * 6
    assert trained == cells


def test_a_run_that_stopped_early_has_finished(tmp_path):
    """But not where it was killed between the evaluation that stops it and the checkpoint."""
    rules = dict(total_timesteps=96, eval_every=32, eval_episodes=1, stop_at_return=1.0, tensorboard=False)
    algorithm, options = adv.A2C(hidden=(4,), n_steps=8), Options(**rules)
    run = adv.train(algorithm, "jax/CartPole-v1", out=tmp_path / "run", **rules)
    cell = Cell(algorithm, "jax/CartPole-v1", options, run.path)
    assert run.step == 32 and cell.finished
    with Logger(RunFolder(run.path), tensorboard=False) as logger:
        logger.evaluation(64, np.array([9.0]), np.array([9]), True, 0)
    assert not cell.finished
    assert not dataclasses.replace(cell, options=dataclasses.replace(options, stop_at_return=None)).finished


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"q-learning"', '"q-lerning"', r"grid\.toml:8: There is no algorithm 'q-lerning'; did you mean"),
        ("{gamma", "{gama", r"grid\.toml:9: q-learning has no hyperparameter 'gama' \(the nearest is gamma\)"),
        ("gamma = 1.0", "gamma = 7.0", r"grid\.toml:9: .*gamma"),
        ("{hidden", "{hiden", r"grid\.toml:14: ppo has no hyperparameter 'hiden'"),
        ("[0.1, 0.5]", "0.1", r"grid\.toml:10: grid: learning_rate must be a list"),
        ('"jax/Cliff-v0"', '"jax/Clif-v0"', r"grid\.toml:1: .*jax/Clif-v0"),
        ("total_timesteps", "total_steps", r"grid\.toml:4: training: .*total_steps.*Options are: total_timesteps"),
        ("eval_episodes", "num_seeds", r"grid\.toml:5: training has no num_seeds; write .*seeds = \[0, 1, 2\]"),
        ("eval_episodes", "seed", r"grid\.toml:5: training has no seed"),
        ("= 512", "= 512\nenv_options = {a = 2020-01-01}", r"grid\.toml:5: training: env_options has a date"),
        ("= 512", "= 0", r"grid\.toml:4: training: total_timesteps=0 is not allowed"),
        ("seeds = [0, 1]", "seeds = []", r"grid\.toml:2: seeds must be a list that is not empty"),
        ("seeds = [0, 1]", "seeds = [-1]", r"grid\.toml:2: seed=-1"),
        ("seeds = [0, 1]", "seeds = [1, 1]", "seed_1 twice"),
        ("seeds", "seads", r"grid\.toml:2: an experiment has no 'seads'; there are: environments, seeds"),
        ("name = \"ppo\"", "", r"grid\.toml:12: an algorithm needs 'name'"),
        ('"ppo"', '"value-iteration"', r"grid\.toml:1[34]: value-iteration"),
        ("[[algorithms]]", "[[algorithms]", r"grid\.toml: not readable as TOML"),
    ],
)  # fmt: skip
def test_a_wrong_grid_is_refused_by_its_line_before_anything_runs(grid, old, new, message):
    assert old in GRID
    grid.write_text(GRID.replace(old, new, 1))
    with pytest.raises(ValueError, match=message):
        run_experiment(grid)
    assert not (grid.parent / "runs").exists()


def test_cells_run_once_and_failures_are_named(grid, capsys):
    """CartPole's observations are no states of a table, which a cell finds out when it begins."""
    text = (
        GRID.partition('[[algorithms]]\nname = "ppo"')[0]
        .replace("[0.1, 0.5]", "[0.5]")
        .replace("[0, 1]", "[0]")
    )
    text = text.replace('["jax/Cliff-v0"]', '["jax/CartPole-v1", "jax/Cliff-v0"]').replace("= 512", "= 4_096")
    grid.write_text(text)
    assert main(["experiment", "grid.toml"]) == 1
    printed = capsys.readouterr().out
    failed, good = (cell.path for cell in read_experiment(grid))
    assert "2 runs, 0 finished already" in printed and "1 runs have finished, 1 failed." in printed
    assert f"  {failed}: ValueError: " in printed and f"(full output in {failed}.log)" in printed
    assert f"finished {good}" in printed and printed.endswith(
        "Next: advantage compare runs/grid/jax-Cliff-v0\n"
    )
    assert "Next: advantage compare runs/grid/jax-CartPole" not in printed
    assert len(read_episodes(RunFolder(good))["r"]) > 0

    before = {file: file.stat().st_mtime_ns for file in good.rglob("*")}
    said = []

    def edits(text):  # what runs is what the file declared when it was read
        said.append(text)
        grid.write_text("")

    declared = grid.read_text()
    outcome = run_experiment(grid, processes=1, say=edits)
    grid.write_text(declared)
    log = failed.with_name("seed_0.log").read_text()
    assert (
        log.count(reason := outcome.failed[failed].partition(" (full")[0]) == 4 and "A table needs" in reason
    )
    assert "2 runs, 1 finished already" in said[0] and [text[:6] for text in said[1:]] == ["failed"]
    assert outcome.finished == [good] and list(outcome.failed) == [failed]
    assert {file: file.stat().st_mtime_ns for file in good.rglob("*")} == before
    with pytest.raises(ValueError, match="processes=0 is not allowed"):
        run_experiment(grid, processes=0)

    grid.write_text(grid.read_text().replace("gamma = 1.0", "gamma = 0.9"))
    with pytest.raises(ValueError, match=f"the run in {good} differs from the file in gamma; give a new"):
        run_experiment(grid)


def _runs(process):
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["the experiment", "the experiment, and at once again", "a cell"])
def test_killed_at_any_moment_it_goes_on_to_the_same_numbers(grid, victim):
    text = (
        GRID.partition('[[algorithms]]\nname = "ppo"')[0]
        .replace("[0.1, 0.5]", "[0.5]")
        .replace("[0, 1]", "[0]")
    )
    text = text.replace("jax/Cliff-v0", "FrozenLake-v1").replace(
        "= 512", "= 100_000\ncheckpoint_every = 1_000"
    )
    grid.write_text(text)
    (cell,) = read_experiment(grid)
    process = subprocess.Popen([sys.executable, "-m", "advantage", "experiment", "grid.toml"])
    deadline = time.monotonic() + 120
    while len(list(cell.path.glob("checkpoints/step_*"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not cell.finished
    with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
        (child,) = map(int, file.read().split())
    os.kill(child if victim == "a cell" else process.pid, signal.SIGKILL)
    assert process.wait(60) == (1 if victim == "a cell" else -signal.SIGKILL)
    if victim == "the experiment":
        while _runs(child) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not _runs(child) and not cell.finished  # it has noticed, saved and stopped
    outcome = run_experiment(grid)  # where the cell still runs, it waits for it to save and stop
    assert outcome.finished == [cell.path] and not outcome.failed
    whole = adv.train(
        cell.algorithm, "FrozenLake-v1", out="whole", total_timesteps=100_000, eval_episodes=0, workers=0
    )
    for name, column in read_episodes(RunFolder(whole.path)).items():
        assert (column == read_episodes(RunFolder(cell.path))[name]).all()
