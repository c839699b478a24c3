"""One correct environment, and what goes wrong in those that people write: a class a defect.

`CASES` says of each how the check has to name it. Defects of values show at the second step, so that a check
which looks at the first reset only would miss them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces


class Correct(gymnasium.Env):
    """A drifting point with an observation of every kind; its episodes last seven steps."""

    observation_space: spaces.Space = spaces.Dict(
        {
            "camera": spaces.Box(0.0, 1.0, (4,), np.float32),
            "height": spaces.Box(-2.0, 2.0, (), np.float32),
            "image": spaces.Box(0, 255, (2, 3), np.uint8),
            "robot": spaces.Tuple(
                (spaces.Discrete(3, start=1), spaces.MultiDiscrete([3, 4]), spaces.MultiBinary(3))
            ),
        }
    )
    action_space: spaces.Space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        super().reset(seed=seed)
        self.clock, self.point = 0, self.np_random.uniform(0.2, 0.8, 4).astype(np.float32)
        return self.observe(), {}

    def step(self, action: Any) -> Any:
        self.clock += 1
        self.point[:2] = np.clip(self.point[:2] + 0.01 * action, 0, 1)
        return self.observe(), *self.outcome()

    def observe(self) -> Any:
        return {
            "camera": self.point.copy(),
            "height": np.float32(self.point.sum() - 2),
            "image": np.full((2, 3), 10 * (self.clock % 20), np.uint8),
            "robot": (1 + self.clock % 3, np.array([2, self.clock % 4]), np.array([0, 1, 1], np.int8)),
        }

    def outcome(self) -> tuple[Any, ...]:
        return float(self.point[0]), False, self.clock >= 7, {}


class Case(NamedTuple):
    """A defect and what its message has to hold; `cause` is the type of the exception behind it."""

    make: Callable[[], Any]
    where: str
    expected: str
    found: str
    severity: str = "error"
    cause: type[Exception] | None = None


CASES: dict[str, Case] = {}


def defect(*message: Any, **rest: Any) -> Callable[[Any], Any]:
    """Enter a class, or a function that makes an environment, into `CASES`."""

    def enter(make: Any) -> Any:
        CASES[make.__name__] = Case(make, *message, **rest)
        return make

    return enter


def at(array: np.ndarray, index: Any, value: Any) -> np.ndarray:
    """A copy of the array with one element replaced."""
    array = array.copy()
    array[index] = value
    return array


# What reset() and step() observe: from the second step on, `change` of what is right.


def observed(name: str, change: Callable[[Any], Any], place: str, *message: Any, **rest: Any) -> None:
    def observe(self: Correct) -> Any:
        right = Correct.observe(self)
        return change(right) if self.clock >= 2 else right

    defect(f"step 2, observation{place}", *message, **rest)(type(name, (Correct,), {"observe": observe}))


def camera(name: str, change: Callable[[np.ndarray], Any], element: str, *message: Any, **rest: Any) -> None:
    place = f"['camera']{element}"
    observed(name, lambda right: right | {"camera": change(right["camera"])}, place, *message, **rest)


def robot(name: str, index: int, part: Any, element: str, *message: Any, **rest: Any) -> None:
    def change(right: Any) -> Any:
        parts = list(right["robot"])
        parts[index] = part
        return right | {"robot": tuple(parts)}

    observed(name, change, f"['robot'][{index}]{element}", *message, **rest)


wanted = "an array of shape (4,) and dtype float32"
camera("ShorterArray", lambda x: x[:3], "", wanted, "an array of shape (3,) and dtype float32")
camera("RowInsteadOfVector", lambda x: x[None], "", wanted, "an array of shape (1, 4)")
camera("ListInsteadOfArray", lambda x: x.tolist(), "", wanted, "list [")
camera("NoneInsteadOfArray", lambda x: None, "", wanted, "found None")
camera("TextInsteadOfArray", lambda x: "north", "", wanted, "str 'north'")
camera("ArrayOfText", lambda x: x.astype(str), "", "dtype float32", "dtype <U32")
camera("ArrayOfObjects", lambda x: x.astype(object), "", wanted, "dtype object")
camera("ComplexArray", lambda x: x.astype(complex), "", "dtype float32", "dtype complex128")
camera("NaN", lambda x: at(x, 2, np.nan), "[2]", "a finite number", "found nan.")
camera(
    "TwoInfinities",
    lambda x: at(x, slice(1, 3), np.inf),
    "[1]",
    "a finite number",
    "inf (and 1 more)",
)
camera("TooLargeForFloat32", lambda x: at(x.astype(float), 3, 1e300), "[3]", "a finite number", "1e+300")
camera("AboveItsBounds", lambda x: at(x, 3, 1.5), "[3]", "a number from 0.0 to 1.0", "found 1.5.")
camera("BelowItsBounds", lambda x: at(x, 0, -0.5), "[0]", "a number from 0.0 to 1.0", "found -0.5.")
camera("DoublePrecision", lambda x: x.astype(float), "", "dtype float32", "dtype float64", severity="warning")
observed(
    "FloatForInteger",
    lambda right: right | {"image": right["image"] / 255},
    "['image']",
    "dtype uint8",
    "float64",
)
observed(
    "IntegerOutOfRange",
    lambda right: right | {"image": at(right["image"].astype(int), (1, 2), 256)},
    "['image'][1, 2]",
    "an integer from 0 to 255",
    "found 256.",
)
observed(
    "InfiniteScalar",
    lambda right: right | {"height": -np.inf},
    "['height']",
    "a finite number",
    "found -inf.",
)
observed(
    "VectorForScalar",
    lambda right: right | {"height": np.zeros(1, np.float32)},
    "['height']",
    "a number",
    "(1,)",
)
observed(
    "NoDict", lambda right: right["camera"], "", "a dict with the keys ['camera'", "an array of shape (4,)"
)
observed(
    "MissingKey",
    lambda right: {key: part for key, part in right.items() if key != "height"},
    "",
    "the keys ['camera', 'height', 'image', 'robot']",
    "found ['height'] missing and none extra",
)
observed(
    "ExtraKey",
    lambda right: right | {"debug": 0},
    "",
    "the keys ['camera'",
    "found none missing and ['debug'] extra",
)
observed(
    "ShortTuple",
    lambda right: right | {"robot": right["robot"][:2]},
    "['robot']",
    "a tuple of 3",
    "a tuple of 2",
)
observed(
    "ListForTuple",
    lambda right: right | {"robot": list(right["robot"])},
    "['robot']",
    "a tuple of 3",
    "list [",
)
robot("BelowItsStart", 0, 0, "", "an integer from 1 to 3", "found 0.")
robot("BeyondItsChoices", 0, np.int64(4), "", "an integer from 1 to 3", "found 4.")
robot("FloatChoice", 0, 1.0, "", "dtype int64", "dtype float64")
robot("ChoiceInArray", 0, np.array([1]), "", "an integer", "an array of shape (1,)")
robot("MultiDiscreteOutOfRange", 1, np.array([2, 4]), "[1]", "an integer from 0 to 3", "found 4.")
robot("MultiBinaryOutOfRange", 2, np.array([0, 2, 0], np.int8), "[1]", "an integer from 0 to 1", "found 2.")
robot("NestedNone", 2, None, "", "an array of shape (3,) and dtype int8", "None")


# What step() returns beside the observation, from the second step on.


def returned(name: str, field: str, value: Any, expected: str, found: str, **rest: Any) -> None:
    index = ("reward", "terminated", "truncated", "info").index(field)

    def outcome(self: Correct) -> tuple[Any, ...]:
        right = list(Correct.outcome(self))
        right[index] = value if self.clock >= 2 else right[index]
        return tuple(right)

    defect(f"step 2, {field}", expected, found, **rest)(type(name, (Correct,), {"outcome": outcome}))


returned("NaNReward", "reward", np.nan, "a finite number", "float nan")
returned("InfiniteReward", "reward", np.float32(-np.inf), "a finite number", "-inf")
returned("HugeReward", "reward", 1e39, "a finite number", "1e+39")
returned("NoReward", "reward", None, "a single number", "found None.")
returned("RewardInArray", "reward", np.ones(1), "a single number", "an array of shape (1,)")
returned("RewardInList", "reward", [1.0], "a single number", "list [1.0]")
returned("TextReward", "reward", "1.0", "a single number", "str '1.0'")
returned("ComplexReward", "reward", np.complex64(1), "a single number", "(1+0j)")
returned(
    "TerminatedInArray",
    "terminated",
    np.array([False]),
    "True or False",
    "an array of shape (1,) and dtype bool",
)
returned("TerminatedInteger", "terminated", 0, "True or False", "int 0")
returned("TerminatedNone", "terminated", None, "True or False", "found None.")
returned("TruncatedInArray", "truncated", np.array(False), "True or False", "an array of shape ()")
returned("TruncatedInteger", "truncated", 1, "True or False", "int 1")
returned("TruncatedText", "truncated", "no", "True or False", "str 'no'")
returned("ListInfo", "info", [], "a dict", "list []")
returned("NoInfo", "info", None, "a dict", "found None.")


# The calls themselves.

RESET = "reset(seed=5), return value of reset()"
STEP = "step 1, return value of step()"


@defect(RESET, "a tuple of 2: observation, info", "an observation alone")
class ResetWithoutInfo(Correct):
    def reset(self, **keywords: Any) -> Any:
        return super().reset(**keywords)[0]


@defect(RESET, "a tuple of 2: observation, info", "an observation alone, a tuple of 2")
class ResetWithoutInfoAndAPairToSee(Correct):
    observation_space = spaces.Tuple((spaces.Discrete(10), spaces.Discrete(2)))

    def observe(self) -> Any:
        return self.clock, self.clock % 2

    def reset(self, **keywords: Any) -> Any:
        return super().reset(**keywords)[0]


@defect(RESET, "a tuple of 2: observation, info", "a tuple of 3")
class ResetWithThree(Correct):
    def reset(self, **keywords: Any) -> Any:
        return *super().reset(**keywords), False


@defect(RESET, "a tuple of 2: observation, info", "found None.")
class ResetForgetsToReturn(Correct):
    def reset(self, **keywords: Any) -> Any:
        super().reset(**keywords)


@defect("reset(seed=5), info", "a dict", "list []")
class ResetInfoIsAList(Correct):
    def reset(self, **keywords: Any) -> Any:
        return super().reset(**keywords)[0], []


@defect("reset(seed=5)", "an episode to start", "got an unexpected keyword argument 'seed'", cause=TypeError)
class ResetWithoutSeed(Correct):
    def reset(self) -> Any:  # type: ignore
        return super().reset()


@defect("reset(seed=5)", "an episode to start", "RuntimeError: no power", cause=RuntimeError)
class ResetRaises(Correct):
    def reset(self, **keywords: Any) -> Any:
        raise RuntimeError("no\n  power")


@defect(
    "reset(seed=6) after the end of an episode at step 7",
    "an episode to start",
    "already done",
    cause=RuntimeError,
)
class ResetsOnceOnly(Correct):
    def reset(self, **keywords: Any) -> Any:
        if hasattr(self, "clock"):
            raise RuntimeError("already done")
        return super().reset(**keywords)


@defect("a second time, reset(seed=5)", "an episode to start", "already running", cause=RuntimeError)
class NeverEndsAndResetsOnceOnly(ResetsOnceOnly):
    def outcome(self) -> tuple[Any, ...]:
        return 0.0, False, False, {}

    def reset(self, **keywords: Any) -> Any:
        if hasattr(self, "clock"):
            raise RuntimeError("already running")
        return super().reset(**keywords)


@defect(STEP, "a tuple of 5: observation, reward, terminated, truncated, info", "a tuple of 4")
class StepWithFour(Correct):
    def outcome(self) -> tuple[Any, ...]:
        return super().outcome()[1:]


@defect(STEP, "a tuple of 5: observation, reward, terminated, truncated, info", "list [")
class StepReturnsAList(Correct):
    def step(self, action: Any) -> Any:
        return list(super().step(action))


@defect(STEP, "a tuple of 5", "an array of shape (4,)")
class StepReturnsTheObservation(Correct):
    def step(self, action: Any) -> Any:
        return super().step(action)[0]["camera"]


@defect("step 3", "to be taken", "ZeroDivisionError: division by zero", cause=ZeroDivisionError)
class StepRaises(Correct):
    def step(self, action: Any) -> Any:
        _ = 1 / (2 - self.clock)
        return super().step(action)


@defect(
    "at the lowest action, step 1",
    "the action [-1. -1.] to be taken",
    "ValueError: stalled",
    cause=ValueError,
)
class LowestActionRaises(Correct):
    def step(self, action: Any) -> Any:
        if np.all(action == -1):
            raise ValueError("stalled")
        return super().step(action)


@defect("at the highest action, step 1, reward", "a finite number", "float inf")
class HighestActionEarnsInfinity(Correct):
    def step(self, action: Any) -> Any:
        observation, reward, *rest = super().step(action)
        return observation, float("inf") if np.all(action == 1) else reward, *rest


@defect("unwrapped, return value of step()", "a tuple of 5", "a tuple of 4")
def step_with_four_inside_a_wrapper() -> gymnasium.Env:
    return gymnasium.wrappers.TimeLimit(StepWithFour(), 5)


@defect("step 1, action[1]", "as it was passed in", "found 9.0.")
class ChangesTheAction(Correct):
    def step(self, action: Any) -> Any:
        result = super().step(action)
        action[1] = 9
        return result


@defect("reset(seed=5), observation['camera'][0]", "as it was when returned", "")
class ReturnsItsBuffer(Correct):
    def observe(self) -> Any:
        return super().observe() | {"camera": self.point}


@defect("step 1, observation[0]", "as it was when returned", "")
class ReturnsItsBufferAsIs(Correct):
    observation_space = spaces.Box(0, 1, (4,), np.float32)

    def reset(self, **keywords: Any) -> Any:
        return super().reset(**keywords)[0].copy(), {}

    def observe(self) -> Any:
        return self.point


# Randomness that the seed does not govern.

AGAIN = "as the first time under this seed and these actions"


@defect("a second time, reset(seed=5), observation['camera'][0]", AGAIN, "", severity="warning")
class IgnoresTheSeed(Correct):
    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        return super().reset(options=options)


@defect("a second time, step 1, reward", AGAIN, "", severity="warning")
class DrawsElsewhere(Correct):
    def outcome(self) -> tuple[Any, ...]:
        self.elsewhere = getattr(self, "elsewhere", None) or np.random.default_rng()
        return self.elsewhere.normal(), *super().outcome()[1:]


@defect("in a second instance, reset(seed=5), observation['camera'][0]", AGAIN, "", severity="warning")
class InstancesDiffer(Correct):
    numbers = itertools.count()

    def __init__(self) -> None:
        self.number = next(self.numbers) % 2

    def observe(self) -> Any:
        right = super().observe()
        return right | {"camera": right["camera"] * (0.5 if self.number else 1)}


@defect("a second time, step 7, truncated", AGAIN, "True", severity="warning")
class ShorterTheSecondTime(Correct):
    resets = 0

    def reset(self, **keywords: Any) -> Any:
        self.resets += 1
        return super().reset(**keywords)

    def outcome(self) -> tuple[Any, ...]:
        return 0.0, False, self.clock >= (7 if self.resets > 3 else 8), {}


# The spaces and the constructor.


def spaced(
    name: str, space: Any, place: str, expected: str, found: str, acting: bool = True, **rest: Any
) -> None:
    field = "action_space" if acting else "observation_space"
    defect(field + place, expected, found, **rest)(type(name, (Correct,), {field: space}))


def bounded(low: Any, high: Any) -> spaces.Box:
    """A Box with bounds that its constructor would refuse, as after an assignment to `low` and `high`."""
    box = spaces.Box(-1, 1, (2,), np.float32)
    box.low, box.high = np.array(low, np.float32), np.array(high, np.float32)
    return box


spaced("NoActionSpace", None, "", "a gymnasium space", "found None.")
spaced("NoObservationSpace", None, "", "a gymnasium space", "found None.", acting=False)
spaced("ActionSpaceIsANumber", 2, "", "a gymnasium space", "int 2")
spaced("ObservationSpaceIsAShape", (4,), "", "a gymnasium space", "a tuple of 1, (4,)", acting=False)
spaced("NaNBounds", bounded([-1, np.nan], [1, 1]), "[1]", "bounds that are numbers", "low nan, high 1.0")
spaced("CrossedBounds", bounded([1, -1], [-1, 1]), "[0]", "low <= high", "low 1.0, high -1.0")
spaced("TextAction", spaces.Text(5), "", "a space of numbers", "a Text space")
spaced("SequenceAction", spaces.Sequence(spaces.Discrete(2)), "", "a space of numbers", "a Sequence space")
spaced("OneOfAction", spaces.OneOf([spaces.Discrete(2)]), "", "a space of numbers", "a OneOf space")
spaced(
    "GraphInside",
    spaces.Tuple([spaces.Discrete(2), spaces.Dict(map=spaces.Graph(spaces.Discrete(2), None))]),
    "[1]['map']",
    "a space of numbers",
    "a Graph space",
)
spaced("NothingToChoose", spaces.Dict({}), "", "at least one space inside", "none")
spaced("EmptyAction", spaces.Box(-1, 1, (0,)), "", "a space of at least one number", "shape (0,)")
spaced("NoChoices", spaces.MultiDiscrete([]), "", "a space of at least one number", "shape (0,)")
spaced("WholeNumberAction", spaces.Box(0, 5, (2,), np.int32), "", "a Box of floats to act in", "dtype int32")
spaced(
    "WholeNumberInside",
    spaces.Tuple([spaces.Discrete(2), spaces.Box(0, 255, (1,), np.uint8)]),
    "[1]",
    "a Box of floats to act in",
    "dtype uint8",
)
spaced(
    "UnboundedAction",
    spaces.Box(np.array([-1, -np.inf], np.float32), np.array([1, np.inf], np.float32)),
    "[1]",
    "finite bounds",
    "low -inf, high inf",
    severity="warning",
)
spaced("FixedAction", bounded([-1, 0], [1, 0]), "[1]", "low < high", "low 0.0, high 0.0", severity="warning")


@defect("observation_space['words']", "a space of numbers", "a Text space")
class TextToRead(Correct):
    observation_space = spaces.Dict(camera=spaces.Box(0, 1, (4,), np.float32), words=spaces.Text(5))

    def observe(self) -> Any:
        return {"camera": self.point.copy(), "words": "hello"}


@defect("observation_space['rays']", "a space of at least one number", "shape (3, 0)")
class EmptyPartToRead(Correct):
    observation_space = spaces.Dict(camera=spaces.Box(0, 1, (4,)), rays=spaces.Box(-1, 1, (3, 0)))

    def observe(self) -> Any:
        return {"camera": self.point.copy(), "rays": np.zeros((3, 0), np.float32)}


@defect("observation_space[0]", "low <= high", "low 1.0, high -1.0")
class CrossedBoundsToRead(Correct):
    observation_space = bounded([1, -1], [-1, 1])

    def observe(self) -> Any:
        return np.zeros(2, np.float32)


@defect("observation_space", "a gymnasium space", "found None.")
class DeclaresNothing(gymnasium.Env):
    action_space = Correct.action_space


@defect("reset(seed=5), action_space", "as it was at first", "Discrete(3)")
class ChangesItsSpaces(Correct):
    def reset(self, **keywords: Any) -> Any:
        self.action_space = spaces.Discrete(3)
        return super().reset(**keywords)


@defect("make()", "an environment", "OSError: no such map", cause=OSError)
class ConstructorRaises(Correct):
    def __init__(self) -> None:
        raise OSError("no such map")


@defect("make()", "a gymnasium.Env", "defective_environments.NoEnvironment")
class NoEnvironment:
    def reset(self) -> int:
        return 0


@defect("a second make()", "an environment", "OSError: port in use", cause=OSError)
class ExistsOnceOnly(Correct):
    numbers = itertools.count()

    def __init__(self) -> None:
        if next(self.numbers) % 2:
            raise OSError("port in use")
