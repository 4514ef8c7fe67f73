"""Matrix products with constant matrices: dense layers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyconv.errors import ModelError
from pyconv.graph.native_operators import broadcast
from pyconv.graph.operators.context import Context
from pyconv.graph.operators.registry import Unsupported, onnx_operator


def _stored(steps: NDArray[np.float32] | None) -> dict[str, Any]:
    """The attributes of a dense layer whose weights the file holds as int8."""
    return {} if steps is None else {"storage": "int8", "weight_scales": steps}


@onnx_operator("MatMul")
def _matmul(context: Context) -> None:
    if not context.is_known(1):
        raise Unsupported("MatMul with a computed second factor")
    matrix = context.weights(1)
    if matrix.ndim != 2:
        raise Unsupported(f"MatMul with a second factor of {matrix.ndim} axes")
    stored = _stored(context.steps(1, 1))
    context.emit(
        "dense", context.value(0), output=0, weights=np.ascontiguousarray(matrix), **stored
    )


@onnx_operator("Gemm")
def _gemm(context: Context) -> None:
    if not context.is_known(1):
        raise Unsupported("Gemm with a computed second factor")
    # alpha · A' · B' + beta · C, where A' and B' may be transposed.
    matrix = context.weights(1)
    if matrix.ndim != 2:
        raise ModelError(f"expected a second factor of 2 axes, got {matrix.ndim}")
    alpha = np.float32(context.attribute("alpha", 1.0))
    turned = bool(context.attribute("transB", 0))
    stored = _stored(context.steps(1, 0 if turned else 1)) if alpha == 1 else {}
    matrix = (matrix.T if turned else matrix) * alpha
    a = context.value(0)
    if context.attribute("transA", 0):
        a = context.emit("transpose", a, permutation=(1, 0))
    weights = np.ascontiguousarray(matrix, np.float32)
    if not context.has(2):
        context.emit("dense", a, output=0, weights=weights, **stored)
        return
    product = context.emit("dense", a, weights=weights, **stored)
    beta = np.float32(context.attribute("beta", 1.0))
    if context.is_known(2):
        addend = context.constant(context.weights(2) * beta)
    else:
        addend = context.value(2)
        if beta != 1:
            addend = context.emit("multiply", addend, context.constant(np.array(beta)))
    if broadcast(context.shape(product), context.shape(addend)) != context.shape(product):
        raise Unsupported("Gemm with an addend larger than the product")
    context.emit("add", product, addend, output=0)
