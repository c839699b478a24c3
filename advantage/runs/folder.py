"""The run folder: the paths of its files, making and finding run folders, and a description of the host.

runs/{env}__{algorithm}__{seed}__{time}/
  config.json   progress.csv   episodes.csv   evaluations.csv   events.out.tfevents...
  checkpoints/step_.../   last -> ...   best -> ...   curve.png   report.html   videos/
  lock, while a process writes the run
  set_aside/1/   what came after a checkpoint from which the run was resumed
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib.metadata
import itertools
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax

from advantage.runs.checkpoint import (
    JSON,
    MANIFEST,
    CheckpointError,
    checkpoint_path,
    list_checkpoints,
    read_json,
)
from advantage.runs.compilation import threads
from advantage.runs.lock import LOCK, RunLock, refuse_if_in_use


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The paths of a run's files, which need not exist yet."""

    path: Path

    @property
    def config_path(self) -> Path:
        return self.path / "config.json"

    @property
    def progress_path(self) -> Path:
        return self.path / "progress.csv"

    @property
    def episodes_path(self) -> Path:
        return self.path / "episodes.csv"

    @property
    def evaluations_path(self) -> Path:
        return self.path / "evaluations.csv"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def last(self) -> Path:
        return self.path / "last"

    @property
    def best(self) -> Path:
        return self.path / "best"

    @property
    def curve_path(self) -> Path:
        return self.path / "curve.png"

    @property
    def report_path(self) -> Path:
        return self.path / "report.html"

    @property
    def policy_path(self) -> Path:
        return self.path / "policy.png"

    @property
    def model_path(self) -> Path:
        return self.path / "model.png"

    @property
    def videos(self) -> Path:
        return self.path / "videos"


def create_run_folder(
    path: Path | None, *, root: Path, environment: str, algorithm: str, seed: int
) -> RunFolder:
    """Make the folder of a new run: `path`, or `root/{env}__{algorithm}__{seed}__{time}` where it is None.

    Raises:
        FileExistsError: `path` exists and is not an empty folder.
    """
    if path is not None:
        path = Path(path)
        _refuse_used(path)
        path.mkdir(parents=True, exist_ok=True)
        return RunFolder(path)
    parts = (re.sub(r"[^A-Za-z0-9._-]+", "-", part).strip(".-") for part in (environment, algorithm))
    name = "__".join([*parts, str(seed), time.strftime("%Y%m%d-%H%M%S")])
    Path(root).mkdir(parents=True, exist_ok=True)
    attempt = 1
    while True:
        path = Path(root) / (name if attempt == 1 else f"{name}-{attempt}")
        try:
            path.mkdir()  # fails if taken, so two runs never share a folder
            return RunFolder(path)
        except FileExistsError:
            attempt += 1


def claim_run_folder(
    path: Path | None, *, root: Path, environment: str, algorithm: str, seed: int
) -> tuple[RunFolder, RunLock]:
    """Make the folder of a new run, as `create_run_folder` does, and lock it: only one process gets a path.

    Raises:
        RunInUse: another process is writing a run there.
        FileExistsError: `path` exists and is not an empty folder.
    """
    if path is not None:
        refuse_if_in_use(Path(path))
    folder = create_run_folder(path, root=root, environment=environment, algorithm=algorithm, seed=seed)
    lock = RunLock(folder.path)
    try:
        _refuse_used(folder.path)  # a faster process may have ended already
    except FileExistsError:
        lock.release()
        raise
    return folder, lock


def _refuse_used(path: Path) -> None:
    """Raises FileExistsError if `path` exists and is not an empty folder."""
    if path.exists() and not (path.is_dir() and all(inside.name == LOCK for inside in path.iterdir())):
        raise FileExistsError(
            f"{path} exists already; choose another path for a new run, or resume the run that is "
            f"there: advantage resume {path}"
        )


def open_run_folder(path: Path) -> RunFolder:
    """The run folder at `path`, which may also be a checkpoint of the run, its `last` or its `best`.

    Raises:
        FileNotFoundError: nothing is there; similar run folders nearby are listed.
        CheckpointError: something is there that is not part of a run.
    """
    path = Path(path)
    target = path.resolve()
    candidates = [path, target]
    if path.is_symlink() or path.name in ("checkpoints", "config.json"):
        candidates.append(path.parent)
    if target.parent.name == "checkpoints":
        candidates.append(target.parents[1])
    for candidate in candidates:
        if (candidate / "config.json").is_file():
            return RunFolder(candidate)
    if (path / MANIFEST).is_file():
        raise CheckpointError(
            f"{path} is a checkpoint outside its run folder: found no config.json two levels above it; "
            "give the run folder, or put the checkpoint back into its `checkpoints`."
        )
    home = next((each for each in path.parents if (each / "config.json").is_file()), None)
    if home is not None and path.exists():
        raise CheckpointError(
            f"{path} is a part of the run {home}; give the run folder, or a checkpoint in it."
        )
    around = path if path.is_dir() else path.parent
    runs = {config.parent.name: config.parent for config in sorted(around.glob("*/config.json"))}
    near = difflib.get_close_matches(path.name, runs, n=5) or list(runs)[-5:]
    hint = f"; run folders nearby: {', '.join(str(runs[name]) for name in near)}" if near else ""
    if path.exists():
        raise CheckpointError(f"{path} is not a run folder: it has no config.json{hint}.")
    raise FileNotFoundError(f"{path} does not exist{hint}.")


