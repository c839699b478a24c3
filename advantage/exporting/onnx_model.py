"""A program as an ONNX model: one node, or a few, for each operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from advantage.environments.defect import needed
from advantage.exporting.program import NotWritable, Operation, Program, Value, summation, takes_rows

OPSET, IR_VERSION = 18, 8  # of December 2022: a runtime that is older lacks reductions over given axes
WIDER = {"bool": "int32", "uint8": "int32", "int8": "int32", "int16": "int32", "uint16": "int32"}
WIDER |= {"uint32": "int64"}  # types in which runtimes have all arithmetic
TYPES = {*WIDER, *WIDER.values(), "float32"}


def onnx_model(program: Program, inputs: dict[str, str], outputs: list[str], example: list[Any]) -> bytes:
    """The serialised model.

    Args:
        program: what it computes.
        inputs: public names of the inputs by their names in the program; others are without use.
        outputs: public names of the outputs.
        example: shapes and types of the inputs, in the order of `inputs`.

    Raises:
        NotWritable: an operation has no ONNX version here.
        MissingExtra: the package onnx is not installed.
    """
    graph = Graph(inputs)
    for operation in program.operations:
        write = WRITE.get(operation.primitive)
        if write is None or not TYPES.issuperset(str(x.dtype) for x in (*operation.takes, *operation.gives)):
            raise NotWritable(operation.primitive)
        results = write(graph, operation, [graph.read(each) for each in operation.arguments])
        if results is None:
            raise NotWritable(operation.primitive)
        graph.names |= dict(
            zip(operation.results, results if isinstance(results, list) else [results], strict=True)
        )
    return graph.model(program.outputs, dict(zip(inputs.values(), example, strict=True)), outputs)


class Graph:
    """Nodes and constants so far; a result is the name of an array in the model.

    Attributes:
        names: names in the model by those in the program.
    """

    def __init__(self, names: dict[str, str]):
        self.onnx = needed("onnx", "The format onnx", "onnx")
        self.names = dict(names)
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}

    def read(self, value: Value) -> str:
        """The name of a value in the model."""
        return self.names[value] if isinstance(value, str) else self.constant(value)

    def constant(self, value: Any, dtype: Any = None) -> str:
        """The name of a constant."""
        array = np.asarray(value, dtype)
        for name, each in self.constants.items():
            if each is array or (
                array.size < 64 and each.dtype == array.dtype and np.array_equal(each, array)
            ):
                return name
        name = f"c{len(self.constants)}"
        self.constants[name] = array
        return name

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output; returns its name."""
        return self.several(kind, 1, *inputs, **attributes)[0]

    def several(self, kind: str, count: int, *inputs: str, **attributes: Any) -> list[str]:
        """Add a node with several outputs; returns their names."""
        results = [f"n{len(self.nodes)}" + (f"_{n}" if n else "") for n in range(count)]
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, results, **attributes))
        return results

    def cast(self, x: str, old: Any, new: Any) -> str:
        """An array of type `old` as one of type `new`."""
        old, new = np.dtype(old), np.dtype(new)
        return x if old == new else self.add("Cast", x, to=self.onnx.helper.np_dtype_to_tensor_dtype(new))

    def model(self, results: list[Value], inputs: dict[str, Any], outputs: list[str]) -> bytes:
        """The model of these nodes, checked; `results` are named `outputs`."""
        onnx, helper = self.onnx, self.onnx.helper
        for value, name in zip(results, outputs, strict=True):
            self.nodes.append(helper.make_node("Identity", [self.read(value)], [name]))
        described = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(x.dtype)), x.shape)
            for name, x in inputs.items()
        ]
        made = helper.make_graph(
            self.nodes,
            "policy",
            described,
            [onnx.ValueInfoProto(name=name) for name in outputs],
            [onnx.numpy_helper.from_array(x, name) for name, x in self.constants.items()],
        )
        model = helper.make_model(
            made,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="advantage",
        )
        model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
        onnx.checker.check_model(model)
        return model.SerializeToString()


Write = Callable[[Graph, Operation, list[str]], str | list[str] | None]  # None: not with these parameters


def _wide(dtype: Any) -> np.dtype:
    return np.dtype(WIDER.get(np.dtype(dtype).name, dtype))


