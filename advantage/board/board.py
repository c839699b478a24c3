"""The runs that a board watches, and what its page is told about them. It only reads, and it keeps no copies."""

from __future__ import annotations

import dataclasses
import json
import secrets
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from advantage.board.curves import EMPTY, GroupLine, Line, group_line, line_of, number, thinned
from advantage.board.growing_table import GrowingTable, grown
from advantage.board.run_view import RunView, look
from advantage.comparison.run_data import Group, find_runs, group_runs
from advantage.diagnosis import RULES, Finding, RunFacts, disagreements, read_facts
from advantage.runs.checkpoint import CheckpointError
from advantage.runs.folder import RunFolder
from advantage.runs.plot import WINDOW, running_mean

RETURN, EVALUATION = "return", "evaluation"  # metrics that are not columns of progress.csv
MOST_METRICS = 4  # whose rows are held at once
AT_ONCE = 0.5  # seconds that an answer may take before it says that there is more
AGAIN = 30.0  # seconds between two diagnoses of a run


@dataclasses.dataclass
class _Curve:
    """One metric of one run: its rows, its line, and the change of the board that brought them."""

    table: GrowingTable
    line: Line = EMPTY
    fault: str = ""
    change: int = 0


@dataclasses.dataclass
class _Watched:
    """One run: what is known of it, and the change of the board that brought it."""

    number: int
    view: RunView
    change: int = 0
    looked: float = 0.0
    curves: dict[str, _Curve] = dataclasses.field(default_factory=dict)
    facts: RunFacts | None = None  # without its progress
    findings: tuple[Finding, ...] = ()
    diagnosed: tuple[float, int] = (-np.inf, -1)  # when, and at which change


class Board:
    """Watches runs. Each answer tells what has changed since an earlier one; several threads may ask.

    Args:
        paths: run folders, folders of run folders, or patterns; new runs that they come to name are taken up.
    """

    def __init__(self, paths: Sequence[str | Path]):
        self.paths = list(paths)
        self.runs: dict[Path, _Watched] = {}
        self.change = 0
        self._session = secrets.token_hex(8)
        self._groups: dict[tuple[Any, ...], GroupLine] = {}
        self._scanned, self._scan_again = -np.inf, 0.0
        self._lock = threading.Lock()

    def answer(self, metric: str = "", since: str = "", seconds: float = AT_ONCE) -> dict[str, Any]:
        """What the page is told.

        Args:
            metric: what its curves show; by default what the runs have: returns, else residuals.
            since: `until` of an earlier answer about the same metric; only runs that changed after it are told.
            seconds: the time after which reading is left for the next answer, which then should be asked for at once.

        Returns:
            JSON values: `runs`, `groups`, `metrics`, `until`, and the numbers of runs that have not been read yet
            (`reading`) and that were not looked at this time (`unseen`).
        """
        with self._lock:
            end = time.monotonic() + seconds
            self._scan()
            metric = metric or self._usual_metric()
            unseen = self._read(metric, end)
            unread = sum(metric not in run.curves for run in self.runs.values())
            if not unseen:
                self._diagnose(min(end, time.monotonic() + seconds / 2))
            session, _, known = since.partition(":")
            known = int(known) if session == self._session and known.isdecimal() else -1
            read = [run for run in self.runs.values() if metric in run.curves]
            told = [run for run in read if max(run.change, run.curves[metric].change) > known]
            answer = {
                "metric": metric,
                "metrics": [
                    RETURN,
                    EVALUATION,
                    *sorted({x for run in self.runs.values() for x in run.view.metrics}),
                ],
                "until": f"{self._session}:{self.change}",
                "paths": [str(path) for path in self.paths],
                "reading": unread,
                "unseen": unseen,
                "here": [run.number for run in self.runs.values()],
                "runs": [_run_to_json(run, run.curves[metric]) for run in told],
            }
            if self.change > known:
                answer["groups"] = self._groups_to_json(read, metric, with_lines=not unread)
            return answer

    def watched(self, number: int) -> tuple[RunView, tuple[Finding, ...]]:
        """What is known of a run by its number, and the doctor's findings as they are now.

        Raises:
            LookupError: there is no such run.
        """
        with self._lock:
            run = next((run for run in self.runs.values() if run.number == number), None)
            if run is None:
                raise LookupError(f"there is no run number {number}")
            if run.diagnosed[1] < run.change:
                self._diagnose_one(run)
            return run.view, (*run.findings, *self._disagreement(run))

    def _scan(self) -> None:
        """Take up new runs and drop those that are gone. Large folders are scanned less often."""
        begun = time.monotonic()
        if begun - self._scanned < self._scan_again:
            return
        try:
            found, _ = find_runs(self.paths)
        except OSError:  # a folder was removed meanwhile
            return
        folders = {path for path in found if (path / "config.json").is_file()}
        for path in sorted(folders - self.runs.keys()):
            number = 1 + max((run.number for run in self.runs.values()), default=-1)
            self.runs[path] = _Watched(number, RunView(RunFolder(path)))
        for path in self.runs.keys() - folders:
            del self.runs[path]
            self.change += 1
        self._scanned = time.monotonic()
        self._scan_again = max(1.0, 20 * (self._scanned - begun))

    def _usual_metric(self) -> str:
        sizes = (run.view.folder.episodes_path for run in self.runs.values())
        if not self.runs or any(path.is_file() and path.stat().st_size > 40 for path in sizes):
            return RETURN
        names = {name for run in self.runs.values() for name in look(run.view).metrics}
        return next((name for name in ("train/residual", *sorted(names)) if name in names), RETURN)

    def _read(self, metric: str, end: float) -> int:
        """Read what is new of each run until the time is over; returns how many runs were not looked at."""
        waiting = sorted(self.runs.values(), key=lambda run: (metric in run.curves, run.looked))
        for place, run in enumerate(waiting):
            if time.monotonic() > end:
                return len(waiting) - place
            run.looked = time.monotonic()
            view = look(run.view)
            if view is run.view and metric in run.curves:
                continue
            if view is not run.view:
                self.change += 1
                run.view, run.change = view, self.change
            self._read_curve(run, metric)
        return 0

    def _read_curve(self, run: _Watched, metric: str) -> None:
        curve = run.curves.pop(metric, None) or _Curve(_table(run.view, metric))
        run.curves[metric] = curve  # the last one used stands last
        for old in list(run.curves)[:-MOST_METRICS]:
            del run.curves[old]
        try:
            table, fault = grown(curve.table), ""
        except (CheckpointError, OSError) as error:
            table, fault = curve.table, str(error)
        if table is not curve.table or fault != curve.fault or not curve.change:
            self.change += 1
            curve.table, curve.fault, curve.change = table, fault, self.change
            curve.line = _line(table, metric)

    def _diagnose(self, end: float) -> None:
        """Let the doctor see runs that have changed, those first that it has not seen for longest."""
        now = time.monotonic()
        for run in sorted(self.runs.values(), key=lambda run: run.diagnosed[0]):
            if time.monotonic() > end or now - run.diagnosed[0] < AGAIN:
                return
            if run.diagnosed[1] < run.change:
                self._diagnose_one(run)

    def _diagnose_one(self, run: _Watched) -> None:
        try:
            facts = read_facts(run.view.folder.path)
            findings = tuple(found for rule in RULES if (found := rule(facts)) is not None)
            run.facts = facts._replace(progress={})
        except (OSError, ValueError, TypeError, KeyError):  # the table says what is wrong with its files
            run.facts, findings = None, ()
        if findings != run.findings:
            self.change += 1
            run.findings, run.change = findings, self.change
        run.diagnosed = time.monotonic(), run.change

    def _disagreement(self, run: _Watched) -> list[Finding]:
        """The finding about the seeds of this run's group, if there is one."""
        if run.facts is None:
            return []
        kin = [
            other.facts
            for other in self.runs.values()
            if other.facts is not None
            and (other.view.algorithm, other.view.environment, other.view.options)
            == (run.view.algorithm, run.view.environment, run.view.options)
        ]
        return [finding for _, finding in disagreements(kin)]

    def _groups_to_json(self, runs: list[_Watched], metric: str, with_lines: bool) -> list[dict[str, Any]]:
        """Groups of each environment's runs, with their lines if all runs have been read."""
        sound = [run for run in runs if not run.view.fault]
        watched = {run.view.folder.path: run for run in sound}
        groups, lines = [], {}
        for environment in dict.fromkeys(run.view.environment for run in sound):
            for group in group_runs([run.view for run in sound if run.view.environment == environment]):
                members = [watched[view.folder.path] for view in group.records]
                told = _group_to_json(group, environment, members)
                if with_lines and len(members) > 1:
                    key = (metric, *((run.number, run.curves[metric].change) for run in members))
                    lines[key] = self._groups.get(key) or group_line(
                        [run.curves[metric].line for run in members]
                    )
                    told["line"] = lines[key].to_json()
                groups.append(told)
        if with_lines:  # lines of groups that have changed since are forgotten
            self._groups = {key: line for key, line in self._groups.items() if key[0] != metric} | lines
        return groups


