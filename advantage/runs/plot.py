"""The learning curve of one run, `curve.png`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from advantage.figures import write_figure
from advantage.runs.checkpoint import MANIFEST
from advantage.runs.folder import RunFolder, read_config
from advantage.runs.log import log_faults, read_episodes, read_evaluations, read_progress

MAX_DOTS = 5000
WINDOW = 100
_INK, _GREY, _BLUE, _ORANGE = "#24292f", "#6e7781", "#1f6feb", "#d1570a"


def plot_curve(folder: RunFolder) -> Path | None:
    """Draw every episode, their running mean and the evaluations into curve.png, 1200 x 700 pixels.

    For a solver's run, draw its residual and error bound by iteration instead.

    What is missing in the logs is written into the picture.

    Returns:
        The path of the picture; None where matplotlib is not installed (`pip install "advantage[plot]"`).

    Raises:
        CheckpointError: a log cannot be read.
    """
    try:
        write_figure(folder.curve_path, (12, 7), lambda figure: _draw(figure, folder))
    except ImportError:
        return None
    return folder.curve_path


def results_are_missing(folder: RunFolder) -> bool:
    """Whether the run's last checkpoint is newer than its curve, which is the last file that a run writes."""
    if importlib.util.find_spec("matplotlib") is None:
        return False
    curve, manifest = folder.curve_path, folder.last / MANIFEST
    return not curve.is_file() or (manifest.is_file() and curve.stat().st_mtime < manifest.stat().st_mtime)


def _draw(figure: Any, folder: RunFolder) -> None:
    config, progress = read_config(folder, ("algorithm", "environment", "seed")), read_progress(folder)
    axes = figure.add_subplot()
    if "train/residual" in progress:
        _draw_convergence(axes, progress)
    else:
        _draw_episodes(axes, folder)
    title = f"{config['algorithm']} on {config['environment']}, seed {config['seed']}"
    axes.set_title(title, loc="left", fontsize=17, color=_INK, pad=14, parse_math=False)
    faults = "\n".join(log_faults(folder))
    axes.text(0, 1.01, faults, transform=axes.transAxes, fontsize=10, color=_ORANGE, parse_math=False)
    axes.tick_params(labelsize=12, labelcolor=_GREY, color="#d0d7de")
    axes.grid(True, color="#eaeef2", linewidth=1)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#d0d7de")


def _draw_convergence(axes: Any, progress: dict[str, np.ndarray]) -> None:
    """Draw each iteration's residual, and the bound on its error."""
    shown = {"train/error_bound": (_BLUE, "error bound"), "train/residual": (_ORANGE, "residual")}
    for name, (colour, label) in shown.items():
        known = progress.get(name, np.zeros(0)) > 0
        if known.any():
            line = {
                "color": colour,
                "linewidth": 2.2,
                "marker": "o",
                "markersize": 3 if known.sum() > 30 else 6,
            }
            axes.plot(
                progress.get("iteration", progress["step"])[known], progress[name][known], label=label, **line
            )
    if axes.has_data():
        axes.set_yscale("log")
        axes.legend(frameon=False, fontsize=12, labelcolor=_INK, loc="best")
    axes.set_xlabel("iterations", fontsize=13, color=_GREY)
    axes.set_ylabel("in units of return", fontsize=13, color=_GREY)


def _draw_episodes(axes: Any, folder: RunFolder) -> None:
    from matplotlib.ticker import FuncFormatter

    episodes, evaluations = read_episodes(folder), read_evaluations(folder)
    order = np.argsort(episodes["step"], kind="stable")
    step, reward = episodes["step"][order], episodes["r"][order]
    if step.size:
        shown = np.linspace(0, step.size - 1, min(step.size, MAX_DOTS)).astype(int)
        alpha = float(np.clip(300 / shown.size, 0.15, 0.5))
        axes.plot(step[shown], reward[shown], ".", color=_BLUE, alpha=alpha, markersize=5, markeredgewidth=0)
        label = f"training, mean of the last {WINDOW} episodes"
        axes.plot(step[shown], running_mean(reward, WINDOW)[shown], color=_BLUE, linewidth=2.2, label=label)
    if evaluations["step"].size:
        at = np.unique(evaluations["step"])
        groups = [evaluations["return"][evaluations["step"] == one] for one in at]
        mean, spread = [group.mean() for group in groups], [group.std() for group in groups]
        style: Any = {
            "color": _ORANGE,
            "markersize": 7,
            "markeredgecolor": "white",
            "elinewidth": 1.4,
            "capsize": 3,
        }
        axes.errorbar(at, mean, spread, fmt="o", label="evaluation, mean ± standard deviation", **style)
    if axes.has_data():
        axes.legend(frameon=False, fontsize=12, labelcolor=_INK, loc="best")
    else:
        axes.text(0.5, 0.5, "no episode has finished yet", transform=axes.transAxes, ha="center", color=_GREY)

    axes.set_xlabel("environment steps", fontsize=13, color=_GREY)
    axes.set_ylabel("episode return", fontsize=13, color=_GREY)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def running_mean(x: np.ndarray, window: int) -> np.ndarray:
    """The mean of the last `window` entries up to each entry, fewer at the start: `[N] -> [N]`."""
    total = np.concatenate([[0.0], np.cumsum(x, dtype=np.float64)])
    end = np.arange(1, len(x) + 1)
    start = np.maximum(end - window, 0)
    return (total[end] - total[start]) / (end - start)


def short(steps: float) -> str:
    """`1500 -> 1.5k`, `2000000 -> 2M`."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(steps) >= size:
            return f"{steps / size:g}{unit}"
    return f"{steps:g}"
