"""Between real numbers and the small integers that stand for them."""

from __future__ import annotations

import numpy as np
from onnx import helper

from pyconv.errors import ModelError
from pyconv.graph.batch import Shape, fixed
from pyconv.graph.native_operators import DTYPES
from pyconv.graph.operators.context import Context
from pyconv.graph.operators.convolution import conv_integer
from pyconv.graph.operators.maps import channels_first
from pyconv.graph.operators.matrix import product
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


def _centred(context: Context, index: int, zero_point: int, after: int | None = None) -> str:
    """An input of small integers, less its zero point, as int32.

    Args:
        context: the node.
        index: the input.
        zero_point: its zero point's; it may be left out.
        after: where the zero point has an axis, how many axes of the input come after it.
    """
    x = context.emit("cast", context.value(index), dtype="int32")
    if not context.has(zero_point):
        return x
    zero = context.emit("cast", context.value(zero_point), dtype="int32")
    return context.emit("subtract", x, _before(context, zero, after))


def _before(context: Context, parameter: str, after: int | None) -> str:
    """A scale or zero point (places,) in a shape with so many axes behind."""
    shape = context.shape(parameter)
    if len(shape) != 1 or not after:
        return parameter
    return context.emit("reshape", parameter, shape=(*shape, *(1,) * after))


def _last_channel(context: Context, x: str) -> str:
    rank = len(context.shape(x))
    return context.emit("transpose", x, permutation=(0, *range(2, rank), 1))


@onnx_operator("ConvInteger")
def _conv_integer(context: Context) -> None:
    spatial = len(context.input_shape(1)) - 2
    x = _last_channel(context, _centred(context, 0, 2))
    weights = _centred(context, 1, 3, after=spatial + 1)
    channels_first(context, conv_integer(context, x, weights))


@onnx_operator("QLinearConv")
def _qlinear_conv(context: Context) -> None:
    # x, its scale and zero point, w, its scale and zero point, y's scale and zero point, bias
    spatial = len(context.input_shape(3)) - 2
    x = _last_channel(context, _centred(context, 0, 2))
    weights = _centred(context, 3, 5, after=spatial + 1)
    bias = context.value(8) if context.has(8) else None
    sums = conv_integer(context, x, weights, bias=bias)
    channels_first(context, _requantized(context, sums, (1, 4), 6))


@onnx_operator("MatMulInteger")
def _matmul_integer(context: Context) -> None:
    a = _centred(context, 0, 2, after=1)
    product(context, a, _centred(context, 1, 3))


@onnx_operator("QLinearMatMul")
def _qlinear_matmul(context: Context) -> None:
    # a, its scale and zero point, b, its scale and zero point, y's scale and zero point
    a = _centred(context, 0, 2, after=1)
    b = _centred(context, 3, 5)
    if len(context.shape(a)) < 2 or len(context.shape(b)) < 2:
        raise Unsupported("QLinearMatMul of a vector")
    sums = context.emit("matmul", a, b)
    _requantized(context, sums, (1, 4), 6, output=0)


def _requantized(
    context: Context, sums: str, scales: tuple[int, int], index: int, output: int | None = None
) -> str:
    """Sums of products as numbers of the output's scale and zero point.

    Args:
        context: the node.
        sums: of int32.
        scales: the inputs with the factors' scales; the second one's may be one a channel, which
            comes last in `sums`.
        index: the input with the output's scale; its zero point is the one after.
        output: as for `Context.emit`.
    """
    real = context.emit("cast", sums, dtype="float32")
    both = context.emit("multiply", *(context.value(scale) for scale in scales))
    real = context.emit("multiply", real, both)
    scale, zero_point = (
        context.emit("reshape", context.value(i), shape=()) for i in (index, index + 1)
    )
    return context.emit("quantize", real, scale, zero_point, output=output)
