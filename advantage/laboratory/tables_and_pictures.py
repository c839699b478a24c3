"""The laboratory's tables and pictures."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from advantage.figures import write_figure
from advantage.laboratory.advantage_bias import Credit, measure_credit
from advantage.laboratory.estimate_quality import Interval, Measured
from advantage.laboratory.gradient_variance import LAMBDAS, measure_gradients
from advantage.laboratory.importance_sampling import behaviour, divergence, measure_importance, measure_traces
from advantage.laboratory.problem import Problem
from advantage.laboratory.quadratic import Quadratic, measure_quadratic

DISTANCES = (0.0, 0.1, 0.2, 0.4, 0.6)
SHARES = (0.1, 0.25, 0.5, 0.75, 1.0)  # of the horizon
BLUE, ORANGE, GREY = "#1f6feb", "#d1570a", "#6e7781"
COLOURS = ("#1f6feb", "#d1570a", "#1a7f37", "#8250df", "#6e7781", "#bf3989")


class MeasurementTable(NamedTuple):
    """The results of one experiment.

    Attributes:
        name: name of its files.
        title: what was measured.
        columns: names of the columns.
        rows: cells; an `Interval` shows its figure and its confidence interval.
        remark: how to read it.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    remark: str


def gradient_report(
    problem: Problem, episodes: int, value_error: float, discount_weighting: bool, seed: int
) -> MeasurementTable:
    """Every estimator of the gradient."""
    sampled = problem.sample(np.random.default_rng(seed), episodes)
    found = measure_gradients(problem, sampled, errors(problem, value_error, seed), discount_weighting)
    target = "∇J" if discount_weighting else "g^gamma, the gradient without gamma^t,"
    plain, weighted = (problem.gradient(kind).ravel() for kind in (False, True))
    cosine = plain @ weighted / np.linalg.norm(plain) / np.linalg.norm(weighted)
    return MeasurementTable(
        "gradient",
        f"Estimators of {target} from {episodes:,} episodes; {_critic(value_error)}",
        MEASURED,
        [(name, *_cells(one)) for name, one in found.items()],
        f"The exact gradients with and without gamma^t have a cosine of {cosine:.4f}. {REMARK}",
    )


def credit_report(problem: Problem, episodes: int, value_error: float, seed: int) -> MeasurementTable:
    """GAE with every lambda, with the exact critic and with a wrong one."""
    sampled = problem.sample(np.random.default_rng(seed), episodes)
    rows = []
    for scale in (0.0, value_error) if value_error else (0.0,):
        off = errors(problem, scale, seed)
        for lam in LAMBDAS:
            one: Credit = measure_credit(problem, sampled, lam, off)
            rows.append((scale, lam, one.bias, one.deviation, one.gradient_bias, one.gradient_variance))
    return MeasurementTable(
        "advantage",
        f"GAE(lambda) as an estimator of the advantage, and of the gradient, from {episodes:,} episodes",
        ("V off by", "lambda", "bias", "deviation", "bias of ∇J", "variance of ∇J"),
        rows,
        "Bias and deviation are in units of the advantage's size; the part of the bias that is equal for all actions "
        "of a state is left out, since it is a baseline. With an exact V every lambda is gamma-just.",
    )


def distance_report(problem: Problem, episodes: int, seed: int) -> MeasurementTable:
    """Importance-sampled gradients against the distance of the policies."""
    rows = []
    for distance in DISTANCES:
        mu = behaviour(problem, distance, seed)
        kl = divergence(problem, mu)
        for name, one in measure_importance(problem, mu, episodes, seed).items():
            rows.append((distance, kl, name, *_cells(one)))
    return MeasurementTable(
        "distance",
        f"Gradients of pi from {episodes:,} episodes of mu = (1 - distance) pi + distance nu",
        ("distance", "KL a step", *MEASURED),
        rows,
        REMARK,
    )


