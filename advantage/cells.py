"""Trainings in processes of their own: what is trained, how its process is started, and what the process does."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from advantage.algorithms.playable import Trainable
from advantage.algorithms.registry import algorithm_name, from_json, to_json
from advantage.drivers.cluster.tasks import RemoteProcess
from advantage.drivers.host.crew import interpreter
from advantage.environments.make import resolve
from advantage.runs.checkpoint import CheckpointError, finished_step, list_checkpoints, read_manifest
from advantage.runs.folder import RunFolder, read_config
from advantage.runs.lock import RunLock
from advantage.runs.log import read_evaluations
from advantage.training.callbacks import Callback
from advantage.training.early_stopping import reason_of_run
from advantage.training.options import Options, options_from, recorded
from advantage.training.train import resume, train

Process = subprocess.Popen | RemoteProcess


@dataclasses.dataclass(frozen=True)
class Cell:
    """One training of the grid: what is trained, on what, how, and the folder of its run."""

    algorithm: Trainable
    environment: Any
    options: Options
    path: Path

    @property
    def log(self) -> Path:
        """The output of this cell's process; locked while it runs."""
        return self.path.with_name(f"{self.path.name}.log")

    @property
    def finished(self) -> bool:
        """Whether the last evaluation is done, and the budget is spent or the evaluations say that the run stops."""
        folder = RunFolder(self.path)
        try:
            step = finished_step(folder.last, self.options.total_timesteps)
            metadata: Any = read_manifest(folder.last)["metadata"]
            if step is None and reason_of_run(folder, self.options) is not None:
                step = read_evaluations(folder)["step"].max()  # without a checkpoint of it, it is done again
            evaluated = metadata["evaluated"]
            return step is not None and bool(not self.options.eval_episodes or evaluated >= step)
        except (CheckpointError, KeyError):
            return False


def refuse_others(cell: Cell, file: Path) -> None:
    """Raises ValueError if the cell's folder holds a run that is not of this cell, which `file` declares."""
    folder = RunFolder(cell.path)
    if not folder.config_path.exists():
        return
    config = read_config(folder, ("hyperparameters", "environment", "training"))
    environment = resolve(cell.environment).name
    wanted = to_json(cell.algorithm) | recorded(cell.options) | {"environment": environment}
    training = recorded(Options()) | config["training"]  # a run of an older version lacks what is new
    found = config["hyperparameters"] | training | {"environment": config["environment"]}
    other = sorted(name for name in wanted if wanted[name] != found.get(name))
    if other:
        raise ValueError(
            f"{file}: the run in {cell.path} differs from the file in {', '.join(other)}; give a new `out`, "
            "or remove that folder."
        )


def process_here(cell: Cell, until: int | None = None) -> subprocess.Popen:
    """The process of a cell on this machine, which trains it to the end or until so many steps are taken."""
    command, inherited = interpreter("advantage.cells", declaration(cell, until), os.getpid())
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, env=inherited)


def process_there(cell: Cell) -> RemoteProcess:
    """The process of a cell, on the cluster."""
    return RemoteProcess("advantage.cells", declaration(cell))


def declaration(cell: Cell, until: int | None = None) -> str:
    """What the process of a cell is told; its environment and wrappers have names."""
    algorithm = algorithm_name(cell.algorithm), to_json(cell.algorithm)
    until = until or cell.options.total_timesteps
    return json.dumps([*algorithm, cell.environment, recorded(cell.options), str(cell.path), until])


def run_at_once(
    numbers: Sequence[int], processes: int, begin: Callable[[int], Process], ended: Callable[[int, int], None]
) -> None:
    """Start a process for each number, so many at once; `ended` is called with the number and exit code of each.

    After any error, and after Ctrl-C, those that run are told to stop, and waited for.
    """
    waiting, running = [*numbers], dict[int, Process]()
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                number = waiting.pop(0)
                running[number] = begin(number)
            time.sleep(0.05)
            codes = {number: process.poll() for number, process in running.items()}
            for number, code in codes.items():
                if code is not None:
                    del running[number]
                    ended(number, code)
    except BaseException:
        for process in running.values():  # Ctrl-C has reached them too; they save and stop
            process.terminate()
        for process in running.values():
            process.wait()
        raise


def last_words(cell: Cell, code: int) -> str:
    """Why the process of a cell failed: the signal, or the last line of its output."""
    said = cell.log.read_text(encoding="utf-8", errors="replace").split("\n") if cell.log.exists() else []
    error = next((line for line in reversed(said) if line.strip()), "there was no output")
    return f"killed by signal {-code}" if code < 0 else f"{error} (full output in {cell.log})"


def carry_on(cell: Cell, callback: Callback) -> None:
    """Train a cell in this process, from its last checkpoint if there is one; a finished cell stays as it is.

    The cell's folder holds nothing but its run: what a killed process left there before the first checkpoint is
    removed.

    Args:
        cell: what is trained.
        callback: as for `train`.
    """
    if cell.finished:
        return
    folder = RunFolder(cell.path)
    saved = list_checkpoints(folder.checkpoints)
    if folder.last.exists() or saved:
        resume(
            cell.path if folder.last.exists() else saved[-1],
            environment=cell.environment,
            env_options=cell.options.env_options,
            wrappers=cell.options.wrappers,
            callback=callback,
        )
        return
    if cell.path.exists():
        with RunLock(cell.path):
            shutil.rmtree(cell.path, ignore_errors=True)
    train(
        cell.algorithm, cell.environment, out=cell.path, callback=callback, **dataclasses.asdict(cell.options)
    )


def serve(declaration: str, parent: int) -> int:
    """The work of a cell's process: train or resume, with all output in the log, until its parent has ended."""
    name, hyperparameters, environment, training, path, until = json.loads(declaration)
    cell = Cell(from_json(name, hyperparameters), environment, options_from(training), Path(path))
    with _output_in_log(cell):
        return exit_code(lambda goes_on: carry_on(cell, lambda now: now.step < until and goes_on()), parent)


@contextlib.contextmanager
def _output_in_log(cell: Cell) -> Iterator[None]:
    """A context in which the output of this process goes into a cell's log, once no other process has it."""
    with open(cell.log, "a", encoding="utf-8") as log:
        fcntl.flock(log, fcntl.LOCK_EX)  # an older process of this cell may still be saving
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        yield


def exit_code(work: Callable[[Callable[[], bool]], None], parent: int) -> int:
    """Do the work of a process; after an error, which is then the last line of its output, the exit code is 1.

    Args:
        work: called with a function that says whether to go on: until the parent has ended.
        parent: the number of the parent's process.
    """
    try:
        work(lambda: os.getppid() == parent)
    except Exception as error:
        traceback.print_exc()
        print(f"{type(error).__name__}: {error}", file=sys.stderr)  # JAX ends a traceback with a remark
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1], int(sys.argv[2])))
