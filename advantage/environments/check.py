"""Check a Gymnasium environment before training: where it is wrong, what was found, how to fix it.

`defect.py` lists every kind of defect with its remedy; `space_faults.py` examines spaces and values. This file makes
and plays environments and examines what they return.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

from advantage.environments.defect import (
    EnvironmentDefect,
    Fault,
    MissingExtra,
    error_text,
    raise_first_error,
    show,
)
from advantage.environments.masks import allowed_action
from advantage.environments.space_faults import (
    RANKS,
    as_array,
    box_faults,
    describe_space,
    extreme_action,
    space_changes,
    space_faults,
    value_changes,
    value_faults,
)
from advantage.environments.spaces import in_units_of_bounds, leaf_spaces, map_leaves
from advantage.environments.watchdog import BY_HAND, Watchdog
from advantage.plain_values import require_whole
from advantage.types import ActionUnits

_FIELDS = {
    "reset": ("observation", "info"),
    "step": ("observation", "reward", "terminated", "truncated", "info"),
}
_FLOAT32_MAX = float(np.finfo(np.float32).max)


def _is_number(value: Any) -> bool:
    return as_array(value).ndim == 0 and as_array(value).dtype.kind in RANKS


def _is_bool(value: Any) -> bool:
    return isinstance(value, (bool, np.bool_))


_TESTS = {  # field of a return value: kind of defect, what is expected, what a good value passes
    "reward": (
        ("reward", "a single number", _is_number),
        ("finite", "a finite number", lambda number: abs(float(as_array(number))) <= _FLOAT32_MAX),
    ),
    "terminated": (("flag", "True or False", _is_bool),),
    "truncated": (("flag", "True or False", _is_bool),),
    "info": (("info", "a dict", lambda value: isinstance(value, dict)),),
}


def far_bounds(action_space: spaces.Space, units: ActionUnits) -> list[EnvironmentDefect]:
    """A warning for each action Box that is not scaled to its bounds although one of them is far from 0 ± 1."""
    return [
        fault.at()
        for path, leaf in leaf_spaces(action_space)
        if isinstance(leaf, spaces.Box)
        for fault in box_faults(leaf, "action_space" + "".join(f"[{key!r}]" for key in path), True, units)
        if fault.kind == "far bound"
    ]


def _result_faults(method: str, result: Any, space: spaces.Space | None = None) -> Iterator[Fault]:
    """Faults of a return value of `reset` or `step`; without a space, only the tuple and its length are examined."""
    fields = _FIELDS[method]
    may_be_bare = method == "reset" and (isinstance(space, spaces.Tuple) or not isinstance(result, tuple))
    bare = space is not None and may_be_bare and not any(value_faults(space, result, ""))
    if bare or not isinstance(result, tuple) or len(result) != len(fields):
        expected, found = f"a tuple of {len(fields)}: {', '.join(fields)}", "an observation alone, " * bare
        yield Fault(f"{method} returns", f"return value of {method}()", expected, found + show(result))
    elif space is not None:
        yield from value_faults(space, result[0], "observation")
        for field, value in zip(fields, result, strict=True):
            for kind, expected, passes in _TESTS.get(field, ()):
                if not passes(value):
                    yield Fault(kind, field, expected, show(value))
                    break


def check_instance(instance: Any, index: int = 0) -> list[EnvironmentDefect]:
    """Raise the first error in the object made as environment `index`, or in its spaces; return the warnings."""
    if not isinstance(instance, gymnasium.Env):
        fault = Fault("instance", "", "a gymnasium.Env", show(instance))
        raise fault.at(f"environment {index}, make()")
    observation_space = getattr(instance, "observation_space", None)
    return check_spaces(observation_space, getattr(instance, "action_space", None), index)


def check_spaces(observation_space: Any, action_space: Any, index: int = 0) -> list[EnvironmentDefect]:
    """Raise the first error in the spaces of environment `index`; return the warnings."""
    return raise_first_error(f"environment {index}", space_faults(observation_space, action_space))


def check_reset(space: spaces.Space, result: Any, where: str) -> list[EnvironmentDefect]:
    """Raise the first error in what `reset()` returned; return the warnings.

    Args:
        space: the observation space.
        result: the return value.
        where: what the message begins with, such as `environment 2, reset(seed=0)`.
    """
    return raise_first_error(where, _result_faults("reset", result, space))


def check_step(observation_space: spaces.Space, result: Any, where: str) -> list[EnvironmentDefect]:
    """Raise the first error in what `step()` returned; return the warnings. Arguments as in `check_reset`."""
    return raise_first_error(where, _result_faults("step", result, observation_space))


def _call(kind: str, expected: str, function: Callable[[], Any]) -> tuple[Any, list[Fault]]:
    """Call a user's function: `-> result, faults`; any exception but `MissingExtra` becomes a fault of that kind."""
    try:
        return function(), []
    except MissingExtra:  # nothing is wrong with the environment
        raise
    except EnvironmentDefect as defect:  # raised by one of our wrappers
        return None, [Fault(kind, defect.where, defect.expected, defect.found, cause=defect)]
    except (Exception, SystemExit) as error:
        return None, [Fault(kind, "", expected, error_text(error), cause=error)]


