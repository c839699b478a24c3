"""A process that waits for the one that has started a cluster to die, and then ends what is left of the cluster.

    python -m advantage.drivers.cluster.guard SESSION

Its standard input is a pipe from that process, which ends with it, however it dies. Ray's own processes look for their
parent only once in a while, some of them once a minute. Each has an option with the name of its session in it.
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

PATIENCE = 5.0  # seconds in which processes may end by themselves
ATTEMPTS = 3


def processes(session: str) -> list[int]:
    """The numbers of a session's processes; none where there is no `ps` to ask, and for what is no session's name."""
    if shutil.which("ps") is None or not session.startswith("session_"):
        return []
    listed = subprocess.run(["ps", "-ww", "-eo", "pid=,args="], capture_output=True, text=True).stdout
    lines = [line.split(maxsplit=1) for line in listed.splitlines()]
    own = re.compile(rf" --[\w-]+=\S*{re.escape(session)}")
    return [int(line[0]) for line in lines if own.search(line[-1])]


def end(session: str) -> None:
    """Wait for the processes of a session to end, and kill those that do not."""
    for _ in range(ATTEMPTS):
        due = time.monotonic() + PATIENCE
        while processes(session):
            if time.monotonic() > due:
                break
            time.sleep(0.5)
        else:
            return
        for number in processes(session):
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)


if __name__ == "__main__":
    sys.stdin.buffer.read()
    end(sys.argv[1])
