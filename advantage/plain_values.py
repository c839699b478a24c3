"""Values as users write them, as Python's own: numbers of NumPy and JAX, whole floats, arrays as tuples, paths."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np


def plain_number(value: Any) -> int | float | None:
    """The number as an int or a float; None if it is none: a bool, a string, an array of several.

    An array without axes is a number, whatever library it comes from. Every float32 is a float exactly.
    """
    found = _item(value)
    return found if type(found) in (int, float) else None


def whole_number(value: Any) -> int | None:
    """The number as an int, if it is whole: `np.int64(3)` and `1e5` are; None if it is not, or is no number."""
    found = plain_number(value)
    if isinstance(found, float):
        return int(found) if found.is_integer() else None
    return found


def require_whole(name: str, value: Any, low: int) -> int:
    """The number as an int. Raises ValueError unless it is a whole number of `low` or more."""
    found = whole_number(value)
    if found is None or found < low:
        raise ValueError(f"{name}={value!r} is not allowed; use a whole number of {low} or more.")
    return found


def plain_bool(value: Any) -> bool | None:
    """True or False; None for anything else, 0 and 1 included."""
    found = _item(value)
    return found if isinstance(found, bool) else None


def plain_tuple(values: Any) -> tuple[Any, ...] | None:
    """The items of a tuple, a list, a range or an array with one axis; None for anything else."""
    if isinstance(values, tuple | list | range):
        return tuple(values)
    array = _array(values)
    return None if array is None or array.ndim != 1 else tuple(array.tolist())


def plain_path(name: str, value: Any) -> Path:
    """The path of a text or of another path; `~`, which no shell has replaced, is the user's folder.

    Raises:
        ValueError: the value is neither; the message begins with the name.
    """
    if not isinstance(value, str | os.PathLike):
        raise ValueError(
            f"{name}={value!r} is not allowed; use a path, such as 'runs/first'. What adv.train returns has one, "
            "run.path."
        )
    path = Path(value)
    return Path.home().joinpath(*path.parts[1:]) if path.parts[:1] == ("~",) else path


def plain_paths(name: str, values: Any) -> list[Path]:
    """The paths of one value or of several. Raises ValueError as `plain_path` does."""
    several = isinstance(values, Iterable) and not isinstance(values, str | bytes | os.PathLike)
    return [plain_path(name, value) for value in (values if several else [values])]


def _item(value: Any) -> Any:
    """The only entry of an array without axes, as Python's own; None if there is none."""
    if type(value) in (bool, int, float):  # also of integers that no array holds
        return value
    array = _array(value)
    return None if array is None or array.ndim else array.item()


def _array(value: Any) -> np.ndarray | None:
    """The value as an array of numbers or bools; None if it is none."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):  # ragged, or of a library that refuses
        return None
    return array if array.dtype.kind in "biuf" else None
