"""The PPO paper's table 1 again: eleven surrogates on seven MuJoCo tasks, a million steps each.

python benchmarks/ablation.py [--seeds 3] [--unbounded] [--tasks HalfCheetah-v5 ...] [--settings "no clip" ...]
                              [--processes 2] [--table] [--picture docs/ablation/ablation.png]

Every run is a row of benchmarks/learning.csv. Finished runs are not repeated, so the script can be stopped and
continued; `--table` trains nothing and prints the finished rows, and `--picture` draws them. As in the paper, a run's
score is the mean of its last 100 episodes, scaled so that an untrained policy has 0 and the best setting's mean has 1
on each task, and then averaged over tasks and seeds.

`--unbounded` trains the tasks whose reward has a control cost once more, with `--action-bounds none`: the environment
gets the samples of the policy, beyond the bounds too, as in the paper. These runs have a table of their own.

Source: Schulman et al. 2017, "Proximal policy optimization algorithms", section 6.1 and table 1.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from learning import COSTLY, MUJOCO, results, run

PAPER = {
    "no clip": -0.39,
    "clip 0.1": 0.76,
    "clip 0.2": 0.82,
    "clip 0.3": 0.70,
    "adaptive KL 0.003": 0.68,
    "adaptive KL 0.01": 0.74,
    "adaptive KL 0.03": 0.71,
    "fixed KL 0.3": 0.62,
    "fixed KL 1": 0.71,
    "fixed KL 3": 0.72,
    "fixed KL 10": 0.69,
}

Scores = dict[str, dict[str, np.ndarray]]  # setting -> task -> scores of its seeds


def job_of(setting: str, task: str, *, unbounded: bool) -> str:
    """The name of a cell's job."""
    if unbounded:
        return f"unbounded, {setting}, {task}"
    return task if setting == "clip 0.2" else f"{setting}, {task}"


def untrained(environment: str, *, unbounded: bool) -> float:
    """The mean return of 100 episodes of untrained policies, with ten draws of weights."""
    import jax

    import advantage as adv
    from advantage.agent import Agent

    def agent(seed: int) -> Agent:
        made, algorithm = adv.make(environment), adv.PPO(action_bounds="none" if unbounded else "clip")
        units = "unclipped" if unbounded else "raw"
        spec = adv.types.Spec(made.observation_space, made.action_space, action_units=units)
        return Agent(algorithm, algorithm.init(jax.random.key(seed), spec), spec, environment, 0)

    each = [adv.evaluate(agent(n), episodes=10, seed=n, deterministic=False).mean for n in range(10)]
    return float(np.mean(each))


def scores(tasks: list[str], *, seeds: int, unbounded: bool) -> dict[str, dict[str, list[float]]]:
    """`setting -> task -> mean return of the last 100 episodes of each seed`; some tasks have more seeds on file."""
    rows = [row for row in results() if int(row["seed"]) < seeds]
    found = {name: {task: [] for task in tasks} for name in PAPER}
    for name in PAPER:
        for task in tasks:
            job = job_of(name, task, unbounded=unbounded)
            found[name][task] = [float(row["last_100"]) for row in rows if row["job"] == job]
    return found


def normalised(tasks: list[str], *, seeds: int, unbounded: bool) -> tuple[Scores, dict[str, float]]:
    """`-> setting -> task -> scores of its seeds` (0: untrained, 1: the best setting's mean), `task -> untrained`."""
    found = scores(tasks, seeds=seeds, unbounded=unbounded)
    tasks = [task for task in tasks if any(found[name][task] for name in PAPER)]
    zero = {task: untrained(task, unbounded=unbounded) for task in tasks}
    best = {task: max(np.mean(found[name][task]) for name in PAPER if found[name][task]) for task in tasks}
    scaled = {
        name: {
            task: (np.array(found[name][task]) - zero[task]) / (best[task] - zero[task])
            for task in tasks
            if found[name][task]
        }
        for name in PAPER
    }
    return scaled, zero


def mean_of_tasks(parts: dict[str, np.ndarray]) -> float:
    """The mean over tasks of the means over seeds; nan if a task is missing."""
    return float(np.mean([part.mean() for part in parts.values()])) if len(parts) == len(MUJOCO) else np.nan


def table(scaled: Scores, zero: dict[str, float], others: Scores) -> None:
    """Print the paper's score and ours of each setting, and ours on each task; `others` has the tasks of no column."""
    names = " | ".join(task.removesuffix("-v5") for task in zero)
    print(f"| setting | paper | ours | seeds | {names} |")
    print("|---|---:|---:|---:|" + "---:|" * len(zero))
    for name, paper in PAPER.items():
        parts, whole = scaled[name], mean_of_tasks(others[name] | scaled[name])
        cells = [f"{parts[task].mean():.2f}" if task in parts else "–" for task in zero]
        seeds = min((len(parts[task]) if task in parts else 0 for task in zero), default=0)
        ours = "–" if np.isnan(whole) else f"{whole:.2f}"
        print(f"| {name} | {paper:.2f} | {ours} | {seeds} | {' | '.join(cells)} |")
    print("\nuntrained: " + ", ".join(f"{task} {value:.4g}" for task, value in zero.items()) + "\n")


def picture(file: str, scaled: Scores) -> None:
    """Draw the paper's score and ours for each setting, and ours on each task."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    axes, rows = figure.subplots(), np.arange(len(PAPER))
    axes.barh(rows - 0.2, list(PAPER.values()), 0.36, color="#8c959f", label="paper, 3 seeds")
    ours = [mean_of_tasks(scaled[name]) for name in PAPER]
    axes.barh(rows + 0.2, ours, 0.36, color="#1f6feb", label="ours")
    for row, name in zip(rows, PAPER, strict=True):
        each = [part.mean() for part in scaled[name].values()]
        label = "ours, each task" if row == 0 else None
        axes.plot(each, [row + 0.2] * len(each), "|", color="#24292f", markersize=9, label=label)
    axes.set_yticks(rows, list(PAPER))
    axes.invert_yaxis()
    axes.axvline(0, color="#24292f", linewidth=0.8)
    axes.set_xlabel("mean normalised score; 0: untrained, 1: the best setting on each task")
    axes.grid(axis="x", color="#d0d7de", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, 0.9))
    figure.savefig(file)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--unbounded", action="store_true")
    parser.add_argument("--tasks", nargs="+", default=MUJOCO, choices=MUJOCO)
    parser.add_argument("--settings", nargs="+", default=list(PAPER), choices=list(PAPER))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--picture", metavar="FILE")
    arguments = parser.parse_args()
    if not arguments.table:
        done = {(row["job"], int(row["seed"])) for row in results()}
        tasks = [task for task in arguments.tasks if not arguments.unbounded or task in COSTLY]
        wanted = [
            (job_of(setting, task, unbounded=arguments.unbounded), seed)
            for seed in range(arguments.seeds)
            for task in tasks
            for setting in arguments.settings
        ]
        with ThreadPoolExecutor(arguments.processes) as pool:
            list(pool.map(lambda job: run(*job), [job for job in wanted if job not in done]))
    clipped, zero = normalised(MUJOCO, seeds=arguments.seeds, unbounded=False)
    table(clipped, zero, clipped)
    uncosted = {
        name: {task: part for task, part in parts.items() if task not in COSTLY}
        for name, parts in clipped.items()
    }
    table(*normalised(COSTLY, seeds=arguments.seeds, unbounded=True), uncosted)
    if arguments.picture:
        picture(arguments.picture, clipped)


if __name__ == "__main__":
    main()
