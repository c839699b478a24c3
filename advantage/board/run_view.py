"""One run as the board sees it: its settings, whether it is running, how far and how fast it goes, its pictures."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from advantage.board.growing_table import GrowingTable, grown, last_rows
from advantage.comparison.run_data import CONFIG_FIELDS, learning_options
from advantage.runs.checkpoint import MANIFEST, CheckpointError, finished_step
from advantage.runs.folder import RunFolder, check_types, read_config, refuse_links_out
from advantage.runs.lock import LOCK, seems_in_use

FILMS, PICTURES = (".mp4", ".webm"), (".gif", ".png")


@dataclasses.dataclass(frozen=True)
class RunView:
    """What the board knows of a run.

    Attributes:
        folder: where it is.
        signature: sizes and times of its files; if they are the same, nothing has changed.
        algorithm, environment, seed: from its config.json.
        options: hyperparameters, and the options of a training that change what it learns.
        state: `running`, `finished`, `stopped`, or `damaged`.
        step, total: environment steps so far, and the budget.
        rate: steps in a second lately; NaN if it is not known.
        metrics: columns of its progress.csv.
        evaluations: steps and returns of evaluated episodes.
        fault: why it cannot be read; empty if it can.
    """

    folder: RunFolder
    signature: tuple[Any, ...] = ()
    algorithm: str = "unknown"
    environment: str = "unknown"
    seed: int = 0
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    state: str = "damaged"
    step: int = 0
    total: int = 0
    rate: float = np.nan
    metrics: tuple[str, ...] = ()
    evaluations: GrowingTable = dataclasses.field(default_factory=lambda: GrowingTable(Path(), ()))
    fault: str = ""

    @property
    def eta(self) -> float:
        """Seconds until the budget is spent; NaN unless the run is running and its speed is known."""
        return (self.total - self.step) / self.rate if self.state == "running" and self.rate > 0 else np.nan


def look(view: RunView) -> RunView:
    """The run as it is now; `view` itself if nothing has changed since."""
    signature = _signature(view.folder)
    if signature == view.signature:
        return view
    try:
        return _read(view, signature)
    except (CheckpointError, OSError) as error:
        fault = str(error)
        return dataclasses.replace(view, signature=signature, state="damaged", fault=fault)


def pictures(folder: RunFolder) -> list[str]:
    """The pictures and films of a run that the page may show, by their paths in its folder.

    A link that leads out of the folder is not among them.
    """
    home = folder.path.resolve()
    inside = sorted(folder.videos.glob("[!.]*"))  # a film that is being written is hidden
    shown = [folder.policy_path, *(path for path in inside if path.suffix.lower() in FILMS + PICTURES)]
    return [
        path.relative_to(folder.path).as_posix()
        for path in shown
        if path.is_file() and path.resolve().is_relative_to(home)
    ]


def _signature(folder: RunFolder) -> tuple[Any, ...]:
    logs = (folder.config_path, folder.progress_path, folder.episodes_path, folder.evaluations_path)
    others = (folder.last / MANIFEST, folder.path / LOCK, folder.policy_path, folder.videos)
    return (*_stamps([*logs, *others]), seems_in_use(folder.path))


def _stamps(paths: Iterable[Path]) -> Iterable[tuple[int, int, int] | None]:
    for path in paths:
        try:
            found = os.stat(path)
        except OSError:
            yield None
        else:
            yield found.st_ino, found.st_size, found.st_mtime_ns


def _read(view: RunView, signature: tuple[Any, ...]) -> RunView:
    folder = view.folder
    logs = (folder.progress_path, folder.episodes_path, folder.evaluations_path)
    refuse_links_out(
        folder, *(path for path in (folder.config_path, *logs, folder.last) if path.is_symlink())
    )
    config: dict[str, Any] = read_config(folder, CONFIG_FIELDS)
    check_types(folder.config_path, "", config, CONFIG_FIELDS)
    options = config["hyperparameters"] | learning_options(config["training"])
    total = options["total_timesteps"] if type(options["total_timesteps"]) is int else 0
    metrics, recent = last_rows(folder.progress_path, ("step", "time/elapsed"))
    _, episodes = last_rows(folder.episodes_path, ("step",), size=2048)
    steps = [int(table["step"].max()) for table in (recent, episodes) if len(table.get("step", ()))]
    step = max(steps, default=0)
    evaluations = view.evaluations
    if evaluations.path != folder.evaluations_path:
        evaluations = GrowingTable(folder.evaluations_path, ("step", "episode", "return", "length"))
    return RunView(
        folder=folder,
        signature=signature,
        **{name: config[name] for name in ("algorithm", "environment", "seed")},
        options=options,
        state=_state(folder, step, total),
        step=step,
        total=total,
        rate=_rate(recent),
        metrics=tuple(name for name in metrics if name not in ("", "step", "iteration")),
        evaluations=grown(evaluations),
    )


def _state(folder: RunFolder, step: int, total: int) -> str:
    if folder.last.is_dir():
        if finished_step(folder.last, total) is not None:
            return "finished"
    elif step >= total:
        return "finished"
    return "running" if seems_in_use(folder.path) else "stopped"


def _rate(recent: Any) -> float:
    """Steps in a second between the first and the last of these rows, since the clock last began at zero."""
    if not {"step", "time/elapsed"} <= set(recent) or len(recent["step"]) < 2:
        return np.nan
    step, elapsed = recent["step"], recent["time/elapsed"]
    begin = int(np.max(np.flatnonzero(np.diff(elapsed) < 0) + 1, initial=0))
    seconds = elapsed[-1] - elapsed[begin]
    return float((step[-1] - step[begin]) / seconds) if seconds > 0 else np.nan
