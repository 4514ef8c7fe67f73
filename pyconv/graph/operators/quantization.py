"""Between real numbers and the small integers that stand for them."""

from __future__ import annotations

import numpy as np
from onnx import helper

from pyconv.errors import ModelError
from pyconv.graph.batch import Shape, fixed
from pyconv.graph.native_operators import DTYPES
from pyconv.graph.operators.context import Context
from pyconv.graph.operators.registry import Unsupported, onnx_operator


def _along(context: Context, parameter: str, x: Shape) -> str:
    """A scale or zero point in a shape that broadcasts to x.

    ONNX has one number for all of x, one for each place of `axis`, or one for each block of places.
    """
    shape = context.shape(parameter)
    if all(size == 1 for size in shape):
        return context.emit("reshape", parameter, shape=()) if shape else parameter
    (axis,) = context.axes([context.attribute("axis", 1)], len(x))
    if len(shape) == 1:
        if shape[0] != x[axis]:
            raise ModelError(f"{shape[0]} scales for the {x[axis]} places of axis {axis}")
        rest = (1,) * (len(x) - axis - 1)
        return context.emit("reshape", parameter, shape=(*shape, *rest)) if rest else parameter
    size, blocks = fixed(x[axis]), fixed(shape[axis])
    length = context.attribute("block_size", 0) or -(-size // blocks)
    if len(shape) != len(x) or -(-size // length) != blocks:
        raise ModelError(f"{blocks} blocks of {length} for the {size} places of axis {axis}")
    return context.take(parameter, {axis: [place // length for place in range(size)]})


def _parameters(context: Context, x: str, dtype: str) -> tuple[str, str]:
    """Scale and zero point; without one that is 0, of the dtype given."""
    scale = context.value(1)
    if context.has(2):
        zero_point = context.value(2)
    else:
        sizes = [fixed(size) for size in context.shape(scale)]
        zero_point = context.constant(np.zeros(sizes, dtype))
    shape = context.shape(x)
    return _along(context, scale, shape), _along(context, zero_point, shape)


@onnx_operator("QuantizeLinear")
def _quantize_linear(context: Context) -> None:
    x = context.value(0)
    if context.dtype(x) == "int32":
        x = context.emit("cast", x, dtype="float32")
    chosen = context.attribute("output_dtype", 0)
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(chosen)).name if chosen else "uint8"
    if dtype not in DTYPES:
        raise Unsupported(f"QuantizeLinear to {dtype}")
    context.emit("quantize", x, *_parameters(context, x, dtype), output=0)


@onnx_operator("DequantizeLinear")
def _dequantize_linear(context: Context) -> None:
    x = context.value(0)
    context.emit("dequantize", x, *_parameters(context, x, context.dtype(x)), output=0)
