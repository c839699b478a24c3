"""Numbers that an environment puts into its info, by name: `log_info`, `--log-info`.

A name is a key of the info; a dotted one, `episode.r`, reaches into a dict. A step that does not carry the name, or
whose value is None or NaN, has no number: NaN stands for it here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from advantage.environments.defect import Fault, raise_first_error, show
from advantage.environments.step_checks import NUMBERS
from advantage.plain_values import plain_bool, plain_number
from advantage.types import Array

NOTHING = float("nan")
FINAL_INFO = "final_info"  # the info of steps after which a vector environment has reset itself
STATISTICS = "episode"  # what Gymnasium's RecordEpisodeStatistics puts beside it, not into it


def names_in(info: Mapping[Any, Any], before: str = "") -> Iterator[str]:
    """The names in an info."""
    for key, value in info.items():
        if isinstance(value, Mapping):
            yield from names_in(value, f"{before}{key}.")
        else:
            yield f"{before}{key}"


def names_in_batch(infos: Any) -> set[str]:
    """The names in the infos of a vector environment, without its masks and what it keeps from ended episodes."""
    if not isinstance(infos, Mapping):
        return set()
    kept = {key: value for key, value in infos.items() if key not in (FINAL_INFO, "final_obs")}
    final = infos.get(FINAL_INFO)
    names = {*names_in(kept), *names_in(final if isinstance(final, Mapping) else {})}
    return {name for name in names if not any(part.startswith("_") for part in name.split("."))}


def number_in(info: Mapping[Any, Any], name: str, where: str) -> float:
    """The number under a name. Raises EnvironmentDefect, which begins with `where`, if the value is no number."""
    return _number(_find(info, name), name, where)


def numbers_in_batch(infos: Any, name: str, taken: Array, ended: Array, where: str) -> np.ndarray:
    """The numbers under a name in the infos of a vector environment, `[B]`.

    Args:
        infos: each key has an array `[B, ...]`; an array `_key` says which environments have it.
        name: the name.
        taken: the environments that took a step and were not reset instead, `[B]`; others have no number.
        ended: the environments whose episode has ended, `[B]`: if there is an entry `final_info`, it has their infos
            and the rest those of their resets.
        where: what a message begins with.

    Raises:
        EnvironmentDefect: a value is no number.
    """
    if not isinstance(infos, Mapping):
        return np.full(len(ended), NOTHING)
    if FINAL_INFO not in infos or not ended.any():
        return _batch(infos, name, taken, where)
    ended = ended & (name.partition(".")[0] != STATISTICS)
    final = _batch(infos, f"{FINAL_INFO}.{name}", taken & ended, where)
    return np.where(ended, final, _batch(infos, name, taken & ~ended, where))


def _find(info: Mapping[Any, Any], name: str) -> Any:
    """The value under a name; None if there is none."""
    if name in info:
        return info[name]
    head, _, rest = name.partition(".")
    inner = info.get(head) if rest else None
    return _find(inner, rest) if isinstance(inner, Mapping) else None


def _number(value: Any, name: str, where: str) -> float:
    if value is None:
        return NOTHING
    number = value if type(value) in NUMBERS else plain_number(value)
    try:
        found = float(plain_bool(value) if number is None else number)  # pyright: ignore[reportArgumentType]
    except (TypeError, OverflowError):  # no number, or one too large
        found = math.inf
    if math.isinf(found):
        raise_first_error(where, [Fault("logged info", f"info[{name!r}]", "one finite number", show(value))])
    return found


def _batch(infos: Mapping[Any, Any], name: str, given: Array, where: str) -> np.ndarray:
    values, given = _find_in_batch(infos, name, given)
    numbers = np.full(len(given), NOTHING)
    if values is None or not given.any():
        return numbers
    if not isinstance(values, np.ndarray | list | tuple) or len(values) != len(given):
        expected = f"an array with an entry for each of the {len(given)} environments"
        raise_first_error(where, [Fault("logged info", f"infos[{name!r}]", expected, show(values))])
    if isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "biuf":
        numbers[given] = values[given]
        given = given & np.isinf(numbers)  # these are refused below
    for index in np.flatnonzero(given).tolist():
        numbers[index] = _number(values[index], name, f"{where}, environment {index}")
    return numbers


def _find_in_batch(infos: Mapping[Any, Any], name: str, given: Array) -> tuple[Any, Array]:
    """`-> the values under a name or None, which of the environments in `given` have them`."""
    if name in infos:
        return infos[name], given & _mask(infos, name, len(given))
    head, _, rest = name.partition(".")
    inner, given = infos.get(head) if rest else None, given & _mask(infos, head, len(given))
    if isinstance(inner, Mapping):
        return _find_in_batch(inner, rest, given)
    if isinstance(inner, np.ndarray | list | tuple) and len(inner) == len(
        given
    ):  # a dict for each environment
        return [_find(each, rest) if isinstance(each, Mapping) else None for each in inner], given
    return None, given


def _mask(infos: Mapping[Any, Any], name: str, num_envs: int) -> Array:
    mask = infos.get(f"_{name}")
    if isinstance(mask, np.ndarray) and mask.shape == (num_envs,):
        return mask.astype(bool)
    return np.ones(num_envs, bool)