def horizon_report(problem: Problem, episodes: int, seed: int, distance: float = 0.4) -> MeasurementTable:
    """Importance-sampled gradients against the length of the episodes."""
    rows = []
    for share in SHARES:
        part = Problem(problem.mdp, problem.logits, max(1, round(share * problem.horizon)))
        for name, one in measure_importance(part, behaviour(part, distance, seed), episodes, seed).items():
            rows.append((part.horizon, name, *_cells(one)))
    return MeasurementTable(
        "horizon",
        f"Gradients of pi from {episodes:,} episodes of mu, at distance {distance:g}, against their length",
        ("steps", *MEASURED),
        rows,
        REMARK,
    )


def trace_report(problem: Problem, episodes: int, seed: int) -> MeasurementTable:
    """Corrected targets of Q against the distance of the policies."""
    off = np.random.default_rng(seed).normal(size=problem.logits.shape) * problem.action_value[0].std()
    rows = []
    for distance in DISTANCES:
        mu = behaviour(problem, distance, seed)
        for name, one in measure_traces(problem, mu, episodes, off, seed=seed).items():
            rows.append((distance, name, one.bias, one.deviation))
    return MeasurementTable(
        "traces",
        f"Targets of Q^pi(s_0, a_0) from {episodes:,} episodes of mu, with lambda = 1 and a critic that is off",
        ("distance", "correction", "bias", "deviation"),
        rows,
        "In units of the critic's own error: a bias below 1 is a contraction, 0 is Q^pi itself.",
    )


def quadratic_report(world: Quadratic, episodes: int, seed: int) -> MeasurementTable:
    """Score-function and pathwise estimators."""
    found = measure_quadratic(world, episodes, seed)
    return MeasurementTable(
        "quadratic",
        f"Estimators of ∇J on a linear-quadratic world of {world.horizon} steps from {episodes:,} episodes",
        MEASURED,
        [(name, *_cells(one)) for name, one in found.items()],
        REMARK,
    )


MEASURED = ("estimator", "bias", "variance", "cosine", "effective", "µs")
REMARK = (
    "Bias is |E x - g| / |g|, '<' where no bias could be shown; variance is tr Cov / |g|² of one episode; cosine is "
    "that of g and the mean of 100 episodes; effective is the effective share of samples with importance weights; µs "
    "is the time per episode. Intervals are 95 % confidence intervals."
)


def errors(problem: Problem, scale: float, seed: int) -> np.ndarray | float:
    """The critic's error in each state, `[S]`: normal, `scale` times the spread of the exact values."""
    if scale == 0:
        return 0.0
    noise = np.random.default_rng(seed + 1).normal(size=problem.mdp.n_states)
    return scale * float(problem.value[0].std()) * np.where(problem.mdp.terminal, 0, noise)


def write_table(table: MeasurementTable, path: Path) -> None:
    """Write a CSV file; an interval takes three columns."""
    wide = {
        name for name, cell in zip(table.columns, table.rows[0], strict=True) if isinstance(cell, Interval)
    }
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        ends = ("", " low", " high")
        writer.writerow(
            [name + end for name in table.columns for end in (ends if name in wide else ends[:1])]
        )
        for row in table.rows:
            writer.writerow(
                [part for cell in row for part in (cell if isinstance(cell, Interval) else (cell,))]
            )


def draw_table(table: MeasurementTable, path: Path) -> None:
    """Draw the picture of a table, about 1200 x 700 pixels.

    Raises:
        ImportError: matplotlib is not installed.
    """
    write_figure(path, (12, 7), lambda figure: _draw(figure, table))


def _draw(figure: Any, table: MeasurementTable) -> None:
    if table.name in ("gradient", "quadratic"):
        _bars(figure, table)
    elif table.name == "advantage":
        _trade(figure, table)
    else:
        _lines(figure, table)
    figure.suptitle(table.title, x=0.01, ha="left", fontsize=14)


