"""One writer for a run: a lock in its folder, which is released when its process ends, for whatever reason."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import time
import weakref
from pathlib import Path
from typing import Self

LOCK = "lock"
_SILENCE = 600.0  # seconds without a new row after which a writer on another machine counts as ended
_MOMENT = 0.05  # seconds within which a process that has taken a lock writes its name into the file


class RunInUse(FileExistsError):
    """Another process is writing the run; the message says which, since when, and what to do."""


class RunLock:
    """Makes this process the only writer of a run folder until `release`, or until the process ends.

    What counts is the operating system's lock on the file `lock`; its text is only information, so the file of a
    killed process does not block. Child processes, forks included, never hold the lock.

    Args:
        folder: the run folder.

    Raises:
        RunInUse: another process is writing this run.
        OSError: the file system has no locks.
    """

    def __init__(self, folder: Path):
        self.path = Path(folder) / LOCK
        self.file: int | None = _take(self.path)
        _HELD.add(self)
        who = f"process {os.getpid()} on {platform.node()} since {time.strftime('%Y-%m-%d %H:%M:%S')}\n"
        with contextlib.suppress(OSError):  # a full disk will be reported later
            os.ftruncate(self.file, 0)
            os.write(self.file, who.encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def release(self) -> None:
        """Release the lock and remove the file. A second call does nothing."""
        if self.file is not None:
            if _leads_to(self.path, self.file):
                with contextlib.suppress(OSError):
                    self.path.unlink()
            self.forget()

    def forget(self) -> None:
        """Close the file. Another process that has it open, such as the parent of a fork, keeps the lock."""
        if self.file is not None:
            os.close(self.file)
            self.file = None


_HELD: weakref.WeakSet[RunLock] = weakref.WeakSet()


def _leave_locks_to_the_parent() -> None:
    for lock in list(_HELD):
        lock.forget()


os.register_at_fork(after_in_child=_leave_locks_to_the_parent)


def refuse_if_in_use(folder: Path) -> None:
    """Raises RunInUse if another process is writing the run in `folder`; changes nothing there."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        os.close(_lock(Path(folder) / LOCK, 0))


def seems_in_use(folder: Path) -> bool:
    """Whether the run's lock file names a process that is alive. Unlike a try to lock, this never disturbs a writer.

    A process of another machine counts as alive while it has written a log within the last ten minutes.
    """
    try:
        words = (Path(folder) / LOCK).read_bytes()[:200].decode(errors="replace").split(" ")
    except OSError:
        return False
    if len(words) < 5 or not words[1].isdecimal() or int(words[1]) == 0:
        return False  # it is just being taken, or is no lock of ours
    if words[3] != platform.node():
        logs = [path.stat().st_mtime for path in Path(folder).glob("*.csv")]
        return time.time() - max(logs, default=0.0) < _SILENCE
    try:
        os.kill(int(words[1]), 0)  # signal 0 only asks whether the process is there
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it belongs to somebody else
        return True
    return True


def _take(path: Path) -> int:
    """The open and locked file at `path`. Tries again if the file was removed before it was locked."""
    while True:
        file = _lock(path, os.O_CREAT)
        if _leads_to(path, file):
            return file
        os.close(file)


def _lock(path: Path, flags: int) -> int:
    file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | flags, 0o666)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return file
    except BlockingIOError:
        os.close(file)
        raise RunInUse(
            f"{path.parent} is being written by {_holder(path)}. Wait until it has ended, or stop it with Ctrl-C or "
            f"kill, which saves; then resume the run: advantage resume {path.parent}. A new run needs another "
            "folder."
        ) from None
    except OSError as error:
        os.close(file)
        raise OSError(
            f"{path} cannot be locked ({error.strerror}), and without a lock a second process could write the same "
            "run; put the run on a file system that has flock, with --out or --root"
        ) from error


def _leads_to(path: Path, file: int) -> bool:
    """Whether `path` is the name of the open file."""
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(file))
    except FileNotFoundError:
        return False


def _holder(path: Path) -> str:
    """The holder of the lock, as the file names it."""
    time.sleep(_MOMENT)
    try:
        text = path.read_bytes()[:200].decode(errors="replace").split("\n")[0]
    except OSError:
        text = ""
    return "".join(filter(str.isprintable, text)) or "another process"