class _Moment(NamedTuple):
    """One call of an environment: its name, its faults, what it returned, and how many seconds it took."""

    name: str
    faults: list[Fault]
    result: Any
    seconds: float

    @property
    def is_last(self) -> bool:
        """Whether the call raised or returned no valid tuple, so that no other call can follow."""
        return any(fault.kind.endswith((" raises", " returns")) for fault in self.faults)

    @property
    def ends_episode(self) -> bool:
        return not self.is_last and any(as_array(flag).any() for flag in self.result[2:4])


def _play(env: gymnasium.Env, actions: Iterable[Any], seed: int, space: spaces.Space) -> Iterator[_Moment]:
    """Reset, take the actions, reset at the end of each episode; the observations should be in `space`."""
    seeds = itertools.count(seed)

    def moment_of(name: str, method: str, *, expected: str, function: Callable[[], Any]) -> _Moment:
        start = time.perf_counter()
        result, faults = _call(f"{method} raises", expected, function)
        seconds = time.perf_counter() - start
        return _Moment(name, faults or list(_result_faults(method, result, space)), result, seconds)

    def reset(after: str = "") -> _Moment:
        number, expected = next(seeds), "an episode to start"
        name = f"reset(seed={number}){after}"
        return moment_of(name, "reset", expected=expected, function=lambda: env.reset(seed=number))

    def step(number: int, action: Any) -> _Moment:
        expected = f"the action {action} to be taken"
        return moment_of(f"step {number}", "step", expected=expected, function=lambda: env.step(action))

    yield (moment := reset())
    for number, action in enumerate(actions, start=1):
        if moment.ends_episode:
            yield (moment := reset(f" after the end of an episode at step {number - 1}"))
        if moment.is_last:
            return
        yield (moment := step(number, allowed_action(env.action_space, action, moment.result[0])))


def _inspect(
    make: Callable[[], Any], steps: int, seed: int, instances: list[Any]
) -> Iterator[tuple[str, Iterable[Fault]]]:
    """Faults of an environment, call by call; appends the environments that were made to `instances`."""
    for moment in ("make()", "a second make()"):
        instance, faults = _call("make", "an environment", make)
        yield moment, faults
        if not faults and not isinstance(instance, gymnasium.Env):
            yield moment, [Fault("instance", "", "a gymnasium.Env", show(instance))]
        elif not faults:
            instances.append(instance)
    if not instances:
        return
    env = instances[0]
    yield "", (faults := list(space_faults(*_declared_spaces(env))))
    errors = [fault for fault in faults if fault.severity == "error"]
    if any(error.kind == "space" or error.place.startswith("action_space") for error in errors):
        return
    declared = copy.deepcopy(_declared_spaces(env))
    yield "unwrapped", (faults := [] if env.unwrapped is env else _unwrapped_faults(env.unwrapped, seed))
    if faults:
        return
    action_space = declared[1]
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
        ("at the lowest action, ", env, [extreme_action(action_space, 0)]),
        ("at the highest action, ", env, [extreme_action(action_space, 1)]),
    ):
        first_time = known if moves is actions else {}
        ended = yield from _watch(
            instance, moves, label=label, seed=seed, declared=declared, first_time=first_time
        )
        if ended:
            return


