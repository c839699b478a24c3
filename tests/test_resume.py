"""A run that was stopped, in whatever way, goes on as if it had not; and what cannot be used is named, never run."""

import contextlib
import copy
import functools
import io
import json
import os
import pickle
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium
import numpy as np
import probe_runs
import pytest
from gymnasium import spaces
from probe_runs import ENVS, SIZE, stop_at, tiny

import advantage as adv
from advantage.cli import main
from advantage.drivers.host.stepper import EnvironmentFailure
from advantage.runs.folder import RunFolder
from advantage.runs.interrupt import Interrupt
from advantage.runs.log import read_evaluations, read_progress
from advantage.training import journal, reporting, results

ROOT = Path(__file__).parents[1]
HOST, DEVICE = "noisy_world:Noisy-v0", "jax/CartPole-v1"
PATHS = pytest.mark.parametrize("environment", [HOST, DEVICE])

PACKAGE = '''
import time

import gymnasium
import numpy as np
from gymnasium import spaces


class Noisy(gymnasium.Env):
    """Every step draws; an episode ends by chance, or by the clock of 30 steps."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,))
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = self.np_random.normal(size=3).astype(np.float32)
        return self.x, {}

    def step(self, action):
        self.x = (0.9 * self.x + self.np_random.normal(size=3) * (1 + action)).astype(np.float32)
        return self.x, float(self.x[0]), bool(self.np_random.random() < 0.05), False, {}


class Stuck(Noisy):
    """Once it does not return."""

    steps = 0

    def step(self, action):
        Stuck.steps += 1
        if Stuck.steps == 1500:
            print("stuck", flush=True)
            time.sleep(600)
        return super().step(action)


gymnasium.register("Noisy-v0", Noisy, max_episode_steps=30)
gymnasium.register("Stuck-v0", Stuck, max_episode_steps=30)
'''


