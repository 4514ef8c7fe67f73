"""Batch normalisation, which is a factor and an addend for each channel once trained."""

from __future__ import annotations

import numpy as np

from pyconv.graph.operators.context import Context
from pyconv.graph.operators.registry import Unsupported, onnx_operator


@onnx_operator("BatchNormalization")
def _batch_normalization(context: Context) -> None:
    context.refuse_outputs(1)
    if context.attribute("training_mode", 0) or (
        context.opset < 7 and not context.attribute("is_test", 0)
    ):
        raise Unsupported("BatchNormalization in training mode")
    if not context.attribute("spatial", 1):
        raise Unsupported("BatchNormalization with statistics for every element")
    x = context.value(0)
    scale, offset, mean, variance = (
        context.weights(index).astype(np.float64) for index in range(1, 5)
    )
    factor = scale / np.sqrt(variance + context.attribute("epsilon", 1e-5))
    addend = offset - mean * factor
    shape = (-1, *(1,) * max(0, len(context.shape(x)) - 2))  # along axis 1
    scaled = context.emit("multiply", x, context.constant(factor.reshape(shape)))
    context.emit("add", scaled, context.constant(addend.reshape(shape)), output=0)
