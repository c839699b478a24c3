"""The learning curves of a comparison, `comparison.png`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from advantage.comparison.seed_statistics import LEVEL, Curve
from advantage.figures import write_figure
from advantage.runs.plot import WINDOW, short

# Okabe and Ito 2008, "Color universal design": safe for colour-blind readers. Their yellow is too pale for lines.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#24292f")
DASHES = ("solid", "dash", "dot", "dashdot")  # for more curves than there are colours
MANY = 8  # curves; of more, only the best are named
SHOWN_FIRST = 6  # the best of many
INK, GREY, RULE = "#24292f", "#57606a", "#d0d7de"
Y_LABEL = f"return, mean of the last {WINDOW} episodes"


def style(place: int) -> tuple[str, str]:
    """Colour and dash of the curve at `place`."""
    return COLOURS[place % len(COLOURS)], DASHES[place // len(COLOURS) % len(DASHES)]


def explanation(curves: Sequence[Curve]) -> str:
    """A sentence that explains the lines and bands."""
    bands = any(curve.interval is not None for curve in curves)
    lone = any(curve.interval is None for curve in curves)
    said = "Interquartile mean over seeds"
    said += f"; bands: {LEVEL:.0%} bootstrap intervals" if bands else ""
    return said + ("; thin lines: single seeds, where they are too few for an interval." if lone else ".")


def draw(curves: Sequence[Curve], path: Path, *, environment: str, threshold: float | None = None) -> Path:
    """Draw interquartile means and their intervals, 1200 x 700 pixels and a line for each row of the legend.

    For groups with too few seeds for an interval, each seed is drawn as a thin line. Of more than `MANY` groups the
    best `SHOWN_FIRST` are drawn so and named; the means of the others are grey.

    Args:
        curves: the best first.
        path: where the picture goes; returned.
        environment: the title.
        threshold: a return that is drawn as a line, if given.

    Raises:
        ImportError: matplotlib is not installed (`pip install "advantage[plot]"`).
    """
    named = curves if len(curves) <= MANY else curves[:SHOWN_FIRST]
    columns = 3 if max(len(curve.label) for curve in named) < 35 else 1
    rows = -(-len(named) // columns) + (len(named) < len(curves))

    def drawn(figure: Any) -> None:
        axes = figure.add_subplot()
        _draw_curves(axes, curves, len(named))
        if threshold is not None:
            axes.axhline(threshold, color=GREY, linewidth=1, linestyle="--")
        axes.set_title(f"{environment}\n", loc="left", fontsize=17, color=INK, parse_math=False)
        legend = {
            "frameon": False,
            "fontsize": 12,
            "labelcolor": INK,
            "handlelength": 3,
            "title_fontsize": 12,
        }
        legend |= {"title": _others(len(curves) - len(named))} if len(named) < len(curves) else {}
        names = figure.legend(loc="outside lower center", ncols=min(columns, len(named)), **legend)
        for text in names.get_texts():
            text.set_parse_math(False)

    write_figure(path, (12, 7 + 0.25 * rows), drawn)
    return path


def _draw_curves(axes: Any, curves: Sequence[Curve], named: int) -> None:
    """All curves, of which only the first `named` have a name, and the axes."""
    from matplotlib.ticker import FuncFormatter

    for curve in curves[named:]:
        axes.plot(curve.step, curve.mean, color=GREY, linewidth=1, alpha=0.35)
    for place, curve in enumerate(curves[:named]):
        _draw_named(axes, curve, place)
    axes.text(0, 1.02, explanation(curves), transform=axes.transAxes, fontsize=12, color=GREY)
    axes.set_xlabel("environment steps", fontsize=13, color=GREY)
    axes.set_ylabel(Y_LABEL, fontsize=13, color=GREY)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.set_xlim(0, curves[0].step[-1])
    axes.tick_params(labelsize=12, labelcolor=GREY, color=RULE)
    axes.grid(True, color="#eaeef2", linewidth=1)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE)


def _draw_named(axes: Any, curve: Curve, place: int) -> None:
    """A mean with its band, or with its seeds where there is no band, in the style of its place."""
    colour, dash = style(place)
    if curve.interval is not None:
        axes.fill_between(curve.step, *curve.interval, color=colour, alpha=0.18, linewidth=0)
    else:
        axes.plot(curve.step, curve.seeds.T, color=colour, linewidth=0.9, alpha=0.6)
    label = f"{curve.label}, {len(curve.seeds)} seed{'s' * (len(curve.seeds) > 1)}"
    line = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}[dash]
    axes.plot(curve.step, curve.mean, line, color=colour, linewidth=2.4, label=label)


def _others(number: int) -> str:
    groups = "1 more group is" if number == 1 else f"{number} more groups are"
    return f"The best {SHOWN_FIRST}; {groups} grey, and named in comparison.csv"
