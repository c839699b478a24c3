"""`advantage compare RUN...`: compare runs, with intervals over their seeds."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from advantage.cli.parse import parse
from advantage.comparison.compare import Comparison, compare


@dataclasses.dataclass(frozen=True)
class Compare:
    """Compare runs of one environment: curves, final scores, probability of improvement, time to a threshold.

    RUN is a run folder, a folder of run folders, or a pattern. Runs that differ only in their seed form a group;
    intervals need three seeds or more. Runs that cannot be used are listed, and the others are compared.
    """

    out: Path | None = None
    """Folder for comparison.html, comparison.png and comparison.csv; by default a new folder comparison."""
    threshold: float | None = None
    """A return; also report after how many steps and seconds it was reached."""
    environment: str | None = None
    """Compare only the runs of this environment."""
    json: bool = False
    """Print one JSON object instead of tables."""


def command(arguments: Sequence[str]) -> int:
    """Compare runs; returns the exit code."""
    runs, flags = parse(arguments, "compare RUN...", Compare)
    result = compare(runs, threshold=flags.threshold, environment=flags.environment)
    files, missing = result.write(flags.out)
    if flags.json:
        print(json.dumps(result.to_json() | {"files": [str(file) for file in files]}))
        return 0
    _show(result)
    notes = [f"Note: {note}" for note in result.notes]
    for line in (*notes, *missing, f"Wrote {', '.join(map(str, files))}"):
        print(line)
    return 0


def _show(comparison: Comparison) -> None:
    console = Console()
    console.print(f"Comparison on {comparison.environment}", highlight=False, markup=False)
    for table in comparison.tables():
        shown = Table(
            box=SIMPLE_HEAD, title=Text(table.title), title_justify="left", title_style="bold", pad_edge=False
        )
        for name, numeric in zip(table.header, table.numeric, strict=True):
            shown.add_column(Text(name), overflow="fold", justify="right" if numeric else "left")
        for row in table.rows:
            shown.add_row(*map(Text, row))
        console.print(shown)