def checkpoint_at(path: Path, folder: RunFolder) -> Path:
    """The checkpoint that a path into a run means: the one at `path` itself, or the run's last.

    Raises:
        CheckpointError: there is none, or a link leads out of the run folder.
    """
    means_run = path.name in ("checkpoints", "config.json") or (path / "config.json").is_file()
    chosen = folder.last if means_run else path
    refuse_links_out(folder, chosen)
    if not chosen.is_dir():
        raise CheckpointError(f"{folder.path} holds no checkpoint: there is no folder {chosen}.")
    return chosen


def refuse_links_out(folder: RunFolder, *paths: Path) -> None:
    """Raises CheckpointError if one of the paths is a link that leads out of the run folder."""
    home = folder.path.resolve()
    for path in paths:
        if not path.resolve().is_relative_to(home):
            raise CheckpointError(
                f"{path} is a link that leads out of the run folder, to {path.resolve()}; what a run reads and writes "
                "is inside its folder. Put a copy of the link's target in its place."
            )


def set_aside(folder: RunFolder, step: int) -> Path | None:
    """Move checkpoints of later steps, with a copy of the logs, to a new folder in `set_aside`; None if there are none.

    `best` is removed if it points to one of them.
    """
    later = [
        path
        for path in list_checkpoints(folder.checkpoints)
        if path > checkpoint_path(folder.checkpoints, step)
    ]
    if not later:
        return None
    numbers = itertools.count(1)
    home = next(place for n in numbers if not (place := folder.path / "set_aside" / str(n)).exists())
    home.mkdir(parents=True)
    for log in (folder.progress_path, folder.episodes_path, folder.evaluations_path):
        if log.is_file():
            shutil.copy(log, home)
    for path in later:
        os.rename(path, home / path.name)
    if folder.best.is_symlink() and not folder.best.exists():
        folder.best.unlink()
    return home


def write_config(folder: RunFolder, config: Mapping[str, JSON]) -> None:
    """Write config.json, sorted and indented, in one atomic step."""
    write_atomically(folder.config_path, json.dumps(dict(config), indent=2, sort_keys=True) + "\n")


def read_config(folder: RunFolder, required: Iterable[str] = ()) -> dict[str, JSON]:
    """Read config.json and check that it has the `required` keys.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is not a JSON object, or a key is missing; the message names the key.
    """
    file = folder.config_path
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist; is {folder.path} a run folder?")
    config = read_json(file, "restore the file as the run wrote it, or start a new run")
    for field in ("algorithm", "environment"):
        name = config.get(field, "")
        if isinstance(name, str) and not name.isprintable():
            found, expected = repr(name)[:200], "a name without control characters"
            raise CheckpointError.of(
                file, field, found=found, expected=expected, remedy="restore the file as the run wrote it"
            )
    if missing := sorted(set(required) - config.keys()):
        remedy = "restore the file as the run wrote it, or start a new run"
        raise CheckpointError.of(file, ", ".join(missing), found="nothing", expected="a value", remedy=remedy)
    return config


def check_types(file: Path, prefix: str, values: Mapping[Any, Any], types: Mapping[Any, type]) -> None:
    """Raise CheckpointError, which names the field of `file`, unless each value of `types` is of its type.

    Args:
        file: what the values are from.
        prefix: what comes before a field's name, such as `training/`.
        values: the fields.
        types: the type of each field that is needed.
    """
    for field, expected in types.items():
        if type(values.get(field)) is not expected:
            found = repr(values[field])[:200] if field in values else "nothing"
            raise CheckpointError.of(
                file,
                f"{prefix}{field}",
                found=found,
                expected=f"a value of type {expected.__name__}",
                remedy="restore the file as the run wrote it",
            )


def write_atomically(path: Path, text: str) -> None:
    """Replace the text file `path` atomically: a reader sees the old text or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)  # a link in a stranger's folder is not written through
    try:
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def describe_host(environment: str | None = None) -> dict[str, JSON]:
    """Where a run ran: versions, machine, devices, the commit of the working directory, the command line.

    `environment` is the version of the package that its environment is from, if it is known.
    """
    return {
        "environment": environment,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "threads": threads(),
        "versions": {name: _version(name) for name in ("advantage", "gymnasium", "jax", "jaxlib", "numpy")},
        "backend": jax.default_backend(),
        "devices": [str(device) for device in jax.devices()],
        "commit": _commit(),
        "command": shlex.join(sys.argv),
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _commit() -> str | None:
    """The commit checked out in the working directory, with `-dirty` after it if files were changed."""
    command = (
        "git --no-optional-locks -c core.fsmonitor=false describe --always --dirty --abbrev=40 --exclude=*"
    )
    try:
        done = subprocess.run(command.split(), capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
