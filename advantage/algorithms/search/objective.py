"""The function that `minimize` is given: compiled if JAX can trace it, else called point by point."""

from __future__ import annotations

import dataclasses
import hashlib
import numbers
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advantage.types import Array

Compiled = bool | Literal["auto"]


@dataclasses.dataclass(frozen=True)
class Traced:
    """A function that is compiled anew when what it computes has changed."""

    function: Callable[[Array], Array] = dataclasses.field(compare=False)
    identity: int
    text: str
    constants: tuple[str, ...]


class Objective(NamedTuple):
    """A function of a vector `[d]`.

    Attributes:
        function: the function as given.
        traced: the function to compile; None if it is called instead.
    """

    function: Callable[[Any], Any]
    traced: Traced | None

    def value(self, point: np.ndarray) -> float:
        """The value at one point; inf where it is not finite."""
        value = float(_compiled_value(self.traced, point)) if self.traced else self.call(point.copy())
        return value if np.isfinite(value) else np.inf

    def call(self, point: np.ndarray) -> float:
        """The value from a call of the function. Raises ValueError if it is not one number."""
        value = self.function(point)
        if isinstance(value, numbers.Real):
            return float(value)
        _check_value(value)
        return float(value)


@partial(jax.jit, static_argnums=0)
def _compiled_value(traced: Traced, point: Array) -> Array:
    return traced.function(point)


def objective_of(function: Callable[[Any], Any], start: np.ndarray, compiled: Compiled) -> Objective:
    """Trace a function of vectors like `start`, if it is to be compiled.

    Raises:
        ValueError: no function, a value that is not one number, or `compiled=True` for a function whose traces differ.
    """
    if not callable(function):
        raise ValueError(
            f"f={function!r} is not a function; give one that takes a vector and returns a number."
        )
    if compiled not in (True, False, "auto"):
        raise ValueError(f'compiled={compiled!r} is not allowed; use True, False or "auto".')
    if compiled is False:
        return Objective(function, None)
    argument = jax.ShapeDtypeStruct(start.shape, start.dtype)
    try:  # two lambdas, since JAX caches the trace of one
        (first, shape), (second, _) = (
            jax.make_jaxpr(lambda x: function(x), return_shape=True)(argument) for _ in range(2)
        )
    except Exception:
        if compiled == "auto":
            return Objective(function, None)
        raise
    constants = [_digests(traced.consts) for traced in (first, second)]
    if str(first) != str(second) or constants[0] != constants[1]:
        if compiled == "auto":
            return Objective(function, None)
        raise ValueError(
            "compiled=True is not allowed: each trace of f gives a different program, because of random numbers or "
            "a counter; use compiled=False."
        )
    _check_value(shape)
    return Objective(function, Traced(function, id(function), str(first), constants[0]))


def _digests(constants: list[Any]) -> tuple[str, ...]:
    return tuple(hashlib.sha256(np.asarray(x).tobytes()).hexdigest() for x in constants)


def _check_value(value: Any) -> None:
    """Raises ValueError if a value, or the shape of a traced value, is not one real number."""
    if not isinstance(value, np.ndarray | np.generic | jax.Array | jax.ShapeDtypeStruct):
        what = (
            "None; is a return statement missing?"
            if value is None
            else f"a value of type {type(value).__name__}."
        )
        raise ValueError(f"f must return one number, but returned {what}")
    if value.shape != ():
        raise ValueError(
            f"f must return one number, but returned an array of shape {value.shape}; sum it, or index it."
        )
    if np.dtype(value.dtype).kind not in "fiub" and not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(f"f must return one real number, but returned one of type {value.dtype}.")
