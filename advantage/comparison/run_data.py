"""Runs that `advantage train` has written: finding, reading, checking and grouping them."""

from __future__ import annotations

import dataclasses
import functools
import glob
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from advantage.runs.checkpoint import CheckpointError, finished_step, read_manifest
from advantage.runs.folder import RunFolder, check_types, read_config
from advantage.runs.log import log_faults, read_episodes, read_evaluations, read_progress
from advantage.runs.plot import WINDOW, running_mean
from advantage.runs.recorded import as_saved, config_facts, refuse_other_config

CONFIG_FIELDS = {"algorithm": str, "environment": str, "hyperparameters": dict, "seed": int, "training": dict}
COUNTS = "num_envs", "total_timesteps"
# The options of a training that change what it learns, and what they were in a run that is older than the option.
LEARNING_OPTIONS = dict.fromkeys(COUNTS) | {
    "frame_stack": 1,
    "observe_last": [],
    "env_options": {},
    "wrappers": [],
    "ignore_observation": [],
    "data": None,
    "cluster_mode": "synchronous",
}
RESTORE = "restore the file as the run wrote it, or train this seed again"


def learning_options(training: dict[str, Any]) -> dict[str, Any]:
    """The options of `LEARNING_OPTIONS`, from the part `training` of a config.json."""
    return {name: training.get(name, meant) for name, meant in LEARNING_OPTIONS.items()}


class LeftOut(NamedTuple):
    """A run that is not compared, and what to do about it."""

    path: Path
    reason: str


@dataclasses.dataclass(frozen=True)
class Record:
    """The data of one seed's run.

    Attributes:
        path: the run folder.
        algorithm, environment, seed: from its config.json.
        options: hyperparameters, and the options of `LEARNING_OPTIONS`.
        end: the step at which the run finished: the budget, or less if a search could not use its last steps.
        step, returns: `[N]`, the step at which each training episode ended and its return, in order of time.
        evaluation: mean return of the evaluation after the last step, if there was one.
        clock_step, clock: `[M]`, steps and the seconds of training up to each of them, without pauses.
    """

    path: Path
    algorithm: str
    environment: str
    seed: int
    options: dict[str, Any]
    end: int
    step: np.ndarray
    returns: np.ndarray
    evaluation: float | None
    clock_step: np.ndarray
    clock: np.ndarray

    @property
    def total_timesteps(self) -> int:
        """The budget."""
        return self.options["total_timesteps"]

    @functools.cached_property
    def recent(self) -> np.ndarray:
        """The mean return of the last 100 training episodes, fewer at the start: `[N]`."""
        return running_mean(self.returns, WINDOW)

    def curve(self, steps: np.ndarray) -> np.ndarray:
        """`recent` at each of `steps`; NaN before the end of the first episode and after the end of the budget."""
        last = np.searchsorted(self.step, steps, side="right") - 1
        return np.where((last >= 0) & (steps <= self.total_timesteps), self.recent[last], np.nan)

    def reaches(self, threshold: float) -> tuple[float, float]:
        """Steps and seconds until the mean of 100 episodes, not fewer, first reaches `threshold`; infinity if never."""
        there = np.flatnonzero(self.recent[WINDOW - 1 :] >= threshold)
        if not there.size:
            return np.inf, np.inf
        steps = float(self.step[WINDOW - 1 + there[0]])
        return steps, self.seconds(steps)

    def seconds(self, steps: float) -> float:
        """Seconds of training until `steps`, from the next row of progress.csv; NaN if there is none."""
        at = np.searchsorted(self.clock_step, steps)
        return float(self.clock[at]) if at < len(self.clock) else np.nan


def find_runs(paths: Iterable[str | Path]) -> tuple[list[Path], list[LeftOut]]:
    """The run folders that `paths` name, each once, and the paths that lead to no folder.

    Args:
        paths: run folders, folders of run folders at any depth, or patterns such as `runs/*__ppo__*`. What exists by
            its name is no pattern.
    """
    found: dict[Path, Path] = {}
    lost = []
    for given in paths:
        is_pattern = glob.has_magic(str(given)) and not Path(given).exists()
        matches = sorted(glob.glob(str(given))) if is_pattern else [str(given)]
        if not matches:
            lost.append(LeftOut(Path(given), "no file matches this pattern; look at what `ls` finds"))
        for match in map(Path, matches):
            if match.is_dir():
                for folder in _below(match):
                    found.setdefault(folder.resolve(), folder)
            elif match == Path(given):
                state = (
                    "is a file; give the run folder"
                    if match.exists()
                    else "does not exist; see `ls` for its name"
                )
                lost.append(LeftOut(match, state))
    return list(found.values()), lost


