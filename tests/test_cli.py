"""The command line: what it prints, what it answers to mistakes, and that it leaves everything as it was then."""

import dataclasses
import importlib.metadata
import io
import json
import os
import pty
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium
import imageio.v2 as imageio
import jax
import numpy as np
import pytest
from gymnasium import spaces

import advantage as adv
from advantage.algorithms.registry import (
    ALGORITHMS,
    algorithm_class,
    default_algorithm,
    hyperparameters_of,
)
from advantage.cli import COMMANDS, main
from advantage.cli.aliases import ALIASES, with_our_names
from advantage.cli.installed import older_than_needed
from advantage.cli.output import Output
from advantage.environments.make import WORLDS
from advantage.machine import available_cores
from advantage.runs.folder import RunFolder
from advantage.training.options import Options

ROOT = Path(__file__).parents[1]
TINY = shlex.split(
    "--n-steps 32 --batch-size 32 --n-epochs 1 --hidden 8 --num-envs 2 --workers 0 --eval-episodes 2"
)
HOST, DEVICE = "CartPole-v1", "jax/CartPole-v1"

PACKAGE = """
import gymnasium
from gymnasium import spaces

class Letters(gymnasium.Env):
    observation_space, action_space = spaces.Text(5), spaces.Discrete(2)
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return "abc", {}
    def step(self, action):
        return "abc", 0.0, True, False, {}

class Old(gymnasium.Env):
    observation_space, action_space = spaces.Box(-1, 1, (2,)), spaces.Discrete(2)
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}
    def step(self, action):
        return self.observation_space.sample(), 0.0, True, {}

class Raises(Old):
    def step(self, action):
        return self.broken_line_of_mine

for cls in (Letters, Old, Raises):
    gymnasium.register(cls.__name__ + "-v0", cls)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Everybody works in a folder of their own, with a package of environments in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "letters_world.py").write_text(PACKAGE)
    yield tmp_path
    sys.modules.pop("letters_world", None)
    for name in ("Letters-v0", "Old-v0", "Raises-v0"):
        gymnasium.registry.pop(name, None)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A finished run on each path, made by the command."""
    place = tmp_path_factory.mktemp("runs")
    for name, environment in (("host", HOST), ("device", DEVICE)):
        assert (
            main(["train", "ppo", environment, *TINY, "--total-timesteps", "128", "--out", str(place / name)])
            == 0
        )
    return place


@pytest.fixture
def run(runs, folder):
    return Path(shutil.copytree(runs / "host", folder / "run", symlinks=True))


def command(*arguments, **options):
    """In a process of its own: `-> returncode, stdout, stderr`."""
    program = options.pop("program", ["-m", "advantage"])
    done = subprocess.run(
        [sys.executable, *program, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        **options,
    )
    return done.returncode, done.stdout, done.stderr


def plain(text):
    """Without boxes and line breaks."""
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())


def snapshot(place):
    return {
        str(path.relative_to(place)): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in sorted(place.rglob("*"))
        if path.is_symlink() or (path.is_file() and "__pycache__" not in path.parts)
    }


# Help


def test_help_imports_nothing_heavy():
    code, out, err = command("--help", program=["-X", "importtime", "-m", "advantage"])
    assert code == 0 and out.startswith("advantage: policy optimization on JAX")
    for name in COMMANDS:
        assert re.search(rf"^  {name} ", out, re.MULTILINE), name
    loaded = {line.rpartition("|")[2].strip().split(".")[0] for line in err.splitlines() if "|" in line}
    assert "advantage" in loaded
    assert not loaded & {"jax", "jaxlib", "numpy", "gymnasium", "optax", "tyro", "rich", "matplotlib"}


def test_every_command_is_a_file():
    files = {path.stem for path in (ROOT / "advantage" / "cli" / "commands").glob("*.py")}
    assert (
        files - {"__init__"} == {name.replace("-", "_") for name in COMMANDS}
        and len(files) == len(COMMANDS) + 1
    )


def test_version_and_no_command(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"advantage {adv.__version__}\n"
    assert main(["-h"]) == 0 and main(["--help"]) == 0
    helped = capsys.readouterr().out
    assert main([]) == 2
    captured = capsys.readouterr()
    assert captured.out * 2 == helped and captured.err == ""


def test_the_version_is_that_of_the_package():
    assert importlib.metadata.version("advantage") == adv.__version__


@pytest.mark.parametrize(
    "arguments", [["--help"], ["ppo", "--help"], ["ppo", HOST, "--preset", "none", "-h"]]
)
def test_train_help_shows_everything(arguments, capsys):
    assert main(["train", *arguments]) == 0
    captured = capsys.readouterr()
    shown = plain(captured.out)
    assert captured.err == "" and "usage: advantage train" in shown
    for cls in (Options, adv.PPO):
        for field in dataclasses.fields(cls):
            default = {} if field.name == "env_options" else field.default
            value = " ".join(map(str, default)) if isinstance(default, tuple | dict) else default
            one_by_one = {"env_options": "env-option", "wrappers": "wrapper"}  # flags that can be repeated
            flag = "--" + one_by_one.get(field.name, field.name.replace("_", "-"))
            described = rf"{flag}\b[^()]*?[A-Z][^()]*(\([^()]*\)[^()]*)*\(default: {re.escape(str(value))}\)"
            assert re.search(described, shown), (flag, value)
    assert all(flag in shown for flag in ("--out", "--root", "--quiet"))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name, capsys):
    for arguments in ([name, "--help"], [name, "-h"], ["help", name]):
        assert main(arguments) == 0
        captured = capsys.readouterr()
        assert f"usage: advantage {name}" in plain(captured.out) and captured.err == ""