@pytest.fixture(scope="module", autouse=True)
def world(tmp_path_factory):
    """A folder with a package that registers an environment; and no curves, which take longer than the runs."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "noisy_world.py").write_text(PACKAGE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "plot_curve", lambda folder: None)
        patch.syspath_prepend(str(folder))
        yield folder
    for name in ("Noisy-v0", "Stuck-v0"):
        gymnasium.registry.pop(name, None)


train = functools.partial(probe_runs.train, total_timesteps=4 * SIZE, eval_episodes=2)


def outcome(path):
    """All that a run leaves behind, bit for bit, apart from clocks."""
    path, progress = Path(path), read_progress(RunFolder(Path(path)))
    return {
        "tensors": (path / "last" / "state.safetensors").read_bytes(),
        "manifest": json.loads((path / "last" / "manifest.json").read_text()),
        "links": [os.readlink(path / name) for name in ("last", "best") if (path / name).is_symlink()],
        "episodes": (path / "episodes.csv").read_text(),
        "evaluations": (path / "evaluations.csv").read_text(),
        "progress": {name: x.tobytes() for name, x in progress.items() if not name.startswith("time/")},
    }


def same(first, second):
    one, other = outcome(first), outcome(second)
    for name in ("episodes", "evaluations", "progress", "manifest", "links"):
        assert one[name] == other[name], name
    return one["tensors"] == other["tensors"]


# Stopped in this process


@PATHS
@pytest.mark.parametrize("iteration", [1, 3])
def test_stopped_by_a_callback(environment, iteration, tmp_path):
    options = {"total_timesteps": 4 * SIZE + 20, "checkpoint_every": SIZE, "eval_every": 2 * SIZE}
    train(environment, tmp_path / "whole", **options)
    run = train(environment, tmp_path / "run", callback=stop_at(iteration), **options)
    assert not run.finished and run.step == iteration * SIZE
    assert adv.resume(run.path).finished
    assert same(tmp_path / "whole", run.path)


@PATHS
def test_stopped_again_and_again(environment, tmp_path):
    train(environment, tmp_path / "whole", checkpoint_every=SIZE)
    run = train(environment, tmp_path / "run", checkpoint_every=SIZE, callback=stop_at(1))
    for iteration in (2, 3):
        run = adv.resume(run.path, callback=stop_at(iteration))
        assert not run.finished
    adv.resume(run.path)
    assert same(tmp_path / "whole", run.path)


@PATHS
def test_a_larger_budget(environment, tmp_path):
    train(environment, tmp_path / "whole", total_timesteps=6 * SIZE, eval_every=2 * SIZE)
    run = train(environment, tmp_path / "run", total_timesteps=2 * SIZE)
    for wrong, message in (
        (SIZE, "has taken its 128 steps"),
        (129, "not a multiple of num_envs=2; |num_envs=2,"),
    ):
        with pytest.raises(ValueError, match=message):
            adv.resume(run.path, total_timesteps=wrong)
    assert json.loads((run.path / "config.json").read_text())["training"]["total_timesteps"] == 2 * SIZE
    assert adv.resume(run.path, total_timesteps=4 * SIZE).finished
    assert adv.resume(run.path, total_timesteps=6 * SIZE).finished
    assert json.loads((run.path / "config.json").read_text())["training"]["total_timesteps"] == 6 * SIZE
    assert same(tmp_path / "whole", run.path)


def test_with_workers(tmp_path):
    options = {"checkpoint_every": SIZE, "num_envs": 2}
    train(HOST, tmp_path / "whole", workers=0, **options)
    run = train(HOST, tmp_path / "run", workers=2, callback=stop_at(2), **options)
    assert adv.resume(run.path).finished
    assert same(tmp_path / "whole", run.path)


class Composed(gymnasium.Env):
    """Observations of several parts, two actions in bounds, and episodes longer than two rollouts."""

    observation_space = spaces.Dict(
        {
            "x": spaces.Box(-1, 1, (2,)),
            "inner": spaces.Tuple([spaces.Discrete(3, start=1), spaces.MultiBinary(2)]),
        }
    )
    action_space = spaces.Box(-2, 2, (2,))

    def _obs(self):
        x = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return {"x": x, "inner": (self.np_random.integers(1, 4), self.np_random.integers(0, 2, 2, np.int8))}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(50, 90))
        self.sum = np.zeros(2)
        return self._obs(), {}

    def step(self, action):
        self.left -= 1
        self.sum = self.sum + action
        return self._obs(), float(np.sin(self.sum).sum()), False, self.left == 0, {}


def test_an_episode_that_began_rollouts_ago(tmp_path):
    options = {"checkpoint_every": SIZE, "total_timesteps": 5 * SIZE, "num_envs": 1, "eval_episodes": 1}
    algorithm = tiny(n_steps=32)
    train(Composed, tmp_path / "whole", algorithm, **options)
    run = train(Composed, tmp_path / "run", algorithm, callback=stop_at(4), **options)
    run = adv.resume(run.path, environment=Composed, callback=stop_at(5))  # the actions since are saved again
    assert adv.resume(run.path, environment=Composed).finished
    assert same(tmp_path / "whole", run.path)


class Killed(BaseException):
    pass


@PATHS
@pytest.mark.parametrize("function", ["save_checkpoint", "point"])
def test_stopped_at_every_step_of_every_checkpoint(environment, function, tmp_path, monkeypatch):
    """Whatever had been written by then, the log of the last evaluation too."""
    original, calls = getattr(journal, function), []

    def count(*args, **kwargs):
        calls.append(None)
        if len(calls) == deadline:
            raise Killed
        return original(*args, **kwargs)

    options = {"total_timesteps": 3 * SIZE, "checkpoint_every": SIZE, "eval_every": 2 * SIZE}
    deadline = None
    monkeypatch.setattr(journal, function, count)
    train(environment, tmp_path / "whole", **options)
    moments = len(calls)
    assert moments >= 4
    for deadline in range(1, moments + 1):
        calls.clear()
        path = tmp_path / str(deadline)
        with pytest.raises(Killed):
            train(environment, path, **options)
        calls.extend([None] * moments)
        if not (path / "last").exists():
            with pytest.raises(adv.CheckpointError, match="holds no checkpoint"):
                adv.resume(path)
            assert deadline == 1
        else:
            for _ in range(2):  # the second time nothing is left to do
                assert adv.resume(path).finished
                assert same(tmp_path / "whole", path), deadline


def test_stopped_by_a_broken_evaluation(tmp_path):
    """All steps are taken: nothing that was learned is lost."""

    class Broken(gymnasium.Wrapper):
        def __init__(self):
            super().__init__(gymnasium.make(HOST))

        def reset(self, **keywords):
            raise OSError("no renderer")

    train(HOST, tmp_path / "whole")
    with pytest.raises(EnvironmentFailure, match="evaluation: reset.*raised OSError: no renderer"):
        train(HOST, tmp_path / "run", eval_environment=Broken)
    assert outcome(tmp_path / "run")["tensors"] == outcome(tmp_path / "whole")["tensors"]
    assert read_evaluations(RunFolder(tmp_path / "run"))["step"].size == 0
    assert adv.load(tmp_path / "run").step == 4 * SIZE


class Listener(reporting.Silent):
    def __init__(self):
        self.messages = []

    def message(self, text):
        self.messages.append(text)


def test_an_environment_that_cannot_be_brought_back(tmp_path, world):
    import noisy_world

    class Unseeded(noisy_world.Noisy):
        def reset(self, *, seed=None, options=None):
            return super().reset(seed=random.randrange(2**31), options=options)

    listener = Listener()
    run = train(Unseeded, tmp_path / "run", callback=stop_at(2), checkpoint_every=SIZE)
    resumed = adv.resume(run.path, environment=Unseeded, reporter=listener)
    assert resumed.finished and resumed.step == 4 * SIZE
    notices = [text for text in listener.messages if "not deterministic under its seed" in text]
    assert len(notices) == ENVS and notices[0].startswith("Environment 0 ")


# Stopped from outside

LONG = {"total_timesteps": 60 * SIZE, "eval_every": 9 * SIZE, "checkpoint_every": 100, "eval_episodes": 2}
FLAGS = "--n-steps 32 --batch-size 32 --n-epochs 1 --hidden 8 --num-envs 2 --total-timesteps 3840 --eval-every 576"
FLAGS = shlex.split(FLAGS + " --checkpoint-every 100 --eval-episodes 2 --preset none")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The long run, on both paths."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    return {name: train(name, folder / str(n), **LONG).path for n, name in enumerate((HOST, DEVICE))}


@contextlib.contextmanager
def running(world, *arguments):
    """The command line in a process of its own, and a file with what it prints."""
    environ = os.environ | {"PYTHONPATH": f"{ROOT}", "PYTHONUNBUFFERED": "1"}
    with open(world / "output.txt", "w+") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "advantage", *map(str, arguments)],
            cwd=world,
            env=environ,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # signals to its group reach its workers and nobody else
        )
        try:
            yield process, Path(output.name)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for_row(path, iteration, process, output):
    """Until progress.csv has a row of this iteration."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, output.read_text()
        with contextlib.suppress(OSError):
            last = (path / "progress.csv").read_text().rpartition("\n")[0].rpartition("\n")[2]
            if last.split(",")[0].isdigit() and int(last.split(",")[0]) >= iteration:
                return
        time.sleep(0.002)
    raise AssertionError(f"no iteration {iteration}: {output.read_text()}")