def is_run(folder: Path) -> bool:
    """Whether a folder has a part of a run."""
    parts = ("config.json", "progress.csv", "episodes.csv", "checkpoints")
    return any((folder / part).exists() for part in parts)


def _below(folder: Path) -> list[Path]:
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if is_run(folder) or not inside:
        return [folder]
    return [run for path in inside for run in _below(path)]


def read_runs(paths: Iterable[Path], environment: str | None = None) -> tuple[list[Record], list[LeftOut]]:
    """Read run folders: `-> usable runs, unusable ones with the reason`.

    Args:
        paths: the folders.
        environment: read only the runs of this environment; others are skipped.
    """
    records, left_out = [], []
    seen: dict[str, Path] = {}
    for path in paths:
        try:
            record = _read(RunFolder(path), environment)
        except (CheckpointError, OSError) as error:
            left_out.append(LeftOut(path, str(error).removeprefix(f"{path}/").removesuffix(".")))
            continue
        if record is None:
            continue
        identity = json.dumps([record.environment, record.seed, _identity(record)])
        if identity in seen:
            twin = f"same settings and seed as {seen[identity]}, so it repeats that run and adds no seed"
            left_out.append(LeftOut(path, f"{twin}; train other seeds (--seed)"))
            continue
        seen[identity] = path
        records.append(record)
    return records, left_out


def _read(folder: RunFolder, environment: str | None) -> Record | None:
    if not folder.config_path.is_file():
        empty = not any(folder.path.iterdir())
        fault = "the folder is empty" if empty else "it has no config.json"
        raise CheckpointError(f"{fault}; give the folder of a run, or train this seed again")
    config = read_config(folder, CONFIG_FIELDS)
    check_types(folder.config_path, "", config, CONFIG_FIELDS)
    if environment is not None and config["environment"] != environment:
        return None
    for option in COUNTS:
        found = config["training"].get(option)
        if type(found) is not int or found < 1:
            raise CheckpointError.of(
                folder.config_path,
                f"training/{option}",
                found=repr(found),
                expected="1 or more",
                remedy=RESTORE,
            )
    options = config["hyperparameters"] | learning_options(config["training"])
    progress = read_progress(folder, ("step", "time/elapsed"))
    episodes, evaluations = read_episodes(folder, ("r", "step")), read_evaluations(folder)
    _refuse_infinite(folder.episodes_path, "r", episodes)
    _refuse_infinite(folder.evaluations_path, "return", evaluations)
    if not episodes["step"].size:
        raise CheckpointError("no training episode has ended; train longer, or compare by `advantage eval`")
    _refuse_other_than_saved(folder, config)
    total = options["total_timesteps"]
    ends = [
        int(table["step"].max())
        for table in (progress, episodes, evaluations)
        if table.get("step", np.zeros(0)).size
    ]
    end = _end(folder, total, max(ends))
    if end is None:
        raise CheckpointError(
            f"stopped after {max(ends):,} of its {total:,} steps; resume it: advantage resume {folder.path}"
        )
    order = np.argsort(episodes["step"], kind="stable")
    last = evaluations["return"][evaluations["step"] == end]
    elapsed = progress.get("time/elapsed", np.zeros(0))
    return Record(
        path=folder.path,
        **{name: config[name] for name in ("algorithm", "environment", "seed")},
        options=options,
        end=end,
        step=episodes["step"][order],
        returns=episodes["r"][order],
        evaluation=float(last.mean()) if last.size else None,
        clock_step=progress.get("step", np.zeros(0))[: len(elapsed)],
        clock=_without_restarts(elapsed),
    )


