"""Environments that others have published, in every verb: check, train with three methods, eval, enjoy, resume.

    python benchmarks/published_environments.py --setup               # installs what it can, then tries all
    python benchmarks/published_environments.py                       # tries all
    python benchmarks/published_environments.py minigrid mo-gymnasium --home /path/of/an/environment

`--home` is a Python environment (made by `python -m venv`) that has the packages and what advantage needs; advantage
itself is taken from this repository. By default it is a folder of the system's temporary files, which `--setup` makes.

Prints a table, cell by cell: `ok`, or the number of a note below it, which is the paragraph that says why not. Three
things are faults, and the exit code is then 1: an end without such a paragraph, a command that takes longer than
`--limit` seconds, and a `check` that says otherwise than `train`. Budgets are tiny; nothing is learned.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

HOME = Path(tempfile.gettempdir()) / "advantage_published"
ROOT = Path(__file__).resolve().parents[1]
METHODS = {
    "ppo": ("--total-timesteps", "256", "--n-steps", "64"),
    "a2c": ("--total-timesteps", "256", "--n-steps", "32"),
    "cem": ("--total-timesteps", "1024", "--candidates", "2", "--elite", "0.5"),  # of whole episodes
}
VERBS = ("check", *METHODS, "eval", "enjoy", "resume")
SHORT = ("--env-option", "max_episode_steps=100")


class Case(NamedTuple):
    """A package as pip takes it, the environment as advantage takes it, and the distribution whose version counts."""

    package: str
    environment: str
    flags: tuple[str, ...] = ()
    distribution: str = ""

    @property
    def counts(self) -> str:
        return self.distribution or self.package.partition("==")[0]


CASES = (
    Case("minigrid", "minigrid:MiniGrid-Empty-5x5-v0", ("--ignore-observation", "mission")),
    Case("minigrid", "minigrid:MiniGrid-Empty-5x5-v0", ("--wrapper", "minigrid.wrappers:FlatObsWrapper")),
    Case(
        "highway-env",
        "highway_env:highway-v0",
        ("--env-option", 'config={"duration": 5, "vehicles_count": 5}'),
    ),
    Case("gym-anytrading", "gym_anytrading:stocks-v0", SHORT),
    Case("popgym", "popgym:popgym-RepeatPreviousEasy-v0"),
    Case("gymnasium-robotics", "gymnasium_robotics:FetchReach-v4"),
    Case("gymnasium-robotics", "gymnasium_robotics:PointMaze_UMaze-v3", SHORT),
    Case("panda-gym", "panda_gym:PandaReach-v3"),
    Case("minatar", "minatar.gym:BaseEnv", ("--env-option", "game=breakout")),
    Case("crafter", "crafter:Env"),
    Case("crafter", "crafter_of_today:Crafter"),
    Case("shimmy[dm-control]", "shimmy:dm_control/cartpole-balance-v0", SHORT, "dm_control"),
    Case("pettingzoo", "pettingzoo.classic.connect_four_v3:env"),
    Case("pettingzoo", "single_agent:ConnectFour"),
    Case("ale-py", "ale_py:ALE/Pong-v5", SHORT),
    Case("gymnasium[box2d]", "LunarLander-v3", SHORT, "box2d"),
    Case("flappy-bird-gymnasium", "flappy_bird_gymnasium:FlappyBird-v0"),
    Case("anesthesim", "anesthesim:anesthesim/PropofolControl-v0", SHORT),
    Case("miniworld", "miniworld:MiniWorld-OneRoom-v0", SHORT),
    Case("tetris-gymnasium", "tetris_gymnasium.envs.tetris:Tetris"),
    Case("mo-gymnasium", "mo_gymnasium:deep-sea-treasure-v0"),
    Case(
        "mo-gymnasium",
        "mo_gymnasium:deep-sea-treasure-v0",
        ("--wrapper", "mo_gymnasium.wrappers:LinearReward", *SHORT),
    ),
    Case("gymnasium-2048", "gymnasium_2048:gymnasium_2048/TwentyFortyEight-v0", SHORT),
    Case("vizdoom", "vizdoom.gymnasium_wrapper:VizdoomBasic-v1", SHORT),
    Case("textworld", "textworld.gym.envs:TextworldGymEnv"),
    Case("safety-gymnasium", "safety_gymnasium:SafetyPointGoal1-v0"),
)
ALSO = ("mujoco<4",)  # dm_control 1.0.50 does not work with 4.0
OWN_MODULES = {  # what a user writes around environments of other interfaces
    "crafter_of_today": '''
import crafter
import gymnasium
import numpy as np


class Crafter(gymnasium.Env):
    """Crafter, which has the older interface, in Gymnasium's."""

    metadata = {"render_modes": ["rgb_array"]}
    observation_space = gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    action_space = gymnasium.spaces.Discrete(17)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.game = crafter.Env(seed=int(self.np_random.integers(2**31)))
        return self.game.reset(), {}

    def step(self, action):
        obs, reward, done, info = self.game.step(action)
        died = info["discount"] == 0
        return obs, float(reward), died, done and not died, {}

    def render(self):
        return self.game.render((256, 256))
