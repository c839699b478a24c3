"""Refusing an array before it fills the memory."""

from __future__ import annotations

import math

from advantage.environments.memory import refuse_large


def refuse_array(what: str, shape: tuple[int, ...], remedy: str) -> None:
    """Raises ValueError for float64 numbers that would not fit into memory; names both sizes.

    Args:
        what: its name, for the message.
        shape: of the array.
        remedy: what to do instead.
    """
    refuse_large(f"{what} has shape {list(shape)} and", 8 * math.prod(shape), remedy)
