"""The work of a study: every process that works on it takes the next job, until there is none.

A job is a trial, or one repeated run of the best trials. Who works on which is decided by locks that end with their
process: a trial whose process was killed is taken up by the next one, from the run's last checkpoint.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from advantage.cells import Cell, carry_on, refuse_others
from advantage.environments.defect import EnvironmentDefect
from advantage.runs.checkpoint import CheckpointError
from advantage.runs.folder import RunFolder
from advantage.runs.log import read_evaluations
from advantage.training.nonfinite import NonFiniteUpdate
from advantage.training.reporting import Progress
from advantage.training.train import train_side_by_side
from advantage.tuning.space import suggest
from advantage.tuning.storage import UNPRUNED, Lock, ask, claim, locked, optuna_library, trial_of
from advantage.tuning.study import DEFAULT, Goal, Study, steps_to, value_of

PAUSE = 0.2  # seconds between two looks for a job while others work on the last ones


class Job(NamedTuple):
    """The numbers of trials, or a repeated run, and the locks that say that it is this process's."""

    work: list[int] | Cell
    locks: list[Lock]


class Watch:
    """The callback of a trial's run: it reports the run's evaluations, and stops a run whose value is known.

    Attributes:
        ended: why the run was stopped; empty if it was not.
    """

    def __init__(self, study: Study, trial: Any, cell: Cell, goes_on: Callable[[], bool]):
        self.study, self.trial, self.folder, self.goes_on = study, trial, RunFolder(cell.path), goes_on
        self.every = cell.options.eval_every or cell.options.total_timesteps
        self.reported = len(trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values)
        self.ended: Literal["", "reached", "pruned", "stopped"] = ""

    def __call__(self, progress: Progress) -> bool:
        """Whether the run goes on."""
        goal, recent = self.study.goal, progress.row.get("rollout/ep_rew_mean", -np.inf)
        evaluated = progress.step // self.every > self.reported
        may_be_there = goal and (evaluated if goal.by == "evaluation" else recent >= goal.target)
        if not self.goes_on():
            self.ended = "stopped"
        elif goal and may_be_there and has_reached(self.folder, goal):
            self.ended = "reached"
        elif evaluated and self._is_worse():
            self.ended = "pruned"
        return not self.ended

    def _is_worse(self) -> bool:
        """Report the evaluations that are new; returns whether the trial is worse than half of the others."""
        evaluations = read_evaluations(self.folder)
        for step in np.unique(evaluations["step"])[self.reported :]:
            mean = float(evaluations["return"][evaluations["step"] == step].mean())
            self.reported += 1
            self.trial.report(self.study.sign * mean, self.reported)
            if self.trial.should_prune() or self._is_late(step):
                return True
        return False

    def _is_late(self, step: int) -> bool:
        """Whether half of the finished trials needed fewer steps to the target."""
        values = [trial.value for trial in complete_trials(self.trial.study)]
        return bool(self.study.goal) and len(values) >= UNPRUNED and step > np.median(values)


def work(study: Study, journal: Any, *, goes_on: Callable[[], bool], say: Callable[[str], None]) -> None:
    """Do jobs until there is none, or until `goes_on` says no; then the run that is in work saves and stops.

    Raises:
        What `train` raises, but for settings that do not fit together or diverge; the next call goes on.
    """
    while goes_on():
        with locked(study.lock("study")):
            job = _next_job(study, journal)
        if job is None:
            return
        if job == "wait":
            time.sleep(PAUSE)
            continue
        try:
            if isinstance(job.work, Cell):
                _repeat(study, journal, job.work, goes_on, say)
            elif len(job.work) > 1:
                _train_together(study, journal, job.work, goes_on)
            for number in job.work if isinstance(job.work, list) else []:
                if goes_on():
                    _try(study, journal, number, goes_on, say)
        finally:
            for lock in job.locks:
                lock.release()


def _next_job(study: Study, journal: Any) -> Job | Literal["wait"] | None:
    """A trial without its process, a new trial, or a repeated run; `wait` while others work on the last of them."""
    trials = journal.get_trials(deepcopy=False)
    running = [trial.number for trial in trials if not trial.state.is_finished()]
    for number in running:
        if lock := claim(study.lock(f"trial_{number:04d}")):
            if not journal.get_trials(deepcopy=False)[number].state.is_finished():
                return Job([number], [lock])
            lock.release()  # it has ended just now
    if (left := min(study.batch, study.trials - len(trials))) > 0:
        numbers = [ask(journal, study.options.seed, study.space) for _ in range(left)]
        locks = [claim(study.lock(f"trial_{number:04d}")) for number in numbers]
        return Job(numbers, [lock for lock in locks if lock])  # nobody else knows the numbers yet
    if running:
        return "wait"
    cells = [cell for cells in repeated_cells(study, journal).values() for cell in cells if not cell.finished]
    cells = [cell for cell in cells if failure_of(study, journal, cell) is None]
    for cell in cells:
        if lock := claim(study.lock(f"{cell.path.parent.name}_{cell.path.name}")):
            return Job(cell, [lock])
    return "wait" if cells else None


def complete_trials(journal: Any) -> list[Any]:
    """The trials that have a value: those that were not pruned."""
    complete = optuna_library().trial.TrialState.COMPLETE
    return [trial for trial in journal.get_trials(deepcopy=False) if trial.state == complete]