def _computed(kind: str, **attributes: Any) -> Write:
    """An operation on numbers, of which small types are widened."""

    def write(graph: Graph, op: Operation, x: list[str]) -> str:
        wide = [
            graph.cast(each, aval.dtype, _wide(aval.dtype)) for each, aval in zip(x, op.takes, strict=True)
        ]
        result = graph.add(kind, *wide, **attributes)
        return graph.cast(result, _wide(op.dtype), op.dtype)

    return write


def _compared(kind: str, negated: bool = False) -> Write:
    def write(graph: Graph, op: Operation, x: list[str]) -> str:
        wide = [
            graph.cast(each, aval.dtype, _wide(aval.dtype)) for each, aval in zip(x, op.takes, strict=True)
        ]
        result = graph.add(kind, *wide)
        return graph.add("Not", result) if negated else result

    return write


def _logical(kind: str) -> Write:
    """An operation on bools; on whole numbers, on their bits."""
    return lambda graph, op, x: graph.add(kind if op.dtype == bool else f"Bitwise{kind}", *x)


def _reduced(kind: str) -> Write:
    def write(graph: Graph, op: Operation, x: list[str]) -> str:
        wide, axes = _wide(op.takes[0].dtype), graph.constant(op.params["axes"], np.int64)
        result = graph.add(kind, graph.cast(x[0], op.takes[0].dtype, wide), axes, keepdims=0)
        return graph.cast(result, wide, op.dtype)

    return write


def _place_of_extreme(kind: str) -> Write:
    def write(graph: Graph, op: Operation, x: list[str]) -> str:
        wide = graph.cast(x[0], op.takes[0].dtype, _wide(op.takes[0].dtype))
        result = graph.add(kind, wide, axis=op.params["axes"][0], keepdims=0)
        return graph.cast(result, np.int64, op.dtype)

    return write


def _clamped(graph: Graph, op: Operation, x: list[str]) -> str:
    low, middle, high = (
        graph.cast(each, aval.dtype, _wide(aval.dtype)) for each, aval in zip(x, op.takes, strict=True)
    )
    return graph.cast(graph.add("Min", graph.add("Max", middle, low), high), _wide(op.dtype), op.dtype)


def _chosen(graph: Graph, op: Operation, x: list[str]) -> str | None:
    if len(x) != 3 or op.takes[0].dtype != bool:
        return None
    no, yes = (graph.cast(each, op.dtype, _wide(op.dtype)) for each in x[1:])
    return graph.cast(graph.add("Where", x[0], yes, no), _wide(op.dtype), op.dtype)


def _power(graph: Graph, op: Operation, x: list[str]) -> str | None:
    if op.dtype != np.float32:
        return None
    return graph.add("Pow", x[0], graph.constant(op.params["y"], np.float32))


def _expm1(graph: Graph, op: Operation, x: list[str]) -> str:
    """`tanh(x / 2) (exp(x) + 1)`, which loses no digits near 0."""
    half = graph.add("Tanh", graph.add("Mul", x[0], graph.constant(0.5, np.float32)))
    return graph.add("Mul", half, graph.add("Add", graph.add("Exp", x[0]), graph.constant(1, np.float32)))


def _log1p(graph: Graph, op: Operation, x: list[str]) -> str:
    return graph.add("Log", graph.add("Add", x[0], graph.constant(1, np.float32)))


def _is_finite(graph: Graph, op: Operation, x: list[str]) -> str:
    return graph.add("Not", graph.add("Or", graph.add("IsInf", x[0]), graph.add("IsNaN", x[0])))


def _reshaped(graph: Graph, op: Operation, x: list[str]) -> str:
    return graph.add("Reshape", x[0], graph.constant(op.shape, np.int64))


def _broadcast(graph: Graph, op: Operation, x: list[str]) -> str:
    sizes = dict(zip(op.params["broadcast_dimensions"], op.takes[0].shape, strict=True))
    inner = [sizes.get(axis, 1) for axis in range(len(op.shape))]
    reshaped = graph.add("Reshape", x[0], graph.constant(inner, np.int64))
    is_whole = tuple(inner) == op.shape
    return reshaped if is_whole else graph.add("Expand", reshaped, graph.constant(op.shape, np.int64))


def _sliced(graph: Graph, op: Operation, x: list[str]) -> str:
    starts, ends = op.params["start_indices"], op.params["limit_indices"]
    numbers = starts, ends, range(len(starts)), op.params["strides"] or [1] * len(starts)
    return graph.add("Slice", x[0], *(graph.constant(list(each), np.int64) for each in numbers))


def _split(graph: Graph, op: Operation, x: list[str]) -> list[str]:
    sizes = graph.constant(op.params["sizes"], np.int64)
    return graph.several("Split", len(op.results), x[0], sizes, axis=op.params["axis"])