def wait_for_text(text, process, output):
    """Until the process has printed it."""
    deadline = time.monotonic() + 120
    while text not in output.read_text():
        assert process.poll() is None and time.monotonic() < deadline, output.read_text()
        time.sleep(0.01)


@PATHS
def test_killed_at_any_moment(environment, world, uninterrupted, tmp_path):
    moments = random.Random(environment)
    path = tmp_path / "run"
    command = ["train", "ppo", environment, *FLAGS, "--workers", 0, "--out", path]
    for begin in (2, 25):
        with running(world, *command) as (process, output):
            wait_for_row(path, begin + moments.randrange(15), process, output)
            time.sleep(moments.uniform(0, 0.05))
            process.kill()
            assert process.wait() == -signal.SIGKILL
        assert "Traceback" not in output.read_text()
        assert 0 <= adv.load(path).step < LONG["total_timesteps"]
        newest = max((path / "checkpoints").glob("step_*"))
        assert adv.load(newest).step >= adv.load(path).step
        # the next process must drop what was logged after the checkpoint before it counts rows
        command = ["resume", path, "--trust"]
    assert adv.resume(path).finished
    assert same(uninterrupted[environment], path)


@pytest.mark.parametrize(
    ("environment", "number", "workers", "code"),
    [(HOST, signal.SIGINT, 2, 130), (DEVICE, signal.SIGTERM, 0, 143), (HOST, signal.SIGHUP, 2, 129)],
    ids=["Ctrl-C", "SIGTERM", "SIGHUP"],
)
def test_a_signal_saves_and_says_how_to_go_on(
    environment, number, workers, code, world, uninterrupted, tmp_path, capsys
):
    path = tmp_path / "a run"  # with a space, as people have them
    with running(world, "train", "ppo", environment, *FLAGS, "--workers", workers, "--out", path) as (
        process,
        output,
    ):
        wait_for_row(path, 7, process, output)
        os.killpg(process.pid, number)  # as a terminal does: to the workers too
        assert process.wait(60) == code, output.read_text()
    printed = output.read_text()
    assert "Traceback" not in printed
    stopped, commands = re.search(r"Stopped at step (\S+) and saved\. To resume: (.*)", printed).groups()
    assert adv.load(path).step == int(stopped.replace("_", "")) < LONG["total_timesteps"]
    program, *arguments = shlex.split(commands)
    named = ["--env", environment] if ":" in environment else []  # the user's word for its package
    assert (program, arguments) == ("advantage", ["resume", str(path), *named])
    assert main(arguments) == 0
    assert f"Resuming from step {adv.load(path).step:,}" not in capsys.readouterr().err
    assert same(uninterrupted[environment], path)


