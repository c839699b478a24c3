"""When is search enough? The same environments and policies, searches beside PPO, by steps and by seconds.

python benchmarks/search_or_gradient.py [jax/CartPole-v1 ...] [--seeds 3] [--out runs/search_or_gradient]

Settings are the presets, but every method has the policy of the environment's row: linear, or with that many hidden
units. A run is a process of its own, one at a time, and none that has finished is repeated, so it goes on where it was
stopped. Time to a threshold is when the mean of 100 training episodes reaches it, and includes compiling; candidates of
a search are spread about its mean, so its training episodes return less than its agent does.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Task(NamedTuple):
    """What is compared on one environment; `methods` maps a name to a budget in steps."""

    hidden: tuple[int, ...]
    threshold: float
    methods: dict[str, int]


TASKS = {
    "jax/CartPole-v1": Task((), 450, {"ppo": 300_000, "cem": 300_000, "cma-es": 300_000, "ars": 300_000}),
    "jax/Pendulum-v1": Task(
        (16,), -250, {"ppo": 1_000_000, "cem": 15_000_000, "cma-es": 15_000_000, "ars": 15_000_000}
    ),
    "Swimmer-v5": Task((), 200, {"ppo": 1_000_000, "ars": 1_000_000}),
    "HalfCheetah-v5": Task((), 2_000, {"ppo": 1_000_000, "ars": 1_000_000}),
}


def folder(out: Path, environment: str, method: str, seed: int) -> Path:
    return out / environment.replace("/", "-") / method / f"seed_{seed}"


def train(out: Path, environment: str, method: str, seed: int) -> None:
    """One run, or what is left of it."""
    task, path = TASKS[environment], folder(out, environment, method, seed)
    if (path / "last").exists():
        arguments = ["resume", path]
    else:
        budget = ["--total-timesteps", task.methods[method], "--eval-episodes", 100]
        shape = ["--hidden", *task.hidden]
        arguments = ["train", method, environment, *shape, *budget, "--seed", seed, "--out", path]
    done = subprocess.run(
        [sys.executable, "-m", "advantage", *map(str, arguments)], capture_output=True, text=True
    )
    if done.returncode:
        print(f"{method} on {environment}, seed {seed}: {done.stdout[-1000:]}{done.stderr}", file=sys.stderr)


def table(out: Path, environment: str, seeds: int) -> None:
    """A row for each method: medians of steps and seconds to the threshold, and the interquartile mean of the ends."""
    import advantage as adv

    task = TASKS[environment]
    for method in task.methods:
        runs = [folder(out, environment, method, seed) for seed in range(seeds)]
        found = adv.compare([run for run in runs if run.exists()], threshold=task.threshold)
        for left in found.left_out:
            print(f"{left.path}: {left.reason}", file=sys.stderr)
        if not found.scores:
            continue
        (score,), (reached,) = found.scores, found.reached
        to = [f"{x:,.0f}" if np.isfinite(x) else "not reached" for x in (reached.steps, reached.seconds)]
        ends = f"{score.mean:.4g} ({score.lowest:.4g} to {score.highest:.4g})"
        cells = (
            environment,
            " ".join(map(str, task.hidden)) or "linear",
            method,
            f"{score.steps:,}",
            f"{score.seconds:,.0f}",
            f"{task.threshold:g}",
        )
        print(f"| {' | '.join((*cells, *to, f'{reached.reached} of {score.seeds}', ends))} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("environments", nargs="*", default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/search_or_gradient"))
    arguments = parser.parse_args()
    print(
        "| environment | policy | method | steps | seconds | threshold | steps to it | seconds to it | seeds | end |"
    )
    print("|---|---|---|---:|---:|---:|---:|---:|---:|---:|")
    for environment in arguments.environments:
        for method in TASKS[environment].methods:
            for seed in range(arguments.seeds):
                train(arguments.out, environment, method, seed)
        table(arguments.out, environment, arguments.seeds)


if __name__ == "__main__":
    main()
