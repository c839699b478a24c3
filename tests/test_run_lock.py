"""A run has one writer: a second is refused at once, by name; one that is gone, however it went, is no obstacle."""

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import gymnasium
import pytest
from probe_runs import SIZE, stop_at, tiny_grid, train

import advantage as adv
import advantage.agent as agent_module
from advantage.cli import main
from advantage.experiment import read_experiment
from advantage.runs.folder import claim_run_folder
from advantage.runs.lock import RunLock, refuse_if_in_use

ROOT = Path(__file__).parents[1]
TINY = shlex.split("--n-steps 32 --batch-size 32 --n-epochs 1 --hidden 8 --num-envs 2 --eval-episodes 0")
ENDLESS = [*TINY, "--total-timesteps", "100000000", "--checkpoint-every", "640", "--quiet"]
BUSY = r"is being written by process {} on {} since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d\. .*advantage resume .*another"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was stopped before its end."""
    path = tmp_path_factory.mktemp("whole") / "run"
    return train("CartPole-v1", path, callback=stop_at(1), checkpoint_every=SIZE).path


@pytest.fixture
def run(whole, folder):
    return Path(shutil.copytree(whole, folder / "run", symlinks=True))


@contextlib.contextmanager
def started(*arguments):
    """The command line in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "advantage", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_until(condition, process):
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)


def busy(process):
    return BUSY.format(process, platform.node())


def test_promise_17_a_run_that_is_running_is_not_resumed(folder, capsys):
    with started("train", "ppo", "CartPole-v1", *ENDLESS, "--workers", 0, "--out", "r") as process:
        wait_until(lambda: len(list(Path("r/checkpoints").glob("step_*"))) > 2, process)
        begin = time.monotonic()
        with pytest.raises(adv.RunInUse, match=busy(process.pid)):
            adv.resume("r")
        with pytest.raises(FileExistsError, match=busy(process.pid)):
            train("CartPole-v1", "r")
        assert main(["resume", "r/last"]) == 2 and "is being written by process" in capsys.readouterr().err
        assert time.monotonic() - begin < 20
        assert main(["eval", "r", "--episodes", "1"]) == 0  # who reads needs no lock
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
    assert not Path("r/lock").exists()
    rows = Path("r/progress.csv").read_text().splitlines()[1:]
    assert [int(row.split(",")[0]) for row in rows] == list(range(1, len(rows) + 1))
    step = adv.load("r").step
    assert adv.resume("r", callback=lambda progress: False).step > step


def test_promise_17_who_was_killed_is_no_obstacle_nor_are_the_workers_that_are_left(folder):
    with started("train", "ppo", "CartPole-v1", *ENDLESS, "--workers", 2, "--out", "r") as process:
        wait_until(lambda: len(list(Path("r/checkpoints").glob("step_*"))) > 2, process)
        process.kill()
        process.wait()
        assert f"process {process.pid} on" in Path("r/lock").read_text()
        assert adv.resume("r", callback=lambda progress: False).step > 0
    assert not Path("r/lock").exists()


@pytest.mark.parametrize("exists", [True, False])
def test_promise_17_of_two_starts_with_one_path_one_trains(exists, folder):
    if exists:
        Path("q").mkdir()
    command = ["train", "ppo", "CartPole-v1", *ENDLESS, "--workers", 0, "--out", "q", "--seed"]
    with started(*command, 1) as first, started(*command, 2) as second:
        deadline = time.monotonic() + 120
        while first.poll() is None and second.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        loser, winner = (first, second) if first.poll() is not None else (second, first)
        assert loser.poll() == 2 and winner.poll() is None
        said = loser.stderr.read()
        assert f"q is being written by process {winner.pid} on" in said and said.count("\n") == 1
        assert json.loads(Path("q/config.json").read_text())["seed"] == (1 if winner is first else 2)


