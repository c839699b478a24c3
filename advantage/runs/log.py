"""Logs of a run by environment step: three CSV files and TensorBoard; and functions that read the CSV files.

Numbers are read back exactly: float64 is written by `repr`, float32 with nine digits, integers as they are. Every
call passes its data to the operating system before it returns, so a run that is killed loses at most the row it was
writing. TensorBoard's files are flushed once a second and by `flush`, because each flush takes disk time.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self, SupportsFloat

import numpy as np
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

from advantage.runs.checkpoint import MANIFEST, CheckpointError, read_manifest
from advantage.runs.folder import RunFolder, write_atomically

EPISODES = ["r", "l", "step", "env", "episode"]
EVALUATIONS = ["step", "episode", "return", "length", "deterministic", "seed"]
_COUNTS = {"iteration", *EPISODES, *EVALUATIONS} - {"r", "return"}
FLUSH_SECONDS = 1.0
_REMEDY = "correct the line, or move the file away and run again"
_UNKNOWN: Mapping[str, Any] = MappingProxyType({})


class Logger:
    """Appends to the logs of a run; close it, or use it as a context manager.

    Args:
        folder: the run folder.
        tensorboard: whether to write TensorBoard event files too.
        resume_step: the step from which a run is resumed; later rows are removed.
        evaluated: the step of the last evaluation that the run has kept; by default `resume_step`.
        tallies: what `tallies()` gave at `resume_step`, if it is known.

    Attributes:
        faults: sentences about rows that are missing or are not as the run wrote them, by `tallies`.

    Raises:
        CheckpointError: an existing file is not a log of this kind.
    """

    def __init__(
        self,
        folder: RunFolder,
        *,
        tensorboard: bool = True,
        resume_step: int | None = None,
        evaluated: int | None = None,
        tallies: Mapping[str, Any] = _UNKNOWN,
    ):
        evaluated = resume_step if evaluated is None else evaluated
        with contextlib.ExitStack() as opened:  # closes the files opened so far if a later file is wrong
            self._progress = opened.enter_context(_Table(folder.progress_path, [], resume_step))
            self._episodes = opened.enter_context(_Table(folder.episodes_path, EPISODES, resume_step))
            self._evaluations = opened.enter_context(_Table(folder.evaluations_path, EVALUATIONS, evaluated))
            self._opened = opened.pop_all()
        self._tables = {
            table.path.stem: table for table in (self._progress, self._episodes, self._evaluations)
        }
        self.faults: list[str] = []
        for name, table in self._tables.items():
            if name in tallies and (fault := _fault(table.path, table.tally, tallies[name])):
                self.faults.append(fault)
                table.tally = None
        self._events: EventsWriter | None = None
        self._flushed = 0.0
        if tensorboard:  # the bare writer: SummaryWriter adds a thread, a queue and an event for every scalar
            suffix = f".{time.time_ns() % 10**9:09d}"  # a name of whole seconds could already exist
            self._events = EventsWriter(str(folder.path / "events"), suffix)
            if resume_step is not None:  # TensorBoard then hides what was written at this step or later
                start = SessionLog(status=SessionLog.START)
                self._event(resume_step + 1, session_log=start)

    def progress(self, step: int, row: Mapping[str, SupportsFloat]) -> None:
        """Append a row to progress.csv, and its scalars to TensorBoard.

        The first row fixes the columns: `iteration` (if the row has it), `step`, the others sorted. Columns
        that appear later are added at the end; a row's missing values are empty cells.
        """
        values = {**row, "step": step}
        self._progress.widen(values)
        self._progress.append(",".join(_text(values.get(name)) for name in self._progress.columns) + "\n")
        self._scalars(step, {name: value for name, value in row.items() if name not in ("iteration", "step")})

    def episodes(self, rows: Mapping[str, np.ndarray]) -> None:
        """Append finished episodes, arrays `[N]`: return `r`, length `l`, `step`, `env` index, `episode`."""
        self._episodes.append_columns(rows)

    def evaluation(
        self, step: int, returns: np.ndarray, lengths: np.ndarray, deterministic: bool, seed: int
    ) -> None:
        """Append the episodes of an evaluation, arrays `[N]`; TensorBoard gets `eval/` means."""
        rows = {"step": step, "deterministic": int(deterministic), "seed": seed}
        rows = {name: np.full(len(returns), value) for name, value in rows.items()}
        rows |= {"episode": np.arange(len(returns)), "return": returns, "length": lengths}
        self._evaluations.append_columns(rows)
        mean, spread, length = float(np.mean(returns)), float(np.std(returns)), float(np.mean(lengths))
        self._scalars(
            step, {"eval/mean_reward": mean, "eval/std_reward": spread, "eval/mean_ep_length": length}
        )

    def tallies(self) -> dict[str, Any]:
        """The number of rows of each file, and a checksum of those with fixed columns; None for one with a fault."""
        return {name: table.tally and table.tally.to_json() for name, table in self._tables.items()}

    def flush(self) -> None:
        """Pass everything to the operating system (for the CSV files every call has already done so)."""
        if self._events:
            self._events.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        """Close the files; a second call does nothing."""
        self._opened.close()
        if self._events:
            self._events.close()
        self._events = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _scalars(self, step: int, row: Mapping[str, SupportsFloat]) -> None:
        if self._events:
            values = [Summary.Value(tag=name, simple_value=float(value)) for name, value in row.items()]
            self._event(step, summary=Summary(value=values))

    def _event(self, step: int, **content: Any) -> None:
        assert self._events
        self._events.write_event(Event(wall_time=time.time(), step=int(step), **content))
        if time.monotonic() > self._flushed + FLUSH_SECONDS:
            self.flush()


def read_progress(folder: RunFolder, wanted: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """The columns of progress.csv, NaN where a cell is empty; no columns if there is no file yet.

    If `wanted` is given, only those of its columns that exist; other cells are not read.
    """
    return _read(folder.progress_path, [], wanted)


def read_episodes(folder: RunFolder, wanted: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """The columns of episodes.csv, or only the `wanted` ones; empty if there is no file yet."""
    return _read(folder.episodes_path, EPISODES, wanted)


def read_evaluations(folder: RunFolder) -> dict[str, np.ndarray]:
    """The columns of evaluations.csv, empty if there is no file yet."""
    return _read(folder.evaluations_path, EVALUATIONS)


def log_faults(folder: RunFolder) -> list[str]:
    """Sentences about rows that the last checkpoint counts and that are missing or not as the run wrote them.

    Raises:
        CheckpointError: a log, or the checkpoint's manifest, cannot be read.
    """
    if not folder.last.is_dir():
        return []
    metadata: Any = read_manifest(folder.last)["metadata"]
    tallies, found = metadata.get("logs"), []
    if not isinstance(tallies, dict):
        return []  # of an older version
    for name in ("step", "evaluated"):
        if type(metadata.get(name)) is not int:
            file, remedy = folder.last / MANIFEST, "use another checkpoint of the run"
            raise CheckpointError.of(
                file,
                f"metadata/{name}",
                found=repr(metadata.get(name))[:200],
                expected="an integer",
                remedy=remedy,
            )
    for path, columns, until in (
        (folder.progress_path, [], "step"),
        (folder.episodes_path, EPISODES, "step"),
        (folder.evaluations_path, EVALUATIONS, "evaluated"),
    ):
        names, lines = _lines(path, columns)
        tally = _Tally(bool(columns), _until(metadata[until], path, names, lines))
        found.append(_fault(path, tally, tallies.get(path.stem)))
    return [fault for fault in found if fault]


def _fault(path: Path, found: _Tally | None, expected: Any) -> str:
    """A sentence about a file that is not as it was when `expected` was written; empty if it is."""
    if found is None or not isinstance(expected, dict):
        return f"{path} lacks rows, or was changed, before the run was last resumed."
    if found.to_json() == expected:
        return ""
    if found.rows != expected.get("rows"):
        return f"{path} has {found.rows:,} of the {expected.get('rows')} rows that the run wrote."
    return f"{path} is not as the run wrote it."


def _until(last_step: int, path: Path, names: Sequence[str], lines: Sequence[str]) -> list[str]:
    """The lines of steps up to `last_step`."""
    steps = parse_lines(path, names, lines, ("step",)).get("step", ())
    return [line for line, step in zip(lines, steps, strict=True) if step <= last_step]


class _Tally:
    """The number of a file's rows and, if its columns are fixed, a checksum of them."""

    def __init__(self, is_fixed: bool, lines: Sequence[str] = ()):
        self.rows, self.sum = 0, hashlib.sha256() if is_fixed else None
        self.add("".join(line + "\n" for line in lines).encode())

    def add(self, data: bytes) -> None:
        self.rows += data.count(b"\n")
        if self.sum is not None:
            self.sum.update(data)

    def to_json(self) -> dict[str, Any]:
        return {"rows": self.rows} | ({} if self.sum is None else {"sha256": self.sum.hexdigest()})


