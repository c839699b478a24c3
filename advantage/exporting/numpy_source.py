"""A program as the source of a Python function of NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from advantage.drivers.host.staging import REDUCTIONS, UFUNCS
from advantage.exporting.program import NotWritable, Operation, Program, Value, summation, takes_rows


class Source(NamedTuple):
    """A function as source.

    Attributes:
        lines: its statements, each `name = expression`; constants are read from a dict `w`.
        outputs: expressions of the leaves of its result.
        constants: arrays by name.
    """

    lines: list[str]
    outputs: list[str]
    constants: dict[str, np.ndarray]


def numpy_source(program: Program) -> Source:
    """The source of a program.

    Raises:
        NotWritable: an operation has no NumPy version here.
    """
    constants: dict[str, np.ndarray] = {}

    def text(value: Value) -> str:
        """The expression of a value."""
        if isinstance(value, str):
            return value
        known = next((name for name, each in constants.items() if each is value), None)
        name = known or f"c{len(constants)}"
        constants[name] = value
        return f'w["{name}"]'

    lines = []
    for operation in program.operations:
        write = WRITE.get(operation.primitive)
        expression = write(operation, [text(each) for each in operation.arguments]) if write else None
        if expression is None:
            raise NotWritable(operation.primitive)
        lines.append(f"{', '.join(operation.results)} = {expression}")
    return Source(lines, [text(each) for each in program.outputs], constants)


Write = Callable[[Operation, list[str]], str | None]  # None: not with these parameters


def _called(function: str) -> Write:
    return lambda op, x: f"np.{function}({', '.join(x)})"


def _reduced(function: str) -> Write:
    def write(op: Operation, x: list[str]) -> str:
        dtype = f", dtype=np.{op.dtype}" if op.dtype.kind in "iu" else ""  # NumPy's sums are wider
        return f"np.{function}.reduce({x[0]}, axis={tuple(op.params['axes'])}{dtype})"

    return write


def _place_of_extreme(op: Operation, x: list[str]) -> str:
    return f"{x[0]}.{op.primitive}(axis={op.params['axes'][0]}).astype(np.{op.dtype})"


def _divided(op: Operation, x: list[str]) -> str | None:
    return f"np.divide({x[0]}, {x[1]})" if op.dtype.kind == "f" else None


def _power(op: Operation, x: list[str]) -> str | None:
    return f"np.power({x[0]}, {op.params['y']})" if op.params["y"] > 0 else None


def _chosen(op: Operation, x: list[str]) -> str | None:
    return f"np.where({x[0]}, {x[2]}, {x[1]})" if len(x) == 3 and op.takes[0].dtype == bool else None


def _converted(op: Operation, x: list[str]) -> str:
    return f"{x[0]}.astype({'bool' if op.dtype == bool else f'np.{op.dtype}'})"


def _reshaped(op: Operation, x: list[str]) -> str:
    return f"{x[0]}.reshape({op.shape})"


def _broadcast(op: Operation, x: list[str]) -> str:
    sizes = dict(zip(op.params["broadcast_dimensions"], op.takes[0].shape, strict=True))
    inner = tuple(sizes.get(axis, 1) for axis in range(len(op.shape)))
    reshaped = f"{x[0]}.reshape({inner})"
    return reshaped if inner == op.shape else f"np.broadcast_to({reshaped}, {op.shape})"


def _sliced(op: Operation, x: list[str]) -> str:
    starts, ends = op.params["start_indices"], op.params["limit_indices"]
    steps = op.params["strides"] or (1,) * len(starts)
    return f"{x[0]}[{', '.join(f'{a}:{b}:{c}' for a, b, c in zip(starts, ends, steps, strict=True))}]"


def _split(op: Operation, x: list[str]) -> str:
    places = np.cumsum(op.params["sizes"])[:-1].tolist()
    return f"np.split({x[0]}, {places}, axis={op.params['axis']})"


def _product(op: Operation, x: list[str]) -> str:
    (left, right), (batch, _) = op.params["dimension_numbers"]
    if not batch and op.takes[0].ndim == op.takes[1].ndim == 2 and (left, right) == ((1,), (0,)):
        return f"{x[0]} @ {x[1]}"
    if not batch:
        return f"np.tensordot({x[0]}, {x[1]}, axes=({tuple(left)}, {tuple(right)}))"
    return f'np.einsum("{summation(op)}", {x[0]}, {x[1]})'


def _rows(op: Operation, x: list[str]) -> str | None:
    return f"{x[0]}[tuple(np.moveaxis({x[1]}, -1, 0))]" if takes_rows(op) else None


WRITE: dict[str, Write] = {
    **{name: _called(function.__name__) for name, function in UFUNCS.items()},
    **{name: _reduced(function.__name__) for name, function in REDUCTIONS.items()},
    "rem": _called("fmod"),
    "argmax": _place_of_extreme,
    "argmin": _place_of_extreme,
    "div": _divided,
    "integer_pow": _power,
    "rsqrt": lambda op, x: f"np.float32(1) / np.sqrt({x[0]})",
    "logistic": lambda op, x: f"np.float32(0.5) * (np.tanh(np.float32(0.5) * {x[0]}) + np.float32(1))",
    "clamp": lambda op, x: f"np.minimum(np.maximum({x[1]}, {x[0]}), {x[2]})",
    "select_n": _chosen,
    "convert_element_type": _converted,
    "reshape": _reshaped,
    "squeeze": _reshaped,
    "expand_dims": _reshaped,
    "transpose": lambda op, x: f"{x[0]}.transpose({tuple(op.params['permutation'])})",
    "broadcast_in_dim": _broadcast,
    "slice": _sliced,
    "split": _split,
    "concatenate": lambda op, x: f"np.concatenate(({', '.join(x)},), axis={op.params['dimension']})",
    "stack": lambda op, x: f"np.stack(({', '.join(x)},), axis={op.params['axis']})",
    "gather": _rows,
    "dot_general": _product,
}
