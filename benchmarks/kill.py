"""Kill trainings at random moments, resume them, and compare them with an uninterrupted run.

python benchmarks/kill.py [--kills 200] [--seed 0]

A run is started, killed with SIGKILL after a random time (during start-up, stepping, learning or saving), resumed,
killed again, and so on until it ends. After every kill it must be possible to load the newest checkpoint. At the end
the run's tensors and logs must equal those of the uninterrupted run bit for bit.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import advantage as adv
from advantage.runs.folder import RunFolder
from advantage.runs.log import read_progress

PATHS = {
    "host, in process": ("Pendulum-v1", 40_960, ["--workers", "0"]),
    "host, worker processes": ("Acrobot-v1", 40_960, ["--workers", "1"]),
    "device": ("jax/CartPole-v1", 409_600, []),
}
OPTIONS = [
    *("--preset", "none", "--num-envs", "4", "--n-steps", "64", "--batch-size", "64", "--n-epochs", "4"),
    *("--eval-episodes", "2", "--quiet"),
]


def command(environment: str, steps: int, more: list[str], out: Path) -> list[str]:
    every = ["--total-timesteps", str(steps), "--checkpoint-every", str(steps // 40)]
    every += ["--eval-every", str(steps // 8), "--out", str(out)]
    return ["train", "ppo", environment, *OPTIONS, *every, *more]


def start(arguments: list[str]) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "advantage", *arguments], start_new_session=True)


def outcome(path: Path) -> dict:
    """All results of a run, except times."""
    progress = read_progress(RunFolder(path))
    return {
        "tensors": (path / "last" / "state.safetensors").read_bytes(),
        "manifest": json.loads((path / "last" / "manifest.json").read_text()),
        "best": os.readlink(path / "best"),
        "episodes": (path / "episodes.csv").read_text(),
        "evaluations": (path / "evaluations.csv").read_text(),
        "progress": {name: x.tobytes() for name, x in progress.items() if not name.startswith("time/")},
    }


def chain(name: str, whole: Path, path: Path, kills: int, moments: random.Random) -> dict[str, int]:
    """Kill and resume `kills` times, then let the run end and compare."""
    environment, steps, more = PATHS[name]
    begin = command(environment, steps, more, path)
    tally = {"kills": 0, "before the first checkpoint": 0, "runs": 1}
    arguments = begin
    while tally["kills"] < kills:
        process = start(arguments)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moments.uniform(0.5, 7))
        if process.poll() is not None:
            ended(name, process.returncode, arguments)
            compare(name, whole, path)
            path = path.with_name(f"{path.name}+")
            arguments = begin = command(environment, steps, more, path)
            tally["runs"] += 1
            continue
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        tally["kills"] += 1
        if (path / "last").exists():
            newest = max((path / "checkpoints").glob("step_*"))
            assert adv.load(newest).step >= adv.load(path).step >= 0
            arguments = ["resume", str(path), "--quiet"]
        else:
            tally["before the first checkpoint"] += 1
            path = path.with_name(f"{path.name}-")
            arguments = command(environment, steps, more, path)
    if arguments[0] == "resume":
        ended(name, start(arguments).wait(), arguments)
        compare(name, whole, path)
    return tally


def ended(name: str, code: int, arguments: list[str]) -> None:
    """Check the exit code: 0, or 2 if the kill came after everything was written, so that nothing is left to do."""
    assert code == 0 or (code == 2 and arguments[0] == "resume"), f"{name}: exit code {code}"


def compare(name: str, whole: Path, path: Path) -> None:
    one, other = outcome(whole), outcome(path)
    for what in one:
        assert one[what] == other[what], f"{name}: {what} differs, {whole} and {path}"


def main() -> None:
    """Print one line per path."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    share = -(-arguments.kills // len(PATHS))
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, (environment, steps, more)) in enumerate(PATHS.items()):
            begin = time.perf_counter()
            whole = Path(folder) / f"whole-{number}"
            assert start(command(environment, steps, more, whole)).wait() == 0
            moments = random.Random(f"{arguments.seed} {name}")
            tally = chain(name, whole, Path(folder) / f"run-{number}", share, moments)
            print(
                f"{name} ({environment}): {tally['kills']} kills in {tally['runs']} runs, "
                f"{tally['before the first checkpoint']} of them before the first checkpoint; every newest checkpoint "
                f"loaded, every finished run equals the uninterrupted one bit for bit "
                f"({time.perf_counter() - begin:.0f} s)",
                flush=True,
            )


if __name__ == "__main__":
    main()