def test_ctrl_c_leaves_an_environment_that_does_not_return_and_the_run_can_go_on(
    world, uninterrupted, tmp_path
):
    """The first one where all is saved; else it is a wish to save, which cannot be granted, and the second one."""
    path = tmp_path / "run"
    command = ["train", "ppo", "noisy_world:Stuck-v0", *FLAGS, "--workers", 0, "--out", path]
    with running(world, *command) as (process, output):
        wait_for_text("stuck", process, output)
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        if process.poll() is None:
            assert "A second Ctrl-C stops at once" in output.read_text()
            process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130, output.read_text()
    assert "Traceback" not in output.read_text()
    assert 0 < adv.load(path).step < 1500
    assert adv.resume(path, environment=HOST).finished
    assert same(uninterrupted[HOST], path)


def test_a_signal_that_a_shell_told_us_to_ignore_stays_ignored():
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupt(pytest.fail) as interrupt:
            os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.signal is None
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, previous)


# Damaged and foreign files


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run with all of its files, stopped before its end."""
    run = train("CartPole-v1", tmp_path_factory.mktemp("whole") / "run", callback=stop_at(2), eval_every=SIZE)
    return run.path


@pytest.fixture
def run(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "run", symlinks=True))


def edit(file, *change):
    """Set, or with a single argument delete, a field of a JSON file."""
    content = json.loads(file.read_text())
    *keys, last = change[0].split("/")
    place = content
    for key in keys:
        place = place[key]
    if len(change) == 1:
        del place[last]
    else:
        place[last] = change[1]
    file.write_text(json.dumps(content))


def config(*change):
    return lambda run: edit(run / "config.json", *change)


def manifest(*change):
    return lambda run: edit(run / "last" / "manifest.json", *change)


def truncate(run):
    file = run / "last" / "state.safetensors"
    os.truncate(file, file.stat().st_size - 8)


def flip(run):
    file = run / "last" / "state.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def remove(name):
    return lambda run: (run / name).unlink()


DAMAGE = {
    "truncated tensors": (truncate, r"state\.safetensors: bytes: found \d+, expected \d+"),
    "a flipped bit": (flip, r"state\.safetensors: sha256"),
    "no tensors": (remove("last/state.safetensors"), r"state\.safetensors"),
    "no manifest": (remove("last/manifest.json"), r"manifest\.json: manifest: found no such file"),
    "no checkpoint": (remove("last"), r"holds no checkpoint"),
    "a link to nothing": (lambda run: shutil.rmtree(run / "checkpoints"), r"holds no checkpoint"),
    "another algorithm": (manifest("metadata/algorithm", "trpo"), r"metadata/algorithm: found 'trpo'"),
    "no algorithm": (manifest("metadata/algorithm"), r"metadata/algorithm: found nothing"),
    "no step": (manifest("metadata/step"), r"manifest\.json: metadata/step: found nothing"),
    "an unknown algorithm": (
        config("algorithm", "pppo"),
        r"config\.json: .*no algorithm 'pppo'; did you mean ppo",
    ),
    "other sizes": (
        config("hyperparameters/hidden", [16]),
        r"manifest\.json: tensors/state/.*/shape: found \[\d+.*\], expected \[\d+.*\]",
    ),
    "an unknown hyperparameter": (
        config("hyperparameters/gama", 0.9),
        r"config\.json: hyperparameters: ppo has no hyperparameter 'gama' \(the nearest is gamma\)",
    ),
    "a wrong hyperparameter": (config("hyperparameters/gamma", 2), r"config\.json: .*gamma=2 is not allowed"),
    "a missing hyperparameter": (config("hyperparameters/gamma"), r"config\.json: hyperparameters.*gamma"),
    "no spaces": (config("spaces"), r"config\.json: spaces: found nothing"),
    "no observation space": (
        config("spaces/observation"),
        r"config\.json: spaces has no entry 'observation'",
    ),
    "no environment count": (config("training/num_envs"), r"config\.json: training has no entry 'num_envs'"),
    "no JSON": (
        lambda run: (run / "config.json").write_text("{'a': 1}"),
        r"config\.json: not readable as JSON",
    ),
    "half a config": (
        lambda run: (run / "config.json").write_text((run / "config.json").read_text()[:200]),
        r"config\.json: not readable as JSON",
    ),
    "a list": (lambda run: (run / "config.json").write_text("[]"), r"config\.json: top level: found 'list'"),
}


def snapshot(folder):
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named_and_nothing_is_touched(name, run, capsys):
    damage, message = DAMAGE[name]
    damage(run)
    before = snapshot(run)
    for use in (adv.load, adv.evaluate, adv.resume):
        with pytest.raises(adv.CheckpointError, match=message):
            use(run)
    for command in ("eval", "resume"):
        assert main([command, str(run)]) == 1
        captured = capsys.readouterr()
        assert re.search(message, captured.err) and captured.err.startswith("advantage: ")
        assert "Traceback" not in captured.err and captured.err.count("\n") == 1
    assert snapshot(run) == before


def test_an_environment_that_changed_its_spaces(run, capsys):
    edit(run / "config.json", "spaces/action/n", 3)
    before = snapshot(run)
    with pytest.raises(adv.CheckpointError, match=r"tensors/state/.*found \[\d+.*\], expected \[\d+.*\]"):
        adv.load(run)
    with pytest.raises(ValueError, match="CartPole-v1 has other spaces than the run in"):
        adv.resume(run)
    assert snapshot(run) == before


def test_an_unknown_option_is_named(run):
    edit(run / "config.json", "training/foo", 1)
    before = snapshot(run)
    with pytest.raises(adv.CheckpointError, match=r"config\.json: training: .*no option 'foo'"):
        adv.resume(run)
    assert snapshot(run) == before


@pytest.mark.parametrize("file", ["progress.csv", "episodes.csv", "evaluations.csv"])
def test_a_damaged_log_is_named(file, run):
    content = (run / file).read_text()
    (run / file).write_text(content + "1,2,x\n")
    before = snapshot(run)
    assert adv.load(run).step == 2 * SIZE
    with pytest.raises(adv.CheckpointError, match=rf"{file}: line \d+"):
        adv.resume(run)
    assert snapshot(run) == before


def test_what_a_kill_leaves_in_the_logs_is_mended(run, tmp_path):
    train("CartPole-v1", tmp_path / "whole", eval_every=SIZE)
    for name in ("progress.csv", "episodes.csv", "evaluations.csv"):
        lines = (run / name).read_text().splitlines()
        later = (
            lines[-1].replace(f"{2 * SIZE}", f"{3 * SIZE}") if name != "episodes.csv" else "9.0,9,150,0,77"
        )
        (run / name).write_text("\n".join([*lines, later, lines[-1][:5]]))  # a later row, and half a row
    assert adv.resume(run).finished
    assert same(tmp_path / "whole", run)


WRONG = [None, -1, "x", [], {}, 1e400, True]


def fields(content, path=()):
    for key, value in content.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from fields(value, (*path, key))


def test_no_field_of_the_config_crashes_the_reader(run, whole):
    """Every field deleted, and replaced by values of every type: an error that names the file, or none."""
    original = json.loads((run / "config.json").read_text())
    names = [path for path in fields(original) if path[0] != "host"]
    assert len(names) > 40
    for path in names:
        for wrong in ["deleted", *WRONG]:
            content = copy.deepcopy(original)
            place = content
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = wrong
            if wrong == "deleted":
                del place[path[-1]]
            (run / "config.json").write_text(json.dumps(content))
            try:
                adv.load(run)
            except adv.CheckpointError as error:
                assert "config.json" in str(error) or "manifest.json" in str(error)
            except Exception as error:
                raise AssertionError(f"{'/'.join(path)} = {wrong!r}: {error!r}") from error


# Nothing that is loaded is ever run


class Bomb:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (self.marker, "w"))


@pytest.mark.parametrize("protocol", [0, 4])
def test_a_pickle_bomb_in_every_file(protocol, whole, tmp_path, capsys):
    marker = tmp_path / "marker"
    bomb = pickle.dumps(Bomb(str(marker)), protocol=protocol)
    pickle.loads(bomb).close()
    assert marker.exists()  # the bomb works
    marker.unlink()
    files = {path.name.split(".out.")[0]: path for path in whole.rglob("*") if path.is_file()}
    assert files.keys() == {
        *("config.json", "manifest.json", "state.safetensors"),
        *("progress.csv", "episodes.csv", "evaluations.csv", "events"),
    }
    for name, file in files.items():
        run = tmp_path / name
        shutil.copytree(whole, run, symlinks=True)
        inside = "last" if file.parent.parent.name == "checkpoints" else ""
        (run / inside / file.name).write_bytes(bomb)
        for use in (adv.load, adv.evaluate, adv.resume):
            with contextlib.suppress(adv.CheckpointError, ValueError):
                use(run / inside)
        for command in ("eval", "resume"):
            assert main([command, str(run)]) in (0, 1, 2)
        assert not marker.exists(), name
    bombs = {"hyperparameters/activation": {"py/object": "os.system"}, "algorithm": "os:system"}
    run = shutil.copytree(whole, tmp_path / "strings", symlinks=True)
    for field, value in bombs.items():
        edit(run / "config.json", field, value)
        with pytest.raises(adv.CheckpointError, match=r"config\.json"):
            adv.load(run)
    assert "Traceback" not in capsys.readouterr().err


def test_the_evaluations_say_which_steps_they_are_of(run):
    assert set(read_evaluations(RunFolder(run))["step"]) == {SIZE, 2 * SIZE}
    assert io.StringIO((run / "evaluations.csv").read_text()).readline().startswith("step,episode,return")
