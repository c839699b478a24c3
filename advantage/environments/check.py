"""Check a Gymnasium environment before it is trained on: where it is wrong, what came, how to mend it.

`_ERRORS` and `_WARNINGS` list every kind of defect that is looked for, with its remedy. The functions below
walk spaces and return values, and name the place, what was expected there, and what was found.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import reprlib
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

from advantage.environments.spaces import UNBOUNDED, in_units_of_bounds, leaf_spaces, map_leaves
from advantage.types import ActionUnits

_ERRORS = {  # kind: remedy
    "make": "make the constructor run by itself; the environment's own exception is chained to this one",
    "instance": "build a subclass of gymnasium.Env (the older gym package and vector environments are not)",
    "space": "set it in __init__ to a space from gymnasium.spaces, such as Box or Discrete",
    "unsupported": "encode it with Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple",
    "empty": "give the space at least one part",
    "nan bounds": "give Box numbers for low and high; -np.inf and np.inf mean unbounded",
    "crossed bounds": "swap low and high",
    "changed space": "fix the spaces in __init__ and never assign them again",
    "reset raises": "write `def reset(self, *, seed=None, options=None)`, begin it with "
    "`super().reset(seed=seed)`, and let it work at any time, also after the end of an episode",
    "step raises": "mend step(), whose own exception is chained to this one; it has to take every action in "
    "action_space",
    "reset returns": "end reset() with `return observation, {}`",
    "step returns": "end step() with `return observation, reward, terminated, truncated, {}`; the older "
    "`done` is now `terminated` (the task has ended) or `truncated` (the clock has)",
    "mapping": "return a dict with one entry for each key of the space",
    "keys": "return exactly the keys of the space, or change the space",
    "tuple": "return a tuple with one entry for each part of the space",
    "array": "return a NumPy array: np.asarray(value, dtype=space.dtype)",
    "shape": "return the space's shape, or give the space the shape that you return",
    "dtype": "return the space's kind of number, or give the space the dtype that you return",
    "finite": "look for a division by zero, a logarithm of zero, an overflow or a diverging simulation",
    "bounds": "clip or rescale what you return, or widen the space's bounds",
    "reward": "return one number: float(reward)",
    "flag": "return a plain bool: bool(flag)",
    "info": "return a dict, {} where there is nothing to say",
    "mutated action": "copy the action before changing it: action = np.array(action)",
    "mutated observation": "return a copy of the buffer inside: self.buffer.copy()",
}
_WARNINGS = {  # the same for what a training can live with
    "cast": "return the space's dtype; until then it will be cast",
    "unbounded action": "give the action finite bounds where it has any; a Gaussian policy can do without",
    "far bound": "let a policy act in units of the bounds, which takes one on both sides and action_units='bounds', or "
    "rescale the action; until then a policy begins with numbers of 0 ± 1",
    "fixed action": "leave this element out of the action: there is nothing to choose",
    "random": "begin reset() with `super().reset(seed=seed)`, set all state there and draw from "
    "self.np_random alone; until then no run can be repeated, and resuming is approximate",
}
_FIELDS = {
    "reset": ("observation", "info"),
    "step": ("observation", "reward", "terminated", "truncated", "info"),
}
FAR = 10  # from 0, in numbers of a policy: beyond it a bound is hardly ever met
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_RANKS = {"b": 0, "i": 1, "u": 1, "f": 2}  # kinds of number: a value may be cast upwards, never downwards


def _array(value: Any) -> np.ndarray:
    """The value as an array; of dtype object where it is not one and not a number either."""
    return np.asarray(value if isinstance(value, (int, float)) or hasattr(value, "__array__") else None)


def _is_number(value: Any) -> bool:
    return _array(value).ndim == 0 and _array(value).dtype.kind in _RANKS


def _is_bool(value: Any) -> bool:
    return isinstance(value, (bool, np.bool_))


_TESTS = {  # field of a return value: kind of defect, what is expected, what a good value passes
    "reward": (
        ("reward", "a single number", _is_number),
        ("finite", "a finite number", lambda number: abs(float(number)) <= _FLOAT32_MAX),
    ),
    "terminated": (("flag", "True or False", _is_bool),),
    "truncated": (("flag", "True or False", _is_bool),),
    "info": (("info", "a dict", lambda value: isinstance(value, dict)),),
}


class EnvironmentDefect(ValueError):
    """An environment does something that a training cannot use.

    Attributes:
        where: the place, such as `environment 2, step 17, observation['camera'][3]`.
        expected: what should have come.
        found: what came.
        remedy: how to mend it.
        severity: `"error"`, or `"warning"` where a training is possible all the same.
    """

    def __init__(self, where: str, expected: str, found: str, remedy: str, severity: str = "error"):
        super().__init__(where, expected, found, remedy, severity)
        self.where, self.expected, self.found, self.remedy, self.severity = self.args

    def __str__(self) -> str:
        text = f"{self.where}: expected {self.expected}, found {self.found}. To mend it, {self.remedy}."
        return " ".join(text.split())


class _Fault(NamedTuple):
    """A defect before it is known which environment has it, and when."""

    kind: str
    place: str
    expected: str
    found: str
    element: str = ""
    cause: Exception | None = None

    @property
    def severity(self) -> str:
        return "error" if self.kind in _ERRORS else "warning"

    def at(self, *where: str) -> EnvironmentDefect:
        place = ", ".join(filter(None, (*where, self.place + self.element)))
        remedy = (_ERRORS | _WARNINGS)[self.kind]
        defect = EnvironmentDefect(place, self.expected, self.found, remedy, self.severity)
        defect.__cause__ = self.cause
        return defect


def _show(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}, {reprlib.repr(value)}"
    name = type(value).__name__ if type(value).__module__ in ("builtins", "numpy") else str(type(value))
    return "None" if value is None else f"{name} {reprlib.repr(value)}"


def _bounds(space: spaces.Space) -> tuple[np.ndarray, np.ndarray] | None:
    """The least and the greatest values of a space of arrays, elementwise; None for every other space."""
    match space:
        case spaces.Box():
            bounds = space.low, space.high
        case spaces.Discrete():
            bounds = space.start, space.start + space.n - 1
        case spaces.MultiDiscrete():
            bounds = space.start, space.start + space.nvec - 1
        case spaces.MultiBinary():
            bounds = 0, 1
        case _:
            return None
    low, high = (np.broadcast_to(np.asarray(bound, space.dtype), space.shape or ()) for bound in bounds)
    return low, high


def _first(mask: Any) -> tuple[tuple[int, ...], str, str]:
    """Where a mask is first true: the index, the index in words, and in words how often again."""
    index = tuple(int(i) for i in np.unravel_index(np.argmax(mask), np.shape(mask)))
    again = int(np.sum(mask)) - 1
    return index, str(list(index)) if index else "", f" (and {again} more)" if again else ""


def _space_faults(observation_space: Any, action_space: Any) -> Iterator[_Fault]:
    for name, space in (("observation_space", observation_space), ("action_space", action_space)):
        if not isinstance(space, spaces.Space):
            yield _Fault("space", name, "a gymnasium space", _show(space))
            continue
        leaves = list(leaf_spaces(space))
        if not leaves:
            yield _Fault("empty", name, "at least one space inside", "none")
        for path, leaf in leaves:
            place = name + "".join(f"[{key!r}]" for key in path)
            if _bounds(leaf) is None:
                yield _Fault("unsupported", place, "a space of numbers", f"a {type(leaf).__name__} space")
            elif isinstance(leaf, spaces.Box):
                yield from _box_faults(leaf, place, acting=name == "action_space")


def _box_faults(box: spaces.Box, place: str, acting: bool, units: ActionUnits = "bounds") -> Iterator[_Fault]:
    low, high = box.low, box.high
    for kind, expected, mask in (
        ("nan bounds", "bounds that are numbers", np.isnan(low) | np.isnan(high)),
        ("crossed bounds", "low <= high", low > high),
        ("unbounded action", "finite bounds", (np.isinf(low) | np.isinf(high)) & acting),
        ("far bound", "bounds near 0 ± 1, or on both sides", _far_from_standard(box, units) & acting),
        ("fixed action", "low < high", (low == high) & acting),
    ):
        if np.any(mask):
            index, element, again = _first(mask)
            yield _Fault(kind, place, expected, f"low {low[index]}, high {high[index]}{again}", element)


def _far_from_standard(box: spaces.Box, units: ActionUnits) -> np.ndarray:
    """Which numbers of an action a policy gives as they are, though 0 ± 1 is far from one of their bounds, bool."""
    low, high = (bound.astype(np.float64) for bound in (box.low, box.high))
    far_low = (abs(low) < UNBOUNDED) & ((low > 1) | (low < -FAR))
    far_high = (abs(high) < UNBOUNDED) & ((high < -1) | (high > FAR))
    return ~in_units_of_bounds(box, units) & (far_low | far_high)


def far_bounds(action_space: spaces.Space, units: ActionUnits) -> list[EnvironmentDefect]:
    """A warning for each Box of actions that a policy gives as they are, though 0 ± 1 is far from one of its bounds."""
    return [
        fault.at()
        for path, leaf in leaf_spaces(action_space)
        if isinstance(leaf, spaces.Box)
        for fault in _box_faults(leaf, "action_space" + "".join(f"[{key!r}]" for key in path), True, units)
        if fault.kind == "far bound"
    ]


def _value_faults(space: spaces.Space, value: Any, place: str) -> Iterator[_Fault]:
    """What is wrong with a value that should be in `space`, for a product part by part."""
    parts: dict[Any, spaces.Space]
    if isinstance(space, spaces.Dict):
        parts = dict(space.spaces)
        if not isinstance(value, Mapping):
            yield _Fault("mapping", place, f"a dict with the keys {list(parts)}", _show(value))
            return
        missing, extra = (
            [key for key in parts if key not in value],
            [key for key in value if key not in parts],
        )
        if missing or extra:
            found = f"{missing or 'none'} missing and {extra or 'none'} extra"
            yield _Fault("keys", place, f"the keys {list(parts)}", found)
    elif isinstance(space, spaces.Tuple):
        parts = dict(enumerate(space.spaces))
        if not isinstance(value, tuple) or len(value) != len(parts):
            yield _Fault("tuple", place, f"a tuple of {len(parts)}", _show(value))
            return
    else:
        yield from _array_faults(space, value, place)
        return
    for key, part in parts.items():
        if isinstance(value, tuple) or key in value:
            yield from _value_faults(part, value[key], f"{place}[{key!r}]")


def _array_faults(space: spaces.Space, value: Any, place: str) -> Iterator[_Fault]:
    if (bounds := _bounds(space)) is None:
        return
    (low, high), dtype, array = bounds, np.dtype(space.dtype), _array(value)
    number = "a number" if dtype.kind == "f" else "an integer"
    if array.shape != low.shape or array.dtype == object:
        expected = f"an array of shape {low.shape} and dtype {dtype}" if low.shape else number
        yield _Fault("array" if array.dtype == object else "shape", place, expected, _show(value))
        return
    if _RANKS.get(array.dtype.kind, 3) > _RANKS[dtype.kind]:
        yield _Fault("dtype", place, f"dtype {dtype}", f"dtype {array.dtype}")
        return
    if array.dtype != dtype and isinstance(space, spaces.Box) and not isinstance(value, (int, float)):
        yield _Fault("cast", place, f"dtype {dtype}", f"dtype {array.dtype}")
    with np.errstate(over="ignore"):
        held = array.astype(dtype) if dtype.kind == "f" else array
    outside = ((held < low) | (held > high)) & (low <= high)
    for kind, mask in (("finite", ~np.isfinite(held)), ("bounds", outside)):
        if np.any(mask):
            index, element, again = _first(mask)
            expected = {"finite": "a finite number", "bounds": f"{number} from {low[index]} to {high[index]}"}
            yield _Fault(kind, place, expected[kind], f"{array[index]}{again}", element)
            return


def _result_faults(method: str, result: Any, space: spaces.Space | None = None) -> Iterator[_Fault]:
    """What is wrong with a return value of `reset` or `step`; without a space, only if it is such a tuple."""
    fields = _FIELDS[method]
    bare = space is not None and method == "reset" and not any(_value_faults(space, result, ""))
    if bare or not isinstance(result, tuple) or len(result) != len(fields):
        expected, found = f"a tuple of {len(fields)}: {', '.join(fields)}", "an observation alone, " * bare
        yield _Fault(f"{method} returns", f"return value of {method}()", expected, found + _show(result))
    elif space is not None:
        yield from _value_faults(space, result[0], "observation")
        for field, value in zip(fields, result, strict=True):
            for kind, expected, passes in _TESTS.get(field, ()):
                if not passes(value):
                    yield _Fault(kind, field, expected, _show(value))
                    break


def _raise_first(where: str, faults: Iterable[_Fault]) -> list[EnvironmentDefect]:
    defects = [fault.at(where) for fault in faults]
    for defect in defects:
        if defect.severity == "error":
            raise defect
    return defects


def check_instance(instance: Any, index: int = 0) -> list[EnvironmentDefect]:
    """Raise the first error in what was made as environment `index`, an environment or not, and in its spaces."""
    if not isinstance(instance, gymnasium.Env):
        fault = _Fault("instance", "", "a gymnasium.Env", _show(instance))
        raise fault.at(f"environment {index}, make()")
    observation_space = getattr(instance, "observation_space", None)
    return check_spaces(observation_space, getattr(instance, "action_space", None), index)


def check_spaces(observation_space: Any, action_space: Any, index: int = 0) -> list[EnvironmentDefect]:
    """Raise the first error in the spaces of environment `index`; return the warnings."""
    return _raise_first(f"environment {index}", _space_faults(observation_space, action_space))


def check_reset(space: spaces.Space, result: Any, where: str) -> list[EnvironmentDefect]:
    """Raise the first error in what `reset()` returned; return the warnings.

    Args:
        space: the observation space.
        result: the return value.
        where: what the message begins with, such as `environment 2, reset(seed=0)`.
    """
    return _raise_first(where, _result_faults("reset", result, space))


def check_step(observation_space: spaces.Space, result: Any, where: str) -> list[EnvironmentDefect]:
    """Raise the first error in what `step()` returned; return the warnings. Arguments as `check_reset`'s."""
    return _raise_first(where, _result_faults("step", result, observation_space))


