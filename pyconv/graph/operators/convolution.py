"""Convolution and pooling. ONNX has channels in axis 1, the native operators have them last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pyconv.errors import ModelError
from pyconv.graph.batch import fixed
from pyconv.graph.operators.context import Context
from pyconv.graph.operators.registry import Unsupported, onnx_operator


def _channels_last(context: Context) -> str:
    """Input 0, (n, c, spatial…) → (n, height, width, c); a lone spatial axis becomes the width."""
    x = context.value(0)
    shape = context.shape(x)
    spatial = len(shape) - 2
    if spatial not in (1, 2):
        raise Unsupported(f"{context.node.operator} in {spatial} dimensions")
    moved = context.emit("transpose", x, permutation=(0, *range(2, 2 + spatial), 1))
    if spatial == 2:
        return moved
    return context.emit("reshape", moved, shape=(shape[0], 1, shape[2], shape[1]))


def _channels_first(context: Context, y: str, spatial: int) -> None:
    """(n, height, width, c) → output 0, (n, c, spatial…)."""
    n, _, width, channels = context.shape(y)
    if spatial == 1:
        y = context.emit("reshape", y, shape=(n, width, channels))
    context.emit("transpose", y, output=0, permutation=(0, spatial + 1, *range(1, spatial + 1)))


def _window(context: Context, x: str, kernel: Sequence[int], spatial: int) -> dict[str, Any]:
    """Strides, dilations and pads of a window over x, (n, height, width, c)."""
    strides = context.attribute("strides") or [1] * spatial
    dilations = context.attribute("dilations") or [1] * spatial
    pads = context.attribute("pads") or [0] * 2 * spatial
    if not len(strides) == len(dilations) == len(kernel) == spatial or len(pads) != 2 * spatial:
        raise ModelError(
            f"expected a kernel, strides and dilations of {spatial} values and pads of "
            f"{2 * spatial}, got {list(kernel)}, {strides}, {dilations} and {pads}"
        )
    if min(strides) < 1 or min(dilations) < 1 or min(kernel) < 1:
        raise ModelError(
            f"expected a kernel, strides and dilations of at least 1, got {list(kernel)}, "
            f"{strides} and {dilations}"
        )
    if min(pads) < 0:
        raise Unsupported(f"{context.node.operator} with negative pads")
    auto_pad = context.attribute("auto_pad", "NOTSET")
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        sizes = [fixed(size) for size in context.shape(x)[3 - spatial : 3]]
        begins, ends = [], []
        for size, extent, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
            outputs = -(-size // stride)
            total = max(0, (outputs - 1) * stride + (extent - 1) * dilation + 1 - size)
            small, large = total // 2, total - total // 2
            begins.append(small if auto_pad == "SAME_UPPER" else large)
            ends.append(large if auto_pad == "SAME_UPPER" else small)
        pads = begins + ends
    elif auto_pad == "VALID":
        pads = [0] * 2 * spatial
    elif auto_pad != "NOTSET":
        raise ModelError(
            f"expected auto_pad NOTSET, VALID, SAME_UPPER or SAME_LOWER, got {auto_pad}"
        )
    if spatial == 1:
        strides, dilations = [1, *strides], [1, *dilations]
        pads = [0, pads[0], 0, pads[1]]
    return {"strides": list(strides), "dilations": list(dilations), "pads": list(pads)}


@onnx_operator("Conv")
def _conv(context: Context) -> None:
    weights = context.weights(1)  # (out, in / groups, spatial…)
    x = _channels_last(context)
    spatial = weights.ndim - 2
    if spatial != len(context.shape(context.value(0))) - 2:
        raise ModelError(f"a kernel of shape {weights.shape} does not fit the input's axes")
    kernel_shape = context.attribute("kernel_shape") or weights.shape[2:]
    if tuple(kernel_shape) != weights.shape[2:]:
        raise ModelError(f"kernel_shape {kernel_shape} is not that of the weights {weights.shape}")
    kernel = np.moveaxis(weights, (0, 1), (-1, -2))  # (spatial…, in / groups, out)
    if spatial == 1:
        kernel = kernel[np.newaxis]
    settings = _window(context, x, kernel_shape, spatial)
    if context.has(2):
        settings["bias"] = np.ascontiguousarray(context.weights(2))
    y = context.emit(
        "conv2d",
        x,
        kernel=np.ascontiguousarray(kernel),
        groups=context.attribute("group", 1),
        **settings,
    )
    _channels_first(context, y, spatial)


def _pool(context: Context, op: str, **more: Any) -> None:
    x = _channels_last(context)
    kernel = context.attribute("kernel_shape")
    spatial = len(context.shape(context.value(0))) - 2
    settings = _window(context, x, kernel, spatial)
    settings["ceil_mode"] = int(context.attribute("ceil_mode", 0))
    settings["kernel_size"] = [1, *kernel] if spatial == 1 else list(kernel)
    if context.attribute("auto_pad", "NOTSET") != "NOTSET":
        settings["ceil_mode"] = 0  # the pads say how many outputs there are
    y = context.emit(op, x, **settings, **more)
    _channels_first(context, y, spatial)


@onnx_operator("MaxPool")
def _max_pool(context: Context) -> None:
    context.refuse_outputs(1)
    _pool(context, "max_pool2d")


@onnx_operator("AveragePool")
def _average_pool(context: Context) -> None:
    include = int(context.attribute("count_include_pad", 0))
    _pool(context, "average_pool2d", count_include_pad=include)


@onnx_operator("GlobalMaxPool")
def _global_max_pool(context: Context) -> None:
    _global_pool(context, "global_max_pool2d")


@onnx_operator("GlobalAveragePool")
def _global_average_pool(context: Context) -> None:
    _global_pool(context, "global_average_pool2d")


def _global_pool(context: Context, op: str) -> None:
    spatial = len(context.shape(context.value(0))) - 2
    _channels_first(context, context.emit(op, _channels_last(context)), spatial)
