"""The interface of an optimiser, and three optional extensions."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import jax

from advantage.types import Array, Key


class OptimiserState(Protocol):
    """The state of an optimiser: a NamedTuple of arrays."""

    @property
    def mean(self) -> Array:
        """The current solution, `[d]`: the centre of a distribution, or the best point so far."""
        ...


@runtime_checkable
class Optimiser(Protocol):
    """Minimises a function of a flat vector using only its values.

        state = begin(x0)
        repeat:  x = ask(state, key);  state = tell(state, x, f(x))

    It is a frozen dataclass of hyperparameters with pure functions, registered as a pytree, for instance by
    `jax.tree_util.register_static`. A cost that is not finite counts as the worst.
    """

    def population(self, dimension: int) -> int:
        """How many candidates an `ask` returns, from the number of parameters."""
        ...

    def begin(self, x0: Array) -> OptimiserState:
        """The initial state, at `x0` `[d]`."""
        ...

    def ask(self, state: Any, key: Key) -> Array:
        """The candidates to evaluate, `[n, d]`."""
        ...

    def tell(self, state: Any, candidates: Array, cost: Array) -> OptimiserState:
        """Learn from the costs `[n]` of the candidates that `ask` returned: lower is better."""
        ...

    def spread(self, state: Any) -> Array:
        """Typical distance of a candidate's coordinate from `mean`: a scalar, for metrics and for stopping."""
        ...


@runtime_checkable
class StoppingOptimiser(Optimiser, Protocol):
    """An optimiser with stopping conditions of its own."""

    def stop(self, state: Any) -> dict[str, Array]:
        """Reasons to stop, and whether each holds, a bool scalar."""
        ...


@runtime_checkable
class ResizableOptimiser(Optimiser, Protocol):
    """An optimiser whose number of candidates is a field, so that a restart can double it."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def candidates(self) -> int | None:
        """Candidates per generation; None lets `population` decide."""
        ...


@runtime_checkable
class HostOptimiser(Optimiser, Protocol):
    """An optimiser of a library that is not written in JAX: its functions are called and not compiled."""

    @property
    def host_only(self) -> Literal[True]: ...


def check_optimiser(given: object, name: str, or_give: str = "") -> None:
    """Check that an argument is a usable optimiser.

    Args:
        given: the argument.
        name: name of the argument, for the message.
        or_give: what else is allowed, for the message.

    Raises:
        ValueError: a class, an object without the functions of `Optimiser`, or one that JAX cannot compile.
    """
    if isinstance(given, type):
        raise ValueError(
            f"{name} is the class {given.__name__}, not an instance; write {given.__name__}(...)."
        )
    if not (isinstance(given, Optimiser) and dataclasses.is_dataclass(given)):
        functions = "ask, begin, population, spread and tell"
        raise ValueError(f"{name} is {given!r}; give {or_give}an optimiser, a dataclass with {functions}.")
    if not isinstance(given, HostOptimiser) and jax.tree_util.all_leaves([given]):
        raise ValueError(
            f"{name} is a {type(given).__name__}, which is not a registered pytree, so JAX cannot compile it; put "
            "@jax.tree_util.register_static above its class."
        )
