"""Cores and free memory of this machine, and errors for what does not fit into it."""

from __future__ import annotations

import math
import os


def available_cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS has no such function
        return os.cpu_count() or 1


def readable(size: int) -> str:
    """A number of bytes as text, such as `3.2 MiB`."""
    unit = next((i for i in range(4) if size < 1024 ** (i + 1)), 4)
    return f"{size / 1024**unit:.3g} {('bytes', 'KiB', 'MiB', 'GiB', 'TiB')[unit]}"


def free_host_bytes() -> int | None:
    """Free memory of this machine, in bytes; None if the system does not say."""
    try:
        with open("/proc/meminfo") as file:
            facts = dict(line.split(":") for line in file)
        return int(facts["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def free_device_bytes() -> int | None:
    """Free memory of the device that JAX computes on, in bytes; None if the system does not say."""
    import jax.numpy as jnp  # worker processes import this file and must start without JAX

    (device,) = jnp.zeros(()).devices()
    if device.platform == "cpu":
        return free_host_bytes()
    facts = device.memory_stats() or {}
    return facts["bytes_limit"] - facts["bytes_in_use"] if "bytes_limit" in facts else None


def refuse_large(what: str, size: float, remedy: str, free: int | None = None) -> None:
    """Raises ValueError for what does not fit into memory, before it is allocated; never if the free memory is unknown.

    Args:
        what: name of the data, for the message.
        size: size in bytes.
        remedy: what to do instead.
        free: free bytes; by default those of this machine.
    """
    free = free_host_bytes() if free is None else free
    if free is not None and size > free:
        raise ValueError(
            f"{what} takes {readable(int(size))}, and {readable(free)} of memory are free; {remedy}."
        )


def refuse_array(what: str, shape: tuple[int, ...], remedy: str) -> None:
    """Raises ValueError for a float64 array that does not fit into memory; the message names both sizes.

    Args:
        what: name of the array, for the message.
        shape: shape of the array.
        remedy: what to do instead.
    """
    refuse_large(f"{what} has shape {list(shape)} and", 8 * math.prod(shape), remedy)
