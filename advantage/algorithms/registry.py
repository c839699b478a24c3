"""Algorithms by name, and their hyperparameters to and from JSON."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any

import jax

from advantage.algorithms.hyperparameters import Linear
from advantage.algorithms.policy_gradient.ppo import PPO
from advantage.algorithms.tabular.q_learning import QLearning

ALGORITHMS = {"ppo": PPO, "q-learning": QLearning}


def algorithm_class(name: str) -> type:
    """The dataclass of an algorithm. Raises ValueError with the nearest names."""
    if name in ALGORITHMS:
        return ALGORITHMS[name]
    near = difflib.get_close_matches(name.lower(), ALGORITHMS, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise ValueError(f"There is no algorithm {name!r}; {hint}There are: {', '.join(ALGORITHMS)}.")


def algorithm_name(algorithm: Any) -> str:
    """The name that an algorithm has on the command line."""
    known = {cls: name for name, cls in ALGORITHMS.items()}
    return known.get(type(algorithm), type(algorithm).__name__)


def to_json(algorithm: Any) -> dict[str, Any]:
    """Every hyperparameter as JSON; a function or a network of the user's becomes `{"python": its name}`."""
    fields = dataclasses.fields(algorithm)
    return {field.name: _value_to_json(getattr(algorithm, field.name)) for field in fields}


def from_json(name: str, values: dict[str, Any]) -> Any:
    """The algorithm that `to_json` described.

    Raises:
        ValueError: an unknown algorithm or field, a value that is not allowed, or one that only Python can give.
    """
    cls = algorithm_class(name)
    known = {field.name for field in dataclasses.fields(cls)}
    for field in values:
        if field not in known:
            near = difflib.get_close_matches(field, known, n=1)
            hint = f" (the nearest is {near[0]})" if near else ""
            raise ValueError(f"{name} has no hyperparameter {field!r}{hint}; remove it.")
    for field in dataclasses.fields(cls):
        if field.name not in values:
            default = _value_to_json(field.default)
            raise ValueError(
                f"{name}'s hyperparameter {field.name!r} is missing; its default is {default!r}."
            )
    return cls(**{field: _value_from_json(field, value) for field, value in values.items()})


def _value_to_json(value: Any) -> Any:
    if isinstance(value, Linear):
        return {"linear": [float(value.start), float(value.end)]}
    if isinstance(value, tuple) and all(isinstance(item, int | float) for item in value):
        return list(value)
    if isinstance(value, jax.Array):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return {"python": repr(value)}


def _value_from_json(field: str, value: Any) -> Any:
    ends = value.get("linear") if isinstance(value, dict) else None
    if isinstance(ends, list) and len(ends) == 2:
        return Linear(*ends)
    if isinstance(value, dict):
        raise ValueError(
            f"{field} was given from Python as {value.get('python', value)!r} and cannot be read from a file; give the "
            "algorithm again: adv.load(path, algorithm=adv.PPO(...)) or adv.resume(path, algorithm=...)."
        )
    return tuple(value) if isinstance(value, list) else value
