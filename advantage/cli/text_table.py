"""Tables of text for a terminal of any width: no word is broken that fits into a line."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence

GAP = "  "
NO_TERMINAL = 100  # characters of a line in a file or a pipe


def line_width() -> int:
    """The number of characters of a line of standard output."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else NO_TERMINAL


def text_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool], width: int
) -> list[str]:
    """The lines of a table.

    Side by side if that fits; otherwise the texts of a row are above its numbers; otherwise each cell has a line.

    Args:
        header: the names of the columns.
        rows: one text for each column.
        numeric: which columns hold numbers; they are aligned to the right.
        width: number of characters of a line.
    """
    if not rows:
        return []
    plain = _aligned(header, rows, numeric)
    if max(map(len, plain)) <= width:
        return plain
    numbers = [place for place, is_number in enumerate(numeric) if is_number]
    words = [place for place, is_number in enumerate(numeric) if not is_number]
    if numbers:
        stacked = _aligned(*_columns(header, rows, numbers), [True] * len(numbers))
        if len(GAP) + max(map(len, stacked)) <= width:
            lines = [*wrapped(", ".join(header[place] for place in words), width), *_indented(stacked[:2])]
            for row, line in zip(rows, stacked[2:], strict=True):
                text = ", ".join(row[place] for place in words)
                lines += [*wrapped(text, width), *_indented([line])]
            return lines
    first, *others = range(len(header))
    lines = []
    for row in rows:
        lines += wrapped(row[first], width)
        for place in others:
            lines += _indented(wrapped(f"{header[place]}: {row[place]}", width - len(GAP)))
    return lines


def _columns(
    header: Sequence[str], rows: Sequence[Sequence[str]], places: Sequence[int]
) -> tuple[list[str], list[list[str]]]:
    return [header[place] for place in places], [[row[place] for place in places] for row in rows]


def _aligned(header: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool]) -> list[str]:
    """The table side by side: a header of two lines, the second a rule, and a line for each row."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    table = [list(header), ["-" * width for width in widths], *map(list, rows)]
    return [
        GAP.join(
            cell.rjust(width) if is_number else cell.ljust(width)
            for cell, width, is_number in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in table
    ]


def _indented(lines: Sequence[str]) -> list[str]:
    return [GAP + line for line in lines]


def wrapped(text: str, width: int) -> list[str]:
    """The lines of a text, broken between words."""
    return textwrap.wrap(text, max(width, 1), break_long_words=False, break_on_hyphens=False) or [""]
