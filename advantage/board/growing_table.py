"""A CSV file that a run appends to: each reading takes up only what is new since the last one."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from advantage.runs.checkpoint import CheckpointError
from advantage.runs.log import parse_lines

_LARGE = 16_384  # bytes of rows that are worth reading side by side
_LONGEST = 40  # signs of a number that is read so
_CHUNK = 8_000_000  # bytes that are taken up at once; arrays on the way are about ten times as large
_MARK = 64  # bytes before the place reached, by which a file that was rewritten is noticed


@dataclasses.dataclass(frozen=True)
class GrowingTable:
    """What has been read of some columns of a CSV file.

    Attributes:
        path: the file, which need not exist yet.
        wanted: the columns that are read, where the file has them.
        header: all columns of the file.
        columns: `[rows]` each; the wanted ones by name.
        rows: how many complete rows were read.
        offset: the byte after the last complete row.
        mark: the bytes before `offset`.
        inode: the number of the file, which changes where another one takes its place.
    """

    path: Path
    wanted: tuple[str, ...]
    header: tuple[str, ...] = ()
    columns: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    rows: int = 0
    offset: int = 0
    mark: bytes = b""
    inode: int = -1

    def column(self, name: str) -> np.ndarray:
        """A column, empty if the file has none of that name."""
        return self.columns.get(name, np.zeros(0))


def grown(table: GrowingTable) -> GrowingTable:
    """The table with the rows that were added; `table` itself if there are none.

    A file that was rewritten, as by a run that is resumed or logs a new column, is read from its beginning. A row
    that is not complete yet is left for the next time.

    Raises:
        CheckpointError: a row is damaged.
        OSError: the file cannot be read.
    """
    try:
        file = table.path.open("rb")
    except FileNotFoundError:
        return table if table.inode == -1 else GrowingTable(table.path, table.wanted)
    with file:
        status = os.fstat(file.fileno())
        if status.st_ino == table.inode and status.st_size == table.offset:
            return table
        file.seek(max(0, table.offset - len(table.mark)))
        if status.st_ino != table.inode or file.read(len(table.mark)) != table.mark:
            file.seek(0)
            first = file.readline()
            if not first.endswith(b"\n"):
                return GrowingTable(table.path, table.wanted)
            header = tuple(first.decode(errors="replace").rstrip("\r\n").split(","))
            empty = {name: np.zeros(0) for name in table.wanted if name in header}
            table = GrowingTable(
                table.path, table.wanted, header, empty, 0, len(first), first[-_MARK:], status.st_ino
            )
        while True:
            file.seek(table.offset)
            longer = _with_more(table, file.read(_CHUNK))
            if longer is table:
                return table
            table = longer


def _with_more(table: GrowingTable, more: bytes) -> GrowingTable:
    """The table with the complete rows of `more`, the bytes after its offset."""
    more = more[: more.rfind(b"\n") + 1]
    if not more:
        return table
    parsed = _numbers(more, table.header, tuple(table.columns)) if len(more) > _LARGE else None
    if parsed is None:
        lines = more.decode(errors="replace").split("\n")[:-1]
        parsed = parse_lines(table.path, table.header, lines, table.wanted, first=table.rows + 2)
    return dataclasses.replace(
        table,
        columns={name: np.concatenate([table.column(name), part]) for name, part in parsed.items()},
        rows=table.rows + more.count(b"\n"),
        offset=table.offset + len(more),
        mark=(table.mark + more)[-_MARK:],
    )


def _numbers(rows: bytes, header: tuple[str, ...], wanted: tuple[str, ...]) -> dict[str, np.ndarray] | None:
    """The wanted columns of complete rows, sooner than `parse_lines`; None if a row is not as it should be."""
    text, width = np.frombuffer(rows, np.uint8), len(header)
    end = np.flatnonzero((text == ord(",")) | (text == ord("\n")))  # of each cell
    is_last = text[end] == ord("\n")
    if len(end) % width or is_last.sum() * width != len(end) or not is_last[width - 1 :: width].all():
        return None
    begin = np.concatenate([[0], end[:-1] + 1])
    places = {name: slice(header.index(name), None, width) for name in wanted}
    try:
        return {name: decimals(text, begin[place], end[place]) for name, place in places.items()}
    except ValueError:
        return None


def decimals(text: np.ndarray, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The numbers that are written in a text, uint8 `[T]`, between places `begin` and `end`, `[N]` each: `-> [N]`.

    All are read side by side, as sums of digits times powers of ten, in a fraction of the time of one after the
    other; their relative error is about 1e-15. NaN where `begin` is `end`.

    Raises:
        ValueError: what is written is no number, or longer than 40 signs.
    """
    length = end - begin
    width = int(length.max(initial=1))
    if width > _LONGEST:
        raise ValueError(f"a number of {width} signs")
    places, size = np.arange(width), length.astype(np.uint8)
    padded = np.concatenate([text, np.zeros(width, np.uint8)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, width)
    signs = windows[begin].T.copy()  # a row for each place: [width, N]
    signs = np.where(places.astype(np.uint8)[:, None] < size, signs, np.uint8(0))
    is_digit = (signs >= ord("0")) & (signs <= ord("9"))
    is_point, is_minus = signs == ord("."), signs[0] == ord("-")
    digits = np.where(is_digit, signs - np.uint8(ord("0")), np.uint8(0)).astype(np.float64)
    count, points = is_digit.sum(axis=0, dtype=np.uint8), is_point.sum(axis=0, dtype=np.uint8)
    point = np.where(points, is_point.argmax(axis=0), length)
    value = np.zeros(len(end))
    for at in np.flatnonzero(np.bincount(point)):
        value = np.where(point == at, 10.0 ** (at - places - (places < at)) @ digits, value)
    value[is_minus] *= -1
    value[length == 0] = np.nan
    is_plain = (count > 0) & (points <= 1) & (count + points + is_minus == size)
    for cell in np.flatnonzero(~is_plain & (length > 0)):  # such as 1e-05
        value[cell] = float(text[begin[cell] : end[cell]].tobytes())
    return value


def last_rows(
    path: Path, wanted: tuple[str, ...], size: int = 8192
) -> tuple[tuple[str, ...], Mapping[str, np.ndarray]]:
    """The header of a CSV file, and its last complete rows, those within its last `size` bytes.

    Raises:
        CheckpointError: a row is damaged.
        OSError: the file cannot be read.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return (), {}
    with file:
        header = tuple(file.readline().decode(errors="replace").rstrip("\r\n").split(","))
        begin = file.tell()
        end = file.seek(0, os.SEEK_END)
        file.seek(max(begin, end - size))
        lines = file.read().decode(errors="replace").split("\n")[:-1]
        lines = lines if end - size <= begin else lines[1:]
        try:
            return header, parse_lines(path, header, lines, wanted)
        except CheckpointError:  # which line of the file that is, only the whole file says
            file.seek(begin)
            return header, parse_lines(
                path, header, file.read().decode(errors="replace").split("\n")[:-1], wanted
            )
