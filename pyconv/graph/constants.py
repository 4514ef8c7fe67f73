"""Evaluating what is known when a model is loaded: weights, and the arithmetic of shapes.

A known tensor may contain the batch: `Shape` of (n, 28, 28, 1) is `[n, 28, 28, 1]`. What the
exporters make of that (they slice it, multiply it, put it together again for a Reshape) is followed
symbolically here; everything else is left to ONNX's own reference evaluator, once it is clear that
the result is not too large. Operators that are slow there (it convolves in Python) are not known
beforehand: they become steps, and `passes/fold_constants.py` has the engine compute them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper
from onnx.reference import ReferenceEvaluator

from pyconv.errors import ModelError
from pyconv.graph.batch import Batch, BatchError, at_batch
from pyconv.graph.limits import Allowance, brief
from pyconv.graph.reader import OnnxNode


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """A tensor whose elements are known.

    Attributes:
        values: numbers; or, where the batch is among them, an object array of int and `Batch`.
        dtype: the ONNX tensor's element type, as NumPy names it; `"string"` for texts.
        steps: where DequantizeLinear made it of int8 without a zero point, what a step of one is
            worth: one number, or one for each place of `steps_axis`.
        steps_axis: see `steps`.
    """

    values: NDArray[Any]
    dtype: str
    steps: NDArray[np.float32] | None = None
    steps_axis: int = 0

    @classmethod
    def of(cls, values: NDArray[Any], dtype: str | None = None) -> Known:
        """Wrap an array; one of objects without a `Batch` in it becomes one of numbers."""
        if values.dtype != object:
            return cls(values, dtype or values.dtype.name)
        if any(isinstance(item, Batch) for item in values.reshape(-1)):
            return cls(values, dtype or "int64")
        if any(isinstance(item, str | bytes) for item in values.reshape(-1)):
            return cls(values, "string")
        return cls(values.astype(dtype or "int64"), dtype or "int64")

    @property
    def symbolic(self) -> bool:
        """Whether the batch is among the elements."""
        return self.values.dtype == object and self.dtype != "string"

    def at_batch(self, batch: int) -> NDArray[Any]:
        """A copy of the tensor for one batch size."""
        if not self.symbolic:
            return self.values.copy()
        numbers = [at_batch(item, batch) for item in self.values.reshape(-1)]
        return np.array(numbers, self.dtype).reshape(self.values.shape)


_Inputs = Sequence[Known | None]


def evaluate(
    node: OnnxNode, inputs: Sequence[Known | None], opset: int, allowance: Allowance
) -> list[Known]:
    """The outputs of a node whose inputs are all known.

    Args:
        node: an operator among `EVALUATED`.
        inputs: its inputs in order; None for an optional one left out.
        opset: the file's version of the operator set.
        allowance: what such computations may still cost.

    Raises:
        BatchError: the result would depend on the batch in a way that `Batch` cannot say.
        ModelError: ONNX's reference evaluator refuses the node, or it asks for too much.
    """
    present = [item for item in inputs if item is not None]
    made = max(0, int(EVALUATED[node.operator](node, present)))
    read = sum(item.values.size for item in present)
    cost = 64 if any(item.symbolic for item in present) else 1  # elements that are Python objects
    allowance.spend(cost * read, cost * made)
    if any(item.symbolic for item in present):
        if node.operator not in _SYMBOLIC:
            raise BatchError(f"{node} of the batch")
        first = next(item for item in present if item.symbolic)
        values, dtype = _SYMBOLIC[node.operator](node.attributes, inputs)
        for size in values.reshape(-1):
            if abs(at_batch(size, 1)) >= 2**63:
                raise ModelError(f"{size} is no size")
        return [Known.of(values, dtype or first.dtype)]
    try:
        feeds = {name: item.values for name, item in zip(node.inputs, inputs, strict=True) if item}
        if node.operator in _ATTRIBUTES_ONCE and opset < 13:
            proto, opset = _with_inputs(node, feeds), 13
        else:
            proto = node.proto
        evaluator = ReferenceEvaluator(proto, opsets={"": opset})
        results = [np.asarray(item) for item in evaluator.run(None, feeds)]
    except Exception as error:  # whatever NumPy or the evaluator makes of nonsense
        raise ModelError(f"it cannot be computed: {brief(error)}") from error
    if node.operator == "DequantizeLinear":
        return [_dequantized(node, inputs, results[0])]
    return [Known.of(item) for item in results]


def _dequantized(node: OnnxNode, inputs: _Inputs, values: NDArray[Any]) -> Known:
    x, scale, zero_point = (*inputs, None)[:3]
    assert x is not None
    assert scale is not None  # or the evaluator would have refused the node
    plain = x.dtype == "int8" and scale.dtype == "float32" and scale.values.ndim < 2
    if not plain or (zero_point is not None and zero_point.values.any()):
        return Known.of(values)
    axis = node.attributes.get("axis", 1) % max(values.ndim, 1)
    return Known(values, values.dtype.name, scale.values.reshape(-1), axis)


_ATTRIBUTES_ONCE = {"Clip": ("min", "max"), "Pad": ("pads", "value"), "Unsqueeze": ("axes",)}
"""What ONNX's evaluator takes as inputs alone, and operator sets before 11 or 13 as attributes."""


