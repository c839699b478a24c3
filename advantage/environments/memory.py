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
