"""Refusing an array before it fills the memory."""

from __future__ import annotations

import math

from advantage.environments.memory import free_host_bytes, readable


def refuse_large(what: str, shape: tuple[int, ...], remedy: str) -> None:
    """Raises ValueError for float64 numbers that would not fit into memory; names both sizes.

    Args:
        what: its name, for the message.
        shape: of the array.
        remedy: what to do instead.
    """
    size, free = 8 * math.prod(shape), free_host_bytes()
    if free is not None and size > free:
        raise ValueError(
            f"{what} has shape {list(shape)} and takes {readable(size)}, and {readable(free)} of memory are free; "
            f"{remedy}."
        )
