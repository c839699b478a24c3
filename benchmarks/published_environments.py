"""Environments that others have published, through every verb: check, train with three methods, eval, enjoy, resume.

    python benchmarks/published_environments.py --setup     # makes an environment in /tmp and installs what it can
    python benchmarks/published_environments.py [NAME...]   # all, or some of them

Prints a table: `ok`, or `says` with the one paragraph that tells why not. A traceback, a time limit that is passed and
"should not have happened" are faults: the exit code is then 1. Budgets are tiny; nothing is learned.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

HOME = Path(tempfile.gettempdir()) / "advantage_published"
ROOT = Path(__file__).resolve().parents[1]
METHODS = ("ppo", "a2c", "cem")
SECONDS = 180  # for one command
ENVIRONMENTS = {  # package: environment, and flags that it needs
    "minigrid": ("minigrid:MiniGrid-Empty-5x5-v0", ("--ignore-observation", "mission")),
    "highway-env": ("highway_env:highway-v0", ("--env-option", 'config={"duration": 5}')),
    "gym-anytrading": ("gym_anytrading:stocks-v0", ()),
    "popgym": ("popgym:popgym-RepeatPreviousEasy-v0", ()),
    "gymnasium-robotics": ("gymnasium_robotics:FetchReach-v4", ()),
    "panda-gym": ("panda_gym:PandaReach-v3", ()),
    "minatar": ("minatar.gym:BaseEnv", ("--env-option", "game=breakout")),
    "crafter": ("crafter:Env", ()),
    "shimmy[dm-control]": ("shimmy:dm_control/cartpole-balance-v0", ()),
    "pettingzoo": ("pettingzoo.classic:connect_four_v3", ()),
    "ale-py": ("ale_py:ALE/Pong-v5", ()),
    "gymnasium[box2d]": ("LunarLander-v3", ()),
    "flappy-bird-gymnasium": ("flappy_bird_gymnasium:FlappyBird-v0", ()),
    "anesthesim": ("anesthesim:anesthesim/PropofolControl-v0", ()),
    "miniworld": ("miniworld:MiniWorld-OneRoom-v0", ()),
    "tetris-gymnasium": ("tetris_gymnasium.envs.tetris:Tetris", ()),
    "mo-gymnasium": ("mo_gymnasium:deep-sea-treasure-v0", ()),
    "gymnasium-2048": ("gymnasium_2048:gymnasium_2048/TwentyFortyEight-v0", ()),
    "vizdoom": ("vizdoom.gymnasium_wrapper:VizdoomBasic-v1", ()),
    "textworld": ("textworld.gym:TextworldGymEnv", ()),
}


def setup(home: Path) -> None:
    """Make the environment and install advantage and the packages; one that does not install is left out."""
    venv.create(home, with_pip=True)
    for package in (f"{ROOT}[video]", *ENVIRONMENTS):
        done = subprocess.run(
            [home / "bin" / "pip", "-q", "install", package], capture_output=True, text=True
        )
        print(f"{package:<24} {'installed' if done.returncode == 0 else 'does not install'}", flush=True)


def call(home: Path, folder: Path, *words: str) -> tuple[bool, str]:
    """Run a command: whether it ended as it should, and `ok` or what it said."""
    command = [home / "bin" / "python", "-m", "advantage", *words]
    variables = os.environ | {"PYTHONPATH": str(ROOT), "SDL_VIDEODRIVER": "dummy"}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            env=variables,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return False, f"took longer than {SECONDS} s"
    if done.returncode == 0:
        return True, "ok"
    lines = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()
    said = next((line for line in reversed(lines) if line.startswith(("advantage:", "error:"))), lines[-1])
    fault = "should not have happened" in done.stderr or (
        words[0] != "check" and not said.startswith("advantage:")
    )
    return not fault, f"says: {said.removeprefix('advantage: ')}"


def verbs(home: Path, folder: Path, name: str, flags: tuple[str, ...]) -> list[tuple[str, bool, str]]:
    """Every verb on one environment: its name, whether it ended as it should, and what it said."""
    budget = ["--total-timesteps", "256", "--eval-episodes", "0", "--workers", "0", "--no-tensorboard"]
    rows = [("check", *call(home, folder, "check", name, *flags, "--steps", "50"))]
    for method in METHODS:
        steps = {"ppo": ["--n-steps", "64"], "cem": ["--candidates", "2"]}.get(method, [])
        rows.append(
            (method, *call(home, folder, "train", method, name, *flags, *budget, *steps, "--out", method))
        )
    if rows[1][2] == "ok":
        rows.append(("eval", *call(home, folder, "eval", "ppo", "--trust", "--episodes", "1")))
        rows.append(
            (
                "enjoy",
                *call(home, folder, "enjoy", "ppo", "--trust", "--episodes", "1", "--video", "play.gif"),
            )
        )
        rows.append(
            ("resume", *call(home, folder, "resume", "ppo", "--trust", "--total-timesteps", "320", "--quiet"))
        )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description="Published environments through every verb.")
    parser.add_argument("packages", nargs="*", help="some of the packages; by default all")
    parser.add_argument("--setup", action="store_true", help="make the environment first")
    parser.add_argument("--home", type=Path, default=HOME, help="the environment's folder")
    arguments = parser.parse_args()
    if arguments.setup:
        setup(arguments.home)
    faults = 0
    for package in arguments.packages or ENVIRONMENTS:
        name, flags = ENVIRONMENTS[package]
        with tempfile.TemporaryDirectory() as folder:
            for verb, right, said in verbs(arguments.home, Path(folder), name, flags):
                faults += not right
                print(f"{package:<22} {verb:<7} {'' if right else 'FAULT '}{said}", flush=True)
    print(f"{faults} faults.")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