@pytest.mark.parametrize("name", ["resume", "eval", "enjoy", "check"])
def test_help_of_the_other_commands(name, capsys):
    assert main([name, "--help"]) == 0
    shown = plain(capsys.readouterr().out)
    flags = {
        "resume": ("--total-timesteps", "--env", "--trust", "--quiet"),
        "eval": ("--env", "--episodes", "--seed", "--stochastic", "--trust", "--json"),
        "enjoy": ("--env", "--episodes", "--seed", "--stochastic", "--trust", "--video"),
        "check": ("--steps", "--seed"),
    }
    for flag in flags[name]:
        assert re.search(rf"{flag}\b[^()]*[A-Z][^()]*\(default: ", shown), flag


def test_list(capsys):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    for name in ALGORITHMS:
        said = re.escape(algorithm_class(name).__doc__.splitlines()[0])
        assert re.search(rf"^  {name} +{said}$", out, re.MULTILINE)
    for name in (*WORLDS, HOST, "HalfCheetah-v5"):
        assert f"  {name}\n" in out
    assert "HalfCheetah-v4" not in out


# Mistakes


TRAIN = ["train", "ppo", HOST, *TINY, "--total-timesteps", "128"]
MISTAKES = {
    "an unknown command": (["trian", "ppo"], 2, "no command 'trian'; there are: train, resume,"),
    "no algorithm": (
        ["train"],
        2,
        "train needs ALGORITHM ENVIRONMENT: advantage train ALGORITHM ENVIRONMENT",
    ),
    "no environment": (["train", "ppo"], 2, "train needs ENVIRONMENT: advantage train ALGORITHM ENVIRONMENT"),
    "flags first": (["train", "--seed", "1", "ppo", HOST], 2, "train needs ALGORITHM ENVIRONMENT"),
    "no run to resume": (["resume"], 2, "resume needs RUN"),
    "no run to play": (["eval", "--json"], 2, "eval needs RUN"),
    "no run to watch": (["enjoy"], 2, "enjoy needs RUN"),
    "nothing to check": (["check"], 2, "check needs ENVIRONMENT"),
    "too much": ([*TRAIN, "again"], 2, "again"),
    "an unknown algorithm": (
        ["train", "pppo", HOST],
        2,
        r"no algorithm 'pppo'; did you mean ppo",
    ),
    "another algorithm's option": (
        ["train", "q-learning", "FrozenLake-v1", "--target-kl", "0.1"],
        2,
        r"q-learning has no --target-kl; it is an option of ppo, trpo, npg",
    ),
    "a strange algorithm": (["train", "zzz", HOST], 2, r"no algorithm 'zzz'\. The algorithms are: ppo"),
    "an unknown environment": (
        ["train", "ppo", "CartPol-v1"],
        2,
        r"no environment 'CartPol-v1'; the nearest are .*CartPole-v1.*`advantage list`",
    ),
    "another version": (
        ["train", "ppo", "CartPole-v7"],
        2,
        r"no environment 'CartPole-v7'; the nearest.*CartPole-v1",
    ),
    "an unknown world": (["train", "ppo", "jax/CartPol"], 2, "no environment 'jax/CartPol'.*jax/CartPole-v1"),
    "an unknown package": (
        ["train", "ppo", "nowhere_at_all:Env-v0"],
        2,
        r"'nowhere_at_all:Env-v0' cannot be imported .*Run from the folder with the package, or install it",
    ),
    "a package without it": (["train", "ppo", "letters_world:Lettrs-v0"], 2, "no environment .*Letters-v0"),
    "a space that it cannot handle": (["train", "ppo", "letters_world:Letters-v0"], (1, 2), r"Text.*Box"),
    "out of range": ([*TRAIN, "--gamma", "2"], 2, r"gamma=2\.0 is not allowed; use a value in \[0, 1\]"),
    "no number": ([*TRAIN, "--gamma", "much"], 2, "--gamma.*'much'"),
    "a choice that there is not": ([*TRAIN, "--activation", "tahn"], 2, "--activation.*tanh.*relu"),
    "a network that there is not": (
        [*TRAIN, "--network", "gruu"],
        2,
        "'gruu' is not a network; use gru, lstm",
    ),
    "a memory that cannot be carried": (
        ["train", "off-policy-ac", DEVICE, "--network", "lstm"],
        2,
        r"recurrent network \(LSTM\) needs a method that learns from whole sequences: ppo, trpo.*--frame-stack 4",
    ),
    "a sequence that does not divide": (
        [*TRAIN, "--network", "gru", "--sequence-length", "5"],
        2,
        r"sequence_length=5 .*n_steps",
    ),
    "no frames": ([*TRAIN, "--frame-stack", "0"], 2, "frame_stack=0 is not allowed; use a whole number of 1"),
    "a batch that does not divide": (
        [*TRAIN, "--batch-size", "33"],
        2,
        "batch_size=33 does not divide.* 16 or 32",
    ),
    "a budget that does not divide": (
        [*TRAIN, "--total-timesteps", "101"],
        2,
        "=101 .*num_envs=2.*use 100 or 102",
    ),
    "an unknown flag": ([*TRAIN, "--gama", "0.9"], 2, "--gama.*--gamma FLOAT"),
    "minibatches": (
        [*TRAIN, "--num-minibatches", "4"],
        2,
        "no flag --num-minibatches; use --batch-size, .*n_steps",
    ),
    "an environment as a flag": (["train", "ppo", "--env", HOST], 2, "environment is the second word"),
    "an annealed rate": ([*TRAIN, "--anneal-lr"], 2, "--anneal-lr; use --learning-rate linear:3e-4"),
    "half a step": ([*TRAIN, "--total-timesteps", "1e-1"], 2, "'1e-1' is not a whole number"),
    "no whole number": ([*TRAIN, "--total-timesteps", "many"], 2, "'many' is not a whole number"),
    "a word for a number or None": (
        [*TRAIN, "--quiet", "--patience", "soon"],
        2,
        r"--patience: 'soon' is not allowed; use --patience \{None\}\|INT: Stop when .*None\)\. See",
    ),
    "an unknown device": (
        [*TRAIN, "--device", "nonsense"],
        2,
        "device='nonsense' is not allowed; use 'cpu', 'gpu'",
    ),
    "a device that is not there": ([*TRAIN, "--device", "tpu"], 2, "device='tpu' is not available"),
    "workers below zero": ([*TRAIN, "--workers", "-1"], 2, "workers=-1 is not allowed"),
    "a seed below zero": ([*TRAIN, "--seed", "-1"], 2, "seed=-1 is not allowed"),
    "a schedule of words": ([*TRAIN, "--learning-rate", "linear:a:b"], 2, "linear:a:b.*linear:START:END"),
    "a schedule of three": ([*TRAIN, "--learning-rate", "linear:1:2:3"], 2, "linear:1:2:3.*linear:START:END"),
    "a schedule of nothing": ([*TRAIN, "--clip-range", "linear:"], 2, "linear:START:END"),
    "a schedule out of range": ([*TRAIN, "--learning-rate", "linear:-1:0"], 2, r"learning_rate=.*\[0, inf\)"),
    "no schedule here": ([*TRAIN, "--gamma", "linear:1:0"], 2, "--gamma.*linear:1:0"),
    "a folder that exists": (
        [*TRAIN, "--out", "run"],
        2,
        r"run exists already; choose another path.*advantage resume run",
    ),
    "a file in the way": ([*TRAIN, "--out", "letters_world.py"], 2, r"letters_world\.py exists already"),
    "an evaluation of nothing": (["eval", "rnu"], 2, r"rnu does not exist; run folders nearby: run\."),
    "a resume of nothing": (["resume", "runs/a"], 2, "runs/a does not exist"),
    "a show of nothing": (["enjoy", "nowhere"], 2, "nowhere does not exist"),
    "no run folder": (
        ["eval", "."],
        1,
        r"\. is not a run folder: it has no config\.json; run folders nearby: run",
    ),
    "a file": (["resume", "letters_world.py"], 1, "is not a run folder"),
    "a checkpoint outside": (
        ["eval", "lost"],
        1,
        "lost is a checkpoint outside its run folder.*give the run folder",
    ),
    "a budget already spent": (
        ["resume", "run", "--total-timesteps", "64"],
        2,
        "run has taken its 128 steps",
    ),
    "other spaces": (
        ["eval", "run", "--env", "Pendulum-v1"],
        2,
        "trained on CartPole-v1 with.*the same spaces",
    ),
    "other spaces to watch": (
        ["enjoy", "run", "--env", "Pendulum-v1", "--video", "v.gif"],
        2,
        "trained on CartPole-v1 with.*the same spaces",
    ),
    "no episodes": (
        ["eval", "run", "--episodes", "0"],
        2,
        "episodes=0 is not allowed; use a whole number",
    ),
    "no episodes to watch": (
        ["enjoy", "run", "--episodes", "0", "--video", "v.gif"],
        2,
        "episodes=0 is not allowed",
    ),
    "a negative seed": (["eval", "run", "--seed", "-3"], 2, "seed=-3 is not allowed"),
    "a negative seed to watch": (
        ["enjoy", "run", "--seed", "-3", "--video", "v.gif"],
        2,
        "seed=-3 is not allowed",
    ),
    "an unknown video": (["enjoy", "run", "--video", "v.avi"], 2, r"v\.avi must end in \.gif or \.mp4"),
    "no suffix": (["enjoy", "run", "--video", "v"], 2, r"v must end in \.gif or \.mp4"),
    "an unknown world to play": (["eval", "run", "--env", "jax/Cart"], 2, "no environment 'jax/Cart'"),
    "a list of something": (["list", "ppo"], 2, "list takes no arguments; it was given ppo"),
    "a world to check": (["check", DEVICE], 2, "on-device world; check is for Gymnasium environments"),
    "an unknown world to check": (["check", "CartPol-v1"], 2, "no environment 'CartPol-v1'"),
    "no steps to check": (["check", HOST, "--steps", "0"], 2, "steps=0 is not allowed"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_explained_in_one_paragraph(name, run, folder, capsys):
    arguments, code, message = MISTAKES[name]
    shutil.copytree(run / "last", folder / "lost")
    before = snapshot(folder)
    result = main(arguments)
    captured = capsys.readouterr()
    said = captured.err
    assert result in (code if isinstance(code, tuple) else (code,)), said
    assert captured.out == ""
    assert re.search(message, plain(said)), said
    assert (
        "Traceback" not in said and "internal frames" not in said and "should not have happened" not in said
    )
    assert said.startswith("advantage: ") and said.count("\n") == 1 and "│" not in said, said
    assert snapshot(folder) == before
    assert {path.name for path in folder.iterdir()} - {"__pycache__"} == {"letters_world.py", "run", "lost"}


@pytest.mark.parametrize(
    "flags",
    [
        ["--gamma", "much"],
        ["--gama", "0.9"],
        ["--activation", "tahn"],
        ["--gamma", "2"],
        ["--patience", "soon"],
    ],
)
def test_a_mistake_is_explained_alike_in_a_narrow_terminal_and_in_a_pipe(flags, capsys, monkeypatch):
    class Screen(io.StringIO):
        encoding, isatty = "utf-8", lambda self: True

    said = []
    for columns, screen in (("40", Screen()), ("200", io.StringIO())):
        monkeypatch.setenv("COLUMNS", columns)
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.setattr(sys, "stdout", screen)
        assert main(["train", "ppo", HOST, *flags]) == 2
        assert screen.getvalue() == ""
        said.append(capsys.readouterr().err)
    assert said[0] == said[1]
    assert re.fullmatch(r"advantage: .*[^.]\. See advantage train ppo CartPole-v1 --help\.\n", said[0])
    assert not re.search(r"[\x1b│─╭]|--{3}|Error parsing \w| error ", said[0]), said[0]


BLOCKED = """
import sys
for name in sys.argv[1].split(","):
    sys.modules[name] = None
from advantage.cli import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize(
    ("blocked", "arguments", "extra"),
    [
        ("mujoco", ["train", "ppo", "HalfCheetah-v5"], "mujoco"),
        ("ale_py", ["train", "ppo", "ALE/Pong-v5"], "atari"),
        ("Box2D", ["train", "ppo", "LunarLander-v3"], "box2d"),
        ("Box2D", ["check", "LunarLander-v3"], "box2d"),
        ("imageio", ["enjoy", "run", "--video", "v.gif"], "video"),
        ("imageio_ffmpeg", ["enjoy", "run", "--video", "v.mp4"], "video"),
        ("pygame", ["enjoy", "run", "--video", "v.gif"], "classic"),
    ],
)
def test_a_missing_extra(blocked, arguments, extra, run, folder, capsys, monkeypatch):
    before = snapshot(folder)
    if blocked == "mujoco":  # may be imported here already
        code, out, err = command(blocked, *arguments, program=["-c", BLOCKED])
    else:
        monkeypatch.setitem(sys.modules, blocked, None)
        for name in [name for name in sys.modules if name.startswith(f"{blocked}.")]:
            monkeypatch.setitem(sys.modules, name, None)
        code = main(arguments)
        out, err = capsys.readouterr()
    assert (code, out) == (1, ""), err
    assert f'pip install "advantage[{extra}]"' in err
    assert err.startswith("advantage: ") and err.count("\n") == 1 and "Traceback" not in err
    assert snapshot(folder) == before


def test_an_environment_that_is_wrong(folder, capsys):
    assert (
        main(["train", "ppo", "letters_world:Old-v0", *TINY, "--total-timesteps", "128", "--out", "new"]) == 1
    )
    err = capsys.readouterr().err
    assert re.search(r"^advantage: environment 0, .*expected .*found .*To fix it, ", err), err
    assert err.count("\n") == 1


def test_an_environment_that_raises_shows_its_own_traceback(folder, capsys):
    assert (
        main(["train", "ppo", "letters_world:Raises-v0", *TINY, "--total-timesteps", "128", "--out", "new"])
        == 1
    )
    err = capsys.readouterr().err
    assert "broken_line_of_mine" in err.splitlines()[-3] and "letters_world.py" in err
    last = err.splitlines()[-1]
    assert last.startswith("advantage: environment 0, ") and "AttributeError" in last
    assert "advantage/drivers" not in err.replace(str(ROOT / "advantage/drivers/host/stepper.py"), "")


def test_an_update_that_is_not_finite(folder, capsys):
    arguments = ["--learning-rate", "1e30", "--out", "new", "--total-timesteps", "640"]
    assert main(["train", "ppo", HOST, *TINY, *arguments]) == 1
    captured = capsys.readouterr()
    assert re.fullmatch(
        r"advantage: The update after step .* not finite: .*Lower learning_rate.*\n", captured.err
    )
    assert re.search(r"The run stopped\. new/last is the checkpoint of step \d+\.", captured.out)
    assert all(np.isfinite(x).all() for x in (adv.load("new").state.params["critic"]["head"]["bias"],))


def test_a_surprise_says_how_to_see_more(capsys, monkeypatch):
    def broken(arguments):
        raise ZeroDivisionError("quite\nunexpected")

    monkeypatch.setattr("advantage.cli.commands.list.command", broken)
    assert main(["list"]) == 1
    err = capsys.readouterr().err
    assert (
        err.startswith("advantage: This should not have happened: ZeroDivisionError")
        and "ADVANTAGE_DEBUG=1" in err
    )
    assert "Traceback" not in err
    monkeypatch.setenv("ADVANTAGE_DEBUG", "1")
    assert main(["list"]) == 1
    assert "Traceback" in capsys.readouterr().err


# What it does


def test_a_surprise_names_packages_that_are_too_old(capsys, monkeypatch):
    def broken(arguments):
        raise AttributeError("module 'jax' has no attribute 'enable_x64'")

    there = importlib.metadata.version
    monkeypatch.setattr("advantage.cli.commands.list.command", broken)
    monkeypatch.setattr(
        "advantage.cli.installed.version", lambda name: "0.5.3" if name == "jax" else there(name)
    )
    assert main(["list"]) == 1
    err = capsys.readouterr().err
    assert "advantage needs jax 0.8 or newer, and 0.5.3 is installed: pip install 'jax>=0.8'" in err
    assert "numpy" not in err


@pytest.mark.parametrize(
    ("installed", "needed", "older"),
    [("0.10.2", "0.8", False), ("0.8.0", "0.8", False), ("0.8", "0.8.0", False), ("0.8.0rc1", "0.8", False),
     ("0.7.9", "0.8", True), ("1", "1.0.1", True), ("2.0.dev3", "1.26", False)],
)  # fmt: skip
def test_versions_are_compared_by_number(installed, needed, older, monkeypatch):
    monkeypatch.setattr(
        "advantage.cli.installed.requires", lambda name: [f"some>={needed}", "x>=9; extra == 'y'", "z"]
    )
    monkeypatch.setattr("advantage.cli.installed.version", lambda name: installed)
    assert bool(older_than_needed()) == older


@pytest.mark.parametrize("environment", [HOST, DEVICE])
def test_train_eval_enjoy_resume(environment, folder, capsys):
    assert (
        main(["train", "ppo", environment, *TINY, "--total-timesteps", "192", "--out", "new", "--seed", "3"])
        == 0
    )
    out, err = capsys.readouterr()
    assert err == "" and "\x1b" not in out
    assert out.startswith(f"Training ppo on {environment}, seed 3, 192 steps in 2 environments ")
    assert "Run folder: new\n" in out
    assert re.search(
        r"^ +192 steps  100%  [\d,]+ steps/s  ETA 0:00:00  return [\d.]+  KL \S+$", out, re.MULTILINE
    )
    assert "Evaluation at step 192: return " in out and "over 2 deterministic episodes" in out
    for file in ("curve.png", "progress.csv", "episodes.csv", "last"):
        assert f"new/{file}" in out and Path("new", file).exists()
    proposed = [shlex.split(text) for text in re.findall(r"(advantage (?:eval|enjoy) .*)", out)]
    assert [words[:3] for words in proposed] == [["advantage", "eval", "new"], ["advantage", "enjoy", "new"]]

    assert main([*proposed[0][1:], "--episodes", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[:3]] == ["episode 0", "episode 1", "episode 2"]
    assert re.fullmatch(r"return [\d.]+ ± [\d.]+ over 3 deterministic episodes, mean length [\d.]+", lines[3])
    assert main(["eval", "new/best", "--json", "--stochastic", "--seed", "4", "--episodes", "2"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result.keys() == {
        *("returns", "lengths", "cut", "mean", "std", "episodes", "seed", "deterministic")
    }
    assert (result["deterministic"], result["seed"], len(result["returns"])) == (False, 4, 2)

    before = snapshot(Path("new"))
    for file in ("shows/out.gif", "out.mp4"):
        assert main(["enjoy", "new", "--video", file, "--episodes", "1", "--seed", "3"]) == 0
        said = capsys.readouterr().out
        length = int(re.search(r"episode 0: return [\d.]+, length (\d+)", said)[1])
        frames = int(re.search(rf"Wrote (\d+) frames to {file}", said)[1])
        assert frames in (length, length + 1)
        assert Path(file).stat().st_size > 500
    pictures = imageio.mimread("shows/out.gif")
    assert len(pictures) == frames or len(pictures) > 1  # equal neighbours may be one picture, shown longer
    assert pictures[0].shape[0] > 100 and pictures[0].std() > 0
    assert Path("out.mp4").read_bytes()[4:8] == b"ftyp"
    assert snapshot(Path("new")) == before

    assert main(["resume", "new", "--total-timesteps", "256"]) == 0
    out = capsys.readouterr().out
    assert "Resuming from step 192." in out and "Seed 3: 256 steps: return " in out
    assert adv.load("new").step == 256
    assert {path.name for path in folder.iterdir()} - {"__pycache__"} == {
        *("letters_world.py", "new", "shows", "out.mp4")
    }


def test_a_folder_whose_name_could_be_a_pattern(runs, folder, capsys):
    odd = "lr=[1e-3] *what?'s\\n"
    (folder / "lr=1").mkdir()  # what the pattern would find
    assert main(["train", "ppo", HOST, *TINY, "--total-timesteps", "128", "--out", f"{odd}/0"]) == 0
    assert f"Next: advantage eval {shlex.quote(odd + '/0')}" in capsys.readouterr().out
    assert main(["resume", f"{odd}/0", "--total-timesteps", "192"]) == 0
    assert main(["eval", f"{odd}/0", "--episodes", "1"]) == 0
    shutil.copytree(runs / "host", folder / odd / "1", symlinks=True)
    capsys.readouterr()
    for verb in (
        ["doctor", odd],
        ["doctor", f"{odd}/0"],
        ["compare", odd, "--out", "[c]*"],
    ):
        assert main(verb) == 0, capsys.readouterr().err
    assert "no file matches" not in "".join(capsys.readouterr())
    assert Path("[c]*", "comparison.png").exists()


@pytest.mark.parametrize("environment", [HOST, DEVICE])
@pytest.mark.parametrize("flags", [["--network", "gru", "--hidden", "8"], ["--frame-stack", "3"]])
def test_memory_and_frame_stacks_through_every_command(environment, flags, folder, capsys):
    """A resumed run is the uninterrupted one, and an evaluation stacks and remembers by itself."""
    constant = ["--learning-rate", "1e-3", "--clip-range", "0.2"]  # whatever the budget
    train = ["train", "ppo", environment, *TINY, *constant, "--quiet", *flags, "--total-timesteps"]
    assert main([*train, "256", "--out", "whole"]) == 0
    assert main([*train, "128", "--out", "half"]) == 0
    assert main(["resume", "half", "--total-timesteps", "256", "--quiet"]) == 0
    capsys.readouterr()
    whole, half = (
        (main(["eval", name, "--episodes", "2", "--json"]), json.loads(capsys.readouterr().out)["returns"])
        for name in ("whole", "half")
    )
    assert whole == half and whole[0] == 0
    assert main(["enjoy", "half", "--video", "v.gif", "--episodes", "1"]) == 0
    agent = adv.load("half")
    assert agent.frame_stack == (3 if "--frame-stack" in flags else 1)
    assert bool(jax.tree.leaves(agent.initial_memory())) == ("--network" in flags)


def test_watching_plays_the_episodes_of_an_evaluation(run, capsys):
    assert main(["eval", "run", "--episodes", "2", "--seed", "5"]) == 0
    evaluated = capsys.readouterr().out.splitlines()[:2]
    assert main(["enjoy", "run", "--episodes", "2", "--seed", "5", "--video", "v.gif"]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == evaluated


def test_in_a_window(run, capsys):
    assert main(["enjoy", "run", "--episodes", "1"]) == 0  # SDL draws into nothing here
    assert re.fullmatch(r"episode 0: return [\d.]+, length \d+\n", capsys.readouterr().out)


def test_an_agent_of_a_world_plays_in_gymnasium(runs, capsys):
    assert main(["eval", str(runs / "device"), "--env", HOST, "--episodes", "2"]) == 0
    assert "over 2 deterministic episodes" in capsys.readouterr().out


def test_a_package_of_the_folder_one_stands_in(folder, capsys):
    gone = "0.0, True, {}"
    mended = PACKAGE.replace(gone, "0.0, True, False, {}").replace("class Old", "class Good")
    mended = mended.replace("Raises(Old)", "Raises(Good)").replace("(Letters, Old, Raises)", "(Good,)")
    (folder / "good_world.py").write_text(mended)
    assert main(["train", "ppo", "good_world:Good-v0", *TINY, "--total-timesteps", "128", "--quiet"]) == 0
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
    (made,) = (folder / "runs").iterdir()
    assert main(["eval", str(made), "--episodes", "1"]) == 0
    assert main(["check", "good_world:Good-v0"]) == 0
    sys.modules.pop("good_world")
    gymnasium.registry.pop("Good-v0")


def test_several_seeds(folder, capsys):
    arguments = [*TINY, "--total-timesteps", "64", "--num-seeds", "2", "--seed", "5", "--out", "many"]
    assert main(["train", "ppo", DEVICE, *arguments]) == 0
    out = capsys.readouterr().out
    assert "seeds 5 to 6 at once" in out and "Seed 5: 64 steps" in out and "Seed 6: 64 steps" in out
    assert {path.name for path in Path("many").iterdir()} == {"seed_5", "seed_6"}


def test_seeds_share_the_cores_and_learn_what_they_learn_on_one(folder):
    """Three seeds on two devices, on a machine of one core on one; in this process on one."""
    options = ["--total-timesteps", "2048", "--num-seeds", "3", "--eval-episodes", "0", "--quiet"]
    code, _, err = command("train", "q-learning", "jax/Cliff-v0", *options, "--out", "shared")
    assert code == 0, err
    assert len(jax.devices()) == 1
    adv.train(
        adv.QLearning(), "jax/Cliff-v0", total_timesteps=2048, num_seeds=3, eval_episodes=0, out="alone"
    )
    for seed in range(3):
        for file in ("episodes.csv", "last/state.safetensors"):
            one, other = (Path(root, f"seed_{seed}", file).read_bytes() for root in ("shared", "alone"))
            assert one == other
        config = json.loads(Path("shared", f"seed_{seed}", "config.json").read_text())
        assert len(config["host"]["devices"]) == min(3, available_cores())


def test_check(folder, capsys):
    assert main(["check", HOST]) == 0
    out, err = capsys.readouterr()
    assert err == "" and out.endswith(f"{HOST} is ready to train on.\n")
    assert "Box: float32 of shape (4,)" in out and "Discrete: 2" in out
    assert main(["check", "letters_world:Old-v0"]) == 1
    out, err = capsys.readouterr()
    assert err == "" and re.search(r"error: environment 0.*expected .*terminated.*found .*; ", plain(out))
    assert re.search(r"letters_world:Old-v0: \d+ errors?, \d+ warnings\.\n$", out)
    assert [path.name for path in folder.iterdir() if path.suffix != ".py"] in ([], ["__pycache__"])


SCHEDULES = {
    "linear:3e-4:0": ({"linear": [3e-4, 0.0]}, adv.Linear(3e-4, 0.0)),
    "linear:3e-4": ({"linear": [3e-4, 0.0]}, adv.Linear(3e-4, 0.0)),
    "linear:1e-3:1e-4": ({"linear": [1e-3, 1e-4]}, adv.Linear(1e-3, 1e-4)),
    "0.001": (0.001, 0.001),
}


@pytest.mark.parametrize("text", SCHEDULES)
def test_schedules(text, folder, capsys):
    stored, restored = SCHEDULES[text]
    flags = ["--learning-rate", text, "--clip-range-vf", "None", "--eval-episodes", "0"]
    assert main(["train", "ppo", HOST, *TINY, "--total-timesteps", "128", "--out", "new", *flags]) == 0
    config = json.loads(Path("new/config.json").read_text())
    assert config["hyperparameters"]["learning_rate"] == stored
    assert config["hyperparameters"]["clip_range_vf"] is None
    assert adv.load("new").algorithm.learning_rate == restored
    rates = np.genfromtxt("new/progress.csv", delimiter=",", names=True, deletechars="")[
        "train/learning_rate"
    ]
    start, end = restored if isinstance(restored, tuple) else (restored, restored)
    np.testing.assert_allclose(rates, [start, (start + end) / 2], rtol=1e-6)


def test_flags_reach_the_run(folder):
    flags = [
        "--gamma",
        "0.9",
        "--share-network",
        "--no-normalize-reward",
        "--target-kl",
        "0.02",
        "--hidden",
        "4",
        "5",
    ]
    flags += ["--seed", "7", "--eval-every", "64", "--checkpoint-every", "64", "--keep-checkpoints", "2"]
    flags += ["--no-tensorboard", "--max-grad-norm", "None", "--activation", "relu", "--worker-timeout", "5"]
    assert (
        main(["train", "ppo", HOST, *TINY, "--total-timesteps", "128", "--quiet", "--out", "new", *flags])
        == 0
    )
    config = json.loads(Path("new/config.json").read_text())
    wanted = {
        "gamma": 0.9,
        "share_network": True,
        "normalize_reward": False,
        "target_kl": 0.02,
        "hidden": [4, 5],
    }
    wanted |= {"max_grad_norm": None, "activation": "relu", "n_steps": 32, "n_epochs": 1}
    assert {name: config["hyperparameters"][name] for name in wanted} == wanted
    wanted = {
        "seed": 7,
        "eval_every": 64,
        "checkpoint_every": 64,
        "keep_checkpoints": 2,
        "tensorboard": False,
    }
    wanted |= {"num_envs": 2, "total_timesteps": 128, "eval_episodes": 2, "workers": 0, "worker_timeout": 5.0}
    assert {name: config["training"][name] for name in wanted} == wanted
    assert not list(Path("new").glob("events*"))
    assert {path.name for path in Path("new/checkpoints").iterdir()} >= {
        "step_000000000064",
        "step_000000000128",
    }


def test_names_and_numbers_of_other_libraries(folder):
    theirs = ["--lr", "1e-3", "--timesteps", "1.28e2", "--num-steps=32", "--minibatch-size", "3.2e1"]
    theirs += ["--update-epochs", "1", "--n-envs", "2", "--clip-coef", "0.3", "--hidden-sizes", "4"]
    theirs += ["--n-eval-episodes", "0", "--num-workers", "0", "--entropy-coef", "0.01", "--save-freq", "64"]
    assert main(["train", "ppo", HOST, *theirs, "--quiet", "--out", "new"]) == 0
    config = json.loads(Path("new/config.json").read_text())
    wanted = dict(learning_rate=1e-3, n_steps=32, batch_size=32, n_epochs=1, clip_range=0.3)
    wanted |= dict(hidden=[4], ent_coef=0.01)
    assert {name: config["hyperparameters"][name] for name in wanted} == wanted
    wanted = dict(total_timesteps=128, num_envs=2, eval_episodes=0, workers=0, checkpoint_every=64)
    assert {name: config["training"][name] for name in wanted} == wanted


def test_aliases_are_no_names_of_ours():
    """No command takes a flag of its own for another one, and each name stands for one of ours."""
    ours = {name for algorithm in ALGORITHMS for name in hyperparameters_of(default_algorithm(algorithm))}
    assert set(ALIASES) <= ours | {field.name for field in dataclasses.fields(Options)} | {
        "env",
        "out",
        "quiet",
        "episodes",
        "video",
    }
    known = {field.name for field in dataclasses.fields(adv.PPO)} | {"seed"}
    assert with_our_names(["--lam", "1", "--seed", "--gae-lambda", "--"], known) == [
        "--gae-lambda",
        "1",
        "--seed",
        "--gae-lambda",
        "--",
    ]
    assert with_our_names(["--lambda=1"], {"lam"}) == ["--lam=1"]
    assert with_our_names(["--horizon", "3"], {"horizon", "n_steps"}) == ["--horizon", "3"]


# Pipes and terminals


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}


def shell(line, **environment):
    """A shell's line in which `advantage` is the program: `-> code, standard output and error`."""
    program = f"{shlex.quote(sys.executable)} -m advantage"
    done = subprocess.run(
        ["bash", "-c", line.replace("advantage", program, 1)], capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


SOLVE = "advantage train value-iteration FrozenLake-v1 --gamma 0.9 --eval-episodes 1 --out new"


def test_a_terminal_with_ascii_only(folder):
    code, out, err = shell(SOLVE, **ASCII)
    assert (code, err) == (0, "") and out.isascii()
    assert " +/- 0.00 over 1 deterministic" in out
    assert len(re.findall(r"^[<>v^*] [<>v^*] [<>v^*] [<>v^*]$", out, re.MULTILINE)) == 4
    code, out, err = shell("advantage list", **ASCII)
    assert (code, err) == (0, "") and out.isascii()
    assert "mean Psi_t" in out


def test_signs_in_ascii():
    shown = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Output(shown, goes_on=True).write("λ → ±1 × é, ∇J ≤ ∞ \udcff 道")
    shown.seek(0)
    assert shown.read() == "lambda > +/-1 x e, grad J <= inf ? ?"


@pytest.mark.parametrize(
    ("where", "said"), [("> /dev/full", "No space left on device"), (">&-", ""), (">&- 2>&-", "")]
)
def test_a_run_goes_on_without_its_output(where, said, folder):
    code, _, err = shell(f"{SOLVE} {where}")
    assert code == 0 and said in err and "Traceback" not in err
    assert adv.load("new").step > 10
    assert RunFolder(Path("new")).policy_path.exists()


def test_output_that_is_the_result_cannot_be_lost(folder):
    code, _, err = shell("advantage list > /dev/full")
    assert code == 1 and "No space left on device" in err
    assert shell("advantage list >&-")[0] == 0


def test_a_reader_of_a_run_that_goes_away(folder):
    assert shell(f"{SOLVE} | head -n 1; exit ${{PIPESTATUS[0]}}")[0] == 0
    assert adv.load("new").step > 10


def test_a_current_folder_that_is_gone(folder):
    Path("gone").mkdir()
    code, _, err = shell("cd gone && rmdir ../gone && advantage list")
    assert (code, err.count("\n")) == (2, 1) and "current folder has been deleted" in err


def test_a_platform_that_is_not_there(folder):
    code, _, err = shell(SOLVE, JAX_PLATFORMS="nonsense")
    assert code == 2 and "JAX cannot compute on 'nonsense', which JAX_PLATFORMS" in err
    assert not Path("new").exists()


def test_double_precision_changes_nothing(folder):
    flags = f"ppo {HOST} {shlex.join(TINY)} --total-timesteps 128 --quiet"
    for name, value in (("one", "0"), ("other", "1")):
        assert shell(f"advantage train {flags} --out {name}", JAX_ENABLE_X64=value) == (0, "", "")
    one, other = (Path(name, "last", "state.safetensors").read_bytes() for name in ("one", "other"))
    assert one == other
    with jax.enable_x64(True):
        agent = adv.load("one")
        assert agent.act(np.zeros(4, np.float32)) in (0, 1)
        assert adv.evaluate(agent, HOST, episodes=1).lengths.size
        assert adv.resume("one", total_timesteps=192).step == 192


def test_lines_into_a_pipe(folder):
    code, out, err = command("train", "ppo", HOST, *TINY, "--total-timesteps", 640, "--out", "new")
    assert (code, err) == (0, "")
    assert "\x1b" not in out and "\r" not in out
    assert re.search(r"^ +64 steps   10%  [\d,]+ steps/s  ETA \d+:\d\d:\d\d", out, re.MULTILINE)
    assert re.search(r"^ +640 steps  100%", out, re.MULTILINE)
    assert "Next: advantage eval new --episodes 100" in out


def test_a_reader_that_goes_away(folder):
    script = f"{shlex.quote(sys.executable)} -m advantage list | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.stderr == "" and done.stdout.startswith("Algorithms\n")
    assert done.stdout.split()[-1] in ("0", "1")


def test_a_live_line_on_a_terminal(folder):
    """And Ctrl-C, typed there."""
    ours, theirs = pty.openpty()
    arguments = [*TINY, "--total-timesteps", "1000000", "--out", "new", "--eval-episodes", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "advantage", "train", "ppo", HOST, *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"},
        start_new_session=True,
        preexec_fn=None,
    )
    os.close(theirs)
    seen, deadline, stopped = "", time.monotonic() + 120, False
    try:
        while time.monotonic() < deadline:
            if not select.select([ours], [], [], 0.2)[0]:
                continue
            try:
                data = os.read(ours, 65536)
            except OSError:  # the other side is closed
                break
            if not data:
                break
            seen += data.decode(errors="replace")
            if not stopped and re.search(r"[1-9][\d,]*/1,000,000 steps.*steps/s.*return.*ETA", seen):
                process.send_signal(signal.SIGINT)
                stopped = True
        assert process.wait(60) == 130, seen
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert stopped and "\x1b[" in seen and "━" in seen
    assert "Traceback" not in seen
    after = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", seen)
    assert re.search(r"Stopped at step [\d_]+ and saved\. To resume: advantage resume new", after)
    assert adv.load("new").step > 0
    assert seen.count("\x1b[?25l") == seen.count("\x1b[?25h")  # the cursor is back


class Blind(gymnasium.Env):
    """Has no picture."""

    observation_space, action_space = spaces.Box(-5, 5, (4,)), spaces.Discrete(2)
    metadata = {"render_modes": []}


def test_the_module_is_the_command(folder):
    assert command("--version")[:2] == (0, f"advantage {adv.__version__}\n")
    code, out, err = command("train", "pppo", HOST)
    assert (code, out) == (2, "") and err.startswith("advantage: There is no algorithm 'pppo'")
