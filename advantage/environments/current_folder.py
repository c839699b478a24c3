"""The current folder is the process's, and some environments change it, such as games that look for their files."""

from __future__ import annotations

import os
from types import TracebackType


class EnvironmentsFolder:
    """The current folder of environments. Within it they have the one that they chose, outside it is what it was.

        folder = EnvironmentsFolder()
        with folder:
            env = gymnasium.make("Game-v0")  # may call os.chdir
        open("relative/to/where/we/were")
        with folder:
            env.step(action)  # finds its files

    A folder that has been deleted is left as it is.
    """

    def __init__(self) -> None:
        self.ours = self.theirs = _current()

    def __enter__(self) -> None:
        if self.theirs != self.ours:
            os.chdir(self.theirs)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        now = _current()
        if now != self.ours and self.ours:
            os.chdir(self.ours)
            self.theirs = now or self.ours


def _current() -> str:
    """The current folder, empty if it has been deleted."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""
