"""A cache of JAX's compiled programs that processes share, and a clock of the time spent compiling."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import jax


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
