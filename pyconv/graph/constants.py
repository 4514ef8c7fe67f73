"""Evaluating what is known when a model is loaded: weights, and the arithmetic of shapes.

A known tensor may contain the batch: `Shape` of (n, 28, 28, 1) is `[n, 28, 28, 1]`. What the
exporters make of that (they slice it, multiply it, put it together again for a Reshape) is followed
symbolically here; everything else is left to ONNX's own reference evaluator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper
from onnx.reference import ReferenceEvaluator

from pyconv.errors import ModelError
from pyconv.graph.batch import Batch, BatchError, at_batch
from pyconv.graph.reader import OnnxNode

MOST_ELEMENTS = 2**28
"""A constant that a few bytes of file would blow up to more than this (1 GiB) is refused."""


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """A tensor whose elements are known.

    Attributes:
        values: numbers; or, where the batch is among them, an object array of int and `Batch`.
        dtype: the ONNX tensor's element type, as NumPy names it.
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
        return cls(values.astype(dtype or "int64"), dtype or "int64")

    @property
    def symbolic(self) -> bool:
        """Whether the batch is among the elements."""
        return self.values.dtype == object

    def at_batch(self, batch: int) -> NDArray[Any]:
        """A copy of the tensor for one batch size."""
        if not self.symbolic:
            return self.values.copy()
        numbers = [at_batch(item, batch) for item in self.values.reshape(-1)]
        return np.array(numbers, self.dtype).reshape(self.values.shape)


_Inputs = Sequence[Known | None]


def evaluate(node: OnnxNode, inputs: Sequence[Known | None], opset: int) -> list[Known]:
    """The outputs of a node whose inputs are all known.

    Args:
        node: any ONNX operator.
        inputs: its inputs in order; None for an optional one left out.
        opset: the file's version of the operator set.

    Raises:
        BatchError: the result would depend on the batch in a way that `Batch` cannot say.
        ModelError: ONNX's reference evaluator refuses the node.
    """
    present = [item for item in inputs if item is not None]
    if any(item.symbolic for item in present):
        if node.operator not in _SYMBOLIC:
            raise BatchError(f"{node} of the batch")
        first = next(item for item in present if item.symbolic)
        values, dtype = _SYMBOLIC[node.operator](node.attributes, inputs)
        return [Known.of(values, dtype or first.dtype)]
    if node.operator == "ConstantOfShape" and np.prod(present[0].values) > MOST_ELEMENTS:
        raise ModelError(f"{node}: {list(present[0].values)} is too large for a constant")
    try:
        evaluator = ReferenceEvaluator(node.proto, opsets={"": opset})
        feeds = {name: item.values for name, item in zip(node.inputs, inputs, strict=True) if item}
        results = [np.asarray(item) for item in evaluator.run(None, feeds)]
    except Exception as error:  # whatever NumPy or the evaluator makes of nonsense
        raise ModelError(f"{node} cannot be computed: {error}") from error
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
