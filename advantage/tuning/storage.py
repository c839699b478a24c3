"""A study on disk: Optuna's journal, a file of JSON lines, and locks that end with the process that has them."""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from advantage.environments.defect import needed
from advantage.runs.checkpoint import CheckpointError
from advantage.tuning.space import Space, suggest

NAME = "advantage"  # the only study in a journal
STARTUP = 10  # trials drawn at random before the sampler learns from them
UNPRUNED = 5  # trials that must have finished before one is pruned


class StudyFailure(RuntimeError):
    """A process of a study failed; the message has its last words."""


def optuna_library(what: str = "Tuning") -> Any:
    """Optuna, which says nothing of its own. Raises MissingExtra where it is not installed; `what` needs it."""
    optuna = needed("optuna", what, "tune")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


class Lock:
    """The exclusive lock of a file, held until `release`, or until the process ends, for whatever reason."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)

    def take(self, *, wait: bool) -> bool:
        """Whether this process has the lock now; without `wait` it answers at once."""
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        """Give the lock back; the file stays."""
        os.close(self.file)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """A context in which only this process has the file's lock."""
    lock = Lock(path)
    try:
        lock.take(wait=True)
        yield
    finally:
        lock.release()


def claim(path: Path) -> Lock | None:
    """The lock of a file, or None while another process has it."""
    lock = Lock(path)
    if lock.take(wait=False):
        return lock
    lock.release()
    return None


class JournalLock:
    """What Optuna calls before and after it writes. A line that a killed process left unfinished is removed."""

    def __init__(self, journal: Path):
        self.journal, self.lock = journal, None

    def acquire(self) -> bool:
        self.lock = Lock(self.journal.with_name(f"{self.journal.name}.lock"))
        self.lock.take(wait=True)
        with open(self.journal, "rb+") as file:
            text = file.read()
            file.truncate(text.rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        assert self.lock is not None
        self.lock.release()


def open_journal(file: Path, direction: str, warmup: int) -> Any:
    """The Optuna study in a journal file, which is made if it is not there.

    A trial is pruned where its best evaluation so far is worse than the median of the finished ones at the same place.

    Args:
        file: the journal.
        direction: `maximize` or `minimize`.
        warmup: the first evaluation after which a trial may be pruned.

    Raises:
        MissingExtra: Optuna is not installed.
        CheckpointError: the file is not such a journal; the message names the line.
    """
    optuna = optuna_library()
    importlib.import_module("optuna.storages.journal")
    _check(file)
    try:
        backend = optuna.storages.journal.JournalFileBackend(str(file), JournalLock(file))
        return optuna.create_study(
            storage=optuna.storages.JournalStorage(backend),
            study_name=NAME,
            direction=direction,
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=UNPRUNED, n_warmup_steps=warmup),
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, AssertionError) as error:
        raise CheckpointError(
            f"{file} is not the journal of a study ({type(error).__name__}: {error}); restore the file, or begin a new "
            "study in another folder: --out."
        ) from None


def ask(journal: Any, seed: int, space: Space) -> int:
    """Begin a new trial; returns its number.

    The sampler is TPE (Bergstra et al. 2011, "Algorithms for hyper-parameter optimization"); it counts trials that
    other processes run as bad, so that it does not try the same twice. Each trial has a sampler of its own, whose seed
    follows from the trial's number, so the settings do not depend on which process asks.

    Args:
        journal: the Optuna study; the caller has the lock of the study.
        seed: seed of the study.
        space: the search space.
    """
    number = len(journal.get_trials(deepcopy=False))
    journal.sampler = optuna_library().samplers.TPESampler(
        seed=(seed + 1_000_003 * number) % 2**32, n_startup_trials=STARTUP, constant_liar=True
    )
    trial = journal.ask()
    suggest(space, trial)
    return trial.number


def trial_of(journal: Any, number: int) -> Any:
    """Optuna's handle of a trial that this process, or one before it, has begun."""
    storage = journal._storage
    study_id = storage.get_study_id_from_name(NAME)
    trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, number)
    return optuna_library().trial.Trial(journal, trial_id)


def _check(file: Path) -> None:
    """Raises CheckpointError for a journal with a line that is no JSON object; the last one may be unfinished."""
    if not file.exists():
        return
    for number, line in enumerate(file.read_bytes().split(b"\n")[:-1], 1):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        if not isinstance(entry, dict):
            raise CheckpointError(
                f"{file}: line {number}: found {line[:80]!r}, and a journal has a JSON object in each line; restore "
                "the file, or begin a new study in another folder: --out."
            )