def _call(kind: str, expected: str, function: Callable, *args: Any, **keys: Any) -> tuple[Any, list[_Fault]]:
    """Call what a user wrote: `-> result, faults`; whatever it raises is a fault of that kind."""
    try:
        return function(*args, **keys), []
    except Exception as error:
        return None, [_Fault(kind, "", expected, f"{type(error).__name__}: {error}", cause=error)]


class _Moment(NamedTuple):
    """One call of an environment: when, what is wrong, what it returned, and how long that took."""

    name: str
    faults: list[_Fault]
    result: Any
    seconds: float

    @property
    def is_last(self) -> bool:
        """Nothing can follow a call that raised, or that returned no such tuple."""
        return any(fault.kind.endswith((" raises", " returns")) for fault in self.faults)

    @property
    def ends_episode(self) -> bool:
        return not self.is_last and any(_array(flag).any() for flag in self.result[2:4])


def _play(env: gymnasium.Env, actions: Iterable[Any], seed: int, space: spaces.Space) -> Iterator[_Moment]:
    """Reset, take the actions, reset at each end; the observations should be in `space`."""
    seeds = itertools.count(seed)

    def call(name: str, method: str, expected: str, *args: Any, **keywords: Any) -> _Moment:
        start = time.perf_counter()
        result, faults = _call(f"{method} raises", expected, getattr(env, method), *args, **keywords)
        seconds = time.perf_counter() - start
        return _Moment(name, faults or list(_result_faults(method, result, space)), result, seconds)

    def reset(after: str = "") -> _Moment:
        number = next(seeds)
        return call(f"reset(seed={number}){after}", "reset", "an episode to start", seed=number)

    yield (moment := reset())
    for step, action in enumerate(actions, start=1):
        if moment.ends_episode:
            yield (moment := reset(f" after the end of an episode at step {step - 1}"))
        if moment.is_last:
            return
        yield (moment := call(f"step {step}", "step", f"the action {action} to be taken", action))


