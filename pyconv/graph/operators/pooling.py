"""Pooling. ONNX has channels in axis 1, the native operators have them last."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pyconv.errors import ModelError
from pyconv.graph.batch import BatchError, fixed, has_batch
from pyconv.graph.native_operators import window_output
from pyconv.graph.operators.context import Context
from pyconv.graph.operators.maps import Window, channels_first, channels_last, given_window
from pyconv.graph.operators.registry import Unsupported, onnx_operator


def _pool(context: Context, op: str, x: str, window: Window, **settings: Any) -> str:
    """A pool over one to three axes: (n, spatial…, c) → (n, spatial…, c).

    Over three axes it is one over the planes and then one along the depth: maxima go together, and
    so do means, since how many elements a window holds is a product over the axes.
    """
    shape = context.shape(x)
    spatial = len(shape) - 2
    if spatial == 3:
        n, depth, height, width, channels = shape
        beside = context.emit("transpose", x, permutation=(0, 2, 3, 1, 4))
        beside = context.emit(
            "reshape", beside, shape=(n, height, width, fixed(depth) * fixed(channels))
        )
        pooled = _pool2d(context, op, beside, window.last(2), settings)
        _, rows, columns, _ = context.shape(pooled)
        pooled = context.emit("reshape", pooled, shape=(n, rows, columns, depth, channels))
        planes = context.emit("transpose", pooled, permutation=(0, 3, 1, 2, 4))
        pixels = fixed(rows) * fixed(columns)
        planes = context.emit("reshape", planes, shape=(n, depth, pixels, channels))
        pooled = _pool2d(context, op, planes, window.first(), settings)
        return context.emit(
            "reshape", pooled, shape=(n, context.shape(pooled)[1], rows, columns, channels)
        )
    if spatial == 2:
        return _pool2d(context, op, x, window, settings)
    n, width, channels = shape
    line = context.emit("reshape", x, shape=(n, 1, width, channels))
    pooled = _pool2d(context, op, line, window.plane(), settings)
    return context.emit("reshape", pooled, shape=(n, context.shape(pooled)[2], channels))


def _pool2d(context: Context, op: str, x: str, window: Window, settings: dict[str, Any]) -> str:
    return context.emit(op, x, kernel_size=list(window.kernel), **window.attributes(), **settings)


def _pool_window(context: Context, x: str) -> tuple[Window, int]:
    """The window, and ceil_mode."""
    kernel = context.attribute("kernel_shape")
    if kernel is None:
        raise ModelError("it has no kernel_shape")
    window = given_window(context, x, kernel)
    # With auto_pad the pads say how many outputs there are.
    fixed_pads = context.attribute("auto_pad", "NOTSET") == "NOTSET"
    return window, int(context.attribute("ceil_mode", 0)) if fixed_pads else 0


@onnx_operator("MaxPool")
def _max_pool(context: Context) -> None:
    x = channels_last(context)
    window, ceil_mode = _pool_window(context, x)
    dtype = context.dtype(x)
    if dtype in ("int8", "uint8"):  # float32 holds them exactly
        x = context.emit("cast", x, dtype="float32")
    y = _pool(context, "max_pool2d", x, window, ceil_mode=ceil_mode)
    if dtype in ("int8", "uint8"):
        y = context.emit("cast", y, dtype=dtype)
    channels_first(context, y)
    if not any(context.node.outputs[1:]):
        return
    if len(window.kernel) > 2:
        raise Unsupported("MaxPool in 3 dimensions with 2 outputs")
    if has_batch(context.shape(x)):
        raise BatchError(f"{context.node} counts places from the first image on")
    settings = {
        "ceil_mode": ceil_mode,
        "storage_order": int(context.attribute("storage_order", 0)),
    }
    places = _pool(context, "max_pool2d_indices", x, window, **settings)
    channels_first(context, places, output=1)


@onnx_operator("AveragePool")
def _average_pool(context: Context) -> None:
    x = channels_last(context)
    window, ceil_mode = _pool_window(context, x)
    include = int(context.attribute("count_include_pad", 0))
    settings = {"ceil_mode": ceil_mode, "count_include_pad": include}
    channels_first(context, _pool(context, "average_pool2d", x, window, **settings))


@onnx_operator("LpPool")
def _lp_pool(context: Context) -> None:
    """(Σ |x|^p) ^ (1/p), the sum being a mean that counts padding, times the window's elements."""
    x = channels_last(context)
    window, ceil_mode = _pool_window(context, x)
    ends = list(window.ends)
    if ceil_mode:  # what the last window hangs over is padding too
        for axis, size in enumerate(context.shape(x)[1:-1]):
            outputs = window_output(*window.axis(axis, fixed(size)), True)
            extent = (window.kernel[axis] - 1) * window.dilations[axis] + 1
            reach = (outputs - 1) * window.strides[axis] + extent
            ends[axis] = max(ends[axis], reach - fixed(size) - window.begins[axis])
    window = Window(window.kernel, window.strides, window.dilations, window.begins, ends)
    p = float(context.attribute("p", 2))
    mean = _pool(context, "average_pool2d", _powers(context, x, p), window, count_include_pad=1)
    total = context.emit("multiply", mean, context.constant(np.array(float(window.taps()))))
    channels_first(context, _root(context, total, p))


def _powers(context: Context, x: str, p: float) -> str:
    if p == 2:
        return context.emit("multiply", x, x)
    size = context.emit("activation", x, activation="abs")
    return size if p == 1 else context.emit("power", size, context.constant(np.array(p)))


def _root(context: Context, x: str, p: float) -> str:
    if p == 2:
        return context.emit("activation", x, activation="sqrt")
    return x if p == 1 else context.emit("power", x, context.constant(np.array(1 / p)))


@onnx_operator("GlobalMaxPool")
def _global_max_pool(context: Context) -> None:
    _global_pool(context, "global_max_pool2d", channels_last(context))


@onnx_operator("GlobalAveragePool")
def _global_average_pool(context: Context) -> None:
    _global_pool(context, "global_average_pool2d", channels_last(context))


@onnx_operator("GlobalLpPool")
def _global_lp_pool(context: Context) -> None:
    x = channels_last(context)
    p = float(context.attribute("p", 2))
    axes = list(range(1, len(context.shape(x)) - 1))
    powers = _powers(context, x, p)
    total = context.emit("reduce", powers, function="sum", axes=axes, keepdims=1)
    channels_first(context, _root(context, total, p))


def _global_pool(context: Context, op: str, x: str) -> None:
    n, *sizes, channels = context.shape(x)
    plane = (math.prod(fixed(size) for size in sizes[:-1]), sizes[-1])
    if len(sizes) != 2:
        x = context.emit("reshape", x, shape=(n, *plane, channels))
    y = context.emit(op, x)
    if len(sizes) != 2:
        y = context.emit("reshape", y, shape=(n, *(1,) * len(sizes), channels))
    channels_first(context, y)
