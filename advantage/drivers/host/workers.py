"""Environments in worker processes, several in each, with the rollout's arrays in shared memory.

A worker is a fresh interpreter (never a fork, which is unsafe once JAX has threads). It gets the function
that makes environments from its parent over a private pipe. It ends when that pipe closes, however the parent ended,
even during a step that hangs.

Waking a process by a pipe takes longer than a step of many environments. If every process has its own core, a step
is therefore handed over by counters in the shared memory, which both sides watch for a moment before they sleep.
"""

from __future__ import annotations

import json
import mmap
import os
import platform
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from typing import Any

import cloudpickle
import numpy as np

from advantage.drivers.host.crew import ERROR, PIECE, START_SECONDS, Crew, describe, live
from advantage.drivers.host.stepper import (
    Buffers,
    MakeEnvironment,
    Stepper,
    allocate,
    buffer_bytes,
)
from advantage.environments.watchdog import Watchdog
from advantage.machine import available_cores
from advantage.types import Pytree

PATIENCE = 1e-3  # seconds that a worker watches for the next step before it sleeps
GLANCES = 500  # looks at a counter between looks at the clock
LINE = 8  # words of a cache line: processes that write to the same line would slow each other down


class Workers:
    """The interface of a `Stepper`, over `num_workers` processes.

    Args:
        make: makes one environment.
        num_envs: number of environments, distributed evenly.
        seed: the run's seed.
        num_workers: number of processes, at most `num_envs`.
        timeout: seconds that a worker may take for one call before it counts as hung.
        shapes: shapes of the buffers, which every process writes to.
        first: index of the workers' first environment; the caller steps those before it.

    Raises:
        EnvironmentFailure: a worker died, hung, or its environment raised; the message names the environments.
        EnvironmentDefect: an environment returned something wrong.
    """

    def __init__(
        self,
        make: MakeEnvironment,
        num_envs: int,
        seed: int,
        num_workers: int,
        timeout: float,
        shapes: Buffers,
        first: int = 0,
    ):
        self.timeout, self.first = timeout, first
        self.shares = [part.tolist() for part in np.array_split(np.arange(first, num_envs), num_workers)]
        self.watches = watching_pays(num_workers)
        holdings = [f"environments {', '.join(map(str, share))}" for share in self.shares]
        size = buffer_bytes(shapes)
        with shared_file() as file:
            file.truncate(size + 8 * LINE * (1 + num_workers))
            memory = mmap.mmap(file.fileno(), size + 8 * LINE * (1 + num_workers))
            self.buffers = allocate(shapes, memory)
            self.counters = Counters(memory, size)
            self.crew = Crew("advantage.drivers.host.workers", holdings, (file.fileno(),))
        try:
            for number, share in enumerate(self.shares):
                task = cloudpickle.dumps(make), share, seed, shapes, sys.path, number
                self.crew.send(number, task, "start")
            self.crew.gather("make its environments", max(timeout, START_SECONDS))
        except BaseException:
            self.close()
            raise

    def reset(self) -> None:
        """Begin every environment's first episode."""
        for number in range(len(self.shares)):
            self.crew.send(number, ("reset",), "reset")
        self.crew.gather("reset", self.timeout)

    def step(self, t: int) -> None:
        """Take row t's actions in every environment."""
        self.begin(t)
        self.finish()

    def begin(self, t: int) -> None:
        """Tell the workers to take row t's actions."""
        if self.watches:
            for number in self.counters.call(t, len(self.shares)):
                self.crew.send(number, WAKE, "step")
        else:
            message = t.to_bytes(8, "little")
            for number in range(len(self.shares)):
                self.crew.send(number, message, "step")

    def finish(self) -> None:
        """Wait until the workers have taken the actions."""
        if not self.watches:
            self.crew.gather("step", self.timeout)
            return
        waited, before = 0.0, time.perf_counter()
        for number in range(len(self.shares)):
            while not self.counters.answered_soon(number):
                now = time.perf_counter()
                waited, before = waited + min(now - before, PIECE), now
                if waited > self.timeout:
                    raise self.crew.hung(number, "step", self.timeout)
                if self.crew.pipes[number].poll(
                    0 if waited < PATIENCE else PATIENCE / 10
                ):  # an error, or a closed pipe
                    self.crew.receive(number, "step", self.timeout)
                if self.counters.sleeps(number):  # it began to sleep while it was called
                    self.crew.send(number, WAKE, "step")

    def restore(self, index: int, episode: int, actions: Pytree, length: int) -> None:
        """Replay an episode's first steps in the worker that holds the environment."""
        number = next(n for n, share in enumerate(self.shares) if index in share)
        self.crew.send(number, ("restore", index, episode, actions, length), "replay an episode")
        self.crew.receive(number, "replay an episode", self.timeout)

    def info_names(self) -> list[str]:
        """The names in the infos of the first worker's environments, as in `Stepper.info_names`."""
        self.crew.send(0, ("info_names",), "name what is in its infos")
        return json.loads(self.crew.receive(0, "name what is in its infos", self.timeout))

    def close(self) -> None:
        """End every worker."""
        self.crew.close()


