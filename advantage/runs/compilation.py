"""What this process asks of JAX: a platform, precision, threads, a cache of programs, the time of compiling."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import jax

from advantage.machine import available_cores

THREADS = "NPROC"
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def in_single_precision(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """The same function with JAX's 64-bit numbers switched off while it runs, whatever the user has chosen.

    It raises ValueError if JAX finds no device on the platform that the user has chosen.
    """

    @functools.wraps(function)
    def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        require_platform()
        with jax.enable_x64(False):
            return function(*args, **kwargs)

    return run


def require_platform() -> None:
    """Raises ValueError if JAX has no device of the platform that the user has chosen."""
    chosen = jax.config.jax_platforms  # pyright: ignore[reportAttributeAccessIssue] (`values` is slow)
    if chosen in (None, "", "cpu"):  # asking for devices would start JAX, and fix how many devices a CPU has
        return
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # JAX asserts where it lacks a platform's plugin
        reason = " ".join(str(error).split()) or "JAX is installed without it"
        raise ValueError(
            f"JAX cannot compute on {chosen!r}, which JAX_PLATFORMS or jax.config asks for ({reason}); unset "
            "JAX_PLATFORMS, or use JAX_PLATFORMS=cpu."
        ) from None


def use_threads(number: int | None) -> None:
    """Compute with so many threads on a CPU; None leaves the number to JAX, which takes the number of cores.

    Without effect if JAX has started in this process, or if the user has set the variable NPROC, which JAX's compiler
    reads when it starts.
    """
    if number is not None and THREADS not in os.environ and not _has_started():
        os.environ[THREADS] = str(number)


def threads() -> int:
    """How many threads compute on a CPU in this process."""
    chosen = os.environ.get(THREADS, "")
    return int(chosen) if chosen.isdecimal() else available_cores()


def _has_started() -> bool:
    """Whether JAX has started: it then refuses another number of devices."""
    name = "jax_num_cpu_devices"
    before = jax.config.values[name]
    try:
        jax.config.update(name, 1 if before != 1 else 2)
    except RuntimeError:
        return True
    jax.config.update(name, before)
    return False


def enable_compilation_cache() -> None:
    """Keep compiled programs between processes, unless the user has already set JAX's cache."""
    if jax.config.values["jax_compilation_cache_dir"] is None:
        home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        jax.config.update("jax_compilation_cache_dir", str(home / "advantage" / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


class CompileClock:
    """Seconds that JAX has spent tracing and compiling in this process, and how many programs it made.

    JAX reports a stage when it ends, and an inner stage before the outer one. Overlapping time counts once.
    """

    def __init__(self):
        self.seconds, self.programs = 0.0, 0
        self._begins: list[tuple[float, float]] = []  # when a stage began, and how long it took
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **_: Any) -> None:
        if event.startswith("/jax/core/compile"):
            begin = time.perf_counter() - duration_secs
            self.seconds += duration_secs
            while self._begins and self._begins[-1][0] > begin:
                self.seconds -= self._begins.pop()[1]
            self._begins.append((begin, duration_secs))
            self.programs += event.endswith("backend_compile_duration")


COMPILE_CLOCK = CompileClock()
