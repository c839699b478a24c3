"""What the dataclasses of all algorithms share: traced floats, schedules, and checks with helpful messages."""

from __future__ import annotations

import dataclasses
import difflib
import math
import typing
from collections.abc import Callable
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

import jax
from jax.core import Tracer

from advantage.plain_values import plain_bool, plain_number, plain_tuple, whole_number
from advantage.types import Array

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class Linear(NamedTuple):
    """A schedule: from `start` at the first step to `end` at the last."""

    start: float
    end: float = 0.0

    def __call__(self, progress: Array) -> Array:
        return self.start + (self.end - self.start) * progress


Schedule = Linear | Callable[[Array], Array]


def schedule_value(value: float | Schedule | Array, progress: Array) -> Array:
    """The value of a constant or of a schedule at `progress`, the share of the budget spent, in [0, 1]."""
    return value(progress) if callable(value) else value


def ranged(default: Any, interval: str) -> Any:
    """A field that must lie in `interval`, written as in mathematics: `[0, 1)`, `(0, inf)`."""
    return dataclasses.field(default=default, metadata={"interval": interval})


T = TypeVar("T", bound=type)


@typing.dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def hyperparameters(cls: T) -> T:
    """Register a frozen dataclass as a pytree: fields annotated with `float` are leaves, the others static.

    A class that is not yet a dataclass itself becomes one; its fields are checked when an instance is made.

    A float is then traced, so changing it compiles nothing and many values can run at once by vmap. A schedule
    that is a plain function is static. A field with the metadata `is_pytree` is a subtree.
    """
    if "__dataclass_fields__" not in vars(cls):
        if "__post_init__" not in vars(cls):
            cls.__post_init__ = check
        cls = dataclasses.dataclass(frozen=True)(cls)
    fields = dataclasses.fields(cls)
    traced = [field.name for field in fields if "float" in str(field.type) or "is_pytree" in field.metadata]
    static = [field.name for field in fields if field.name not in traced]

    def flatten_with_keys(self):
        children = [_leaf(getattr(self, name)) for name in traced]
        keyed = [
            (jax.tree_util.GetAttrKey(name), child) for name, child in zip(traced, children, strict=True)
        ]
        return keyed, tuple(getattr(self, name) for name in static)

    def unflatten(values, children):
        self = object.__new__(cls)  # skips the checks: leaves may be tracers
        for name, value in zip(traced + static, (*children, *values), strict=True):
            object.__setattr__(self, name, value)
        return self

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten)
    return cls


def _leaf(value: Any) -> Any:
    if isinstance(value, int):  # gamma=1 compiles to what gamma=1.0 does
        return float(value)
    if isinstance(value, Linear):
        return Linear(_leaf(value.start), _leaf(value.end))
    wrap = _is_function(value) and not isinstance(value, jax.tree_util.Partial)
    return jax.tree_util.Partial(value) if wrap else value


def _is_function(value: Any) -> bool:
    return callable(value) and not isinstance(value, Linear)


def check(algorithm: DataclassInstance) -> None:
    """Check every field's type and interval. Values are judged as numbers, and become Python's own.

    `np.float32(1e-3)` and `[64, 64]` are thus allowed where `1e-3` and `(64, 64)` are.

    Raises:
        ValueError: the message names the field, its value and what is allowed.
    """
    hints = typing.get_type_hints(type(algorithm))
    for field in dataclasses.fields(algorithm):
        given = getattr(algorithm, field.name)
        allowed = _allowed(field.name, given, hints[field.name], field.metadata.get("interval"))
        object.__setattr__(algorithm, field.name, allowed)


def _allowed(name: str, value: Any, hint: Any, interval: str | None) -> Any:
    """The value of a field, as Python's own. Raises ValueError if it is not allowed."""
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    parts = value if isinstance(value, Linear) else (value,)
    is_traced = any(isinstance(x, Tracer) or (isinstance(x, jax.Array) and x.ndim > 0) for x in parts)
    if is_traced or (value is None and type(None) in options):
        return value
    literal = next((get_args(option) for option in options if get_origin(option) is Literal), None)
    if not isinstance(value, str) and any(isinstance(option, type) for option in {*options} - {type(None)}):
        literal = None  # one of the other types
    if literal is not None:
        _require(isinstance(value, str) and value in literal, name, value, _choices(value, literal))
        return str(value)
    if bool in options:
        flag = plain_bool(value)
        _require(flag is not None, name, value, "use True or False")
        return flag
    if tuple[int, ...] in options:
        items = plain_tuple(value)
        _require(items is not None, name, value, "use a tuple of whole numbers")
        return tuple(_allowed(name, item, int, interval) for item in items or ())
    if int in options:
        number = whole_number(value)
        _require(number is not None, name, value, "use a whole number")
        return _inside_of(interval, name, number)
    if float in options:
        return _allowed_float(name, value, Linear in options, interval)
    return value


def _allowed_float(name: str, value: Any, has_schedules: bool, interval: str | None) -> Any:
    """A finite number, or where the field has schedules, also one of them."""
    if _is_function(value):
        _require(has_schedules, name, value, "use a finite number, not a schedule")
        return value
    schedule = ", or a schedule such as adv.Linear(3e-4, 0.0)" if has_schedules else ""
    is_linear = has_schedules and isinstance(value, Linear)
    numbers: list[Any] = [plain_number(number) for number in (value if is_linear else (value,))]
    for number in numbers:
        is_finite = number is not None and math.isfinite(number)
        _require(is_finite, name, value, f"use a finite number{schedule}")
    _inside_of(interval, name, numbers[0])
    if is_linear and interval:  # a schedule's end may lie on an open bound: it is never quite reached
        _require(_inside(numbers[1], f"[{interval[1:-1]}]"), name, value, f"use a value in {interval}")
    return Linear(*numbers) if is_linear else numbers[0]


def _inside_of(interval: str | None, name: str, number: Any) -> Any:
    """The number. Raises ValueError if it is outside the interval."""
    _require(interval is None or _inside(number, interval), name, number, f"use a value in {interval}")
    return number


def _choices(value: Any, allowed: tuple) -> str:
    near = difflib.get_close_matches(str(value), [str(a) for a in allowed], n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return "use one of " + ", ".join(repr(a) for a in allowed) + hint


def _require(ok: bool, name: str, value: Any, remedy: str) -> None:
    if not ok:
        raise ValueError(f"{name}={value!r} is not allowed; {remedy}.")


def _inside(number: float, interval: str) -> bool:
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = number >= low if interval[0] == "[" else number > low
    return above and (number <= high if interval[-1] == "]" else number < high)
