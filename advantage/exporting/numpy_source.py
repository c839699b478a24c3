"""JAX functions as the source of a Python function of NumPy arrays."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import Literal

from advantage.drivers.host.staging import CALLS, REDUCTIONS, SAME, UFUNCS
from advantage.types import Pytree

WORD = re.compile(r"\b[xc][0-9]+\b")  # variables and constants


class NotWritable(Exception):
    """An operation that has no NumPy version here."""


class Source(NamedTuple):
    """A function as source.

    Attributes:
        lines: its statements, each `name = expression`; constants are read from a dict `w`.
        inputs: names of the leaves of its arguments.
        outputs: expressions of the leaves of its result.
        constants: arrays by name.
    """

    lines: list[str]
    inputs: list[str]
    outputs: list[str]
    constants: dict[str, np.ndarray]


def numpy_source(function: Callable[..., Pytree], *inputs: Pytree) -> Source:
    """The source of a function of arrays of these shapes; what depends on no input is computed now.

    Raises:
        NotWritable: an operation has no NumPy version here.
    """
    closed: Any = jax.make_jaxpr(function)(*inputs)
    writer = _Writer()
    names = [writer.name() for _ in closed.jaxpr.invars]
    outputs = writer.inline(closed.jaxpr, closed.consts, names)
    outputs = [writer.held(each) if isinstance(each, np.ndarray) else each for each in outputs]
    return _pruned(Source(writer.lines, names, outputs, writer.constants))


def _pruned(source: Source) -> Source:
    """Without statements and constants that no output needs."""
    needed, kept = {*WORD.findall(" ".join(source.outputs))}, []
    for line in reversed(source.lines):
        target, _, expression = line.partition(" = ")
        if target in needed:
            kept.append(line)
            needed |= {*WORD.findall(expression)}
    constants = {name: x for name, x in source.constants.items() if name in needed}
    return Source(kept[::-1], source.inputs, source.outputs, constants)


class _Writer:
    """Statements so far; a value is the name of a variable, or an array that is known already."""

    def __init__(self):
        self.lines: list[str] = []
        self.constants: dict[str, np.ndarray] = {}
        self.count = 0

    def name(self) -> str:
        self.count += 1
        return f"x{self.count}"

    def held(self, array: np.ndarray) -> str:
        """The expression of a constant."""
        known = next((name for name, each in self.constants.items() if each is array), None)
        name = known or f"c{len(self.constants)}"
        self.constants[name] = array
        return f'w["{name}"]'

    def inline(self, jaxpr: Any, consts: list[Any], inputs: list[Any]) -> list[Any]:
        """Write the statements of a jaxpr; returns its results."""
        values: dict[Any, Any] = dict(zip(jaxpr.constvars, map(np.asarray, consts), strict=True))
        values |= dict(zip(jaxpr.invars, inputs, strict=True))

        def read(atom: Any) -> Any:
            if not isinstance(atom, Literal):
                return values[atom]
            kind: Any = atom.aval
            return np.asarray(atom.val, kind.dtype)

        for equation in jaxpr.eqns:
            arguments, name = [read(atom) for atom in equation.invars], equation.primitive.name
            if name in CALLS:
                inner = equation.params[CALLS[name]]
                results = self.inline(inner.jaxpr, inner.consts, arguments)
            elif all(isinstance(each, np.ndarray) for each in arguments):
                found = equation.primitive.bind(*arguments, **equation.params)
                results = [
                    np.asarray(each) for each in (found if equation.primitive.multiple_results else [found])
                ]
            elif name in SAME:
                results = arguments
            else:
                named = [self.held(each) if isinstance(each, np.ndarray) else each for each in arguments]
                results = [self.name()]
                self.lines.append(f"{results[0]} = {_expression(name, equation, named)}")
            values |= dict(zip(equation.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]


def _expression(name: str, equation: Any, x: list[str]) -> str:
    """A primitive as a Python expression."""
    params, out = equation.params, equation.outvars[0].aval
    shape, dtype = tuple(out.shape), np.dtype(out.dtype).name
    if name in UFUNCS:
        return f"np.{UFUNCS[name].__name__}({', '.join(x)})"
    if name == "div" and np.issubdtype(out.dtype, np.floating):
        return f"np.divide({', '.join(x)})"
    if name in REDUCTIONS:
        return f"np.{REDUCTIONS[name].__name__}.reduce({x[0]}, axis={tuple(params['axes'])})"
    if name in ("argmax", "argmin"):
        return f"{x[0]}.{name}(axis={params['axes'][0]}).astype(np.{dtype})"
    if name == "integer_pow" and params["y"] > 0:
        return f"np.power({x[0]}, {params['y']})"
    if name == "rsqrt":
        return f"np.float32(1) / np.sqrt({x[0]})"
    if name == "logistic":
        return f"np.float32(0.5) * (np.tanh(np.float32(0.5) * {x[0]}) + np.float32(1))"
    if name == "clamp":
        return f"np.minimum(np.maximum({x[1]}, {x[0]}), {x[2]})"
    if name == "select_n" and len(x) == 3:
        return f"np.where({x[0]}, {x[2]}, {x[1]})"
    if name == "convert_element_type":
        return f"{x[0]}.astype(np.{dtype})" if dtype != "bool" else f"{x[0]}.astype(bool)"
    if name in ("reshape", "squeeze", "expand_dims"):
        return f"{x[0]}.reshape({shape})"
    if name == "transpose":
        return f"{x[0]}.transpose({tuple(params['permutation'])})"
    if name == "broadcast_in_dim":
        axes = dict(zip(params["broadcast_dimensions"], equation.invars[0].aval.shape, strict=True))
        inner = tuple(axes.get(i, 1) for i in range(len(shape)))
        return f"np.broadcast_to({x[0]}.reshape({inner}), {shape})"
    if name == "slice":
        strides = params["strides"] or (1,) * len(params["start_indices"])
        cuts = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
        return f"{x[0]}[{', '.join(f'{a}:{b}:{c}' for a, b, c in cuts)}]"
    if name == "concatenate":
        return f"np.concatenate(({', '.join(x)},), axis={params['dimension']})"
    if name == "stack":
        return f"np.stack(({', '.join(x)},), axis={params['axis']})"
    if name == "dot_general":
        (left, right), (batch, _) = params["dimension_numbers"]
        matrices = equation.invars[0].aval.ndim == equation.invars[1].aval.ndim == 2
        if not batch and matrices and (left, right) == ((1,), (0,)):
            return f"{x[0]} @ {x[1]}"
        if not batch:
            return f"np.tensordot({x[0]}, {x[1]}, axes=({tuple(left)}, {tuple(right)}))"
    raise NotWritable(name)
