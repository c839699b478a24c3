"""Worker processes: they are started, spoken to over pipes, and reported when they hang or die.

A worker is a fresh interpreter (never a fork, which is unsafe once JAX has threads). It ends when its pipe closes,
however its parent ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import cloudpickle

from advantage.drivers.host.stepper import EnvironmentFailure
from advantage.environments.defect import EnvironmentDefect

START_SECONDS = 60.0  # the shortest time limit for a worker's imports and for making its environments
PIECE = 1.0  # seconds; a longer pause means that this process was suspended, and its workers too
STOPPING = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
ERROR = b"error "  # begins an answer that reports an error
# Code of a fresh interpreter: it imports this package, installed or not, and then runs one of the package's modules.
BEGIN = """
import runpy, sys
home, module = sys.argv[1:3]
del sys.argv[1:3]
sys.path.insert(0, home)
import advantage
sys.path.remove(home)
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""
ERRORS = {error.__name__: error for error in (EnvironmentDefect, EnvironmentFailure)}


def interpreter(module: str, *arguments: object) -> tuple[list[str], dict[str, str]]:
    """The command that runs one of our modules in a new process, and the process's environment variables.

    The new process has this process's import path; by default Python would put the current folder first.
    """
    path = os.pathsep.join(part or os.getcwd() for part in sys.path)
    home = str(Path(__file__).resolve().parents[3])
    command = [sys.executable, "-P", "-c", BEGIN, home, module, *map(str, arguments)]
    return command, {**os.environ, "PYTHONPATH": path}


class Crew:
    """Worker processes that run a module's `serve`, each behind a private pipe.

    Args:
        module: what each worker runs; its arguments are the file descriptors of its pipe and of `files`.
        holdings: what each worker holds, for messages: `environments 0, 1`.
        files: file descriptors of open files that every worker inherits.
        variables: environment variables of the workers, besides those of this process.

    Raises:
        EnvironmentFailure: a worker died, hung, or its environment raised; the message says what it held.
        EnvironmentDefect: an environment returned something wrong.
    """

    def __init__(
        self,
        module: str,
        holdings: list[str],
        files: tuple[int, ...] = (),
        variables: dict[str, str] | None = None,
    ):
        self.holdings = holdings
        self.processes: list[subprocess.Popen] = []
        self.pipes: list[Connection] = []
        for _ in holdings:
            ours, theirs = Pipe()
            numbers = theirs.fileno(), *files
            command, inherited = interpreter(module, *numbers)
            environ = inherited | (variables or {})
            with _signals_kept_back():
                process = subprocess.Popen(command, pass_fds=numbers, stdin=subprocess.DEVNULL, env=environ)
            theirs.close()
            self.processes.append(process)
            self.pipes.append(ours)

    def send(self, number: int, message: bytes | tuple, task: str) -> None:
        data = message if isinstance(message, bytes) else cloudpickle.dumps(message)
        try:
            self.pipes[number].send_bytes(data)
        except OSError as error:
            raise self._dead(number, task) from error

    def gather(self, task: str, timeout: float) -> None:
        """Wait for an answer from each worker."""
        for number in range(len(self.pipes)):
            self.receive(number, task, timeout)

    def receive(self, number: int, task: str, timeout: float) -> bytes:
        """A worker's answer; raises the error that it reports."""
        pipe = self.pipes[number]
        try:
            if not _answers(pipe, timeout):
                raise self.hung(number, task, timeout)
            answer = pipe.recv_bytes()
        except (EOFError, OSError) as error:
            raise self._dead(number, task) from error
        if answer.startswith(ERROR):
            name, *arguments = json.loads(answer.removeprefix(ERROR))
            raise ERRORS[name](*arguments)
        return answer

    def hung(self, number: int, task: str, timeout: float) -> EnvironmentFailure:
        return EnvironmentFailure(
            f"{self._name(number)} did not {task} within {timeout:g} seconds. Either an environment "
            "hangs, or it is slow: give it longer with --worker-timeout (worker_timeout=)."
        )

    def close(self) -> None:
        """End every worker; one that does not end within two seconds is killed."""
        for pipe in self.pipes:
            pipe.close()
        for process in self.processes:
            try:
                process.wait(timeout=2)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.pipes, self.processes = [], []

    def _dead(self, number: int, task: str) -> EnvironmentFailure:
        try:
            code = self.processes[number].wait(timeout=1)
        except subprocess.TimeoutExpired:
            code = None
        reason = "closed its pipe"
        if code is not None:
            reason = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
        return EnvironmentFailure(
            f"{self._name(number)} {reason} when told to {task}. Look for a crash of the simulator or for the "
            "operating system's memory limit; --workers 0 (workers=0) runs the environments in this process."
        )

    def _name(self, number: int) -> str:
        return f"Worker {number} (process {self.processes[number].pid}, {self.holdings[number]})"


def _answers(pipe: Connection, timeout: float) -> bool:
    """Whether an answer comes in time; the time for which the machine is suspended does not count."""
    pieces, rest = divmod(timeout, PIECE)
    return any(pipe.poll(PIECE) for _ in range(int(pieces))) or pipe.poll(rest)


def describe(error: Exception) -> list[str]:
    """A name in `ERRORS` and its arguments; a failure's message comes after the environment's own traceback."""
    if isinstance(error, EnvironmentDefect):
        return [EnvironmentDefect.__name__, *map(str, error.args)]
    trace = "".join(traceback.format_exception(error.__cause__ or error))
    return [EnvironmentFailure.__name__, f"{trace}\n{error}"]


@contextlib.contextmanager
def _signals_kept_back() -> Iterator[None]:
    """Keeps Ctrl-C from a process started here until it can ignore it; otherwise it could end in a traceback."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_with(parent: int) -> None:
    """End this process soon after its parent ends, whatever it is doing."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def live(serve: Callable[..., None]) -> None:
    """The main function of a worker's module: serve the pipe, and end with the process that opened it."""
    for number in STOPPING:  # they reach the whole process group; the parent decides
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=leave_with, args=(os.getppid(),), daemon=True).start()
    pipe, *files = map(int, sys.argv[1:])
    serve(Connection(pipe), *files)
