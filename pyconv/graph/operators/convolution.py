"""Convolution. ONNX has channels in axis 1, the native operators have them last."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyconv.errors import ModelError
from pyconv.graph.batch import fixed
from pyconv.graph.native_operators import window_output
from pyconv.graph.operators.context import Context
from pyconv.graph.operators.maps import Window, channels_first, channels_last, given_window
from pyconv.graph.operators.registry import Unsupported, onnx_operator

Weights = NDArray[np.float32]


def _checked_weights(context: Context, spatial: int) -> Weights:
    weights = context.weights(1)
    if weights.ndim - 2 != spatial:
        raise ModelError(f"a kernel of shape {weights.shape} does not fit the input's axes")
    kernel_shape = context.attribute("kernel_shape") or weights.shape[2:]
    if tuple(kernel_shape) != weights.shape[2:]:
        raise ModelError(f"kernel_shape {kernel_shape} is not that of the weights {weights.shape}")
    return weights


@onnx_operator("Conv")
def _conv(context: Context) -> None:
    x = channels_last(context)
    spatial = len(context.shape(x)) - 2
    weights = _checked_weights(context, spatial)  # (out, in / groups, spatial…)
    kernel = np.moveaxis(weights, (0, 1), (-1, -2))  # (spatial…, in / groups, out)
    window = given_window(context, x, weights.shape[2:])
    groups = context.attribute("group", 1)
    bias = np.ascontiguousarray(context.weights(2)) if context.has(2) else None
    if spatial < 3:
        y = _conv2d(context, x, kernel, window, groups, bias)
    else:
        planes, merged = _planes_as_channels(context, x, kernel, window, groups)
        y = _conv2d(context, planes, merged, window.last(2), groups, bias)
        n, depth, *_ = context.shape(x)
        outputs = window_output(*window.axis(0, fixed(depth)), False)
        y = context.emit("reshape", y, shape=(n, outputs, *context.shape(y)[1:]))
    channels_first(context, y)


def _conv2d(
    context: Context,
    x: str,
    kernel: Weights,
    window: Window,
    groups: int,
    bias: Weights | None,
    op: str = "conv2d",
    **more: Any,
) -> str:
    """A convolution over one or two axes: (n, spatial…, in) → (n, spatial…, out)."""
    line = kernel.ndim == 3
    if line:
        n, width, channels = context.shape(x)
        x = context.emit("reshape", x, shape=(n, 1, width, channels))
        kernel = kernel[np.newaxis]
    y = context.emit(
        op,
        x,
        **{
            "kernel": np.ascontiguousarray(kernel),
            "groups": groups,
            **({} if bias is None else {"bias": bias}),
            **window.plane().attributes(),
            **more,
        },
    )
    if line:
        n, _, width, channels = context.shape(y)
        y = context.emit("reshape", y, shape=(n, width, channels))
    return y


def _planes_as_channels(
    context: Context, x: str, kernel: Weights, window: Window, groups: int
) -> tuple[str, Weights]:
    """A convolution over three axes as one over two.

    Each output plane is a two-dimensional convolution of the planes that its window covers, laid
    side by side as channels: (n, depth, h, w, in) → (n · output depth, h, w, kernel depth · in).
    """
    n, depth, height, width, channels = context.shape(x)
    taps = kernel.shape[0]
    outputs = window_output(*window.axis(0, fixed(depth)), False)
    if outputs < 1:
        raise ModelError(f"a kernel of depth {taps} does not fit into {depth} planes")
    if window.begins[0] or window.ends[0]:
        pads = [0] * 10
        pads[1], pads[6] = window.begins[0], window.ends[0]
        x = context.emit("pad", x, pads=pads)
    planes = []
    for tap in range(taps):
        plane = context.emit(
            "slice",
            x,
            starts=[0, tap * window.dilations[0], 0, 0, 0],
            sizes=[n, outputs, height, width, channels],
            steps=[1, window.strides[0], 1, 1, 1],
        )
        shape = (n, outputs, height, width, groups, fixed(channels) // groups)
        planes.append(context.emit("reshape", plane, shape=shape))
    beside = context.emit("concat", *planes, axis=5) if taps > 1 else planes[0]
    maps = (n * outputs, height, width, taps * fixed(channels))
    # (kernel depth, kh, kw, in / groups, out) → (kh, kw, kernel depth · in / groups, out)
    merged = np.moveaxis(kernel, 0, 2).reshape(*kernel.shape[1:3], -1, kernel.shape[-1])
    return context.emit("reshape", beside, shape=maps), merged


@onnx_operator("ConvTranspose")
def _conv_transpose(context: Context) -> None:
    x = channels_last(context)
    spatial = len(context.shape(x)) - 2
    weights = _checked_weights(context, spatial)  # (in, out / groups, spatial…)
    groups = context.attribute("group", 1)
    if groups < 1 or weights.shape[0] % groups:
        raise ModelError(f"a kernel of shape {weights.shape} does not fall into {groups} groups")
    # (spatial…, in / groups, groups, out / groups), of which the last two are the filters
    apart = weights.reshape(groups, -1, *weights.shape[1:])
    kernel = np.moveaxis(apart, (1, 0, 2), (-3, -2, -1))
    window, extra = _transposed_window(context, x, weights.shape[2:])
    bias = np.ascontiguousarray(context.weights(2)) if context.has(2) else None
    if spatial == 3:
        y = _conv3d_transpose(context, x, kernel, window, extra, bias)
    else:
        flat = kernel.reshape(*kernel.shape[:-2], -1)
        more = {"output_padding": [0] * (2 - spatial) + extra}
        y = _conv2d(context, x, flat, window, groups, bias, "conv2d_transpose", **more)
    channels_first(context, y)


def _transposed_window(
    context: Context, x: str, kernel: tuple[int, ...]
) -> tuple[Window, list[int]]:
    """The window, and what is added to the end of each axis."""
    spatial = len(kernel)
    window = given_window(context, x, kernel, transposed=True)
    extra = list(context.attribute("output_padding") or [0] * spatial)
    if len(extra) != spatial or min(extra) < 0:
        raise ModelError(f"expected an output_padding of {spatial} values from 0 on, got {extra}")
    auto_pad = context.attribute("auto_pad", "NOTSET")
    shape = context.attribute("output_shape")
    if shape is None and not auto_pad.startswith("SAME"):
        return window, extra
    sizes = [fixed(size) for size in context.shape(x)[1:-1]]
    if shape is None:
        shape = [size * stride for size, stride in zip(sizes, window.strides, strict=True)]
    shape = list(shape)[-spatial:]
    if len(shape) != spatial:
        raise ModelError(f"expected an output_shape of {spatial} values, got {shape}")
    begins, ends = [], []
    for axis, output in enumerate(shape):
        extent = (kernel[axis] - 1) * window.dilations[axis] + 1
        whole = window.strides[axis] * (sizes[axis] - 1) + extent + extra[axis]
        cut = whole - context.size(output)
        # More than there is grows at the end.
        small, large = max(cut, 0) // 2, cut - max(cut, 0) // 2
        upper = auto_pad == "SAME_UPPER" or cut < 0
        begins.append(small if upper else large)
        ends.append(large if upper else small)
    return Window(window.kernel, window.strides, window.dilations, begins, ends), extra


def _conv3d_transpose(
    context: Context,
    x: str,
    kernel: Weights,
    window: Window,
    extra: list[int],
    bias: Weights | None,
) -> str:
    """A transposed convolution over three axes as two over two.

    The first makes of every plane what each tap along the depth makes of it, side by side as
    channels; the second, of all pixels of a plane as one axis, adds every tap where it belongs.
    """
    n, depth, height, width, channels = context.shape(x)
    taps, *_, groups, filters = kernel.shape
    # (kernel depth, kh, kw, in / groups, groups, filters) → (kh, kw, in / groups, all filters)
    by_plane = np.moveaxis(kernel, 0, -2)
    by_plane = by_plane.reshape(*by_plane.shape[:3], -1)
    planes = context.emit("reshape", x, shape=(n * fixed(depth), height, width, channels))
    made = _conv2d(
        context,
        planes,
        by_plane,
        window.last(2),
        groups,
        None,
        "conv2d_transpose",
        output_padding=extra[1:],
    )
    _, rows, columns, spread = context.shape(made)
    made = context.emit("reshape", made, shape=(n, depth, fixed(rows) * fixed(columns), spread))
    # Tap u passes the u-th share of its group's channels on.
    along = np.zeros((taps, 1, taps, filters, groups, filters), np.float32)
    for tap in range(taps):
        along[tap, 0, tap] = np.eye(filters)[:, np.newaxis, :]
    depthwise = Window(
        [taps, 1],
        [window.strides[0], 1],
        [window.dilations[0], 1],
        [window.begins[0], 0],
        [window.ends[0], 0],
    )
    y = _conv2d(
        context,
        made,
        along.reshape(taps, 1, taps * filters, groups * filters),
        depthwise,
        groups,
        bias,
        "conv2d_transpose",
        output_padding=[extra[0], 0],
    )
    return context.emit(
        "reshape", y, shape=(n, context.shape(y)[1], rows, columns, groups * filters)
    )


def conv_integer(context: Context, x: str, weights: str, *, bias: str | None = None) -> str:
    """A convolution of int32 numbers, exact but for wrapping around.

    Args:
        context: the node, for its window and groups.
        x: (n, spatial…, in) of int32, less its zero point.
        weights: (out, in / groups, spatial…) of int32, less their zero point.
        bias: (out,) of int32.

    Returns:
        (n, spatial…, out) of int32.
    """
    filters, depth, *kernel = (fixed(size) for size in context.shape(weights))
    spatial = len(kernel)
    if spatial not in (1, 2):
        raise Unsupported(f"{context.node.operator} in {spatial} dimensions")
    groups = context.attribute("group", 1)
    window = given_window(context, x, kernel).plane()
    shape = context.shape(x)
    if len(shape) != spatial + 2 or shape[-1] != depth * groups or filters % groups:
        raise ModelError(f"a kernel of {filters} filters over {depth} channels does not fit x")
    if spatial == 1:
        x = context.emit("reshape", x, shape=(shape[0], 1, *shape[1:]))
    pads = [0, *window.begins, 0, 0, *window.ends, 0]
    if any(pads):
        x = context.emit("pad", x, pads=pads)
    patches = context.emit(
        "patches",
        x,
        kernel_size=window.kernel,
        strides=window.strides,
        dilations=window.dilations,
    )
    n, rows, columns, kh, kw, _ = context.shape(patches)
    taps = fixed(kh) * fixed(kw)
    # (out, in / groups, taps) → (groups, taps · in / groups, out / groups)
    matrix = context.emit("reshape", weights, shape=(groups, filters // groups, depth, taps))
    matrix = context.emit("transpose", matrix, permutation=(0, 3, 2, 1))
    matrix = context.emit("reshape", matrix, shape=(groups, taps * depth, filters // groups))
    # (n, pixels, taps, groups, in / groups) → (n, groups, pixels, taps · in / groups)
    pixels = fixed(rows) * fixed(columns)
    left = context.emit("reshape", patches, shape=(n, pixels, taps, groups, depth))
    left = context.emit("transpose", left, permutation=(0, 3, 1, 2, 4))
    left = context.emit("reshape", left, shape=(n, groups, pixels, taps * depth))
    sums = context.emit("matmul", left, matrix)
    sums = context.emit("transpose", sums, permutation=(0, 2, 1, 3))
    sizes = (rows, columns) if spatial == 2 else (columns,)
    y = context.emit("reshape", sums, shape=(n, *sizes, filters))
    return y if bias is None else context.emit("add", y, bias)