class SharedStepper:
    """The interface of a `Stepper`: this process steps its share of the environments while the workers step theirs."""

    def __init__(self, workers: Workers, make: MakeEnvironment, seed: int):
        self.workers, self.buffers = workers, workers.buffers
        try:
            with Watchdog(lambda: "Making the environments"):
                self.stepper = Stepper(make, range(workers.first), seed, self.buffers)
        except BaseException:
            workers.close()
            raise

    def reset(self) -> None:
        """Begin every environment's first episode."""
        self.workers.reset()
        self.stepper.reset()

    def step(self, t: int) -> None:
        """Take row t's actions in every environment."""
        self.workers.begin(t)
        self.stepper.step(t)
        self.workers.finish()

    def restore(self, index: int, episode: int, actions: Pytree, length: int) -> None:
        """Replay an episode's first steps where the environment is."""
        owner = self.stepper if index in self.stepper.indices else self.workers
        owner.restore(index, episode, actions, length)

    def info_names(self) -> list[str]:
        """As in `Stepper.info_names`."""
        return sorted({*self.workers.info_names(), *self.stepper.info_names()})

    def close(self) -> None:
        """End every worker and close the environments here."""
        self.workers.close()
        self.stepper.close()


WAKE = b""


class Counters:
    """Counters in shared memory: the number of calls, the row of the last call, and the calls each worker has answered.

    The processor must keep stores in order, as every x86 processor does; `watching_pays` checks that.
    """

    def __init__(self, memory: mmap.mmap, offset: int):
        self.words = memoryview(memory)[offset:].cast("q")

    def call(self, t: int, num_workers: int) -> list[int]:
        """Tell all workers to take row t; returns those that sleep."""
        self.words[1] = t
        self.words[0] += 1
        return [number for number in range(num_workers) if self.sleeps(number)]

    def answered_soon(self, number: int) -> bool:
        """Whether a worker has answered the last call, or does so within `GLANCES` looks."""
        words, answer = self.words, LINE * (number + 1)
        return any(words[0] == words[answer] for _ in range(GLANCES))

    def sleeps(self, number: int) -> bool:
        return self.words[LINE * (number + 1) + 1] == 1

    def serve(self, stepper: Stepper, number: int) -> None:
        """The worker's side: step when called, until no call has come for a while."""
        words, answer = self.words, LINE * (number + 1)
        words[answer + 1] = 0
        while True:
            due = time.perf_counter() + PATIENCE
            while not any(words[0] != words[answer] for _ in range(GLANCES)):
                if time.perf_counter() > due:
                    words[answer + 1] = 1
                    if words[0] == words[answer]:  # a call in between may not have seen that it sleeps
                        return
                    words[answer + 1] = 0
            stepper.step(words[1])
            words[answer] = words[0]


def watching_pays(num_workers: int) -> bool:
    """Whether processes can watch memory: each has a core, and the processor keeps stores in order."""
    return num_workers < available_cores() and platform.machine().lower() in ("x86_64", "amd64")


def shared_file() -> Any:
    """An empty file in memory, or on disk if the system has no files in memory."""
    in_memory = sys.platform == "linux"
    return open(os.memfd_create("rollout"), "r+b") if in_memory else tempfile.TemporaryFile()


def serve(pipe: Connection, memory: int) -> None:
    """The loop of a worker: make the environments, then answer each message with nothing or with an error's text."""
    stepper = counters = None
    number = 0
    try:
        while True:
            try:
                message = pipe.recv_bytes()
            except (EOFError, OSError):
                return
            answer = b""
            try:
                if message == WAKE and stepper is not None and counters is not None:
                    counters.serve(stepper, number)
                    continue
                if len(message) == 8 and stepper is not None:
                    stepper.step(int.from_bytes(message, "little"))
                elif stepper is None:
                    make, indices, seed, shapes, path, number = cloudpickle.loads(message)
                    sys.path[:] = path
                    shared = mmap.mmap(memory, 0)
                    os.close(memory)
                    buffers, counters = allocate(shapes, shared), Counters(shared, buffer_bytes(shapes))
                    counters.words[LINE * (number + 1) + 1] = 1
                    stepper = Stepper(cloudpickle.loads(make), indices, seed, buffers)
                else:
                    name, *arguments = cloudpickle.loads(message)
                    answer = json.dumps(getattr(stepper, name)(*arguments)).encode()
            except Exception as error:
                answer = ERROR + json.dumps(describe(error)).encode()
            try:
                pipe.send_bytes(answer)
            except OSError:
                return
            if answer.startswith(ERROR):  # a second wake-up in the pipe would take the step again
                return
    finally:
        if stepper is not None:
            stepper.close()


if __name__ == "__main__":
    live(serve)
