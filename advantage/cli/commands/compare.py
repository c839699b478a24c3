"""`advantage compare RUN...`: compare runs, with intervals over their seeds."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from advantage.cli.parse import parse
from advantage.cli.text_table import text_table, wrapped
from advantage.comparison.compare import LEFT_OUT, Comparison, compare

MOST_ROWS = 12  # of a table; a comparison of 30 groups has 435 pairs
NO_TERMINAL = 100  # characters of a line in a file or a pipe


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
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    _show(result, width or NO_TERMINAL)
    notes = [f"Note: {note}" for note in result.notes]
    for text in (*notes, *missing, f"Wrote {', '.join(map(str, files))}"):
        print(text if width is None else "\n".join(wrapped(text, width)))
    return 0


def _show(comparison: Comparison, width: int) -> None:
    """Print the tables; long ones in part, the best first."""
    print(f"Comparison on {comparison.environment}")
    for table in comparison.tables():
        shown = table.rows if table.title == LEFT_OUT else table.rows[:MOST_ROWS]
        left_out = len(table.rows) - len(shown)
        print(f"\n{table.title}")
        first = 0
        if left_out and len({row[0] for row in shown}) == 1:  # the best group beside each other one
            first = 1
            print("\n".join(wrapped(f"{table.header[0]}: {shown[0][0]}", width)))
        rows = [row[first:] for row in shown]
        print("\n".join(text_table(table.header[first:], rows, table.numeric[first:], width)))
        if left_out:
            print(f"and {left_out} more rows, which the page and --json have")
    print()
