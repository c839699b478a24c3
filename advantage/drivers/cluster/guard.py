"""A process that waits for the one that has started a cluster to die, and then ends what is left of the cluster.

    python -m advantage.drivers.cluster.guard SESSION

Its standard input is a pipe from that process, which ends with it, however it dies. Ray's own processes look for their
parent only once in a while, some of them once a minute. A cluster's first processes have an option with the name of its
session; all others are their descendants, some of which change their own command later.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from typing import NamedTuple

PATIENCE = 5.0  # seconds in which processes may end by themselves


class Process(NamedTuple):
    """A process of this machine; its number may have belonged to another one before it began."""

    number: int
    parent: int
    begun: str
    command: str


def processes() -> list[Process]:
    """All processes of this machine; none where there is no `ps` to ask."""
    if shutil.which("ps") is None:
        return []
    asked = ["ps", "-ww", "-eo", "pid=,ppid=,lstart=,args="]
    lines = subprocess.run(asked, capture_output=True, text=True).stdout.splitlines()
    words = [line.split(maxsplit=7) for line in lines]  # a time of beginning is five words
    return [Process(int(w[0]), int(w[1]), " ".join(w[2:7]), w[7]) for w in words if len(w) == 8]


def family(session: str) -> set[tuple[int, str]]:
    """The numbers and beginnings of a session's processes and of all their descendants."""
    listed, option = processes(), re.compile(rf" --[\w-]+=\S*{re.escape(session)}")
    found = {each for each in listed if session.startswith("session_") and option.search(each.command)}
    more = found
    while more:
        numbers = {each.number for each in found}
        more = {each for each in listed if each.parent in numbers} - found
        found |= more
    return {(each.number, each.begun) for each in found}


def end(known: set[tuple[int, str]]) -> None:
    """Wait for processes to end, and kill those that do not."""
    due = time.monotonic() + PATIENCE
    while left := known & {(each.number, each.begun) for each in processes()}:
        if time.monotonic() > due:
            for number, _ in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            return
        time.sleep(0.5)


if __name__ == "__main__":
    name = sys.argv[1]
    first = family(name)
    sys.stdin.buffer.read()
    end(first | family(name))