def best_trials(study: Study, journal: Any) -> list[Any]:
    """The trials with the best values, the best first, as many as are repeated."""
    done = complete_trials(journal)
    return sorted(done, key=lambda trial: (-study.sign * trial.value, trial.number))[: study.best]


def repeated_cells(study: Study, journal: Any) -> dict[str, list[Cell]]:
    """The repeated runs by name: those of the best trials, and those without tuning; none if no trial has a value."""
    settings = {
        f"trial_{trial.number:04d}": suggest(study.space, trial) for trial in best_trials(study, journal)
    }
    if not settings:
        return {}
    return {name: study.repeated_cells(name, chosen) for name, chosen in (settings | {DEFAULT: {}}).items()}


def failure_of(study: Study, journal: Any, cell: Cell) -> str | None:
    """Why a repeated run could not be finished; None if it can be, or was."""
    return journal.user_attrs.get(_key(study, cell))


def _key(study: Study, cell: Cell) -> str:
    return f"failed {cell.path.relative_to(study.path)}"


def _train_together(study: Study, journal: Any, numbers: Sequence[int], goes_on: Callable[[], bool]) -> None:
    """Train new trials side by side in one program. What diverges stops all; each then goes on alone.

    Trials whose settings do not fit together are left out here; on its own, each says why.
    """
    cells = []
    for trial in (trial_of(journal, number) for number in numbers):
        with contextlib.suppress(ValueError):
            cells.append(study.trial_cell(trial.number, suggest(study.space, trial)))
    if not cells:
        return
    try:
        train_side_by_side(
            [cell.algorithm for cell in cells],
            study.environment,
            out=[cell.path for cell in cells],
            callback=lambda _: goes_on(),
            **dataclasses.asdict(cells[0].options),
        )
    except (CheckpointError, EnvironmentDefect):
        raise
    except (NonFiniteUpdate, ValueError):
        pass


def _try(
    study: Study, journal: Any, number: int, goes_on: Callable[[], bool], say: Callable[[str], None]
) -> None:
    """Run a trial, from its last checkpoint if there is one, and tell its value."""
    trial, pruned = trial_of(journal, number), optuna_library().trial.TrialState.PRUNED
    try:
        cell = study.trial_cell(number, suggest(study.space, trial))
        watch = Watch(study, trial, cell, goes_on)
        value = _run(study, cell, watch)
    except (CheckpointError, EnvironmentDefect):
        raise
    except (NonFiniteUpdate, ValueError) as error:  # settings that do not fit together, or that diverge
        trial.set_user_attr("why", str(error))
        journal.tell(number, state=pruned)
        say(f"trial {number}: not possible: {error}")
        return
    if value is not None:
        journal.tell(number, value)
        say(f"trial {number}: {said_value(study, value)}")
    elif watch.ended == "pruned":
        journal.tell(number, state=pruned)
        say(f"trial {number}: pruned after {watch.reported} evaluations")


def _run(study: Study, cell: Cell, watch: Watch) -> float | None:
    """Run a trial to its end; returns its value, or None if it was pruned or stopped."""
    _refuse_others(study, cell)
    folder = RunFolder(cell.path)
    if study.goal is None or not has_reached(folder, study.goal):
        carry_on(cell, watch)
    if watch.ended in ("pruned", "stopped"):
        return None
    return value_of(folder, study.goal, cell.options.total_timesteps)


def _refuse_others(study: Study, cell: Cell) -> None:
    """Raises CheckpointError if the cell's folder holds a run with other settings."""
    try:
        refuse_others(cell, study.path / "study.json")
    except ValueError as error:
        raise CheckpointError(str(error)) from None


def _repeat(
    study: Study, journal: Any, cell: Cell, goes_on: Callable[[], bool], say: Callable[[str], None]
) -> None:
    """Run a repeated run to its end."""
    name = f"{cell.path.parent.name} with seed {cell.options.seed}"
    _refuse_others(study, cell)
    try:
        carry_on(cell, lambda _: goes_on())
        if cell.finished:
            value = value_of(RunFolder(cell.path), study.goal, cell.options.total_timesteps)
            say(f"{name}: {said_value(study, value)}")
    except (CheckpointError, EnvironmentDefect):
        raise
    except (NonFiniteUpdate, ValueError) as error:
        journal.set_user_attr(_key(study, cell), str(error))
        say(f"{name}: not possible: {error}")


def has_reached(folder: RunFolder, goal: Goal) -> bool:
    """Whether a run has reached the target."""
    return bool(np.isfinite(steps_to(folder, goal)))


def said_value(study: Study, value: float | None) -> str:
    """A value in words."""
    if value is None:
        return "no value"
    if study.goal is None:
        return f"return {value:.2f}"
    if value <= study.options.total_timesteps:
        return f"{value:,.0f} steps to {study.goal.target:g}"
    return f"{study.goal.target:g} not reached"


def new_trials(journal: Any, known: int) -> Iterator[Any]:
    """The trials that have finished, in order, after the first `known` ones."""
    done = [trial for trial in journal.get_trials(deepcopy=False) if trial.state.is_finished()]
    yield from sorted(done, key=lambda trial: trial.datetime_complete)[known:]
