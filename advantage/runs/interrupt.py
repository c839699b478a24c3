"""Ctrl-C and SIGTERM as a wish that the loop can grant."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any, Self


class Interrupt:
    """A context in which the first Ctrl-C or SIGTERM is noted in `signal`, and told; the second acts at once."""

    def __init__(self, tell: Callable[[str], None]):
        self.signal: int | None = None
        self._tell = tell
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                # What whoever started this process told it to ignore, as shells do for background jobs, stays so.
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _note(self, number: int, frame: Any) -> None:
        self.signal = number
        self.__exit__()
        self._tell("Stopping after this iteration, to save. A second Ctrl-C leaves at once.")