def _bars(figure: Any, table: MeasurementTable) -> None:
    left, right = figure.subplots(1, 2, sharey=True)
    names = [row[0] for row in table.rows]
    bias, variance = ([row[k] for row in table.rows] for k in (1, 2))
    place = np.arange(len(names))[::-1]
    left.barh(place, [x.figure for x in variance], color=BLUE, height=0.62)
    left.set(xscale="log", xlabel="variance of one episode, relative to |g|²", yticks=place)
    left.set_yticklabels(names)
    for y, x in zip(place, bias, strict=True):
        colour = ORANGE if x.low > 0 else GREY
        right.plot([100 * x.low, 100 * x.high], [y, y], color=colour, linewidth=3, solid_capstyle="round")
        right.plot(100 * x.figure, y, "o", color=colour, markersize=7)
    right.set(xlabel="bias, % of |g|, with its 95 % interval; orange: shown, grey: not", xlim=(-0.5, None))
    _plain(left, right)


def _trade(figure: Any, table: MeasurementTable) -> None:
    left, right = figure.subplots(1, 2)
    for colour, scale in zip((BLUE, ORANGE), sorted({row[0] for row in table.rows}), strict=False):
        rows = [row for row in table.rows if row[0] == scale]
        lam, label = (
            [row[1] for row in rows],
            "exact V" if scale == 0 else f"V off by {scale:g} of its spread",
        )
        left.plot(lam, [row[2] for row in rows], "o-", color=colour, label=f"bias, {label}")
        left.plot(lam, [row[3].figure for row in rows], "s--", color=colour, label=f"deviation, {label}")
        right.plot(
            [row[5].figure for row in rows],
            [100 * row[4].figure for row in rows],
            "o-",
            color=colour,
            label=label,
        )
        for row in rows:
            right.annotate(
                f"{row[1]:g}", (row[5].figure, 100 * row[4].figure), (4, 5), textcoords="offset points"
            )
    left.set(xlabel="lambda", ylabel="of the advantage's size")
    right.set(xlabel="variance of the gradient, one episode", ylabel="bias of the gradient, % of |∇J|")
    for axes in (left, right):
        axes.legend(frameon=False)
    _plain(left, right)


def _lines(figure: Any, table: MeasurementTable) -> None:
    key = next(k for k, name in enumerate(table.columns) if name in ("estimator", "correction"))
    left, right = figure.subplots(1, 2)
    names = list(dict.fromkeys(row[key] for row in table.rows))
    for colour, name in zip(COLOURS, names, strict=False):
        rows = [row for row in table.rows if row[key] == name]
        x, bias, spread = ([row[k] for row in rows] for k in (0, key + 1, key + 2))
        figures = [max(value.figure if isinstance(value, Interval) else value, 1e-3) for value in spread]
        left.plot(x, figures, "o-", color=colour, label=name)
        right.plot(x, [b.figure for b in bias], "o-", color=colour, label=name)
        right.fill_between(
            x, [b.low for b in bias], [b.high for b in bias], color=colour, alpha=0.12, linewidth=0
        )
    left.set(yscale="log", xlabel=table.columns[0], ylabel=f"{table.columns[key + 2]}")
    right.set(xlabel=table.columns[0], ylabel="bias, with its 95 % interval", ylim=(0, 1.5))
    left.legend(frameon=False)
    _plain(left, right)


def _plain(*axes: Any) -> None:
    for one in axes:
        one.grid(True, color="#eaeef2", linewidth=1)
        one.set_axisbelow(True)
        one.spines[["top", "right"]].set_visible(False)


def text(cell: Any) -> str:
    """A cell as readable text."""
    if isinstance(cell, Interval):
        if cell.low == 0:
            return f"< {cell.high:.2g}"  # no bias was shown
        return f"{_short(cell.figure)} ± {_short((cell.high - cell.low) / 2, 1)}"
    return _short(cell) if isinstance(cell, float) else str(cell)


def _short(number: float, digits: int = 3) -> str:
    if abs(number) < 1e-12:  # rounding
        return "0"
    return f"{number:.0f}" if 10 <= abs(number) < 1e5 else f"{number:.{digits}g}"


def _cells(one: Measured) -> Sequence[Any]:
    return one.bias, one.variance, one.cosine, one.effective, one.cost


def _critic(value_error: float) -> str:
    return f"V off by {value_error:g} of its spread" if value_error else "V exact"