def _changes(kind: str, place: str, was: str, before: Any, after: Any, element: str = "") -> Iterator[_Fault]:
    """A fault for each array in which two well-formed values differ."""
    if isinstance(before, (Mapping, tuple)):
        for key in before if isinstance(before, Mapping) else range(len(before)):
            yield from _changes(kind, place, was, before[key], after[key], f"{element}[{key!r}]")
    elif np.any(unequal := np.not_equal(before, after)):
        index, where, again = _first(unequal)
        old, new = np.asarray(before)[index], np.asarray(after)[index]
        yield _Fault(kind, place, f"{old}, {was}", f"{new}{again}", element + where)


def _extreme(space: spaces.Space, end: int) -> Any:
    """The action with every element at its least (`end=0`) or greatest (1) value; 0 stands for infinity."""

    def bound(leaf: spaces.Space) -> Any:
        low, high = bounds = _bounds(leaf) or (np.zeros(()), np.zeros(()))
        value = np.where(np.isfinite(bounds[end]), bounds[end], np.clip(0, low, high)).astype(low.dtype)
        return value[()] if isinstance(leaf, spaces.Discrete) else value

    return map_leaves(bound, space)


def _space_changes(before: Iterable[Any], after: Iterable[Any]) -> Iterator[_Fault]:
    for name, old, new in zip(("observation_space", "action_space"), before, after, strict=True):
        if new != old:
            yield _Fault("changed space", name, f"{old}, as it was at first", str(new))


