"""Ctrl-C and SIGTERM, answered at once: also while the main thread is in native code, where XLA compiles.

Python runs a signal's handler only when its main thread is back from native code, which may take minutes. But the
interpreter writes the signal's number into a pipe the moment it arrives (`signal.set_wakeup_fd`), and a thread that
reads the pipe can answer.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PATIENCE = 1.0  # seconds that the main thread has to answer
_END = b"\0"


class _Listener:
    """Hears each signal in a thread of its own, and hands it on to the listener around this one when told to."""

    def __init__(self, hear: Callable[[int], None]):
        self._hear = hear
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._outer = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def hand_on(self, number: int) -> None:
        """Let whoever listened before us hear it too."""
        if self._outer != -1:
            with contextlib.suppress(OSError):
                os.write(self._outer, bytes([number]))

    def close(self) -> None:
        signal.set_wakeup_fd(self._outer)
        os.write(self._writer, _END)
        if threading.current_thread() is not self._thread:
            self._thread.join()
        os.close(self._reader)
        os.close(self._writer)

    def _listen(self) -> None:
        while True:
            for number in os.read(self._reader, 64):
                if number == _END[0]:
                    return
                if number in SIGNALS:
                    self._hear(number)
                else:
                    self.hand_on(number)


class Interrupt:
    """A context in which the first Ctrl-C or SIGTERM is a wish to stop, noted in `signal`, and the second acts at once.

    Where nothing would be lost, whoever listens outside, such as `leaving`, ends the process if the main thread does
    not leave this context within `PATIENCE` seconds.

    Args:
        tell: says something to the user.
        nothing_lost: whether all that was learned is saved.
        farewell: what to say when the process ends without the main thread.
    """

    def __init__(
        self,
        tell: Callable[[str], None],
        nothing_lost: Callable[[], bool] = lambda: False,
        farewell: Callable[[], str] = lambda: "Stopped.",
    ):
        self.signal: int | None = None
        self._tell, self._nothing_lost, self._farewell = tell, nothing_lost, farewell
        self._previous: dict[int, Any] = {}
        self._over, self._handled = threading.Event(), 0
        self._listener: _Listener | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                # What whoever started this process told it to ignore, as shells do for background jobs, stays so.
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._handle)
            self._listener = _Listener(self._hear)
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._listener is not None:
            self._listener.close()
        self._previous, self._listener = {}, None

    def _handle(self, number: int, frame: Any) -> None:
        """What Python's main thread does, when it gets to it."""
        self._handled += 1
        if self._handled > 1:
            raise KeyboardInterrupt

    def _hear(self, number: int) -> None:
        """What the listening thread does, at once."""
        listener = self._listener
        if listener is None:
            return
        if self.signal is not None:
            listener.hand_on(number)
            return
        self.signal = number
        if not self._nothing_lost():
            self._tell("Stopping after this iteration, to save. A second Ctrl-C leaves at once.")
        elif not self._over.wait(PATIENCE):
            self._tell(self._farewell())
            listener.hand_on(number)
            listener.hand_on(number)


@contextlib.contextmanager
def leaving(at_once: bool = True, patience: float = PATIENCE) -> Iterator[None]:
    """A context in which Ctrl-C ends this process, whatever its main thread does.

    For a program of its own only: the process ends without Python's own clean-up, which crashes where XLA compiles.

    Args:
        at_once: end at the first Ctrl-C; else the main thread gets its KeyboardInterrupt first.
        patience: seconds until the process ends if the main thread has not left the context; a second Ctrl-C ends it
            at once.
    """
    over, heard = threading.Event(), threading.Event()
    previous = signal.getsignal(signal.SIGINT)

    def hear(number: int) -> None:
        if heard.is_set():
            end_process(128 + number)
        heard.set()

        def wait() -> None:
            if not over.wait(patience):
                end_process(128 + number)

        threading.Thread(target=wait, daemon=True).start()

    listener = _Listener(hear)
    if at_once and previous != signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda number, frame: end_process(128 + number))
    try:
        yield
    finally:
        over.set()
        listener.close()
        signal.signal(signal.SIGINT, previous)


def end_process(code: int) -> NoReturn:
    """End this process now, with what it has said and the terminal's cursor back."""
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        if sys.stdout.isatty():
            sys.stdout.write("\x1b[?25h")  # a live line hides it
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