def test_of_many_claims_one_wins(folder):
    """Wherever each stands when another takes, ends and removes; and there are never two."""
    options = {"root": folder, "environment": "E", "algorithm": "ppo", "seed": 0}

    def claim(path, won, gate):
        gate.wait()
        with contextlib.suppress(FileExistsError):
            won.append(claim_run_folder(path, **options)[1])

    def write(path, inside, most):
        for _ in range(200):
            with contextlib.suppress(adv.RunInUse), RunLock(path):
                inside.append(None)
                most.append(len(inside))
                inside.pop()

    def together(size, target, *arguments):
        threads = [threading.Thread(target=target, args=arguments) for _ in range(size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("advantage.runs.lock._MOMENT", 0)
        for number in range(20):
            won = []
            together(8, claim, folder / str(number), won, threading.Barrier(8))
            assert len(won) == 1
            (folder / str(number) / "config.json").touch()
            won[0].release()
            with pytest.raises(FileExistsError, match="exists already"):
                claim_run_folder(folder / str(number), **options)
            assert [path.name for path in (folder / str(number)).iterdir()] == ["config.json"]
        most = []
        (folder / "one").mkdir()
        together(8, write, folder / "one", [], most)
        assert len(most) > 200 and set(most) == {1} and not list((folder / "one").iterdir())


def test_promise_17_from_python_too(run):
    refused = []

    def intrude(progress):
        with pytest.raises(adv.RunInUse, match=busy(os.getpid())) as error:
            adv.resume(progress_of)
        with pytest.raises(adv.RunInUse, match=busy(os.getpid())):
            train("CartPole-v1", progress_of)
        refused.append(error.value)
        assert adv.load(progress_of).step >= 0

    progress_of = run
    assert adv.resume(run, callback=intrude).finished
    progress_of = Path("new")
    assert train("CartPole-v1", "new", callback=intrude).finished
    assert len(refused) == 5 and not Path("new/lock").exists() and not (run / "lock").exists()


@pytest.mark.parametrize("environment", ["CartPole-v1", "jax/CartPole-v1"])
def test_each_of_several_seeds_is_held_while_it_is_written(environment, folder):
    seen = set()

    def look(progress):
        path = Path("many", f"seed_{progress.seed}")
        with pytest.raises(adv.RunInUse):
            refuse_if_in_use(path)
        seen.add(path)

    train(environment, "many", num_seeds=2, total_timesteps=2 * SIZE, callback=look)
    assert len(seen) == 2
    for path in seen:
        refuse_if_in_use(path)
        assert not (path / "lock").exists()


class Breaks(gymnasium.Wrapper):
    """Raises in its hundredth step."""

    def __init__(self):
        super().__init__(gymnasium.make("CartPole-v1", disable_env_checker=True))
        self.left = 100

    def step(self, action):
        self.left -= 1
        if not self.left:
            raise ZeroDivisionError
        return super().step(action)


def test_the_lock_goes_with_whoever_held_it_however_it_ends(run):
    assert train("CartPole-v1", "returns").finished and not Path("returns/lock").exists()
    with pytest.raises(adv.EnvironmentFailure):
        train(Breaks, "raises", total_timesteps=100 * SIZE, checkpoint_every=SIZE)
    assert not Path("raises/lock").exists()
    assert adv.resume("raises", environment="CartPole-v1", callback=stop_at(2)).step
    with pytest.raises(KeyboardInterrupt):
        train("CartPole-v1", "stopped", callback=lambda _: os.kill(os.getpid(), signal.SIGINT))
    assert not Path("stopped/lock").exists() and adv.resume("stopped").finished
    with pytest.raises(ValueError, match="has taken its"):
        adv.resume("stopped", total_timesteps=2)
    with pytest.raises(FileExistsError, match="exists already"):
        train("CartPole-v1", "stopped")
    assert not Path("stopped/lock").exists()


def test_what_a_killed_process_left_is_no_obstacle_to_a_new_run(folder):
    Path("empty").mkdir()
    Path("empty/lock").write_text("process 1 on elsewhere since 2001-01-01 00:00:00\n")
    assert train("CartPole-v1", "empty", total_timesteps=SIZE).finished


FORKS = """
import os, signal, sys, time
from advantage.runs.lock import RunLock
lock = RunLock(sys.argv[1])
child = os.fork()
if not child:
    lock.release()
    os.close(1)
    time.sleep(60)
    os._exit(0)
time.sleep(0.2)
print(child, os.path.exists(os.path.join(sys.argv[1], "lock")), flush=True)
time.sleep(60)
"""


def test_a_fork_does_not_hold_what_its_parent_held(folder):
    process = subprocess.Popen(
        [sys.executable, "-c", FORKS, str(folder)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    child, there = process.stdout.readline().split()
    try:
        assert there == "True" and (folder / "lock").exists()
        with pytest.raises(adv.RunInUse, match=busy(process.pid)):
            RunLock(folder)
        process.kill()
        process.wait()
        os.kill(int(child), 0)  # it lives
        RunLock(folder).release()
    finally:
        process.kill()
        process.communicate()
        os.kill(int(child), signal.SIGKILL)


def test_a_file_system_without_locks_is_named(run, monkeypatch, capsys):
    def refuse(file, operation):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert main(["resume", "run"]) == 1
    said = capsys.readouterr().err
    assert "run/lock cannot be locked (Operation not supported)" in said and "has flock" in said
    assert main(["train", "ppo", "CartPole-v1", *TINY, "--total-timesteps", "128", "--out", "new"]) == 1
    assert "new/lock cannot be locked" in capsys.readouterr().err


def test_a_link_in_a_strangers_folder_is_not_written_through(run):
    Path("mine").write_text("precious")
    (run / "lock").symlink_to(Path("mine").resolve())
    with pytest.raises(OSError, match="lock"):
        adv.resume(run)
    assert Path("mine").read_text() == "precious"


@pytest.mark.parametrize("saved", [True, False], ids=["resumed", "begun anew"])
def test_a_cell_that_somebody_writes_fails_by_name_and_runs_the_next_time(saved, folder, capsys):
    Path("grid.toml").write_text(tiny_grid("CartPole-v1"))
    (cell,) = read_experiment("grid.toml")
    options = dataclasses.asdict(cell.options)
    adv.train(cell.algorithm, "CartPole-v1", out=cell.path, callback=stop_at(1), **options)
    if not saved:
        (cell.path / "last").unlink()
    with RunLock(cell.path):
        assert main(["experiment", "grid.toml"]) == 1
        assert f"is being written by process {os.getpid()} on" in capsys.readouterr().out
        assert (cell.path / "config.json").exists()
    assert main(["experiment", "grid.toml"]) == 0 and cell.finished
    assert not (cell.path / "lock").exists()


def test_who_reads_while_the_run_moves_its_link_gets_the_newest_checkpoint(tmp_path, monkeypatch):
    """The link `last` goes from one checkpoint to the next between two reads of its files."""
    run = adv.train(
        adv.PPO(n_steps=32, batch_size=32, hidden=(4,)), "jax/CartPole-v1", out=tmp_path / "r", total_timesteps=96,
        checkpoint_every=32, eval_episodes=0, tensorboard=False,
    )  # fmt: skip
    last, (older, *_, newest) = run.path / "last", sorted((run.path / "checkpoints").iterdir())
    assert older != newest

    def point_to(checkpoint):
        last.unlink()
        last.symlink_to(Path("checkpoints") / checkpoint.name)

    point_to(older)
    original, calls = agent_module.read_manifest, []

    def moved(path):
        if not calls:
            point_to(newest)
        calls.append(path)
        return original(path)

    monkeypatch.setattr(agent_module, "read_manifest", moved)
    assert adv.load(run.path).step == 96 and len(calls) > 1
