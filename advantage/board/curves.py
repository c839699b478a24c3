"""Lines of the board's chart: fewer points that keep the extremes, and a line with an interval for a group of runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from advantage.comparison.seed_statistics import FEWEST_SEEDS, interquartile_mean, interquartile_mean_interval

MOST_POINTS = 300  # of a line
GROUP_POINTS = 100
RESAMPLES = 200  # of a bootstrap; the page is drawn anew every second


class Line(NamedTuple):
    """Points of a line, in the order of `x`: `[N]` each, all finite."""

    x: np.ndarray
    y: np.ndarray

    def to_json(self) -> dict[str, list[float]]:
        return {"x": rounded(self.x), "y": rounded(self.y)}


class GroupLine(NamedTuple):
    """The line of a group: steps, interquartile mean, interval and number of seeds, `[T]` each; NaN where unknown."""

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    seeds: np.ndarray

    def to_json(self) -> dict[str, list[float | None]]:
        return {name: rounded(part) for name, part in self._asdict().items()}


EMPTY = Line(np.zeros(0), np.zeros(0))


def line_of(x: np.ndarray, y: np.ndarray) -> Line:
    """The points in the order of x; those that are not finite are left out."""
    known = np.isfinite(x) & np.isfinite(y)
    order = np.argsort(x[known], kind="stable")
    return Line(x[known][order], y[known][order])


def thinned(line: Line, most: int = MOST_POINTS) -> Line:
    """At most `most` points: the first, the last, and of each bin of neighbours its lowest and its highest one.

    So an extreme value is never lost, and the line looks the same wherever a bin is narrower than a pixel.
    """
    n = len(line.x)
    if n <= most:
        return line
    size = -(-n // ((most - 2) // 2))  # of a bin
    bins = np.pad(line.y, (0, -n % size), mode="edge").reshape(-1, size)
    begins = np.arange(0, n, size)
    kept = np.unique([0, n - 1, *(begins + bins.argmin(axis=1)), *(begins + bins.argmax(axis=1))])
    return Line(line.x[kept], line.y[kept])


def group_line(lines: Sequence[Line], points: int = GROUP_POINTS) -> GroupLine:
    """The interquartile mean of several runs' lines and its bootstrap interval, at about `points` steps.

    A run counts between its first and its last point, with its last value up to each step. So while runs are at
    different steps, the mean is that of the runs which have come as far; `seeds` says how many. Below three there is
    no interval.
    """
    reach = max((line.x[-1] for line in lines if len(line.x)), default=0.0)
    grid = np.unique(np.linspace(0, reach, points + 1).round())[1:]
    values = np.full((len(grid), len(lines)), np.nan)
    for place, line in enumerate(lines):
        if len(line.x):
            at = np.searchsorted(line.x, grid, side="right") - 1
            there = (at >= 0) & (grid <= line.x[-1])
            values[there, place] = line.y[at[there]]
    present = ~np.isnan(values)
    mean, low, high = np.full((3, len(grid)), np.nan)
    for pattern in np.unique(present, axis=0):
        rows = np.flatnonzero((present == pattern).all(axis=1))
        some = values[np.ix_(rows, np.flatnonzero(pattern))]
        if pattern.any():
            mean[rows] = interquartile_mean(some)
        if pattern.sum() >= FEWEST_SEEDS:
            low[rows], high[rows] = interquartile_mean_interval(some, resamples=RESAMPLES)
    return GroupLine(grid, mean, low, high, present.sum(axis=1))


def rounded(values: np.ndarray) -> list[Any]:
    """Numbers for JSON with six digits, whole ones as integers, None for those that are not finite."""
    values = np.asarray(values, np.float64)
    known = np.isfinite(values)
    if known.all() and (values == np.trunc(values)).all() and (np.abs(values) < 2**53).all():
        return values.astype(np.int64).tolist()
    size = np.abs(values, where=known, out=np.ones_like(values))
    digits = 5 - np.floor(np.log10(np.where(size > 0, size, 1.0)))
    fine, coarse = 10.0 ** np.clip(digits, 0, 300), 10.0 ** np.clip(-digits, 0, None)
    shown = np.rint(np.where(known, values, 0.0) * fine / coarse) / fine * coarse
    return (
        shown.tolist()
        if known.all()
        else [x if there else None for x, there in zip(shown.tolist(), known, strict=True)]
    )


def number(value: float) -> float | int | None:
    """A number for JSON with six digits, a whole one as an integer; None where it is not finite."""
    if not math.isfinite(value):
        return None
    return int(value) if value == int(value) and abs(value) < 2**53 else float(f"{value:.6g}")