class _Table:
    """A CSV file that grows by rows; one of its columns is `step`."""

    def __init__(self, path: Path, columns: Sequence[str], last_step: int | None):
        self.path = path
        self.columns, lines = _lines(path, columns)
        if last_step is not None:
            parse_lines(path, self.columns, lines)
            lines = _until(last_step, path, self.columns, lines)
        self.tally: _Tally | None = _Tally(bool(columns), lines)
        if path.exists() or self.columns:
            self._rewrite(lines)  # without an incomplete line that a kill may have left
        self.file = path.open("ab", buffering=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.file.close()

    def append(self, text: str) -> None:
        rows = data = text.encode()
        try:
            while data:
                data = data[self.file.write(data) :]
        except OSError as error:  # such as a full disk
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        if self.tally is not None:
            self.tally.add(rows)

    def append_columns(self, rows: Mapping[str, Any]) -> None:
        columns = {name: np.asarray(rows[name]) for name in self.columns}
        kinds = ["%d" if name in _COUNTS else _float_format(column.dtype) for name, column in columns.items()]
        values = zip(*(column.tolist() for column in columns.values()), strict=True)
        self.append("".join(map((",".join(kinds) + "\n").__mod__, values)))

    def widen(self, names: Collection[str]) -> None:
        """Add the columns that the file lacks, by rewriting it."""
        new = set(names).difference(self.columns)
        new = sorted(new, key=lambda name: (name != "iteration", name != "step", name))
        for name in new:
            if set(name) & set(',"\r\n'):
                raise ValueError(f"metric name {name!r} has a comma, a quote or a line break; rename it")
        if new:
            _, lines = _lines(self.path, self.columns)
            self.file.close()
            self.columns = [*self.columns, *new]
            self._rewrite([line + "," * len(new) for line in lines])
            self.file = self.path.open("ab", buffering=0)

    def _rewrite(self, lines: Iterable[str]) -> None:
        header = [",".join(self.columns)] if self.columns else []
        write_atomically(self.path, "".join(line + "\n" for line in [*header, *lines]))


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, int | np.integer):
        return str(int(value))
    return _float_format(getattr(value, "dtype", None)) % float(value)


