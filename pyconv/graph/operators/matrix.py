"""Matrix products: dense layers, where the second factor is constant, and others."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyconv.errors import ModelError
from pyconv.graph.batch import Batch, BatchError
from pyconv.graph.native_operators import broadcast
from pyconv.graph.operators.context import Context
from pyconv.graph.operators.registry import Unsupported, onnx_operator


def _stored(steps: NDArray[np.float32] | None) -> dict[str, Any]:
    """The attributes of a dense layer whose weights the file holds as int8."""
    return {} if steps is None else {"storage": "int8", "weight_scales": steps}


@onnx_operator("MatMul")
def _matmul(context: Context) -> None:
    a, b = context.input_shape(0), context.input_shape(1)
    if context.is_known(1) and len(a) > 0 and len(b) == 2:
        weights = np.ascontiguousarray(context.weights(1))
        stored = _stored(context.steps(1, 1))
        context.emit("dense", context.value(0), output=0, weights=weights, **stored)
    else:
        product(context, context.value(0), context.value(1))


def product(context: Context, a: str, b: str) -> None:
    """Output 0: the product of two tensors, as NumPy's `matmul` has it."""
    left, right = context.shape(a), context.shape(b)
    if not left or not right:
        raise ModelError("a number is no matrix")
    if len(left) == 1:
        a = context.emit("reshape", a, shape=(1, *left))
    if len(right) == 1:
        b = context.emit("reshape", b, shape=(*right, 1))
    if len(left) > 1 and len(right) > 1:
        context.emit("matmul", a, b, output=0)
        return
    y = context.emit("matmul", a, b)
    shape = list(context.shape(y))
    if len(left) == 1:
        del shape[-2]
    if len(right) == 1:
        del shape[-1]
    context.emit("reshape", y, output=0, shape=tuple(shape))


@onnx_operator("Gemm")
def _gemm(context: Context) -> None:
    # alpha · A' · B' + beta · C, where A' and B' may be transposed.
    if len(context.input_shape(1)) != 2:
        raise ModelError(f"expected a second factor of 2 axes, got {len(context.input_shape(1))}")
    alpha = np.float32(context.attribute("alpha", 1.0))
    turned = bool(context.attribute("transB", 0))
    a = context.value(0)
    if context.attribute("transA", 0):
        if isinstance(context.shape(a)[0], Batch):
            raise BatchError(f"{context.node} moves the batch")
        a = context.emit("transpose", a, permutation=(1, 0))
    last = not context.has(2)
    if context.is_known(1):
        matrix = (context.weights(1).T if turned else context.weights(1)) * alpha
        weights = np.ascontiguousarray(matrix, np.float32)
        stored = _stored(context.steps(1, 0 if turned else 1)) if alpha == 1 else {}
        y = context.emit("dense", a, output=0 if last else None, weights=weights, **stored)
    else:
        b = context.value(1)
        if turned:
            b = context.emit("transpose", b, permutation=(1, 0))
        if alpha != 1:
            b = context.emit("multiply", b, context.constant(np.array(alpha)))
        y = context.emit("matmul", a, b, output=0 if last else None)
    if last:
        return
    beta = np.float32(context.attribute("beta", 1.0))
    addend = context.value(2)
    if beta != 1:
        addend = context.emit("multiply", addend, context.constant(np.array(beta)))
    if broadcast(context.shape(y), context.shape(addend)) != context.shape(y):
        raise Unsupported("Gemm with an addend larger than the product")
    context.emit("add", y, addend, output=0)
