"""Joining a Ray cluster, or starting one on this machine."""

from __future__ import annotations

import importlib
import os
import socket
import subprocess
import warnings
from types import TracebackType
from typing import Any

from advantage.drivers.host.crew import interpreter
from advantage.environments.defect import needed
from advantage.machine import available_cores

SECONDS = 5.0  # that a cluster may take to answer
LOCAL = "local"


def ray_library() -> Any:
    """Ray. Raises MissingExtra where it is not installed."""
    return needed("ray", "A cluster", "cluster")


def check_cluster(cluster: Any) -> None:
    """Raise ValueError unless `cluster` is auto, local, local:N or an address."""
    name, _, number = str(cluster).partition(":")
    if name == LOCAL and number and not (number.isdecimal() and int(number) > 0):
        raise ValueError(
            f"cluster={cluster!r} is not allowed; use local:N with N processes, 1 or more, such as local:4."
        )
    if not isinstance(cluster, str) or not cluster or (cluster not in ("auto", LOCAL) and not number):
        raise ValueError(
            f"cluster={cluster!r} is not allowed; use 'auto' for a cluster that runs on this machine, an address such "
            "as 10.0.0.5:6379, 'local' or 'local:4' to start one here."
        )


def cores_of_cluster() -> int:
    """The cores of the cluster that this process has joined."""
    return max(1, int(ray_library().cluster_resources().get("CPU", 1)))


def first_line(error: BaseException) -> str:
    """The first line of an error's text."""
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__


def last_line(error: BaseException) -> str:
    """The last line of an error's text: of one that holds the trace of another process, what was raised there."""
    text = str(error).strip()
    return text.splitlines()[-1].rstrip(".") if text else type(error).__name__


def refuse_silence(address: str) -> None:
    """Raise OSError if nothing listens at an address within a few seconds; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdecimal():
        raise ValueError(f"{address} has no port")
    socket.create_connection((host.strip("[]"), int(port)), timeout=SECONDS).close()


def guard(ray: Any) -> subprocess.Popen[bytes]:
    """A process that ends the processes of this machine's cluster when this process has died; see `guard.py`."""
    session = ray.get_runtime_context().get_session_name()
    command, inherited = interpreter("advantage.drivers.cluster.guard", session)
    return subprocess.Popen(command, stdin=subprocess.PIPE, env=inherited, start_new_session=True)


class Connection:
    """A context in which this process belongs to a cluster.

    A cluster that this process has joined already is used as it is, and stays joined.

    Args:
        cluster: `auto`, an address, `local` or `local:N`; see `check_cluster`.
        name: the name of the job in the cluster's list.

    Raises:
        MissingExtra: Ray is not installed.
        ValueError: no address, or nothing answers there.
    """

    def __init__(self, cluster: str, name: str):
        check_cluster(cluster)
        self.cluster, self.name, self.ray = cluster, name, ray_library()
        self.joined = False
        self.guard: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Connection:
        if self.ray.is_initialized():
            return self
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        job = importlib.import_module("ray.job_config").JobConfig(metadata={"job_name": self.name})
        common: Any = dict(log_to_driver=False, configure_logging=False, job_config=job)
        with warnings.catch_warnings():
            # Ray forks only to start programs at once, and its warnings about its own future are no user's business
            warnings.simplefilter("ignore")
            if self.cluster.partition(":")[0] == LOCAL:
                cores = int(self.cluster.partition(":")[2] or available_cores())
                self.ray.init(num_cpus=cores, include_dashboard=False, **common)
                self.guard = guard(self.ray)
            else:
                self._join(common)
        self.joined = True
        return self

    def _join(self, common: dict[str, Any]) -> None:
        try:
            if self.cluster != "auto":
                refuse_silence(self.cluster)
            self.ray.init(address=self.cluster, **common)
        except (OSError, RuntimeError, ValueError) as error:
            first = first_line(error)
            raise ValueError(
                f"No cluster answers at cluster={self.cluster!r} ({first}). Check that `ray start --head` has run "
                "there, that the address and the port are those it has printed, that the versions of Python and Ray "
                "are the same, and that no firewall is between. `--cluster local` starts one on this machine."
            ) from None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.joined:
            self.joined = False
            self.ray.shutdown()
        if self.guard is not None:
            self.guard.communicate()  # its pipe ends, and it finds nothing to do
            self.guard = None
