"""What is wrong with an environment: where, what was expected, what was found, and how to fix it.

`ERRORS` and `WARNINGS` list every kind of defect that is looked for, with its remedy.
"""

from __future__ import annotations

import importlib
import re
import reprlib
import traceback
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

ERRORS = {  # kind: remedy
    "make": "let the constructor run without arguments, give what it needs (--env-option KEY=VALUE, "
    "env_options={'KEY': VALUE}), or install the versions that its package was written for; the environment's own "
    "exception is above this message (in Python: __cause__)",
    "instance": "build a subclass of gymnasium.Env (environments of the older gym package and vector environments "
    "are no such subclasses); several agents have to be wrapped as one, for example each of them as a gymnasium.Env "
    "in which the others act by a fixed policy",
    "space": "set it in __init__ to a space from gymnasium.spaces, such as Box or Discrete",
    "unsupported": "encode it with Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple, or leave that part of an "
    "observation out by its name: --ignore-observation NAME (ignore_observation=['NAME'])",
    "empty": "give the space at least one part",
    "no numbers": "leave this part out: it has no information and nothing to choose",
    "whole-number action": "make it a Box of floats, and round in step(), or a MultiDiscrete with a choice for each "
    "whole number",
    "nan bounds": "give Box numbers for low and high; -np.inf and np.inf mean unbounded",
    "crossed bounds": "swap low and high",
    "changed space": "fix the spaces in __init__ and never assign them again",
    "reset raises": "write `def reset(self, *, seed=None, options=None)`, begin it with "
    "`super().reset(seed=seed)`, and let it work at any time, also after the end of an episode",
    "step raises": "correct step(), whose own exception is above this message (in Python: __cause__); it has to "
    "accept every action in action_space",
    "reset returns": "end reset() with `return observation, {}`",
    "step returns": "end step() with `return observation, reward, terminated, truncated, {}`; the older "
    "`done` is now `terminated` (the task has ended) or `truncated` (the time limit is reached)",
    "mapping": "return a dict with one entry for each key of the space",
    "keys": "return exactly the keys of the space, or change the space",
    "tuple": "return a tuple with one entry for each part of the space",
    "array": "return a NumPy array: np.asarray(value, dtype=space.dtype)",
    "shape": "return the space's shape, or give the space the shape that you return",
    "dtype": "return the space's kind of number, or give the space the dtype that you return",
    "finite": "look for a division by zero, a logarithm of zero, an overflow or a diverging simulation",
    "bounds": "clip or rescale what you return, or widen the space's bounds",
    "reward": "return one number: float(reward); of several objectives, a weighted sum, for example by "
    "--wrapper 'mo_gymnasium.wrappers:LinearReward'",
    "vector reward": "return an array with one number for each environment",
    "vector flag": "return a bool array with one entry for each environment",
    "final observation": "return the last observations of the episodes that ended as infos['final_obs'], or declare "
    "another metadata['autoreset_mode']",
    "flag": "return a plain bool: bool(flag)",
    "info": "return a dict, {} if there is no information",
    "logged info": "put one number under this name, or leave it out of log_info (--log-info); a dotted name, such as "
    "episode.r, reaches into a dict",
    "mutated action": "copy the action before changing it: action = np.array(action)",
    "mutated observation": "return a copy of the internal buffer: self.buffer.copy()",
}
WARNINGS = {  # kind: remedy, for defects that do not prevent training
    "cast": "return the space's dtype; until then the value is cast",
    "barely outside": "clip what you return to the bounds or widen them, or leave it: rounding, and numbers that are "
    "outside by at most 0.5 % of the distance between the bounds, are taken as they are",
    "unbounded action": "give the action finite bounds if it has any; a Gaussian policy does not need them",
    "far bound": "give it bounds on both sides and use action_units='bounds', so that the policy acts in units of the "
    "bounds, or rescale the action; until then a new policy acts with numbers of 0 ± 1",
    "fixed action": "leave this element out of the action: there is nothing to choose",
    "close raises": "let close() work at any time, also twice; until then its error is reported and passed over",
    "random": "begin reset() with `super().reset(seed=seed)`, set all state there and draw from "
    "self.np_random alone; until then no run can be repeated, and resuming is approximate",
}