def _float_format(dtype: Any) -> str:
    return "%.9g" if dtype == np.float32 else "%r"


def _lines(path: Path, columns: Sequence[str]) -> tuple[list[str], list[str]]:
    """The header and the complete lines of a CSV file; `columns`, if given, is the header it must have."""
    if not path.exists():
        return list(columns), []
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file; {_REMEDY}.")
    try:
        header, *lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as CSV: {error}; {_REMEDY}.") from error
    names = header.split(",") if header else list(columns)
    if len(set(names)) < len(names):
        found, once = repr(header[:200]), "each column once"
        raise CheckpointError.of(path, "header", found=found, expected=once, remedy=_REMEDY)
    if names and ("step" not in names or names != list(columns or names)):
        expected = ",".join(columns) or "columns with `step` among them"
        raise CheckpointError.of(path, "header", found=repr(header[:200]), expected=expected, remedy=_REMEDY)
    return names, lines[:-1]  # after the last line end there is nothing, or an incomplete line


def parse_lines(
    path: Path,
    columns: Sequence[str],
    lines: Sequence[str],
    wanted: Collection[str] | None = None,
    *,
    first: int = 2,
) -> dict[str, np.ndarray]:
    """Lines of a CSV file as arrays: int64 for counts, float64 for the rest, NaN for an empty cell.

    Args:
        path: the file, for messages.
        columns: its header.
        lines: complete lines, without their ends.
        wanted: the columns to read; by default all.
        first: the number of the first line in the file, for messages.

    Raises:
        CheckpointError: a line has too few or too many cells, or a cell is no number.
    """
    places = [place for place, name in enumerate(columns) if wanted is None or name in wanted]
    if set(map(str.count, lines, itertools.repeat(","))) - {len(columns) - 1}:
        for number, line in enumerate(lines, first):
            if (count := line.count(",") + 1) == len(columns):
                continue
            found, expected = f"{count} cells", f"{len(columns)} as in the header"
            raise CheckpointError.of(path, f"line {number}", found=found, expected=expected, remedy=_REMEDY)
    table = _numbers(path, lines, places, first)
    parsed: dict[str, np.ndarray] = dict(zip((columns[place] for place in places), table.T, strict=True))
    for name in _COUNTS.intersection(parsed):
        wrong = np.flatnonzero(~(np.isfinite(parsed[name]) & (parsed[name] == np.trunc(parsed[name]))))
        if wrong.size:
            field, found = f"line {wrong[0] + first}, column {name}", parsed[name][wrong[0]]
            raise CheckpointError.of(path, field, found=found, expected="an integer", remedy=_REMEDY)
        parsed[name] = parsed[name].astype(np.int64)
    return parsed


def _numbers(path: Path, lines: Sequence[str], places: Sequence[int], first: int) -> np.ndarray:
    """The cells at `places` of every line: `[lines, places]`."""
    if lines and places:
        with contextlib.suppress(ValueError):  # the loop below reads empty cells and reports wrong ones
            table = np.loadtxt(lines, delimiter=",", comments=None, usecols=places, ndmin=2)
            if len(table) == len(lines):  # loadtxt skips blank lines
                return table
    rows = []
    for number, line in enumerate(lines, first):
        cells = line.split(",")
        try:
            rows.append([float(cells[place] or "nan") for place in places])
        except ValueError as error:
            raise CheckpointError(f"{path}: line {number}: {error}; {_REMEDY}.") from None
    return np.array(rows, np.float64).reshape(len(lines), len(places))


def _read(path: Path, columns: Sequence[str], wanted: Collection[str] | None = None) -> dict[str, np.ndarray]:
    return parse_lines(path, *_lines(path, columns), wanted)
