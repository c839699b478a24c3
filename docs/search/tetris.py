"""Draw the results of noisy cross-entropy on Tetris, with a colour for each setting of examples/tetris.toml.

python docs/search/tetris.py                                        # tetris.png and rows at the end, from tetris.csv
python docs/search/tetris.py runs/tetris                            # writes tetris.csv from the runs first
"""

import csv
import json
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

HERE = Path(__file__).parent
LAST = 110  # the last generation that is drawn
INK, COLOURS = "#24292f", {"none": "#8c959f", "constant": "#d9480f", "decreasing": "#1f6feb"}


def setting(run: Path) -> str:
    options = json.loads((run / "config.json").read_text())["hyperparameters"]
    if options["extra_variance"] is None:
        return "none"
    return "constant" if options["extra_variance_decay"] is None else "decreasing"


def gather(runs: Path) -> None:
    """Write tetris.csv: for each generation of each run, the mean and the best of its games, and the steps so far."""
    rows = []
    for config in sorted(runs.rglob("config.json")):
        progress = np.genfromtxt(config.parent / "progress.csv", delimiter=",", names=True)
        seed = json.loads(config.read_text())["seed"]
        for generation, row in enumerate(np.atleast_1d(progress)[:LAST], start=1):
            mean, best = (f"{row[name]:.1f}" for name in ("trainreturn_mean", "trainreturn_best"))
            rows.append([setting(config.parent), seed, generation, int(row["step"]), mean, best])
    with open(HERE / "tetris.csv", "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["extra_variance", "seed", "generation", "steps", "mean", "best"])
        writer.writerows(rows)


def draw() -> None:
    figure = Figure(figsize=(7.5, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    with open(HERE / "tetris.csv") as file:
        rows = list(csv.DictReader(file))
    for name, colour in COLOURS.items():
        mine = [row for row in rows if row["extra_variance"] == name]  # empty if this setting was not run
        for n, seed in enumerate(sorted({row["seed"] for row in mine})):
            run = [row for row in mine if row["seed"] == seed]
            generation, mean = (np.array([float(row[key]) for row in run]) for key in ("generation", "mean"))
            label = name if n == 0 else None
            axes.plot(generation, np.maximum(mean, 0.1), color=colour, linewidth=1.2, label=label)
    axes.set(yscale="log", xlabel="generation", ylabel="rows of a game")
    axes.set_title("mean of 100 candidates, one game each; a line for each seed", color=INK, fontsize=10)
    axes.grid(color="#d0d7de", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, title="extra variance", loc="lower right")
    figure.savefig(HERE / "tetris.png")


def print_ends() -> None:
    """For each setting: the candidates' rows over the last five generations, their mean over seeds, its interval."""
    with open(HERE / "tetris.csv") as file:
        rows = list(csv.DictReader(file))
    for name in COLOURS:
        seeds = sorted({row["seed"] for row in rows if row["extra_variance"] == name})
        runs = [
            [float(row["mean"]) for row in rows if (row["extra_variance"], row["seed"]) == (name, s)]
            for s in seeds
        ]
        ends = np.array([np.mean(run[-5:]) for run in runs])
        drawn = np.random.default_rng(0).choice(ends, (10_000, len(ends))).mean(axis=1)
        low, high = np.quantile(drawn, [0.025, 0.975])
        print(f"{name}: {ends.mean():,.0f} [{low:,.0f}, {high:,.0f}], {len(ends)} seeds")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        gather(Path(sys.argv[1]))
    draw()
    print_ends()