def _inspect(
    make: Callable[[], Any], steps: int, seed: int, instances: list[Any]
) -> Iterator[tuple[str, Iterable[_Fault]]]:
    """What is wrong, moment by moment; the environments that were made are put into `instances`."""
    for moment in ("make()", "a second make()"):
        instance, faults = _call("make", "an environment", make)
        yield moment, faults
        if not faults and not isinstance(instance, gymnasium.Env):
            yield moment, [_Fault("instance", "", "a gymnasium.Env", _show(instance))]
        elif not faults:
            instances.append(instance)
    if not instances:
        return
    env = instances[0]

    def declared() -> list[Any]:
        return [getattr(env, name, None) for name in ("observation_space", "action_space")]

    yield "", (faults := list(_space_faults(*declared())))
    errors = [fault for fault in faults if fault.severity == "error"]
    if any(error.kind == "space" or error.place.startswith("action_space") for error in errors):
        return
    observation_space, action_space = copy.deepcopy(declared())
    if env.unwrapped is not env:
        faults, inner = [], env.unwrapped
        with contextlib.suppress(
            Exception
        ):  # a wrapper would hide a wrong tuple behind an exception of its own
            faults += _result_faults("reset", inner.reset(seed=seed))
            faults += _result_faults("step", inner.step(_extreme(inner.action_space, 0)))
        yield "unwrapped", faults
        if faults:
            return

    action_space.seed(seed)
    actions, faults = _call("space", "random actions", lambda: [action_space.sample() for _ in range(steps)])
    yield "action_space.sample()", faults
    if faults:
        return
    known: dict[str, Any] = {}
    for label, instance, moves in (
        ("", env, actions),
        ("a second time, ", env, actions),
        ("in a second instance, ", instances[-1], actions),
        ("at the lowest action, ", env, [_extreme(action_space, 0)]),
        ("at the highest action, ", env, [_extreme(action_space, 1)]),
    ):
        taken, kept, ended = copy.deepcopy(moves), [], False
        for moment in _play(instance, taken, seed, observation_space):
            name, ended = label + moment.name, moment.is_last
            yield name, moment.faults
            if moment.name.startswith("reset"):
                yield name, _space_changes((observation_space, action_space), declared())
            if any(fault.severity == "error" for fault in moment.faults):
                continue
            facts = copy.deepcopy(moment.result[:-1])  # all but the info
            kept.append((name, facts[0], moment.result[0]))
            if moves is actions:
                was = "as the first time under this seed and these actions"
                pairs = zip(_FIELDS["step"], known.setdefault(moment.name, facts), facts, strict=False)
                faults = [fault for field, *pair in pairs for fault in _changes("random", field, was, *pair)]
                yield name, faults
                if faults:
                    break
        for step, pair in enumerate(zip(moves, taken, strict=True), start=1):
            yield f"{label}step {step}", _changes("mutated action", "action", "as it was passed in", *pair)
        for name, *pair in kept:
            yield name, _changes("mutated observation", "observation", "as it was when returned", *pair)
        if ended:
            return


