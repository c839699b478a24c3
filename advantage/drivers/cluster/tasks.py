"""Work without parameters that change: functions and programs as tasks of a cluster, which do not know each other."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cloudpickle

from advantage.drivers.cluster.connection import first_line, ray_library
from advantage.drivers.host.crew import interpreter
from advantage.drivers.host.stepper import EnvironmentFailure

RETRIES = 3  # of a task whose process or node is lost


def spread(function: Callable[..., Any], shared: Sequence[Any], parts: Sequence[Any]) -> list[Any]:
    """`function(*shared, part)` of every part, as tasks of the cluster that this process has joined, in their order.

    Args:
        function: of a module; its result depends on its arguments only, since a task that is lost runs again.
        shared: what all tasks need; sent once to each node.
        parts: what is one task's own.

    Raises:
        EnvironmentFailure: tasks are lost again and again.
        Exception: any exception of the function.
    """
    ray = ray_library()
    remote = ray.remote(_called).options(num_cpus=1, max_retries=RETRIES)
    work = ray.put(cloudpickle.dumps((function, tuple(shared))))
    references = [remote.remote(list(sys.path), work, part) for part in parts]
    try:
        with _cancelled_on_error(ray, references):
            return ray.get(references)
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, Exception) else EnvironmentFailure(str(error)) from None
    except ray.exceptions.RayError as error:
        raise EnvironmentFailure(
            f"A task of the cluster was lost {RETRIES + 1} times: {first_line(error)}. Look whether its nodes have "
            "enough memory, and repeat the command."
        ) from None


@contextlib.contextmanager
def _cancelled_on_error(ray: Any, references: list[Any]) -> Iterator[None]:
    """Cancel the tasks that still run if the body fails or is interrupted.

    Those that have ended are left alone: Ray aborts this process if a task is cancelled in the moment it ends.
    """
    try:
        yield
    except BaseException:
        _, running = ray.wait(references, num_returns=len(references), timeout=0)
        for reference in running:
            ray.cancel(reference)
        raise


def _called(path: list[str], work: bytes, part: Any) -> Any:
    """What runs in a process of the cluster."""
    _take_path(path)
    function, shared = cloudpickle.loads(work)
    return function(*shared, part)


def _take_path(path: list[str]) -> None:
    """Import from where the user's process does, and compute without accelerators."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    sys.path[:] = [*path, *(entry for entry in sys.path if entry not in path)]


class RemoteProcess:
    """A program that runs as a task of the cluster, with the functions of `subprocess.Popen` that are used of it.

    Its folder is this process's, which the node must have too.

    Args:
        module: of this package; it gets the arguments and then the number of its parent's process.
        arguments: of the program.
    """

    def __init__(self, module: str, *arguments: object):
        self.ray, self.returncode = ray_library(), None
        remote = self.ray.remote(_run).options(num_cpus=1, max_retries=0)
        self.reference = remote.remote(list(sys.path), os.getcwd(), module, *arguments)

    def poll(self) -> int | None:
        """The program's exit code; None while it runs, -9 if its node is lost."""
        ready, _ = self.ray.wait([self.reference], timeout=0)
        return self.wait() if ready else None

    def wait(self) -> int:
        """The program's exit code, when it has ended."""
        if self.returncode is None:
            try:
                self.returncode = int(self.ray.get(self.reference))
            except self.ray.exceptions.RayError:
                self.returncode = -9
        return self.returncode

    def terminate(self) -> None:
        """Ask the program to end, if it has not."""
        if self.poll() is None:
            self.ray.cancel(self.reference)


def _run(path: list[str], folder: str, module: str, *arguments: object) -> int:
    """What runs in a process of the cluster: a program in a process of its own."""
    _take_path(path)
    command, inherited = interpreter(module, *arguments, os.getpid())
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=inherited, cwd=folder)
    try:
        while process.poll() is None:
            time.sleep(0.1)
    finally:
        process.terminate()
        process.wait()
    return process.returncode
