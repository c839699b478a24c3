"""When is search enough? Searches and PPO in the same environments with the same policies, by steps and by seconds.

python benchmarks/search_or_gradient.py [jax/CartPole-v1 ...] [--seeds 3] [--out runs/search_or_gradient]
python benchmarks/search_or_gradient.py --picture docs/search/or_gradient.png    # the curves in search_or_gradient.csv

Settings are the presets, but every method has the policy of the environment's row: linear, or with that many hidden
units; PPO also runs with its preset's policy, in a row of its own. Each run has its own process, one at a time.
Finished runs are not repeated, so the script can be stopped and continued. The time to a threshold is the time until
the mean of 100 training episodes reaches it, including compilation. Candidates of a search are distributed around its
mean, so its training episodes have lower returns than its agent. Curves are written beside this file.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from advantage.runs.checkpoint import finished_step

OWN = "ppo_own"
CURVES = Path(__file__).parent / "search_or_gradient.csv"
POINTS = 40  # points kept from each run
LINES = {
    OWN: ("#1f6feb", "-", "PPO, its preset's policy"),
    "ppo": ("#1f6feb", ":", "PPO"),
    "cem": ("#d9480f", "-", "CEM"),
    "cma-es": ("#2f9e44", "-", "CMA-ES"),
    "ars": ("#9c36b5", "-", "ARS"),
}


class Task(NamedTuple):
    """What is compared on one environment; `methods` maps a row's name to a budget in steps."""

    hidden: tuple[int, ...]
    threshold: float
    methods: dict[str, int]


TASKS = {
    "jax/CartPole-v1": Task(
        (), 450, {OWN: 300_000, "ppo": 300_000, "cem": 300_000, "cma-es": 300_000, "ars": 300_000}
    ),
    "jax/Pendulum-v1": Task(
        (16,),
        -250,
        {OWN: 1_000_000, "ppo": 1_000_000, "cem": 15_000_000, "cma-es": 15_000_000, "ars": 15_000_000},
    ),
    "Swimmer-v5": Task((), 200, {OWN: 1_000_000, "ppo": 1_000_000, "ars": 1_000_000}),
    "HalfCheetah-v5": Task((), 2_000, {OWN: 1_000_000, "ppo": 1_000_000, "ars": 1_000_000}),
}


def folder(out: Path, environment: str, method: str, seed: int) -> Path:
    return out / environment.replace("/", "-") / method / f"seed_{seed}"


def train(out: Path, environment: str, method: str, seed: int) -> None:
    """Train one run, or resume it if it has begun."""
    task, path = TASKS[environment], folder(out, environment, method, seed)
    if (path / "last").exists():
        if finished_step((path / "last").resolve(), task.methods[method]) is not None:
            return
        arguments = ["resume", path]
    else:
        budget = ["--total-timesteps", task.methods[method], "--eval-episodes", 100]
        shape = [] if method == OWN else ["--hidden", *task.hidden]
        arguments = [
            "train",
            method.split("_")[0],
            environment,
            *shape,
            *budget,
            "--seed",
            seed,
            "--out",
            path,
        ]
    done = subprocess.run(
        [sys.executable, "-m", "advantage", *map(str, arguments)], capture_output=True, text=True
    )
    if done.returncode:
        print(f"{method} on {environment}, seed {seed}: {done.stdout[-1000:]}{done.stderr}", file=sys.stderr)


def table(out: Path, environment: str, seeds: int) -> None:
    """A row for each method: median steps and seconds to the threshold, and the interquartile mean of final scores."""
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
            "its preset's" if method == OWN else " ".join(map(str, task.hidden)) or "linear",
            method.split("_")[0],
            f"{score.steps:,}",
            f"{score.seconds:,.0f}",
            f"{task.threshold:g}",
        )
        print(f"| {' | '.join((*cells, *to, f'{reached.reached} of {score.seeds}', ends))} |", flush=True)


def gather(out: Path) -> None:
    """Write the curves of every run: the mean of its last 100 episodes against steps and seconds."""
    rows = []
    for environment, task in TASKS.items():
        for method in task.methods:
            for run in sorted((out / environment.replace("/", "-") / method).glob("seed_*")):
                progress = np.genfromtxt(run / "progress.csv", delimiter=",", names=True)
                seed = json.loads((run / "config.json").read_text())["seed"]
                kept = np.unique(np.geomspace(1, len(progress), POINTS).astype(int) - 1)
                for row in progress[kept]:
                    facts = int(row["step"]), f"{row['timeelapsed']:.2f}", f"{row['rolloutep_rew_mean']:.4g}"
                    rows.append([environment, method, seed, *facts])
    with open(CURVES, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["environment", "method", "seed", "step", "seconds", "return"])
        writer.writerows(rows)


def picture(file: str) -> None:
    """Draw the curves, a column for each environment, by steps above and by seconds below."""
    from matplotlib.figure import Figure

    with open(CURVES) as curves:
        rows = list(csv.DictReader(curves))
    figure = Figure(figsize=(11, 5.6), dpi=120, layout="constrained")
    panels = figure.subplots(2, len(TASKS), sharey="col")
    for column, (environment, task) in enumerate(TASKS.items()):
        policy = f"{task.hidden[0]} hidden units" if task.hidden else "linear"
        panels[0, column].set_title(f"{environment}, {policy}", fontsize=10, color="#24292f")
        for panel, unit in zip(panels[:, column], ("step", "seconds"), strict=True):
            for method, (colour, style, _) in LINES.items():
                mine = [row for row in rows if (row["environment"], row["method"]) == (environment, method)]
                for seed in sorted({row["seed"] for row in mine}):
                    x, y = (
                        [float(row[name]) for row in mine if row["seed"] == seed] for name in (unit, "return")
                    )
                    panel.plot(x, y, style, color=colour, linewidth=1.2)
            panel.axhline(task.threshold, color="#8c959f", linewidth=0.8, zorder=0)
            panel.set_xscale("log")
            panel.set_xlabel({"step": "environment steps", "seconds": "seconds"}[unit])
            panel.grid(color="#d0d7de", linewidth=0.5)
            panel.spines[["top", "right"]].set_visible(False)
    for row in (0, 1):
        panels[row, 0].set_ylabel("return of 100 training episodes")
    handles = [
        panels[0, 0].plot([], [], style, color=colour, label=label)[0]
        for colour, style, label in LINES.values()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(LINES), frameon=False)
    figure.savefig(file)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("environments", nargs="*", default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/search_or_gradient"))
    parser.add_argument("--picture", metavar="FILE", help="draw the curves and train nothing")
    arguments = parser.parse_args()
    if arguments.picture:
        picture(arguments.picture)
        return
    print(
        "| environment | policy | method | steps | seconds | threshold | steps to it | seconds to it | seeds | end |"
    )
    print("|---|---|---|---:|---:|---:|---:|---:|---:|---:|")
    for environment in arguments.environments:
        for method in TASKS[environment].methods:
            for seed in range(arguments.seeds):
                train(arguments.out, environment, method, seed)
        table(arguments.out, environment, arguments.seeds)
    gather(arguments.out)


if __name__ == "__main__":
    main()
