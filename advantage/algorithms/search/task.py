"""The checked arguments of `minimize`: the start, the bounds, the limits and the optimiser."""

from __future__ import annotations

import dataclasses
import difflib
import numbers
from typing import Any, NamedTuple, cast

import numpy as np

from advantage.algorithms.search.optimiser import Optimiser, check_optimiser
from advantage.algorithms.search.optimisers import OPTIMISERS, optimiser_class


class Task(NamedTuple):
    """The task of a search and its limits.

    Attributes:
        start: the starting point, `[d]`.
        low, high: the bounds, `[d]`; infinite where there are none.
        f_target: a value that ends the search; -inf for none.
        x_tolerance: the spread of candidates that ends a search.
        max_evaluations: limit for all restarts together.
        restarts: number of restarts.
        seed: seed of the random numbers.
    """

    start: np.ndarray
    low: np.ndarray
    high: np.ndarray
    f_target: float
    x_tolerance: float
    max_evaluations: int
    restarts: int
    seed: int

    @property
    def is_bounded(self) -> bool:
        """Whether every coordinate has two finite bounds."""
        return bool(np.isfinite(self.low).all() and np.isfinite(self.high).all())


def task_of(
    x0: Any,
    bounds: Any,
    *,
    f_target: float | None,
    x_tolerance: float,
    max_evaluations: int | None,
    restarts: int,
    seed: int,
    dtype: str,
) -> Task:
    """The task that the arguments of `minimize` describe. Raises ValueError for values that are not allowed."""
    if dtype not in ("float64", "float32"):
        raise ValueError(f"dtype={dtype!r} is not allowed; use 'float64' or 'float32'.")
    start = _vector(x0, dtype)
    low, high = _box(bounds, start)
    budget = 10_000 * start.size if max_evaluations is None else max_evaluations
    tolerance_is_allowed = _is_real(x_tolerance) and x_tolerance >= 0
    _require(f_target is None or _is_real(f_target), "f_target", f_target, "use a finite number or None")
    _require(tolerance_is_allowed, "x_tolerance", x_tolerance, "use a finite number, 0 or above")
    _require(_is_whole(restarts) and restarts >= 0, "restarts", restarts, "use a whole number, 0 or above")
    _require(_is_whole(seed) and 0 <= seed < 2**32, "seed", seed, "use a whole number in [0, 2^32)")
    _require(_is_whole(budget), "max_evaluations", budget, "use a whole number or None")
    target = -np.inf if f_target is None else f_target
    return Task(start, low, high, target, x_tolerance, budget, restarts, seed)


def optimiser_of(method: str | Optimiser, options: dict[str, Any]) -> Optimiser:
    """The optimiser that a name and its options describe, or the object itself.

    Raises:
        ValueError: an unknown name or option, a value that is not allowed, an object that is not an optimiser, or
            options beside an object.
    """
    if not isinstance(method, str):
        check_optimiser(method, "method", "a name, such as 'cma-es', or ")
        if options:
            raise ValueError(
                f"{sorted(options)} cannot be given beside an optimiser; set them there: {type(method).__name__}(...)."
            )
        return method
    if method not in OPTIMISERS:
        near = difflib.get_close_matches(method.lower(), OPTIMISERS, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}? The" if near else "the"
        raise ValueError(f"There is no method {method!r}; {hint} methods are: {', '.join(OPTIMISERS)}.")
    optimiser = optimiser_class(method)
    known = sorted(field.name for field in dataclasses.fields(cast(Any, optimiser)))
    for option in options:
        if option not in known:
            near = difflib.get_close_matches(option, known, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(f"{method}: the option {option!r} is unknown{hint}; its options are {known}.")
    return optimiser(**options)


def _vector(x0: Any, dtype: str) -> np.ndarray:
    try:
        start = np.array(x0, dtype)
    except (TypeError, ValueError):
        raise ValueError(f"x0={x0!r} is not a vector of numbers.") from None
    if start.ndim != 1 or not start.size:
        raise ValueError(
            f"x0 has the shape {start.shape}; give a vector of one number or more, such as np.zeros(3)."
        )
    if not np.isfinite(start).all():
        raise ValueError(f"x0 must be finite, but x0[{int(np.argmin(np.isfinite(start)))}] is not: {start}.")
    return start


def _box(bounds: Any, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    remedy = f"give (low, high), each a number, a vector of {start.size}, or None"
    try:
        below, above = (None, None) if bounds is None else bounds
        low = np.broadcast_to(np.asarray(-np.inf if below is None else below, start.dtype), start.shape)
        high = np.broadcast_to(np.asarray(np.inf if above is None else above, start.dtype), start.shape)
    except (TypeError, ValueError):
        raise ValueError(f"bounds={bounds!r} is not allowed; {remedy}.") from None
    if not (low < high).all():
        i = int(np.argmin(low < high))
        raise ValueError(f"bounds: low[{i}]={low[i]} is not below high[{i}]={high[i]}; {remedy}.")
    outside = (start < low) | (start > high)
    if outside.any():
        i = int(np.argmax(outside))
        raise ValueError(
            f"x0[{i}]={start[i]} is outside the bounds [{low[i]}, {high[i]}]; start within them."
        )
    return low, high


def _require(is_allowed: bool, name: str, value: Any, remedy: str) -> None:
    if not is_allowed:
        raise ValueError(f"{name}={value!r} is not allowed; {remedy}.")


def _is_real(value: Any) -> bool:
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return is_number and bool(np.isfinite(float(value)))


def _is_whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
