"""Comparison of runs: curves, final scores, probability of improvement, time to a threshold; intervals over seeds."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from advantage.comparison.page import TextTable, page
from advantage.comparison.picture import draw
from advantage.comparison.run_data import Group, LeftOut, Record, find_runs, group_runs, read_runs
from advantage.comparison.seed_statistics import (
    FEWEST_SEEDS,
    LEVEL,
    Curve,
    Improvement,
    Interval,
    Reached,
    Score,
    final_score,
    improvement,
    interquartile_mean,
    learning_curve,
    time_to_threshold,
)
from advantage.plain_values import plain_number, plain_path, plain_paths
from advantage.runs.folder import write_atomically
from advantage.runs.plot import WINDOW

POINTS = 200  # in a curve
LEFT_OUT = "Left out"  # the title of the table of runs that could not be used


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A comparison of runs of one environment.

    Attributes:
        environment: the environment's name.
        curves: one for each group of runs, the best first, as in `scores`.
        scores: final scores.
        score_of: what the final scores measure.
        improvements: probability of improvement for each pair of groups, the higher score first.
        threshold: the return that groups should reach, if one was given.
        reached: when each group reached it.
        left_out: runs that could not be used, and why.
        notes: what a reader must know to judge the numbers.
        command: the command that repeats this comparison.
    """

    environment: str
    curves: list[Curve]
    scores: list[Score]
    score_of: str
    improvements: list[Improvement]
    threshold: float | None
    reached: list[Reached]
    left_out: list[LeftOut]
    notes: list[str]
    command: str

    def tables(self) -> list[TextTable]:
        """The numbers as text."""
        level = f"{LEVEL:.0%} interval"
        head = ("runs", "seeds", "interquartile mean", level, "lowest to highest", "steps", "seconds")
        rows = [
            (row.label, f"{row.seeds}", number(row.mean), _interval(row.interval),
             f"{number(row.lowest)} to {number(row.highest)}", f"{row.steps:,}", _seconds(row.seconds))
            for row in self.scores
        ]  # fmt: skip
        tables = [TextTable(f"Final scores: {self.score_of}", head, rows)]
        if self.improvements:
            rows = [
                (row.better, row.worse, f"{row.probability:.2f}", _interval(row.interval, "{:.2f}".format))
                for row in self.improvements
            ]
            title = "Probability that a run of one group scores above a run of another"
            tables.append(TextTable(title, ("one group", "another", "probability", level), rows))
        if self.reached:
            rows = [
                (row.label, f"{row.reached} of {row.seeds}", _steps(row.steps), _seconds(row.seconds))
                for row in self.reached
            ]
            title = (
                f"Time to a mean of {self.threshold:g} over {WINDOW} training episodes, medians of all seeds"
            )
            tables.append(TextTable(title, ("runs", "seeds that reached it", "steps", "seconds"), rows))
        if self.left_out:
            rows = [(str(path), reason) for path, reason in self.left_out]
            tables.append(TextTable(LEFT_OUT, ("run", "why, and what to do"), rows))
        return tables

    def to_json(self) -> dict[str, Any]:
        """Everything but the curves, as JSON values; a number that is not finite becomes null."""
        kept = (
            "environment",
            "score_of",
            "scores",
            "improvements",
            "threshold",
            "reached",
            "left_out",
            "notes",
            "command",
        )
        return {name: _plain(getattr(self, name)) for name in kept}

    def to_csv(self) -> str:
        """The curves: a row for each group and step; a cell without a value or an interval is empty."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["runs", "seeds", "step", "interquartile_mean", "low", "high"])
        for curve in self.curves:
            ends = curve.interval or (np.nan, np.nan)
            low, high = (np.broadcast_to(end, curve.mean.shape) for end in ends)
            for step, *values in zip(curve.step, curve.mean, low, high, strict=True):
                cells = ["" if np.isnan(value) else f"{value:.6g}" for value in values]
                writer.writerow([curve.label, len(curve.seeds), step, *cells])
        return text.getvalue()

    def write(self, folder: str | Path | None = None) -> tuple[list[Path], list[str]]:
        """Write comparison.csv, and comparison.png and comparison.html where their libraries are installed.

        Args:
            folder: created if absent; by default `comparison` below the current folder, or `comparison-2`, and so on.

        Returns:
            The files that were written, and what to install for those that were not.

        Raises:
            FileExistsError: the folder exists and is not empty.
        """
        folder = _free_folder() if folder is None else plain_path("folder", folder)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise FileExistsError(
                f"{folder} exists already and is not an empty folder; choose another one: --out."
            )
        folder.mkdir(parents=True, exist_ok=True)
        files, missing = [folder / "comparison.csv"], []
        write_atomically(files[0], self.to_csv())
        try:
            picture = folder / "comparison.png"
            files.append(draw(self.curves, picture, environment=self.environment, threshold=self.threshold))
        except ImportError:
            missing.append('The picture needs matplotlib: pip install "advantage[plot]"')
        try:
            text = page(
                environment=self.environment,
                curves=self.curves,
                threshold=self.threshold,
                tables=self.tables(),
                notes=self.notes,
                command=self.command,
            )
        except ImportError:
            missing.append('The page needs plotly: pip install "advantage[page]"')
        else:
            files.append(folder / "comparison.html")
            write_atomically(files[-1], text)
        return files, missing


def compare(
    runs: str | Path | Sequence[str | Path],
    *,
    threshold: float | None = None,
    environment: str | None = None,
    seed: int = 0,
) -> Comparison:
    """Compare runs of one environment: seeds are grouped, and results are given with their uncertainty.

    Runs that differ only in their seed form a group. Curves are the interquartile mean over seeds of the mean return
    of the last 100 training episodes. A final score is the mean return of a run's last evaluation; if not every run
    has one after its last step, it is that of the last 100 training episodes. Intervals are percentiles of a
    bootstrap over seeds, and are given for three seeds or more.

    Args:
        runs: run folders, folders of run folders, or patterns (`runs/*__ppo__*`).
        threshold: a return; the comparison then says when each group reached it.
        environment: compare only the runs of this environment.
        seed: seed of the bootstrap.

    Returns:
        A `Comparison`; `comparison.write(folder)` makes the picture, the page and the table of it.

    Raises:
        ValueError: no run could be used, or they are of different environments; the message says what to do.
    """
    given = plain_paths("runs", runs)
    least = None if threshold is None else plain_number(threshold)
    if threshold is not None and (least is None or not np.isfinite(least)):
        raise ValueError(f"threshold={threshold!r} is not allowed; use a finite return, or None.")
    records, left_out = _usable_runs(given, environment)
    evaluated = all(record.evaluation is not None for record in records)
    evaluation, episodes = "the evaluation after the last step", f"the last {WINDOW} training episodes"
    ended = [
        (group, np.array([r.evaluation if evaluated else r.recent[-1] for r in group.records]))
        for group in group_runs(records)
    ]
    ended.sort(key=lambda each: -interquartile_mean(each[1]))
    groups = [group for group, _ in ended]
    longest = max(record.total_timesteps for record in records)
    grid = np.unique(np.linspace(0, longest, POINTS + 1).round().astype(np.int64))[1:]
    improvements = [improvement(*pair, seed) for pair in itertools.combinations(ended, 2)]
    return Comparison(
        environment=records[0].environment,
        curves=[learning_curve(group, grid, seed) for group in groups],
        scores=[final_score(group, final, seed) for group, final in ended],
        score_of=f"mean return of {evaluation if evaluated else episodes}",
        improvements=improvements,
        threshold=least,
        reached=[] if least is None else [time_to_threshold(group, least) for group in groups],
        left_out=left_out,
        notes=_notes(groups, evaluated, improvements),
        command=_command(given, least, environment),
    )


def _usable_runs(given: Sequence[str | Path], environment: str | None) -> tuple[list[Record], list[LeftOut]]:
    """The runs of one environment that can be compared, and those that cannot. Raises ValueError if none can."""
    found, lost = find_runs(given)
    records, unusable = read_runs(found, environment)
    left_out = lost + unusable
    if not records:
        reasons = "".join(f"\n  {path}: {reason}" for path, reason in left_out)
        wanted = f" of {environment}" if environment is not None else ""
        raise ValueError(
            f"None of the {len(found)} folders found holds a run{wanted} that can be compared; give run folders, "
            f"or a folder of them.{reasons}"
        )
    names = sorted({record.environment for record in records})
    if len(names) > 1:
        counts = ", ".join(f"{name} ({sum(r.environment == name for r in records)} runs)" for name in names)
        raise ValueError(
            f"These runs are of different environments, whose returns cannot be compared: {counts}. Compare one at "
            f"a time: --environment {names[0]} (environment=)."
        )
    return records, left_out


def _notes(groups: Sequence[Group], evaluated: bool, improvements: Sequence[Improvement]) -> list[str]:
    notes = []
    few = [group.label for group in groups if len(group.records) < FEWEST_SEEDS]
    if few:
        notes.append(
            f"Too few seeds: an interval is not meaningful below {FEWEST_SEEDS} seeds, and none is given for "
            f"{', '.join(few)}. Train more: --num-seeds {FEWEST_SEEDS}, better 5 to 10."
        )
    if len({len(group.records) for group in groups}) > 1:
        notes.append("The groups have different numbers of seeds; smaller groups are less certain.")
    if any(row.probability == 1 and row.interval is not None for row in improvements):
        notes.append(
            "A probability of 1.00 with the interval [1.00, 1.00] means only that every pair of these seeds was won: "
            "resampling cannot show a loss that did not happen."
        )
    if len({group.records[0].total_timesteps for group in groups}) > 1:
        notes.append("The budgets differ: final scores were measured after different numbers of steps.")
    if not evaluated and any(record.evaluation is not None for group in groups for record in group.records):
        notes.append(
            "Not every run was evaluated after its last step, so all are scored by their training episodes."
        )
    return notes


def _command(given: Sequence[str | Path], threshold: float | None, environment: str | None) -> str:
    words = ["advantage", "compare", *map(str, given)]
    words += [] if threshold is None else ["--threshold", f"{threshold:g}"]
    words += [] if environment is None else ["--environment", environment]
    return shlex.join(words)


def _free_folder() -> Path:
    names = itertools.chain(["comparison"], (f"comparison-{attempt}" for attempt in itertools.count(2)))
    return next(folder for folder in map(Path, names) if not folder.exists())


def number(x: float) -> str:
    """A number with four significant digits, or all digits before the point: `497.3`, `12,345`, `0.0123`."""
    if np.isnan(x):
        return "unknown"
    places = 3 - int(np.floor(np.log10(abs(x)))) if x else 0
    return f"{x:,.{min(max(places, 0), 4)}f}"


def _steps(x: float) -> str:
    return "not reached" if np.isinf(x) else f"{x:,.0f}"


def _seconds(x: float) -> str:
    return "unknown" if np.isnan(x) else "not reached" if np.isinf(x) else f"{x:,.1f}"


def _interval(interval: Interval | None, text: Any = number) -> str:
    return "not meaningful" if interval is None else f"[{text(interval.low)}, {text(interval.high)}]"


def _plain(value: Any) -> Any:
    if isinstance(value, Score | Improvement | Reached | LeftOut | Interval):
        return {name: _plain(part) for name, part in value._asdict().items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value
