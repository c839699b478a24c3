"""Draw learning curves from the CSV files of a folder. If run folders are given, first write a CSV file from them.

python docs/curves.py docs/ppo                                                            # curves.png, all panels
python docs/curves.py docs/ppo HalfCheetah-v5 100 runs/HalfCheetah-v5__ppo__*             # 100 rows, a column per seed
python docs/curves.py docs/policy_gradient trpo 50 runs/jax-CartPole-v1__trpo__*          # and trpo.png alone
"""

import csv
import json
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

INK, GREY, BLUE = "#24292f", "#8c959f", "#1f6feb"


def gather(folder: Path, name: str, rows: int, runs: list[str]) -> None:
    """Write name.csv: the mean return of the episodes that ended in each of `rows` parts of the budget."""
    columns = {}
    for run in runs:
        config = json.loads((Path(run) / "config.json").read_text())
        budget = config["training"]["total_timesteps"]
        episodes = np.genfromtxt(Path(run) / "episodes.csv", delimiter=",", names=True)
        part = ((episodes["step"] - 1) * rows // budget).astype(int)
        columns["step"] = [budget * (n + 1) // rows for n in range(rows)]
        columns[f"seed_{config['seed']}"] = [
            f"{episodes['r'][part == n].mean():.2f}" if np.any(part == n) else "" for n in range(rows)
        ]
    with open(folder / f"{name}.csv", "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def draw(folder: Path, names: list[str], file: str) -> None:
    """Draw every seed and their median, one panel per name."""
    figure = Figure(figsize=(5.5 * len(names), 4.2), dpi=120, layout="constrained")
    for axes, name in zip(np.ravel(figure.subplots(1, len(names))), names, strict=True):
        table = np.genfromtxt(folder / f"{name}.csv", delimiter=",", names=True)
        seeds = np.array([table[column] for column in table.dtype.names[1:]])
        for number, seed in enumerate(seeds):
            label = f"each of {len(seeds)} seeds" if number == 0 else None
            axes.plot(table["step"], seed, color=GREY, linewidth=0.9, label=label)
        axes.plot(table["step"], np.nanmedian(seeds, axis=0), color=BLUE, linewidth=2.2, label="median")
        axes.set_title(name, color=INK)
        axes.set_xlabel("environment steps", color=INK)
        axes.set_ylabel("return of training episodes", color=INK)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 1000:,.0f}k" if x else "0"))
        axes.set_xlim(0, table["step"][-1])
        axes.grid(color="#d0d7de", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="lower right")
    figure.savefig(folder / file)


if __name__ == "__main__":
    folder, *rest = sys.argv[1:]
    place = Path(folder)
    if rest:
        name, rows, *runs = rest
        gather(place, name, int(rows), runs)
        draw(place, [name], f"{name}.png")
    else:
        draw(place, sorted(file.stem for file in place.glob("*.csv")), "curves.png")
