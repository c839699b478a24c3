"""Ctrl-C, SIGTERM and SIGHUP, handled at once, even while the main thread is in native code, such as XLA's compiler.

SIGHUP is what a program receives when its terminal closes.

Python runs a signal's handler only when its main thread is back from native code, which may take minutes. But the
interpreter writes the signal's number into a pipe as soon as it arrives (`signal.set_wakeup_fd`), and a thread that
reads the pipe can react.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE = 1.0  # seconds that the main thread has to react
_END = b"\0"


class _Listener:
    """Receives each signal in a thread of its own, and passes it to the enclosing listener on request."""

    def __init__(self, hear: Callable[[int], None]):
        self._hear = hear
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._outer = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def hand_on(self, number: int) -> None:
        """Pass a signal to the enclosing listener."""
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
    """A context in which the first of `SIGNALS` is stored in `signal`, and a repeated one raises KeyboardInterrupt.

    Two different ones are one wish: a terminal's Ctrl-C reaches a run and its parent, whose SIGTERM follows.

    If nothing would be lost, the enclosing listener, such as `leaving`, ends the process when the main thread does
    not leave this context within `PATIENCE` seconds.

    Args:
        tell: shows a text to the user.
        nothing_lost: returns whether everything that was learned is saved.
        farewell: the text for the user when the process ends without the main thread.
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
        self._over, self._handled, self._heard = threading.Event(), set[int](), set[int]()
        self._listener: _Listener | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                # A signal that was ignored when this process started, as in a shell's background job, stays ignored.
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
        """The signal handler, which runs in Python's main thread."""
        if number in self._handled:
            raise KeyboardInterrupt
        self._handled.add(number)

    def _hear(self, number: int) -> None:
        """Runs at once, in the listening thread."""
        listener = self._listener
        if listener is None:
            return
        again = number in self._heard
        self._heard.add(number)
        if self.signal is not None:
            if again:
                listener.hand_on(number)
            return
        self.signal = number
        if not self._nothing_lost():
            self._tell("Stopping after this iteration, to save. A second Ctrl-C stops at once.")
        elif not self._over.wait(PATIENCE):
            self._tell(self._farewell())
            listener.hand_on(number)
            listener.hand_on(number)


@contextlib.contextmanager
def leaving(at_once: bool = True, patience: float = PATIENCE) -> Iterator[None]:
    """A context in which Ctrl-C ends this process, whatever its main thread is doing.

    Only for a standalone program: the process ends without Python's clean-up, which crashes while XLA compiles.

    Args:
        at_once: end at the first Ctrl-C; otherwise the main thread gets a KeyboardInterrupt first.
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
    """End this process now; its output is flushed and the terminal's cursor is shown."""
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        if sys.stdout.isatty():
            sys.stdout.write("\x1b[?25h")  # a live line hides it
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