def _refuse_other_than_saved(folder: RunFolder, config: dict[str, Any]) -> None:
    """Raises CheckpointError if config.json or a log is not what the last checkpoint, if there is one, says of it."""
    if not folder.last.is_dir():
        return
    metadata = read_manifest(folder.last)["metadata"]
    facts = config_facts(as_saved(folder.path, folder, config)) | {"algorithm": config["algorithm"]}
    written = metadata.get("config")
    known = written | {"algorithm": metadata.get("algorithm")} if isinstance(written, dict) else None
    refuse_other_config(folder, facts, {"config": known}, folder.last.name)
    if faults := log_faults(folder):
        raise CheckpointError(f"{faults[0].removesuffix('.')}; {RESTORE}")


def _end(folder: RunFolder, total: int, last_row: int) -> int | None:
    """The step at which a run finished; None if it has not. Its tables alone can show that, without a checkpoint."""
    if last_row >= total:
        return total
    return finished_step(folder.last, total) if folder.last.exists() else None


def _refuse_infinite(file: Path, column: str, table: Mapping[str, np.ndarray]) -> None:
    wrong = np.flatnonzero(~np.isfinite(table[column]))
    if wrong.size:
        field, found = f"line {wrong[0] + 2}, column {column}", table[column][wrong[0]]
        raise CheckpointError.of(file, field, found=found, expected="a finite number", remedy=RESTORE)


def _without_restarts(elapsed: np.ndarray) -> np.ndarray:
    """Turns a clock that restarts at zero whenever a run is resumed into one that continues."""
    before = np.concatenate([[0.0], elapsed[:-1]])[: len(elapsed)]
    return elapsed + np.cumsum(np.where(elapsed < before, before, 0.0))


class Trained(Protocol):
    """What grouping asks of a run: its algorithm, and options that change what it learns."""

    @property
    def algorithm(self) -> str: ...

    @property
    def options(self) -> dict[str, Any]: ...


AnyRun = TypeVar("AnyRun", bound=Trained)


class Group(NamedTuple, Generic[AnyRun]):
    """Runs that differ only in their seeds; `settings` are the options in which they differ from other groups."""

    label: str
    records: list[AnyRun]
    settings: dict[str, str]


def group_runs(records: Sequence[AnyRun]) -> list[Group[AnyRun]]:
    """Group the seeds of each algorithm and choice of options, in the order in which they were given.

    A label is the algorithm's name and the options in which groups differ: hyperparameters if the groups of that
    algorithm differ in them, options of `LEARNING_OPTIONS` if any groups do.
    """
    groups: dict[str, list[AnyRun]] = {}
    for record in records:
        groups.setdefault(_identity(record), []).append(record)
    firsts = [group[0] for group in groups.values()]
    differing: dict[str, list[str]] = {}
    for algorithm in {first.algorithm for first in firsts}:
        kin = [first for first in firsts if first.algorithm == algorithm]
        names = sorted({name for other in kin for name in other.options} - set(LEARNING_OPTIONS))
        differing[algorithm] = [name for name in names if _differ(name, kin)]
    common = [name for name in LEARNING_OPTIONS if _differ(name, firsts)]
    texts = {name: _texts(name, firsts) for name in [*common, *itertools.chain(*differing.values())]}
    found = []
    for first, group in zip(firsts, groups.values(), strict=True):
        told = [*differing[first.algorithm], *common]
        settings = {name: texts[name][_json(first.options.get(name))] for name in told}
        label = " ".join([first.algorithm, *(f"{name}={text}" for name, text in settings.items())])
        found.append(Group(label, group, settings))
    return found


def _identity(record: Trained) -> str:
    return _json([record.algorithm, record.options])


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _differ(name: str, records: Sequence[Trained]) -> bool:
    return len({_json(record.options.get(name)) for record in records}) > 1


def _texts(name: str, records: Sequence[Trained]) -> dict[str, str]:
    """The text of each value of an option, by its JSON: that of the command line, or JSON where two would be alike."""
    values = {_json(value): option_text(value) for value in (record.options.get(name) for record in records)}
    counts = Counter(values.values())
    return {exact: text if counts[text] == 1 else exact for exact, text in values.items()}


def option_text(value: Any) -> str:
    """An option's value as it is written on the command line; of an empty list or dict, none."""
    if value in ([], {}):
        return "none"
    if isinstance(value, dict) and len(value) == 1:
        return ":".join(
            [*value, *(option_text(part) for part in np.ravel(next(iter(value.values()))).tolist())]
        )
    if isinstance(value, list):
        return ",".join(map(option_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
