"""All that the board shows of one run: every metric, evaluation episodes, settings, findings, pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import numpy as np

from advantage.board.curves import line_of, number, rounded, thinned
from advantage.board.run_view import FILMS, RunView, pictures
from advantage.comparison.run_data import option_text
from advantage.diagnosis import Finding
from advantage.runs.checkpoint import CheckpointError
from advantage.runs.folder import read_config
from advantage.runs.log import read_episodes, read_progress
from advantage.runs.plot import WINDOW, running_mean

MOST_EPISODES = 20  # of the last evaluation
NOT_DRAWN = ("step", "iteration", "time/elapsed", "time/compile")


def detail(view: RunView, findings: Sequence[Finding], base: str = "") -> dict[str, Any]:
    """What the page shows of a run, as JSON values.

    Args:
        view: the run.
        findings: the doctor's.
        base: what stands before the path of a picture, to make an address of it.
    """
    told: dict[str, Any] = {
        "name": str(view.folder.path),
        "algorithm": view.algorithm,
        "environment": view.environment,
        "seed": view.seed,
        "findings": [finding._asdict() for finding in findings],
        "pictures": [_picture(view, name, base) for name in pictures(view.folder)],
        "evaluations": _evaluations(view),
    }
    if view.fault:
        return told | {"fault": view.fault, "charts": [], "settings": []}
    try:
        return told | {"fault": "", "charts": _charts(view), "settings": _settings(view)}
    except (CheckpointError, OSError) as error:
        return told | {"fault": str(error), "charts": [], "settings": []}


def _picture(view: RunView, name: str, base: str) -> dict[str, Any]:
    changed = (view.folder.path / name).stat().st_mtime_ns  # so that a browser shows the new one
    film = name.lower().endswith(FILMS)
    return {"name": name, "address": f"{base}{quote(name)}?{changed}", "film": film}


def _charts(view: RunView) -> list[dict[str, Any]]:
    """The returns of episodes and their running mean, and each column of progress.csv that has a number."""
    episodes = read_episodes(view.folder, ("r", "step"))
    returns = line_of(episodes["step"], episodes["r"])
    mean = returns._replace(y=running_mean(returns.y, WINDOW))
    charts: list[dict[str, Any]] = []
    if len(returns.x):
        charts.append({"name": "return", "line": thinned(mean).to_json(), "dots": thinned(returns).to_json()})
    progress = read_progress(view.folder)
    for name in sorted(progress.keys() - set(NOT_DRAWN)):
        line = line_of(np.asarray(progress["step"], float), progress[name])
        if len(line.x):
            charts.append({"name": name, "line": thinned(line).to_json()})
    return charts


def _settings(view: RunView) -> list[dict[str, Any]]:
    """Names and values of config.json: hyperparameters, the training's options, what made the run."""
    config: dict[str, Any] = read_config(view.folder, ("hyperparameters", "training"))
    host = config.get("host")
    sections = {"Hyperparameters": config["hyperparameters"], "Training": config["training"]}
    if isinstance(host, dict):
        sections["Host"] = {name: x for name, x in host.items() if isinstance(x, str | int | float)}
    return [
        {"title": title, "values": {str(name): option_text(x) for name, x in sorted(section.items())}}
        for title, section in sections.items()
    ]


def _evaluations(view: RunView) -> dict[str, Any]:
    """Mean, lowest and highest return of each evaluation, and the episodes of the last one."""
    table = view.evaluations
    step, returns = table.column("step"), table.column("return")
    at = np.unique(step)
    parts = [returns[step == each] for each in at[-300:]]
    last = step == at[-1] if len(at) else np.zeros(0, bool)
    columns = ("episode", "return", "length")
    rows = np.column_stack([table.column(name)[last] for name in columns]) if len(at) else np.zeros((0, 3))
    return {
        "x": rounded(at[-300:]),
        **{
            name: [number(float(of(part))) for part in parts]
            for name, of in (("mean", np.mean), ("low", np.min), ("high", np.max))
        },
        "episodes": [[number(x) for x in row] for row in rows[:MOST_EPISODES].tolist()],
        "played": int(last.sum()),
    }