def _declared_spaces(env: gymnasium.Env) -> list[Any]:
    return [getattr(env, name, None) for name in ("observation_space", "action_space")]


def _unwrapped_faults(inner: gymnasium.Env, seed: int) -> list[Fault]:
    """Faults of the tuples of the unwrapped environment; wrappers would hide them behind their own exceptions."""
    faults = []
    with contextlib.suppress(Exception, SystemExit):
        faults += _result_faults("reset", inner.reset(seed=seed))
        faults += _result_faults("step", inner.step(extreme_action(inner.action_space, 0)))
    return faults


def _watch(
    env: gymnasium.Env,
    moves: list[Any],
    *,
    label: str,
    seed: int,
    declared: list[Any],
    first_time: dict[str, Any],
) -> Generator[tuple[str, Iterable[Fault]], None, bool]:
    """Faults while an environment takes actions, call by call; returns whether it can be played no further.

    Args:
        env: reset with `seed`, then played.
        moves: the actions, which the environment must not change.
        label: the beginning of each call's name.
        seed: seed of the first reset.
        declared: the spaces as they were at first.
        first_time: what each call returned the first time, for comparison; missing entries are added.
    """
    taken, kept, ended = copy.deepcopy(moves), [], False
    for moment in _play(env, taken, seed, declared[0]):
        name, ended = label + moment.name, moment.is_last
        yield name, moment.faults
        if moment.name.startswith("reset"):
            yield name, space_changes(declared, _declared_spaces(env))
        if any(fault.severity == "error" for fault in moment.faults):
            continue
        facts = copy.deepcopy(moment.result[:-1])  # all but the info
        kept.append((name, facts[0], moment.result[0]))
        yield name, (faults := _random_faults(first_time.setdefault(moment.name, facts), facts))
        if faults:
            break
    for step, (given, now) in enumerate(zip(moves, taken, strict=True), start=1):
        was = "as it was passed in"
        yield (
            f"{label}step {step}",
            value_changes("mutated action", "action", was=was, before=given, after=now),
        )
    for name, returned, now in kept:
        was = "as it was when returned"
        yield name, value_changes("mutated observation", "observation", was=was, before=returned, after=now)
    return ended


def _random_faults(before: tuple, after: tuple) -> list[Fault]:
    """Differences between two returned tuples although seed and actions were the same."""
    was = "as the first time under this seed and these actions"
    return [
        fault
        for field, old, new in zip(_FIELDS["step"], before, after, strict=False)
        for fault in value_changes("random", field, was=was, before=old, after=new)
    ]


