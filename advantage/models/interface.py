"""What a planner needs to know of a world: one interface for true models and for learned ones."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

from advantage.types import Array, Key, Pytree


class Imagined(NamedTuple):
    """One step of a model for N states.

    Attributes:
        state: the next states, `[N, ...]`.
        reward: float32 `[N]`.
        terminated: bool `[N]`; what a model says after a termination means nothing.
    """

    state: Pytree
    reward: Array
    terminated: Array


@runtime_checkable
class Model(Protocol):
    """Pure functions of N states side by side; actions are in the policy's own units, as in a rollout."""

    @property
    def sign(self) -> float:
        """1, and -1 where two players move in turn: the value of what follows, seen from the other side."""
        ...

    def begin(self, obs: Pytree) -> Pytree:
        """The states that belong to observations, both `[N, ...]`."""
        ...

    def step(self, state: Pytree, action: Pytree, key: Key) -> Imagined:
        """One step from each state."""
        ...

    def observation(self, state: Pytree) -> Pytree:
        """The observations of states, `[N, ...]`, in the environment's own form."""
        ...

    def allowed(self, state: Pytree) -> Array | None:
        """Which of Discrete actions are possible, bool `[N, A]`; None if all are, always."""
        ...


class Outcomes(NamedTuple):
    """All that can follow one state and action: K successors, `[K, ...]`, with their probabilities."""

    probability: Array
    state: Pytree
    reward: Array
    terminated: Array


@runtime_checkable
class EnumerableModel(Model, Protocol):
    """A model that knows all successors, so that expectations over them are exact."""

    @property
    def successors(self) -> int:
        """K, the most successors that an action has."""
        ...

    def outcomes(self, state: Pytree, action: Array) -> Outcomes:
        """What can follow one state and one action, both without the axis N."""
        ...
