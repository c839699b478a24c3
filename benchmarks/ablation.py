"""The PPO paper's table 1 again: eleven surrogates on seven MuJoCo tasks, a million steps each.

python benchmarks/ablation.py [--seeds 3] [--processes 2] [--table] [--picture docs/ablation/ablation.png]

Every run is a row of benchmarks/learning.csv. Finished runs are not repeated, so the script can be stopped and
continued; `--table` trains nothing and prints the finished rows, and `--picture` draws them. As in the paper, a run's
score is the mean of its last 100 episodes, scaled so that an untrained policy has 0 and the best setting's mean has 1
on each task, and then averaged over tasks and seeds.

Source: Schulman et al. 2017, "Proximal policy optimization algorithms", section 6.1 and table 1.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from learning import ABLATION, MUJOCO, results, run

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


def untrained(environment: str) -> float:
    """The mean return of 100 episodes of untrained policies, with ten draws of weights."""
    import jax

    import advantage as adv
    from advantage.agent import Agent

    def agent(seed: int) -> Agent:
        made, algorithm = adv.make(environment), adv.PPO()
        spec = adv.types.Spec(made.observation_space, made.action_space, action_units="raw")
        return Agent(algorithm, algorithm.init(jax.random.key(seed), spec), spec, environment, 0)

    each = [adv.evaluate(agent(n), episodes=10, seed=n, deterministic=False).mean for n in range(10)]
    return float(np.mean(each))


def scores() -> dict[str, dict[str, list[float]]]:
    """`setting -> task -> mean return of the last 100 episodes of each seed`."""
    rows, found = results(), {name: {task: [] for task in MUJOCO} for name in PAPER}
    for name in PAPER:
        for task in MUJOCO:
            job = task if name == "clip 0.2" else f"{name}, {task}"
            found[name][task] = [float(row["last_100"]) for row in rows if row["job"] == job]
    return found


def normalised() -> tuple[dict[str, dict[str, np.ndarray]], dict[str, float]]:
    """`-> setting -> task -> scores of its seeds` (0: untrained, 1: the best setting's mean), `task -> untrained`."""
    found = scores()
    zero = {task: untrained(task) for task in MUJOCO}
    best = {task: max(np.mean(found[name][task]) for name in PAPER if found[name][task]) for task in MUJOCO}
    scaled = {
        name: {
            task: (np.array(values) - zero[task]) / (best[task] - zero[task])
            for task, values in found[name].items()
            if values
        }
        for name in PAPER
    }
    return scaled, zero


def mean_of_tasks(parts: dict[str, np.ndarray]) -> float:
    """The mean over tasks of the means over seeds; nan if a task is missing."""
    return float(np.mean([part.mean() for part in parts.values()])) if len(parts) == len(MUJOCO) else np.nan


def table() -> None:
    scaled, zero = normalised()
    tasks = " | ".join(task.removesuffix("-v5") for task in MUJOCO)
    print(f"| setting | paper | ours | seeds | {tasks} |")
    print("|---|---:|---:|---:|" + "---:|" * len(MUJOCO))
    for name, paper in PAPER.items():
        parts, whole = scaled[name], mean_of_tasks(scaled[name])
        cells = [f"{parts[task].mean():.2f}" if task in parts else "–" for task in MUJOCO]
        seeds = min(len(parts[task]) if task in parts else 0 for task in MUJOCO)
        ours = "–" if np.isnan(whole) else f"{whole:.2f}"
        print(f"| {name} | {paper:.2f} | {ours} | {seeds} | {' | '.join(cells)} |")
    print("\nuntrained: " + ", ".join(f"{task} {value:.4g}" for task, value in zero.items()))


def picture(file: str) -> None:
    """Draw the paper's score and ours for each setting, and ours on each task."""
    from matplotlib.figure import Figure

    scaled, _ = normalised()
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
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--picture", metavar="FILE")
    arguments = parser.parse_args()
    if not arguments.table:
        done = {(row["job"], int(row["seed"])) for row in results()}
        plain = [(task, seed) for seed in range(arguments.seeds) for task in MUJOCO]
        wanted = [(name, seed) for seed in range(arguments.seeds) for name in ABLATION]
        with ThreadPoolExecutor(arguments.processes) as pool:
            list(pool.map(lambda job: run(*job), [job for job in plain + wanted if job not in done]))
    table()
    if arguments.picture:
        picture(arguments.picture)


if __name__ == "__main__":
    main()