def check_environment(
    make: Callable[[], gymnasium.Env], *, steps: int = 200, seed: int = 0, index: int = 0
) -> list[EnvironmentDefect]:
    """Play an environment with random actions and report everything that is wrong with it.

    Args:
        make: builds the environment; called twice, to see whether two of them agree under one seed.
        steps: random steps to take; they are taken three times, to see whether they can be repeated.
        seed: of the actions and of the first episode; episode n is reset with `seed + n`.
        index: the environment's number in the messages.

    Returns:
        The defects, errors before warnings; each kind once a place, the first time that it showed.
    """
    instances: list[Any] = []
    defects: dict[tuple[str, str], EnvironmentDefect] = {}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="gymnasium")  # its own checker says less about the same
            for moment, faults in _inspect(make, steps, seed, instances):
                for fault in faults:
                    defects.setdefault((fault.place, fault.kind), fault.at(f"environment {index}", moment))
    finally:
        for instance in instances:
            with contextlib.suppress(Exception):
                instance.close()
    return sorted(defects.values(), key=lambda defect: defect.severity != "error")


def _phrase(space: spaces.Space) -> str:
    """A space in words, such as `Box: float32 of shape (4,), from -1 to 1`."""
    match space:
        case spaces.Dict():
            words = "; ".join(f"{key}: {_phrase(part)}" for key, part in space.spaces.items())
        case spaces.Tuple():
            words = "; ".join(map(_phrase, space.spaces))
        case spaces.Discrete():
            words = f"{space.n} choices, {space.start} to {space.start + space.n - 1}"
        case spaces.MultiDiscrete():
            words = f"{space.nvec.tolist()} choices"
        case spaces.Box():
            words = f"{space.dtype} of shape {space.shape}, from {space.low.min():g} to {space.high.max():g}"
        case _:
            words = f"of shape {space.shape}"
    return f"{type(space).__name__}: {words}"


