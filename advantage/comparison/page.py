"""The comparison as one page that needs no network, `comparison.html`: interactive curves and the tables."""

from __future__ import annotations

import html
import json
import re
import textwrap
from collections.abc import Sequence
from string import Template
from typing import Any, NamedTuple

import numpy as np

from advantage.comparison.picture import GREY, INK, MANY, RULE, SHOWN_FIRST, Y_LABEL, explanation, style
from advantage.comparison.seed_statistics import Curve

LONG = 30  # rows; a longer table is folded

_PAGE = Template(r"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>$title</title>
<style>
  body { margin: 0 auto; max-width: 1080px; padding: 1rem; color: $ink; background: white;
         font: 16px/1.5 system-ui, sans-serif; }
  h1 { font-size: 1.5rem; margin: 0; overflow-wrap: anywhere; }
  h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
  p { margin: .25rem 0; color: $grey; }
  .note { color: $ink; border-left: 4px solid #d55e00; padding-left: .75rem; margin: .75rem 0; }
  #curves { height: 560px; margin-top: 1rem; }
  .wide { overflow-x: auto; }
  table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
  th, td { text-align: left; vertical-align: top; padding: .35rem 1.25rem .35rem 0; border-bottom: 1px solid $rule; }
  th { font-weight: 600; color: $grey; }
  td { overflow-wrap: anywhere; min-width: 4.5rem; }
  .number { text-align: right; white-space: nowrap; }
  th { cursor: pointer; }
  label { cursor: pointer; }
  .line { display: inline-block; width: 1.4em; margin-right: .4em; vertical-align: middle; }
  details > summary { cursor: pointer; color: ${grey}; margin: 2rem 0 .5rem; }
  summary > h2 { display: inline; color: $ink; }
  pre { background: #f6f8fa; padding: .75rem; border-radius: 6px; white-space: pre-wrap; overflow-wrap: anywhere; }
  @media (max-width: 640px) {
    #curves { height: ${phone}px; }
    .wide { overflow-x: visible; }
    table, tbody, tr, td { display: block; }
    thead { display: none; }
    tr { border-bottom: 1px solid $rule; padding: .5rem 0; }
    td { display: flex; justify-content: space-between; gap: 1rem; border: 0; padding: .1rem 0; }
    td::before { content: attr(data-label); color: $grey; flex: none; max-width: 45%; text-align: left; }
    td:first-child { font-weight: 600; }
    .number { white-space: normal; }
  }
</style>
</head>
<body>
<h1>$title</h1>
<p>$explanation Point at a curve for its numbers; $choosing A click on a column sorts by it.</p>
$notes
<div id="curves"></div>
$tables
<h2>Made by</h2>
<pre>$command</pre>
<script>$plotly</script>
<script>
  Plotly.newPlot("curves", $data, $layout, {responsive: true, displayModeBar: false});
  const value = (row, column) => row.cells[column].innerText.trim();
  const ordered = new Intl.Collator("en", {numeric: true}).compare;
  const number = text => parseFloat(text.replace(/[\[,]/g, ""));
  document.querySelectorAll("th").forEach(head => head.addEventListener("click", () => {
    const body = head.closest("table").tBodies[0], column = head.cellIndex, falls = head.dataset.falls !== "yes";
    head.dataset.falls = falls ? "yes" : "no";
    const compared = head.className === "number"
      ? (a, b) => (number(b) || 0) - (number(a) || 0) : (a, b) => ordered(a, b);
    const rows = [...body.rows].sort((a, b) => compared(value(a, column), value(b, column)) * (falls ? 1 : -1));
    body.append(...rows);
  }));
  if (matchMedia("(max-width: 640px)").matches)  // where every row is a card
    document.querySelectorAll("details").forEach(folded => { folded.open = false; });
  const boxes = [...document.querySelectorAll("input[data-group]")];
  boxes.forEach(box => box.addEventListener("change", () => {
    const traces = document.getElementById("curves").data;
    const places = [...traces.keys()].filter(place => traces[place].legendgroup === box.dataset.group);
    Plotly.restyle("curves", {visible: box.checked}, places);
  }));
</script>
</body>
</html>
""")


class TextTable(NamedTuple):
    """A table of text, for the terminal and the page."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]

    @property
    def numeric(self) -> list[bool]:
        """Which columns hold numbers."""
        columns = zip(*self.rows, strict=True)
        return [any(cell.lstrip("[-")[:1].isdigit() for cell in column) for column in columns]


def page(
    *,
    environment: str,
    curves: Sequence[Curve],
    threshold: float | None,
    tables: Sequence[TextTable],
    notes: Sequence[str],
    command: str,
) -> str:
    """The HTML text of the page.

    Args:
        environment: what the runs were trained on.
        curves: the best first.
        threshold: a return that is drawn as a line, if given.
        tables: shown below the curves.
        notes: what a reader must know to judge the numbers.
        command: the command that repeats the comparison.

    Raises:
        ImportError: plotly is not installed (`pip install "advantage[page]"`).
    """
    from plotly.offline import get_plotlyjs

    are_many = len(curves) > MANY
    traces = _traces(curves)
    if are_many:
        shown = {str(place) for place in range(SHOWN_FIRST)}
        traces = [trace | {"visible": trace["legendgroup"] in shown} for trace in traces]
    names = "<br>".join(str(trace["name"]) for trace in traces if "name" in trace)
    return _PAGE.substitute(
        title=html.escape(f"Comparison on {environment}"),
        explanation=html.escape(explanation(curves)),
        notes="\n".join(f'<p class="note">{html.escape(note)}</p>' for note in notes),
        choosing="choose curves in the first table." if are_many else "a click on a name hides it.",
        tables="\n".join(
            _table(table, selects=are_many and place == 0) for place, table in enumerate(tables)
        ),
        command=html.escape(command),
        plotly=get_plotlyjs(),
        data=json.dumps(traces),
        phone=400
        + (0 if are_many else 22 * (names.count("<br>") + 1)),  # pixels; 22 for each line of the legend
        layout=json.dumps(_layout(threshold, are_many)),
        ink=INK,
        grey=GREY,
        rule=RULE,
    )


def _traces(curves: Sequence[Curve]) -> list[dict[str, Any]]:
    """A band, or a line for each seed where there is no band, and above them a line for each curve."""
    below, lines = [], []
    for place, curve in enumerate(curves):
        colour, dash = style(place)
        group = {"mode": "lines", "legendgroup": str(place)}
        quiet = group | {"hoverinfo": "skip", "showlegend": False}
        steps, shown, spans = curve.step.tolist(), "%{y:,.5~g}", None
        if curve.interval is None:
            thin = quiet | {"line": {"color": colour, "width": 1}, "opacity": 0.6, "x": steps}
            below += [thin | {"y": _numbers(seed)} for seed in curve.seeds]
        else:
            low, high = map(np.asarray, curve.interval)
            known = ~np.isnan(low)
            there, edge = curve.step[known].tolist(), [*_numbers(high[known]), *_numbers(low[known])[::-1]]
            filled = {"fill": "toself", "fillcolor": _faint(colour), "line": {"width": 0}}
            below.append(quiet | filled | {"x": there + there[::-1], "y": edge})
            shown += " [%{customdata[0]:,.5~g}, %{customdata[1]:,.5~g}]"
            spans = list(zip(_numbers(low), _numbers(high), strict=True))
        line = {"color": colour, "width": 2.5, "dash": dash}
        facts = {
            "name": _wrapped(f"{curve.label}, {len(curve.seeds)} seed{'s' * (len(curve.seeds) > 1)}", 36),
            "hovertemplate": f"{shown}<extra>{_wrapped(curve.label, 24)}</extra>",
        }
        lines.append(
            group | facts | {"x": steps, "y": _numbers(curve.mean), "line": line, "customdata": spans}
        )
    return below + lines


def _layout(threshold: float | None, are_many: bool) -> dict[str, Any]:
    axis = {
        "gridcolor": "#eaeef2",
        "linecolor": RULE,
        "zeroline": False,
        "automargin": True,
        "fixedrange": False,
    }
    line = {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": threshold,
        "y1": threshold,
        "line": {"color": GREY, "width": 1, "dash": "dash"},
    }
    return {
        "margin": {"l": 50, "r": 10, "t": 10, "b": 50},
        "font": {"family": "system-ui, sans-serif", "color": INK, "size": 13},
        "plot_bgcolor": "white",
        "paper_bgcolor": "white",
        "hovermode": "closest" if are_many else "x unified",  # one box with many lines would cover the plot
        "showlegend": not are_many,
        "hoverlabel": {"font": {"size": 11}},
        "dragmode": False,
        "legend": {"orientation": "h", "x": 0, "y": -0.18, "yanchor": "top"},
        "xaxis": axis
        | {"title": {"text": "environment steps", "standoff": 8}, "rangemode": "tozero", "hoverformat": ",d"},
        "yaxis": axis | {"title": {"text": Y_LABEL}},
        "shapes": [] if threshold is None else [line],
    }


def _table(table: TextTable, selects: bool = False) -> str:
    """The table in HTML; `selects` puts a box, which shows or hides a curve, before each row of the scores.

    A table that selects is sorted by its first column, whose numbers count as numbers. A long table is folded; on
    a narrow screen, where rows are cards, so is one of more than `MANY` rows.
    """
    kinds = [' class="number"' if number else "" for number in table.numeric]
    head = "".join(
        f"<th{kind}>{html.escape(name)}</th>" for name, kind in zip(table.header, kinds, strict=True)
    )
    firsts = [_choice(place) if selects else "" for place in range(len(table.rows))]
    order = range(len(table.rows))
    if selects:
        order = sorted(order, key=lambda place: _natural(table.rows[place][0]))
    listed = [(table.rows[place], firsts[place]) for place in order]
    rows = "".join(
        "<tr>"
        + "".join(
            f'<td{kind} data-label="{html.escape(name)}"><label>{"" if column else first}'
            f"<span>{html.escape(cell)}</span></label></td>"
            for column, (cell, name, kind) in enumerate(zip(row, table.header, kinds, strict=True))
        )
        + "</tr>\n"
        for row, first in listed
    )
    title = html.escape(table.title)
    text = f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>'
    if len(table.rows) > LONG and not selects:
        return f"<details><summary>{title}: {len(table.rows)} rows</summary>\n{text}</details>"
    if len(table.rows) > MANY:
        return f"<details open><summary><h2>{title}</h2></summary>\n{text}</details>"
    return f"<h2>{title}</h2>\n{text}"


def _choice(place: int) -> str:
    """A box that shows or hides the curve at `place`, and a sample of its line."""
    colour, dash = style(place)
    border = {"solid": "solid", "dash": "dashed", "dot": "dotted", "dashdot": "double"}[dash]
    checked = " checked" if place < SHOWN_FIRST else ""
    return (
        f'<input type="checkbox" data-group="{place}"{checked}>'
        f'<span class="line" style="border-top: 3px {border} {colour}"></span>'
    )


def _natural(text: str) -> list[tuple[float, str]]:
    """A key that sorts the numbers in texts as numbers: `n=9` before `n=10`."""
    parts = re.split(r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)", text)
    return [
        (float(part) if place % 2 else 0.0, "" if place % 2 else part) for place, part in enumerate(parts)
    ]


def _wrapped(text: str, width: int) -> str:
    """The text in lines that fit on a phone."""
    return "<br>".join(map(html.escape, textwrap.wrap(text, width)))


def _numbers(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else float(f"{value:.6g}") for value in values]


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.18)"
