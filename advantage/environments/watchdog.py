"""Says where an environment hangs that is called in this process; workers have a time limit instead."""

from __future__ import annotations

import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from typing import Self

from advantage.environments.defect import EnvironmentWarning

SECONDS = 60.0
IN_A_WORKER = (
    "Ctrl-C stops the run; --workers 1 (workers=1) runs the environment in a process of its own, which is given up "
    "after --worker-timeout seconds."
)
BY_HAND = "Ctrl-C ends it."  # where there are no workers


class Watchdog:
    """A context in which a thread warns when one call of an environment lasts longer than `seconds`.

    Args:
        calling: what is called now, such as `environment 0, step 17`, another text for each call; None between calls.
        seconds: how long a call may last; by default `SECONDS`.
        remedy: a sentence about how to end the call.
    """

    def __init__(
        self, calling: Callable[[], str | None], seconds: float | None = None, remedy: str = IN_A_WORKER
    ):
        self._calling, self._seconds = calling, SECONDS if seconds is None else seconds
        self._remedy = remedy
        self._over, self._owner = threading.Event(), threading.get_ident()

    def __enter__(self) -> Self:
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()

    def _watch(self) -> None:
        before, looks = None, 0
        while not self._over.wait(self._seconds / 2):  # the third look at a call is the last
            now = self._calling()
            looks = looks + 1 if now is not None and now == before else 0
            before = now
            if looks == 2 and now is not None:
                self._warn(now)

    def _warn(self, call: str) -> None:
        frame = sys._current_frames().get(self._owner)
        at = traceback.extract_stack(frame)[-1] if frame is not None else None
        place = f" It is at {at.filename}:{at.lineno}, in {at.name}." if at is not None else ""
        warnings.warn(
            f"{call} has not returned for {self._seconds:.0f} seconds.{place} Look for an endless loop, a lock, or a "
            f"simulator or server that waits. {self._remedy}",
            EnvironmentWarning,
            stacklevel=2,
        )