''',
    "single_agent": '''
import gymnasium
from pettingzoo.classic import connect_four_v3


class ConnectFour(gymnasium.Env):
    """One player of PettingZoo's game; the other one plays at random."""

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.game = connect_four_v3.env(render_mode=render_mode)
        self.me, self.other = self.game.possible_agents
        self.observation_space = self.game.observation_space(self.me)
        self.action_space = self.game.action_space(self.me)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.game.reset(seed=seed)
        return self.game.observe(self.me), {}

    def step(self, action):
        self.game.step(action)
        if not self.game.terminations[self.me]:
            (free,) = self.game.observe(self.other)["action_mask"].nonzero()
            self.game.step(self.np_random.choice(free))
        reward, over = self.game.rewards[self.me], self.game.terminations[self.me]
        return self.game.observe(self.me), float(reward), bool(over), False, {}

    def render(self):
        return self.game.render()

    def close(self):
        self.game.close()
''',
}
FACTS = """
import importlib.metadata, json, platform, sys
def version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
print(json.dumps({name: version(name) for name in sys.argv[1:]} | {"Python": platform.python_version()}))
"""


def setup(home: Path) -> dict[str, str]:
    """Make the environment and install all that can be: `-> what pip says of each package that does not install`.

    Advantage comes last again, because a package may have replaced what it needs by an older version.
    """
    venv.create(home, with_pip=True)
    failed, own = {}, f"{ROOT}[video]"
    for package in (own, *dict.fromkeys(case.package for case in CASES), *ALSO, own):
        command = [home / "bin" / "pip", "-q", "install", package]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.lower().startswith("error:")]
            failed[package] = (errors or ["pip gives no reason"])[-1]
        print(f"{package}: {failed.get(package, 'installed')}", file=sys.stderr, flush=True)
    return failed


def versions(home: Path) -> dict[str, str]:
    """The version of each distribution there, or an empty string, and that of Python."""
    names = [case.counts for case in CASES] + ["jax", "gymnasium", "numpy"]
    done = subprocess.run([home / "bin" / "python", "-c", FACTS, *names], capture_output=True, check=True)
    return json.loads(done.stdout)


class Outcome(NamedTuple):
    """How a command ended: whether as it should, and `ok` or the paragraph that it said."""

    right: bool
    said: str


class Commands:
    """Runs advantage's commands in a folder, with the Python of `home`, each for at most `limit` seconds."""

    def __init__(self, home: Path, folder: Path, limit: float):
        self.home, self.folder, self.limit = home, folder, limit
        for name, text in OWN_MODULES.items():
            (folder / f"{name}.py").write_text(text)

    def __call__(self, name: str, *words: str) -> Outcome:
        """Run a command; its whole output is written to the file `name.txt`."""
        no_screen = {"SDL_VIDEODRIVER": "dummy", "MPLBACKEND": "agg", "MUJOCO_GL": "egl"}
        variables = no_screen | os.environ | {"PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(
            [self.home / "bin" / "python", "-m", "advantage", *words],
            cwd=self.folder,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # so that what it starts ends with it
        )
        try:
            out, errors = process.communicate(timeout=self.limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, errors = process.communicate()
            errors += f"\ntook longer than {self.limit:g} s"
        (self.folder / f"{name}.txt").write_text(
            f"{words}\n{out}\n{errors}\nexit code {process.returncode}\n"
        )
        return self._outcome(process.returncode, out, errors, checks=words[0] == "check")

    def _outcome(self, code: int, out: str, errors: str, checks: bool) -> Outcome:
        if code == 0:
            return Outcome(True, "ok")
        lines = [line for line in errors.splitlines() if line.strip()] or ["nothing was said"]
        found = [line.removeprefix("error: ") for line in out.splitlines() if line.startswith("error: ")]
        ours = [
            line for line in lines if line.startswith("advantage: ")
        ]  # what a package says at its end comes later
        said = found[0] if checks and found else (ours or lines)[-1]
        explained = bool(checks and found) or said.startswith("advantage: ")
        said = said.removeprefix("advantage: ").replace(str(self.folder), ".").replace(str(self.home), "HOME")
        return Outcome(explained and "should not have happened" not in said, said)


def outcomes(run: Commands, case: Case) -> Iterator[Outcome | None]:
    """Every verb on one environment, as it ends: its outcome, or None for one that has no run to work on."""
    budget = ("--eval-episodes", "0", "--workers", "0", "--no-tensorboard")
    yield (checked := run("check", "check", case.environment, *case.flags, "--steps", "50"))
    trained = []
    for method, sizes in METHODS.items():
        words = ("train", method, case.environment, *case.flags, *budget, *sizes, "--out", method)
        outcome = run(method, *words)
        agrees = (outcome.said == "ok") == (checked.said == "ok")
        trained.append(outcome if agrees else Outcome(False, f"unlike check: {outcome.said}"))
        yield trained[-1]
    if trained[0].said.removeprefix("unlike check: ") != "ok":
        yield from (None, None, None)
        return
    again = ("ppo", "--trust")
    yield run("eval", "eval", *again, "--episodes", "1")
    yield run("enjoy", "enjoy", *again, "--episodes", "1", "--video", "play.gif")
    yield run("resume", "resume", *again, "--total-timesteps", "320", "--quiet")


class Table:
    """The table, printed cell by cell, with its notes at the end.

    Args:
        installed: the version of each distribution, as `versions` gives it.
        failed: what pip said of packages that do not install.
    """

    def __init__(self, installed: dict[str, str], failed: dict[str, str]):
        self.installed, self.failed = installed, failed
        self.notes: list[str] = []
        self.faults = self.tried = 0
        print(f"| package | environment | {' | '.join(VERBS)} |\n|---|---|{'---|' * len(VERBS)}", flush=True)

    def row(self, case: Case, tried: Iterator[Outcome | None]) -> None:
        """Print a row, each cell when its command has ended. A package that is not there has no commands."""
        words = " ".join(f"'{word}'" if set(word) & set('" ()') else word for word in case.flags)
        version = self.installed[case.counts]
        print(f"| {case.package} {version} | `{f'{case.environment} {words}'.strip()}` |", end="", flush=True)
        if not version:
            reason = self.failed.get(case.package, "it does not install, or was not installed")
            tried = iter([Outcome(True, f"{case.package}: {reason}"), *[None] * (len(VERBS) - 1)])
        for outcome in tried:
            self.faults += outcome is not None and not outcome.right
            self.tried += outcome is not None and bool(version)
            print(f" {self._cell(outcome)} |", end="", flush=True)
        print(flush=True)

    def _cell(self, outcome: Outcome | None) -> str:
        if outcome is None or outcome.said == "ok":
            return "–" if outcome is None else "ok"
        if outcome.said not in self.notes:
            self.notes.append(outcome.said)
        return f"{'' if outcome.right else '**fault** '}[{self.notes.index(outcome.said) + 1}]"

    def end(self) -> None:
        print("\n\n" + "\n".join(f"{number}. {text}" for number, text in enumerate(self.notes, start=1)))
        about = ", ".join(
            f"{name} {self.installed[name]}" for name in ("Python", "jax", "gymnasium", "numpy")
        )
        print(f"\n{about}: {self.tried} commands, {self.faults} faults.", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Published environments in every verb.")
    parser.add_argument("packages", nargs="*", help="some of the packages, in this order; by default all")
    parser.add_argument(
        "--setup", action="store_true", help="make the environment and install the packages first"
    )
    parser.add_argument("--home", type=Path, default=HOME, help="the Python environment with the packages")
    parser.add_argument("--limit", type=float, default=180.0, help="seconds for one command")
    parser.add_argument("--out", type=Path, help="keep runs and outputs in this new folder")
    arguments = parser.parse_args()
    if arguments.out and arguments.out.exists():
        parser.error(f"{arguments.out} exists already; name a new folder")
    failed = setup(arguments.home) if arguments.setup else {}
    if not (arguments.home / "bin" / "python").exists():
        parser.error(
            f"there is no Python environment {arguments.home}; --setup makes it, --home names another"
        )
    known = dict.fromkeys(case.package for case in CASES)
    if unknown := [name for name in arguments.packages if name not in known]:
        parser.error(f"there are no cases for {', '.join(unknown)}; there are: {', '.join(known)}")
    table = Table(versions(arguments.home), failed)
    try:
        cases = (case for name in arguments.packages or known for case in CASES if case.package == name)
        for number, case in enumerate(cases):
            with tempfile.TemporaryDirectory() as temporary:
                folder = arguments.out / f"{number}_{case.counts}" if arguments.out else Path(temporary)
                folder.mkdir(parents=True, exist_ok=True)
                table.row(case, outcomes(Commands(arguments.home, folder.resolve(), arguments.limit), case))
    finally:  # also where Ctrl-C ends it
        table.end()
    return 1 if table.faults else 0


if __name__ == "__main__":
    sys.exit(main())