def _with_inputs(node: OnnxNode, feeds: dict[str, NDArray[Any]]) -> NodeProto:
    """The node with such attributes turned into inputs, which are added to `feeds`."""
    proto = NodeProto()
    proto.CopyFrom(node.proto)
    names = _ATTRIBUTES_ONCE[node.operator]
    for index, name in enumerate(names, 1):
        if name in node.attributes:
            proto.input.extend([""] * (index + 1 - len(proto.input)))
            proto.input[index] = f"//{name}"
            value = node.attributes[name]
            like = feeds[node.inputs[0]].dtype if np.isscalar(value) else np.int64
            feeds[proto.input[index]] = np.asarray(value, like)
    kept = [item for item in node.proto.attribute if item.name not in names]
    del proto.attribute[:]
    proto.attribute.extend(kept)
    return proto


_Symbolic = tuple[NDArray[Any], str | None]


def _objects(item: Known | None) -> NDArray[Any]:
    assert item is not None
    return item.values.astype(object)


def _integers(item: Known | None) -> list[int]:
    assert item is not None
    return [int(value) for value in item.values.reshape(-1)]


def _option(attributes: Mapping[str, Any], name: str, inputs: _Inputs, index: int) -> Any:
    """A setting that was an attribute once and is an input now; None where neither is there."""
    if len(inputs) > index and inputs[index] is not None:
        return _integers(inputs[index])
    return attributes.get(name)


def _gather(attributes: Mapping[str, Any], inputs: _Inputs) -> _Symbolic:
    indices = inputs[1]
    assert indices is not None
    axis = attributes.get("axis", 0)
    return np.asarray(np.take(_objects(inputs[0]), indices.values, axis=axis), object), None


def _slice(attributes: Mapping[str, Any], inputs: _Inputs) -> _Symbolic:
    values = _objects(inputs[0])
    starts = _option(attributes, "starts", inputs, 1)
    ends = _option(attributes, "ends", inputs, 2)
    axes = _option(attributes, "axes", inputs, 3) or range(len(starts))
    steps = _option(attributes, "steps", inputs, 4) or [1] * len(starts)
    index = [slice(None)] * values.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        # A negative step that runs past the front ends before it, which NumPy writes None.
        stop = None if step < 0 and end < -values.shape[axis] else end
        index[axis] = slice(start, stop, step)
    return values[tuple(index)], None


def _concat(attributes: Mapping[str, Any], inputs: _Inputs) -> _Symbolic:
    return np.concatenate([_objects(item) for item in inputs], attributes["axis"]), None


def _cast(attributes: Mapping[str, Any], inputs: _Inputs) -> _Symbolic:
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(attributes["to"])).name
    return _objects(inputs[0]), dtype


def _squeeze(attributes: Mapping[str, Any], inputs: _Inputs) -> _Symbolic:
    axes = _option(attributes, "axes", inputs, 1)
    return np.squeeze(_objects(inputs[0]), None if axes is None else tuple(axes)), None


def _unsqueeze(attributes: Mapping[str, Any], inputs: _Inputs) -> _Symbolic:
    axes = _option(attributes, "axes", inputs, 1)
    return np.expand_dims(_objects(inputs[0]), tuple(axes)), None


def _reshape(attributes: Mapping[str, Any], inputs: _Inputs) -> _Symbolic:
    return _objects(inputs[0]).reshape(_option(attributes, "shape", inputs, 1)), None


def _product(attributes: Mapping[str, Any], inputs: _Inputs) -> _Symbolic:
    values = _objects(inputs[0])
    if values.ndim != 1:
        raise BatchError("the product of a tensor of sizes")
    keep = attributes.get("keepdims", 1)
    return np.asarray(np.prod(values, keepdims=bool(keep)), object), None


def _identity(attributes: Mapping[str, Any], inputs: _Inputs) -> _Symbolic:
    return _objects(inputs[0]), None


def _arithmetic(
    function: Callable[[Any, Any], Any],
) -> Callable[[Mapping[str, Any], _Inputs], _Symbolic]:
    def apply(attributes: Mapping[str, Any], inputs: _Inputs) -> _Symbolic:
        return np.asarray(function(_objects(inputs[0]), _objects(inputs[1])), object), None

    return apply


