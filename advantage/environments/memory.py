"""How many bytes something takes, and how many are free."""

from __future__ import annotations


def readable(size: int) -> str:
    """`3.2 MiB`."""
    unit = next((i for i in range(4) if size < 1024 ** (i + 1)), 4)
    return f"{size / 1024**unit:.3g} {('bytes', 'KiB', 'MiB', 'GiB', 'TiB')[unit]}"


def free_host_bytes() -> int | None:
    """What this machine can still give to processes; None where the system does not say."""
    try:
        with open("/proc/meminfo") as file:
            facts = dict(line.split(":") for line in file)
        return int(facts["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def refuse_large(what: str, size: float, remedy: str, free: int | None = None) -> None:
    """Raises ValueError for what would not fit into memory, before it is allocated; where nobody knows, that will tell.

    Args:
        what: its name, for the message.
        size: in bytes.
        remedy: what to do instead.
        free: bytes that are free, by default this machine's.
    """
    free = free_host_bytes() if free is None else free
    if free is not None and size > free:
        raise ValueError(
            f"{what} takes {readable(int(size))}, and {readable(free)} of memory are free; {remedy}."
        )