def _table(view: RunView, metric: str) -> GrowingTable:
    folder = view.folder
    if metric == RETURN:
        return GrowingTable(folder.episodes_path, ("step", "r"))
    if metric == EVALUATION:
        return GrowingTable(folder.evaluations_path, ("step", "return"))
    return GrowingTable(folder.progress_path, ("step", metric))


def _line(table: GrowingTable, metric: str) -> Line:
    """The line of a metric: the mean of the last 100 episodes, of an evaluation, or the column itself."""
    if metric == RETURN:
        line = line_of(table.column("step"), table.column("r"))
        return Line(line.x, running_mean(line.y, WINDOW))
    if metric == EVALUATION:
        line = line_of(table.column("step"), table.column("return"))
        at, place, count = np.unique(line.x, return_inverse=True, return_counts=True)
        return Line(at, np.bincount(place, line.y, len(at)) / count)
    if metric not in table.header:
        return EMPTY
    return line_of(table.column("step"), table.column(metric))


def _run_to_json(run: _Watched, curve: _Curve) -> dict[str, Any]:
    view, line = run.view, curve.line
    evaluated, returns = view.evaluations.column("step"), view.evaluations.column("return")
    latest = returns[evaluated == evaluated.max()] if len(evaluated) else np.full(1, np.nan)
    return {
        "id": run.number,
        "change": run.change,
        "name": str(view.folder.path),
        "algorithm": view.algorithm,
        "environment": view.environment,
        "seed": view.seed,
        "state": view.state,
        "fault": view.fault or curve.fault,
        "step": view.step,
        "total": view.total,
        "rate": number(view.rate),
        "eta": number(view.eta),
        "evaluation": number(float(latest.mean())),
        "last": number(line.y[-1]) if len(line.y) else None,
        "findings": [finding.rule for finding in run.findings],
        "line": thinned(line).to_json(),
    }


def _group_to_json(group: Group[RunView], environment: str, members: Sequence[_Watched]) -> dict[str, Any]:
    return {
        "key": json.dumps(
            [environment, group.records[0].algorithm, group.records[0].options], sort_keys=True
        ),
        "label": group.label,
        "algorithm": group.records[0].algorithm,
        "settings": group.settings,
        "environment": environment,
        "runs": [run.number for run in members],
    }
