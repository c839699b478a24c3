"""A CSV file that a run appends to: each reading takes up only what is new since the last one."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from advantage.runs.log import parse_lines

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
        return _with_more(table, file.read())


def _with_more(table: GrowingTable, more: bytes) -> GrowingTable:
    """The table with the complete rows of `more`, the bytes after its offset."""
    more = more[: more.rfind(b"\n") + 1]
    lines = more.decode(errors="replace").split("\n")[:-1]
    if not lines:
        return table
    parsed = parse_lines(table.path, table.header, lines, table.wanted, first=table.rows + 2)
    return dataclasses.replace(
        table,
        columns={name: np.concatenate([table.column(name), part]) for name, part in parsed.items()},
        rows=table.rows + len(lines),
        offset=table.offset + len(more),
        mark=(table.mark + more)[-_MARK:],
    )


def last_rows(path: Path, wanted: tuple[str, ...], size: int = 32_768) -> tuple[tuple[str, ...], Mapping[str, np.ndarray]]:
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
    return header, parse_lines(path, header, lines if end - size <= begin else lines[1:], wanted)
