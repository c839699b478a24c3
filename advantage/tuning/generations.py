"""Population-based training of runs on disk: they train for a while, each alone, then the worst become copies.

For environments that are not on the device. Jaderberg et al. 2017, "Population based training of neural networks",
algorithm 1.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from advantage.agent import CONFIG_FIELDS, Saved, read_saved, restore_config
from advantage.algorithms.registry import from_json, to_json
from advantage.cells import Cell, carry_on, last_words, process_here, run_at_once
from advantage.drivers.device import stack_settings
from advantage.replay.left_out import without_replay
from advantage.runs.checkpoint import CheckpointError, point, read_manifest, save_checkpoint
from advantage.runs.folder import RunFolder, read_config, write_config
from advantage.runs.lock import RunLock
from advantage.runs.log import read_progress
from advantage.runs.recorded import as_saved, checksum, config_facts
from advantage.tuning.next_generation import next_generation, said_generation, write_generation
from advantage.tuning.space import Space
from advantage.tuning.storage import StudyFailure
from advantage.types import Algorithm


class Runs(NamedTuple):
    """The members of a population, and how often they change.

    Attributes:
        cells: what each member is trained on, and its run folder.
        space: the floats that change.
        every: steps between two generations.
        seed: the seed of who is copied from whom, and of the factors.
        log: the file of the generations that were made.
    """

    cells: Sequence[Cell]
    space: Space
    every: int
    seed: int
    log: Path


def train_runs(runs: Runs, processes: int, say: Callable[[str], None]) -> None:
    """Train all members to the end of their budget, with a new generation after every `every` steps.

    An iteration of more than `every` steps is followed by one generation. What is on disk already is not done again. A
    generation is in the log once all its copies are made; until then the same one is made again, because it depends on
    nothing but the members' checkpoints and logs.

    Raises:
        StudyFailure: a process failed.
        What `train` raises.
    """
    total = runs.cells[0].options.total_timesteps
    for number, until in enumerate(range(runs.every, total + runs.every, runs.every), 1):
        if until < total and until in _generations(runs.log):
            continue
        waiting = [cell for cell in runs.cells if _step(cell) < until and not cell.finished]
        if processes == 1:
            for cell in waiting:
                carry_on(cell, lambda progress, until=until: progress.step < until)
        else:
            _train_in_processes(waiting, until, processes)
        if until <= min(map(_step, runs.cells)) < min(until + runs.every, total):
            say(make_generation(runs, number, until))


def make_generation(runs: Runs, number: int, step: int) -> str:
    """Replace the worst members by copies of the best ones with other settings; returns what was done, in words."""
    members = [_algorithm(cell) for cell in runs.cells]
    score = np.array([_score(cell) for cell in runs.cells])
    key = jax.random.fold_in(jax.random.key(runs.seed), number)
    made = next_generation({}, stack_settings(members), score, key, runs.space)
    parent = np.asarray(made.parent)
    for place in map(int, np.flatnonzero(parent != np.arange(len(parent)))):
        own = {name: float(getattr(made.settings, name)[place]) for name in runs.space}
        before: Any = members[parent[place]]
        settings: Algorithm = dataclasses.replace(before, **own)
        copy_member(runs.cells[parent[place]], runs.cells[place], settings, sorted(own))
    write_generation(runs.log, runs.space, step, score, made)
    return said_generation(step, score, parent)


def copy_member(source: Cell, target: Cell, algorithm: Algorithm, changing: list[str]) -> None:
    """Give a member another member's state and latest episodes, and other settings; its environments go on.

    The checkpoint of its own policy at this step is replaced. If that was its best one, it has no best one until it is
    evaluated again.
    """
    folder = RunFolder(target.path)
    with RunLock(folder.path):
        config, own = _read(target)
        theirs = _read(source)[1]
        config |= {"hyperparameters": to_json(algorithm), "changing": changing}
        write_config(folder, config)  # killed here, the run still has its own checkpoint's settings
        metadata: dict[str, Any] = own.metadata | {"config": config_facts(config)}
        if folder.best.exists() and folder.best.resolve() == own.checkpoint.resolve():
            folder.best.unlink()
            metadata["best"] = None
        metadata["sha256"] = checksum(metadata)
        recent = {name: x for name, x in theirs.records.items() if name.startswith("recent/")}
        kept = config["training"].get("keep_replay", True)
        path = save_checkpoint(
            folder.checkpoints,
            metadata["step"],
            theirs.state if kept else without_replay(theirs.state),
            records=own.records | recent,
            metadata=metadata,
        )
        point(folder.last, path)


def _config(cell: Cell) -> dict[str, Any]:
    """A member's config.json, with the settings of its last checkpoint."""
    folder = RunFolder(cell.path)
    return as_saved(cell.path, folder, read_config(folder, CONFIG_FIELDS))


def _read(cell: Cell) -> tuple[dict[str, Any], Saved]:
    """A member's config.json, and its last checkpoint."""
    folder, config = RunFolder(cell.path), _config(cell)
    algorithm, spec = restore_config(config, folder.config_path, environment=cell.environment)
    return config, read_saved(cell.path, folder, config, given=False, algorithm=algorithm, spec=spec)


def _algorithm(cell: Cell) -> Algorithm:
    """A member's algorithm with its newest settings."""
    config = _config(cell)
    algorithm: Any = from_json(config["algorithm"], config["hyperparameters"])
    return algorithm


def _score(cell: Cell) -> float:
    """The mean return of a member's last 100 training episodes; minus infinity before the first one."""
    means = read_progress(RunFolder(cell.path), ["rollout/ep_rew_mean"]).get("rollout/ep_rew_mean", [])
    return float(means[-1]) if len(means) and np.isfinite(means[-1]) else -np.inf


def _step(cell: Cell) -> int:
    """The steps of a member's last checkpoint; -1 without one."""
    try:
        metadata: Any = read_manifest(RunFolder(cell.path).last)["metadata"]
        return int(metadata["step"])
    except (CheckpointError, KeyError):
        return -1


def _generations(log: Path) -> set[int]:
    """The steps after which a generation was made."""
    if not log.exists():
        return set()
    try:
        return {int(json.loads(line)["step"]) for line in log.read_text(encoding="utf-8").splitlines()}
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(
            f"{log} is damaged; restore it from a copy, or begin a new population."
        ) from None


def _train_in_processes(cells: Sequence[Cell], until: int, processes: int) -> None:
    """Train members until they have taken so many steps, each in a process of its own."""

    def begin(number: int) -> subprocess.Popen:
        return process_here(cells[number], until)

    def ended(number: int, code: int) -> None:
        if code:
            cell = cells[number]
            raise StudyFailure(
                f"{cell.path.name} failed: {last_words(cell, code)}. What was trained is saved: repeat the call to "
                "go on."
            )

    run_at_once(range(len(cells)), processes, begin, ended)