def _stacked(graph: Graph, op: Operation, x: list[str]) -> str:
    axis = graph.constant([op.params["axis"]], np.int64)
    return graph.add("Concat", *(graph.add("Unsqueeze", each, axis) for each in x), axis=op.params["axis"])


def _rows(graph: Graph, op: Operation, x: list[str]) -> str | None:
    return (
        graph.add("GatherND", x[0], graph.cast(x[1], op.takes[1].dtype, np.int64)) if takes_rows(op) else None
    )


def _product(graph: Graph, op: Operation, x: list[str]) -> str | None:
    if any(aval.dtype != np.float32 for aval in (*op.takes, *op.gives)):
        return None
    (left, right), (batch, _) = op.params["dimension_numbers"]
    if not batch and op.takes[1].ndim == 2 and left == (op.takes[0].ndim - 1,) and right == (0,):
        return graph.add("MatMul", *x)
    return graph.add("Einsum", *x, equation=summation(op))


def _convolution(graph: Graph, op: Operation, x: list[str]) -> str | None:
    """ONNX takes `[N, C, H, W]` and filters `[O, I, H, W]`; JAX says which axis is which."""
    params = op.params
    numbers = params["dimension_numbers"]
    if params["batch_group_count"] != 1 or {*params["lhs_dilation"]} != {1} or op.dtype != np.float32:
        return None
    image, filters = (
        graph.add("Transpose", each, perm=list(spec))
        for each, spec in zip(x, (numbers.lhs_spec, numbers.rhs_spec), strict=True)
    )
    lows, highs = zip(*params["padding"], strict=True)
    result = graph.add(
        "Conv",
        image,
        filters,
        strides=params["window_strides"],
        dilations=params["rhs_dilation"],
        group=params["feature_group_count"],
        pads=[*lows, *highs],
    )
    return graph.add("Transpose", result, perm=np.argsort(numbers.out_spec).tolist())


SAME_NAME = "Neg Abs Sign Floor Ceil Exp Log Sqrt Sin Cos Tan Tanh Sinh Cosh Asin Acos Atan Erf Add Sub Mul Max Min Pow"
WRITE: dict[str, Write] = {
    **{name.lower(): _computed(name) for name in SAME_NAME.split()},
    "div": _computed("Div"),
    "rem": _computed("Mod", fmod=1),
    "logistic": _computed("Sigmoid"),
    "square": lambda graph, op, x: graph.add("Mul", x[0], x[0]),
    "rsqrt": lambda graph, op, x: graph.add("Reciprocal", graph.add("Sqrt", x[0])),
    "exp2": lambda graph, op, x: graph.add("Pow", graph.constant(2, np.float32), x[0]),
    "expm1": _expm1,
    "log1p": _log1p,
    "is_finite": _is_finite,
    "integer_pow": _power,
    "clamp": _clamped,
    "eq": _compared("Equal"),
    "ne": _compared("Equal", negated=True),
    "lt": _compared("Less"),
    "le": _compared("LessOrEqual"),
    "gt": _compared("Greater"),
    "ge": _compared("GreaterOrEqual"),
    "and": _logical("And"),
    "or": _logical("Or"),
    "xor": _logical("Xor"),
    "not": _logical("Not"),
    "select_n": _chosen,
    "convert_element_type": lambda graph, op, x: graph.cast(x[0], op.takes[0].dtype, op.dtype),
    "reduce_sum": _reduced("ReduceSum"),
    "reduce_max": _reduced("ReduceMax"),
    "reduce_min": _reduced("ReduceMin"),
    "reduce_prod": _reduced("ReduceProd"),
    "reduce_and": _reduced("ReduceMin"),
    "reduce_or": _reduced("ReduceMax"),
    "argmax": _place_of_extreme("ArgMax"),
    "argmin": _place_of_extreme("ArgMin"),
    "reshape": _reshaped,
    "squeeze": _reshaped,
    "expand_dims": _reshaped,
    "transpose": lambda graph, op, x: graph.add("Transpose", x[0], perm=list(op.params["permutation"])),
    "broadcast_in_dim": _broadcast,
    "slice": _sliced,
    "split": _split,
    "concatenate": lambda graph, op, x: graph.add("Concat", *x, axis=op.params["dimension"]),
    "stack": _stacked,
    "gather": _rows,
    "dot_general": _product,
    "conv_general_dilated": _convolution,
}