_SYMBOLIC: Mapping[str, Callable[[Mapping[str, Any], _Inputs], _Symbolic]] = {
    "Add": _arithmetic(np.add),
    "Cast": _cast,
    "Concat": _concat,
    # Exact, or refused: ONNX truncates and `//` floors, so a remainder never goes unnoticed.
    "Div": _arithmetic(np.floor_divide),
    "Gather": _gather,
    "Identity": _identity,
    "Mul": _arithmetic(np.multiply),
    "ReduceProd": _product,
    "Reshape": _reshape,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Sub": _arithmetic(np.subtract),
    "Unsqueeze": _unsqueeze,
}


# How many elements a node will make, told from its inputs before it is computed.
_Sizes = Callable[[OnnxNode, Sequence[Known]], int | float]


def _no_larger(node: OnnxNode, inputs: Sequence[Known]) -> int:
    return sum(item.values.size for item in inputs)


def _broadcast(node: OnnxNode, inputs: Sequence[Known]) -> int:
    return math.prod(np.broadcast_shapes(*(item.values.shape for item in inputs)))


def _expanded(node: OnnxNode, inputs: Sequence[Known]) -> int:
    wanted, own = _integers(inputs[1]), inputs[0].values.shape
    # Not by NumPy, which has no shapes beyond those of arrays.
    pairs = itertools.zip_longest(reversed(wanted), reversed(own), fillvalue=1)
    return math.prod(max(pair) for pair in pairs)


def _of_shape(node: OnnxNode, inputs: Sequence[Known]) -> int:
    return math.prod(map(abs, _integers(inputs[0])))


def _tiled(node: OnnxNode, inputs: Sequence[Known]) -> int:
    return math.prod(map(abs, _integers(inputs[1]))) * inputs[0].values.size


def _in_range(node: OnnxNode, inputs: Sequence[Known]) -> float:
    start, limit, step = (float(item.values.reshape(())) for item in inputs)
    return max(0.0, (limit - start) / step)


def _padded(node: OnnxNode, inputs: Sequence[Known]) -> int:
    shape = inputs[0].values.shape
    pads: list[int] = node.attributes.get("pads") or _integers(inputs[1])
    return math.prod(size + sum(map(abs, pads)) for size in shape)


def _gathered(node: OnnxNode, inputs: Sequence[Known]) -> int:
    x, indices = (item.values for item in inputs[:2])
    axis = node.attributes.get("axis", 0)
    row: int = x.size // max(1, x.shape[axis])
    return indices.size * row


def _multiplied(node: OnnxNode, inputs: Sequence[Known]) -> int:
    a, b = (np.atleast_2d(item.values) for item in inputs[:2])
    stacks = math.prod(np.broadcast_shapes(a.shape[:-2], b.shape[:-2]))
    # For a matrix that is transposed, or a row that stands for a column, this is too many.
    sums = stacks * max(a.shape[-2:]) * max(b.shape[-2:])
    # Of integers each product costs: NumPy has no fast way for them.
    return int(sums if a.dtype.kind == "f" else sums * max(a.shape[-2:]))


_ELEMENTWISE = (
    "Abs Ceil Clip Cos Erf Exp Floor IsInf IsNaN LeakyRelu Log Neg Not Reciprocal Relu Round "
    "Sigmoid Sign Sin Softplus Softsign Sqrt Tan Tanh"
)
_REARRANGING = (
    "Cast Concat Constant DepthToSpace Dropout Flatten Identity Reshape Slice SpaceToDepth Split "
    "Squeeze Transpose Trilu Unsqueeze"
)
_REDUCING = (
    "ArgMax ArgMin Compress CumSum ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax "
    "ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare"
)
_BROADCASTING = (
    "Add And Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod Mul Or Pow PRelu "
    "Sub Sum Where Xor"
)

EVALUATED: Mapping[str, _Sizes] = {
    **dict.fromkeys(_ELEMENTWISE.split(), _no_larger),
    **dict.fromkeys(_REARRANGING.split(), _no_larger),
    **dict.fromkeys(_REDUCING.split(), _no_larger),
    **dict.fromkeys(_BROADCASTING.split(), _broadcast),
    "ConstantOfShape": _of_shape,
    "DequantizeLinear": _no_larger,
    "Expand": _expanded,
    "Gather": _gathered,
    "Gemm": _multiplied,
    "MatMul": _multiplied,
    "Pad": _padded,
    "QuantizeLinear": _no_larger,
    "Range": _in_range,
    "Tile": _tiled,
}
"""The ONNX operators that are computed when everything that goes in is known, and how many elements
each makes, or more."""