def check_environment(
    make: Callable[[], gymnasium.Env], *, steps: int = 200, seed: int = 0, index: int = 0
) -> list[EnvironmentDefect]:
    """Play an environment with random actions and report everything that is wrong with it.

    Args:
        make: builds the environment; called twice, to compare two instances with the same seed.
        steps: random steps to take; they are taken three times, to see whether the results repeat.
        seed: seed of the actions and of the first episode; episode n is reset with `seed + n`.
        index: the environment's number in the messages.

    Returns:
        The defects, errors before warnings. Each kind is listed once per place, at its first occurrence.

    Raises:
        ValueError: `steps` or `seed` is not a whole number, or out of range.
    """
    steps, seed = require_whole("steps", steps, 1), require_whole("seed", seed, 0)
    instances: list[Any] = []
    defects: dict[tuple[str, str], EnvironmentDefect] = {}
    now = "make()"
    try:
        with Watchdog(lambda: f"environment {index}, {now}", remedy=BY_HAND), warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="gymnasium")  # its own checker reports less
            for moment, faults in _inspect(make, steps, seed, instances):
                now = f"the call after {moment}" if moment else now
                for fault in faults:
                    defects.setdefault((fault.place, fault.kind), fault.at(f"environment {index}", moment))
    finally:
        with Watchdog(lambda: f"environment {index}, close()", remedy=BY_HAND):
            for instance in instances:
                _, faults = _call("close raises", "the environment to close", instance.close)
                for fault in faults:
                    defects.setdefault((fault.place, fault.kind), fault.at(f"environment {index}", "close()"))
    return sorted(defects.values(), key=lambda defect: defect.severity != "error")


def answer_beyond_bounds(environment: gymnasium.Env, seed: int = 0) -> str:
    """How the first step takes an action beyond its bounds; empty if no number of an action has two bounds."""
    action_space = copy.deepcopy(environment.action_space)
    action_space.seed(seed)
    boxes = [space for _, space in leaf_spaces(action_space) if isinstance(space, spaces.Box)]
    if not any(in_units_of_bounds(box, "bounds").any() for box in boxes):
        return ""

    def beyond(space: spaces.Space, leaf: Any) -> Any:
        if not isinstance(space, spaces.Box):
            return leaf
        bounded = in_units_of_bounds(space, "bounds")
        return np.where(bounded, 2 * space.high - space.low, leaf).astype(space.dtype)

    environment.reset(seed=seed)
    action = map_leaves(beyond, action_space, action_space.sample())
    _, faults = _call("step raises", "the action to be taken", lambda: environment.step(action))
    return f"refused ({faults[0].found})" if faults else "taken, so --action-bounds none works"


def describe(environment: gymnasium.Env, *, steps: int = 1000, seed: int = 0) -> list[tuple[str, str]]:
    """Facts about an environment, as pairs of a name and a text, from random steps.

    It plays until its steps have taken a second or all of it five, and at least one step.

    Raises:
        EnvironmentDefect: a return value that cannot be used; `check_environment` reports every defect.
    """
    action_space = copy.deepcopy(environment.action_space)
    action_space.seed(seed)
    actions = [action_space.sample() for _ in range(steps)]
    lengths, returns, seconds, stepping = [0], [0.0], 0.0, 0.0
    with Watchdog(lambda: f"the call after {sum(lengths)} steps", remedy=BY_HAND):
        for moment in _play(environment, actions, seed, environment.observation_space):
            raise_first_error(moment.name, moment.faults)
            seconds += moment.seconds
            if moment.name.startswith("step"):
                lengths[-1], stepping = lengths[-1] + 1, stepping + moment.seconds
                returns[-1] += float(moment.result[1])
            if moment.ends_episode:
                lengths, returns = [*lengths, 0], [*returns, 0.0]
            if stepping > 1 or (seconds > 5 and stepping > 0):
                break
    limit = environment.spec and environment.spec.max_episode_steps
    facts = [
        ("environment", environment.spec.id if environment.spec else type(environment.unwrapped).__name__),
        ("observation", describe_space(environment.observation_space)),
        ("action", describe_space(environment.action_space)),
        ("time limit", f"{limit} steps" if limit else "none declared"),
        ("speed", f"{(speed := sum(lengths) / seconds):,.{2 * (speed < 10)}f} steps per second"),
    ]
    for name, values in (("episode length", lengths[:-1]), ("episode return", returns[:-1])):
        text = f"no end within {lengths[-1]} random steps"
        if values:
            spread = f"{np.median(values):g} ({min(values):g} to {max(values):g})"
            text = f"{spread} over {len(values)} random episodes"
        facts.append((name, text))
    return facts