class MissingExtra(ImportError):
    """An optional dependency is not installed; the message gives the `pip install` command."""


def needed(module: str, what: str, extra: str) -> Any:
    """A module of an optional package. Raises MissingExtra, for `what` needs it, with the extra that brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise not_installed(what, f"advantage[{extra}]", error) from error


def not_installed(what: str, brings: str, error: Exception) -> MissingExtra:
    """The error where `what` needs a package that `pip install` of `brings` would bring."""
    return MissingExtra(
        f'{what} needs a package that is not installed ({error}). Install it with: pip install "{brings}"'
    )


class EnvironmentWarning(UserWarning):
    """An environment does something that training can use, but that its author should know."""


class EnvironmentDefect(ValueError):
    """An environment does something that training cannot use.

    Attributes:
        where: the place, such as `environment 2, step 17, observation['camera'][3]`.
        expected: what was expected.
        found: what was found.
        remedy: how to fix it.
        severity: `"error"`, or `"warning"` if training is possible all the same.
    """

    def __init__(self, where: str, expected: str, found: str, remedy: str, severity: str = "error"):
        super().__init__(where, expected, found, remedy, severity)
        self.where, self.expected, self.found, self.remedy, self.severity = self.args

    def at(self, where: str) -> EnvironmentDefect:
        """The same defect with `where` added in front of its place."""
        return EnvironmentDefect(f"{where}, {self.where}", *self.args[1:])

    def __str__(self) -> str:
        text = f"{self.where}: expected {self.expected}, found {self.found}. To fix it, {self.remedy}."
        return " ".join(text.split())


class Fault(NamedTuple):
    """A defect without the environment and the call in which it was found."""

    kind: str
    place: str
    expected: str
    found: str
    element: str = ""
    cause: BaseException | None = None

    @property
    def severity(self) -> str:
        return "error" if self.kind in ERRORS else "warning"

    def at(self, *where: str) -> EnvironmentDefect:
        place = ", ".join(filter(None, (*where, self.place + self.element)))
        cause = self.cause
        remedy = cause.remedy if isinstance(cause, EnvironmentDefect) else (ERRORS | WARNINGS)[self.kind]
        defect = EnvironmentDefect(place, self.expected, self.found, remedy, self.severity)
        defect.__cause__ = self.cause
        return defect


_UNCUT = reprlib.Repr()
_UNCUT.maxother = 1000


def show(value: Any) -> str:
    """A short description of a value."""
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}, {reprlib.repr(value)}"
    name = type(value).__name__ if type(value).__module__ in ("builtins", "numpy") else str(type(value))
    if re.search("0x[0-9a-f]{6}", _UNCUT.repr(value)):  # an address, which says nothing and differs each time
        return f"an object of {name}"
    return "None" if value is None else f"{name} {reprlib.repr(value)}"


def error_text(error: BaseException) -> str:
    """An exception in one line: its type and its message, or where it was raised if it has none."""
    try:
        text = str(error)
    except Exception as another:
        text = f"its message cannot be read: __str__() raised {type(another).__name__}"
    message, frames = " ".join(text.split()), traceback.extract_tb(error.__traceback__)
    if not message and frames:
        message = f"no message, from {frames[-1].filename}:{frames[-1].lineno}, in {frames[-1].name}"
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def raise_first_error(where: str, faults: Iterable[Fault]) -> list[EnvironmentDefect]:
    """Raise the first error among the faults found at a place; return the warnings."""
    defects = [fault.at(where) for fault in faults]
    for defect in defects:
        if defect.severity == "error":
            raise defect
    return defects