def describe(environment: gymnasium.Env, *, steps: int = 1000, seed: int = 0) -> list[tuple[str, str]]:
    """Facts about an environment, as pairs of a name and a text, from random steps (for one second at most).

    Raises:
        EnvironmentDefect: something came back that cannot be counted; `check_environment` tells more.
    """
    action_space = copy.deepcopy(environment.action_space)
    action_space.seed(seed)
    actions = [action_space.sample() for _ in range(steps)]
    lengths, returns, seconds = [0], [0.0], 0.0
    for moment in _play(environment, actions, seed, environment.observation_space):
        _raise_first(moment.name, moment.faults)
        seconds += moment.seconds
        if moment.name.startswith("step"):
            lengths[-1] += 1
            returns[-1] += float(moment.result[1])
        if moment.ends_episode:
            lengths, returns = [*lengths, 0], [*returns, 0.0]
        if seconds > 1:
            break
    limit = environment.spec and environment.spec.max_episode_steps
    facts = [
        ("environment", environment.spec.id if environment.spec else type(environment.unwrapped).__name__),
        ("observation", _phrase(environment.observation_space)),
        ("action", _phrase(environment.action_space)),
        ("time limit", f"{limit} steps" if limit else "none declared"),
        ("speed", f"{sum(lengths) / seconds:,.0f} steps per second"),
    ]
    for name, values in (("episode length", lengths[:-1]), ("episode return", returns[:-1])):
        text = f"no end within {lengths[-1]} random steps"
        if values:
            spread = f"{np.median(values):g} ({min(values):g} to {max(values):g})"
            text = f"{spread} over {len(values)} random episodes"
        facts.append((name, text))
    return facts
