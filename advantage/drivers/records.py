"""The records of a checkpoint, which restore a run's environments: checked whole before any of them is used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np


class RecordFault(ValueError):
    """A record is missing, is not one of this run's, or does not have the shape, the type or the range of its kind."""


class RecordKind(NamedTuple):
    """What a record must be.

    Attributes:
        shape: its shape; None for a length that is not known in advance.
        dtype: its type.
        low, high: the range of its numbers, ends included; they are finite unless `finite` is False.
        finite: whether its numbers must be finite.
    """

    shape: tuple[int | None, ...]
    dtype: np.dtype
    low: float = -np.inf
    high: float = np.inf
    finite: bool = True


def kind_of(array: np.ndarray, **changes: float) -> RecordKind:
    """The kind of an array: its own shape and type; infinite numbers are allowed where it has some itself."""
    array = np.asarray(array)
    is_float = np.issubdtype(array.dtype, np.floating)
    return RecordKind(
        array.shape, array.dtype, finite=not is_float or bool(np.isfinite(array).all()), **changes
    )


def check_records(records: Mapping[str, np.ndarray], kinds: Mapping[str, RecordKind]) -> None:
    """Compare every record with its kind.

    Raises:
        RecordFault: the message names the first record that is wrong, what it is and what it should be.
    """
    for name in sorted(records.keys() | kinds.keys()):
        if name not in records or name not in kinds:
            found, expected = ("nothing", "a record") if name in kinds else ("a record", "nothing")
            raise RecordFault(f"records/{name}: found {found}, expected {expected}")
        array, kind = records[name], kinds[name]
        pairs = zip(array.shape, kind.shape, strict=False)
        if array.ndim != len(kind.shape) or any(b not in (a, None) for a, b in pairs):
            shape = str(kind.shape).replace("None", "any length")
            raise RecordFault(f"records/{name}: found shape {array.shape}, expected {shape}")
        if array.dtype != kind.dtype:
            raise RecordFault(f"records/{name}: found type {array.dtype}, expected {kind.dtype}")
        if array.dtype.kind == "f" and kind.finite and not np.isfinite(array).all():
            raise RecordFault(f"records/{name}: found a number that is not finite, expected finite numbers")
        is_ranged = array.size and (kind.finite or kind.low > -np.inf)
        if is_ranged and not (kind.low <= array.min() and array.max() <= kind.high):
            found = f"numbers from {array.min()} to {array.max()}"
            raise RecordFault(f"records/{name}: found {found}, expected {kind.low:g} to {kind.high:g}")
