"""The result of a study: the best trials and the default, each over several seeds, with intervals as in `compare`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from advantage.algorithms.presets import FILE_OPTIONS, preset_text
from advantage.cells import Cell
from advantage.comparison.seed_statistics import (
    FEWEST_SEEDS,
    Interval,
    improvement_interval,
    interquartile_mean,
    interquartile_mean_interval,
    probability_of_improvement,
)
from advantage.runs.checkpoint import CheckpointError
from advantage.runs.folder import RunFolder, write_atomically
from advantage.training.options import Options
from advantage.tuning.space import suggest
from advantage.tuning.storage import optuna_library
from advantage.tuning.study import DEFAULT, Goal, Study, value_of
from advantage.tuning.work import best_trials, failure_of, repeated_cells


class Standing(NamedTuple):
    """Some settings, and how they did with other seeds than the one that they were chosen by.

    Attributes:
        name: `trial_0007`, or `default` for the settings without tuning.
        settings: the options that the study chose; none for `default`.
        values: `[seeds]`, each seed's final return, or steps to the target; see `value_of`.
        reached: how many seeds reached the target; all of them without one.
        mean, interval: the interquartile mean of the values, and its interval.
        better: how likely a run with these settings is better than one with the default ones, with its interval.
    """

    name: str
    settings: dict[str, Any]
    values: np.ndarray
    reached: int
    mean: float
    interval: Interval | None
    better: tuple[float, Interval | None] | None


@dataclasses.dataclass(frozen=True)
class Tuning:
    """The result of a study.

    Attributes:
        path: the study's folder.
        trials, pruned: how many trials have ended, and how many of them were stopped early or not possible.
        goal: the return that was to be reached, if there was one.
        standings: the repeated settings, the best first; empty if no trial, or no repeated run, has a value.
        failed: repeated runs that could not be finished or judged, and why; their settings are in no standing.
        preset: the preset file with the settings of the first standing; None without one.
    """

    path: Path
    trials: int
    pruned: int
    goal: Goal | None
    standings: list[Standing]
    failed: dict[Path, str]
    preset: Path | None

    @property
    def winner(self) -> Standing:
        """The best settings. Raises ValueError if there are none."""
        if not self.standings:
            reason = next(iter(self.failed.values()), f"none of its {self.trials} trials gave a value")
            raise ValueError(f"{self.path} has no winner: {reason.removesuffix('.')}.")
        return self.standings[0]


def result_of(study: Study, journal: Any) -> Tuning:
    """The result of a study whose work is done; writes the winner's preset file."""
    pruned = optuna_library().trial.TrialState.PRUNED
    trials = [trial for trial in journal.get_trials(deepcopy=False) if trial.state.is_finished()]
    groups = repeated_cells(study, journal)
    settings = {f"trial_{t.number:04d}": suggest(study.space, t) for t in best_trials(study, journal)}
    values, failed = _values(study, journal, groups)
    standings = [
        _standing(study, name, settings.get(name, {}), found, values.get(DEFAULT))
        for name, found in values.items()
    ]
    standings.sort(key=lambda row: -study.sign * row.mean)
    if standings:
        _write_preset(study, standings[0])
    return Tuning(
        path=study.path,
        trials=len(trials),
        pruned=sum(trial.state == pruned for trial in trials),
        goal=study.goal,
        standings=standings,
        failed=failed,
        preset=study.preset if standings else None,
    )


def _values(
    study: Study, journal: Any, groups: dict[str, list[Cell]]
) -> tuple[dict[str, np.ndarray], dict[Path, str]]:
    """The values of the settings of which every repeated run has one, and why each of the other runs has none."""
    values, failed = {}, {}
    for name, cells in groups.items():
        found = []
        for cell in cells:
            why = failure_of(study, journal, cell)
            try:
                if why is None and cell.finished:
                    found.append(value_of(RunFolder(cell.path), study.goal, study.options.total_timesteps))
            except CheckpointError:
                raise
            except ValueError as error:
                why = str(error)
            if why is not None:
                failed[cell.path] = why
        if len(found) == len(cells):
            values[name] = np.array(found)
    return values, failed


def _standing(
    study: Study, name: str, settings: dict[str, Any], values: np.ndarray, default: np.ndarray | None
) -> Standing:
    enough = len(values) >= FEWEST_SEEDS
    interval = Interval(*map(float, interquartile_mean_interval(values))) if enough else None
    better = None
    if name != DEFAULT and default is not None:
        pair = study.sign * values, study.sign * default
        better = probability_of_improvement(*pair), improvement_interval(*pair) if enough else None
    reached = len(values)
    if study.goal is not None:
        reached = int((values <= study.options.total_timesteps).sum())
    return Standing(name, settings, values, reached, float(interquartile_mean(values)), interval, better)


def _write_preset(study: Study, winner: Standing) -> None:
    (cell,) = study.repeated_cells(winner.name, winner.settings)[:1]
    options = {name: getattr(cell.options, name) for name in FILE_OPTIONS}
    for name in ("observe_last", "frame_stack"):
        if options[name] == getattr(Options(), name):
            del options[name]
    environment = study.record()["environment"]
    write_atomically(study.preset, preset_text(cell.algorithm, environment, options))
