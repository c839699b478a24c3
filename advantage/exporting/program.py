"""A JAX function as a list of operations on named arrays, from which each format writes its own program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from advantage.drivers.host.staging import CALLS, SAME
from advantage.types import Pytree

Value = str | np.ndarray  # the name of an array, or an array that is known already
Kind = Literal["uniform", "normal"]


class NotWritable(Exception):
    """An operation that a format does not have; the message is its name."""


class Operation(NamedTuple):
    """`results = primitive(*arguments)`.

    Attributes:
        primitive, params: JAX's name of the operation, and its parameters.
        arguments: the values that it takes.
        takes, gives: shapes and types of the arguments and of the results.
        results: names of the results.
    """

    primitive: str
    params: dict[str, Any]
    arguments: tuple[Value, ...]
    takes: tuple[Any, ...]
    gives: tuple[Any, ...]
    results: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the only result."""
        return tuple(self.gives[0].shape)

    @property
    def dtype(self) -> np.dtype:
        """The type of the only result."""
        return np.dtype(self.gives[0].dtype)


class Noise(NamedTuple):
    """An input of random numbers, float32: uniform in [0, 1), or standard normal."""

    name: str
    kind: Kind
    shape: tuple[int, ...]


class Program(NamedTuple):
    """A function as operations, in order.

    Attributes:
        inputs: names of the leaves of its arguments.
        noise: random numbers that it takes besides.
        operations: what it computes; no result is without use.
        outputs: the leaves of its result.
    """

    inputs: list[str]
    noise: list[Noise]
    operations: list[Operation]
    outputs: list[Value]


def program_of(function: Callable[..., Pytree], *inputs: Pytree) -> Program:
    """The operations of a function of arrays of these shapes; what depends on no input is computed now.

    What the function draws with `jax.random.uniform` and `jax.random.normal`, and all that is made of these, becomes
    `noise`; the key is then an input without use.
    """
    closed: Any = jax.make_jaxpr(function)(*inputs)
    trace = _Trace()
    names = [trace.name() for _ in closed.jaxpr.invars]
    outputs = trace.inline(closed.jaxpr, closed.consts, names)
    needed, kept = {each for each in outputs if isinstance(each, str)}, []
    for operation in reversed(trace.operations):
        if needed.intersection(operation.results):
            kept.append(operation)
            needed.update(each for each in operation.arguments if isinstance(each, str))
    noise = [each for each in trace.noise if each.name in needed]
    return Program(names, noise, kept[::-1], outputs)


class _Trace:
    """Operations so far, without those whose arguments are all known."""

    def __init__(self):
        self.operations: list[Operation] = []
        self.noise: list[Noise] = []
        self.count = 0

    def name(self) -> str:
        self.count += 1
        return f"x{self.count}"

    def inline(self, jaxpr: Any, consts: list[Any], inputs: Sequence[Value], caller: str = "") -> list[Value]:
        """Add the operations of a jaxpr, which has the name `caller` if it is a function's; returns its results."""
        values: dict[Any, Value] = dict(zip(jaxpr.constvars, map(self._constant, consts), strict=True))
        values |= dict(zip(jaxpr.invars, inputs, strict=True))

        def read(atom: Any) -> Value:
            if not isinstance(atom, core.Literal):
                return values[atom]
            kind: Any = atom.aval
            return np.asarray(atom.val, kind.dtype)

        for equation in jaxpr.eqns:
            arguments, name = [read(atom) for atom in equation.invars], equation.primitive.name
            inner = equation.params[CALLS[name]] if name in CALLS else None
            called = equation.params.get("name", "")
            if inner is not None and called == "_normal_real":
                results = [self._drawn("normal", equation.outvars[0].aval)]
            elif inner is not None:
                results = self.inline(inner.jaxpr, inner.consts, arguments, called)
            elif caller == "_uniform" and name == "bitcast_convert_type":
                results = [self._between_one_and_two(equation.outvars[0].aval)]
            elif name in SAME:
                results = arguments
            elif all(isinstance(each, np.ndarray) for each in arguments) and not gives_keys(equation):
                found = equation.primitive.bind(*arguments, **equation.params)
                results = list(map(np.asarray, found if equation.primitive.multiple_results else [found]))
            else:
                results = self._add(equation, arguments)
            values |= dict(zip(equation.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _constant(self, x: Any) -> Value:
        return self.name() if is_key(x) else np.asarray(x)

    def _add(self, equation: Any, arguments: list[Value]) -> list[Value]:
        takes, gives = ([atom.aval for atom in atoms] for atoms in (equation.invars, equation.outvars))
        results = [self.name() for _ in gives]
        self.operations.append(
            Operation(
                equation.primitive.name,
                equation.params,
                tuple(arguments),
                tuple(takes),
                tuple(gives),
                tuple(results),
            )
        )
        return list(results)

    def _drawn(self, kind: Kind, aval: Any) -> str:
        noise = Noise(self.name(), kind, tuple(aval.shape))
        self.noise.append(noise)
        return noise.name

    def _between_one_and_two(self, aval: Any) -> str:
        """What JAX makes of random bits, from which it makes uniform numbers of any range: one and a uniform number.

        The sum stays below two: above the last of the float32 numbers between one and two it would be rounded to two.
        """
        largest, one = np.array(1 - 2**-23, np.float32), np.ones((), np.float32)
        drawn, below, result = self._drawn("uniform", aval), self.name(), self.name()
        self.operations += [
            Operation("min", {}, (drawn, largest), (aval, largest), (aval,), (below,)),
            Operation("add", {}, (below, one), (aval, one), (aval,), (result,)),
        ]
        return result


def is_key(x: Any) -> bool:
    """Whether an array, or its description, is a key of random numbers, which no format has."""
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def gives_keys(equation: Any) -> bool:
    """Whether a result of an equation is a key."""
    return any(is_key(atom.aval) for atom in equation.outvars)


def summation(op: Operation) -> str:
    """A product of two arrays, over any axes, in Einstein's notation."""
    (left, right), (batch_left, batch_right) = op.params["dimension_numbers"]
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    first = [next(letters) for _ in op.takes[0].shape]
    shared = dict(zip((*right, *batch_right), (*left, *batch_left), strict=True))
    second = [first[shared[axis]] if axis in shared else next(letters) for axis in range(op.takes[1].ndim)]
    summed = {first[axis] for axis in (*left, *batch_left)}
    batch = [first[axis] for axis in batch_left]
    rest = [each for each in (*first, *second) if each not in summed]
    return f"{''.join(first)},{''.join(second)}->{''.join((*batch, *rest))}"


def takes_rows(op: Operation) -> bool:
    """Whether a `gather` takes whole rows of a table, by indices of its first axes: `table[i, j]`."""
    numbers, sizes, table = op.params["dimension_numbers"], op.params["slice_sizes"], tuple(op.takes[0].shape)
    count, batch = len(numbers.start_index_map), op.takes[1].ndim - 1
    first, last = tuple(range(count)), tuple(range(batch, batch + len(table) - count))
    is_first = numbers.start_index_map == numbers.collapsed_slice_dims == first
    is_whole = sizes == (1,) * count + table[count:] and numbers.offset_dims == last
    return is_first and is_whole and not numbers.operand_batching_dims
