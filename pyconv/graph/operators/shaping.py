"""Operators that give the same elements another shape, or leave them as they are."""

from __future__ import annotations

import numpy as np
from onnx import helper

from pyconv.errors import ModelError
from pyconv.graph.batch import Batch, BatchError, Dim, element_count
from pyconv.graph.native_operators import DTYPES, broadcast
from pyconv.graph.operators.context import Context
from pyconv.graph.operators.registry import Unsupported, onnx_operator


@onnx_operator("Identity")
def _identity(context: Context) -> None:
    context.emit("identity", context.value(0), output=0)


@onnx_operator("Dropout")
def _dropout(context: Context) -> None:
    if context.has(2) and any(context.sizes(2)):
        raise Unsupported("Dropout in training mode")
    x = context.value(0)
    context.emit("identity", x, output=0)
    if any(context.node.outputs[1:]):  # nothing is dropped: all true
        kept = context.emit("cast", x, dtype="bool")
        true = context.constant(np.array(True))
        if context.opset < 10:
            kept = context.emit("logical_or", kept, true)
            context.emit("cast", kept, output=1, dtype=context.dtype(x))
        else:
            context.emit("logical_or", kept, true, output=1)


@onnx_operator("Cast")
def _cast(context: Context) -> None:
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(context.attribute("to"))).name
    x = context.value(0)
    if dtype == context.dtype(x):
        context.emit("identity", x, output=0)
    elif dtype in DTYPES:
        context.emit("cast", x, output=0, dtype=dtype)
    else:
        raise Unsupported(f"Cast to {dtype}")


@onnx_operator("CastLike")
def _cast_like(context: Context) -> None:
    context.emit("cast", context.value(0), output=0, dtype=context.dtype(context.value(1)))


@onnx_operator("ConstantOfShape")
def _constant_of_shape(context: Context) -> None:
    shape = [context.size(size) for size in context.sizes(0)]
    value = np.asarray(context.attribute("value", np.zeros(1, np.float32)))
    one = context.constant(value.reshape((1,) * len(shape)))
    context.take(one, {axis: [0] * size for axis, size in enumerate(shape) if size != 1}, output=0)


@onnx_operator("Flatten")
def _flatten(context: Context) -> None:
    x = context.value(0)
    shape = context.shape(x)
    axis = context.attribute("axis", 1)
    if not -len(shape) <= axis <= len(shape):
        raise ModelError(f"axis {axis} does not exist in a tensor of {len(shape)} axes")
    axis = axis % len(shape) if axis < 0 else axis
    parts = (element_count(shape[:axis]), element_count(shape[axis:]))
    context.emit("reshape", x, output=0, shape=parts)


@onnx_operator("Reshape")
def _reshape(context: Context) -> None:
    x = context.value(0)
    shape = context.shape(x)
    given = context.setting("shape", 1)
    if given is None:
        raise ModelError("it has no shape")
    sizes: list[Dim] = []
    for axis, size in enumerate(given):
        if size == 0 and not context.attribute("allowzero", 0):
            if axis >= len(shape):
                raise ModelError(f"the shape {given} copies an axis that {len(shape)} axes lack")
            size = shape[axis]
        sizes.append(size)
    if any(not isinstance(size, Batch) and size < -1 for size in sizes) or sizes.count(-1) > 1:
        raise ModelError(f"{given} is no shape")
    if -1 in sizes:
        place = sizes.index(-1)
        sizes[place] = _missing_size(element_count(shape), sizes, place)
    context.emit("reshape", x, output=0, shape=tuple(sizes))


def _missing_size(total: Dim, sizes: list[Dim], place: int) -> Dim:
    others = element_count(sizes[:place] + sizes[place + 1 :])
    if isinstance(total, Batch) or isinstance(others, Batch):
        quotient: Dim = total // others
        return quotient
    if others == 0 or total % others:
        raise ModelError(f"{total} elements do not fit into the shape {sizes}")
    return total // others


@onnx_operator("Squeeze")
def _squeeze(context: Context) -> None:
    x = context.value(0)
    shape = context.shape(x)
    given = context.setting("axes", 1)
    if given is None and any(isinstance(size, Batch) for size in shape):
        raise BatchError(f"{context.node} drops the batch where it is 1")
    axes = (
        [axis for axis, size in enumerate(shape) if size == 1]
        if given is None
        else context.axes(given, len(shape))
    )
    for axis in axes:
        if isinstance(shape[axis], Batch):
            raise BatchError(f"{context.node} drops the batch")
        if shape[axis] != 1:
            raise ModelError(f"axis {axis} has {shape[axis]} elements and cannot be dropped")
    left = tuple(size for axis, size in enumerate(shape) if axis not in axes)
    context.emit("reshape", x, output=0, shape=left)


@onnx_operator("Unsqueeze")
def _unsqueeze(context: Context) -> None:
    x = context.value(0)
    given = context.setting("axes", 1)
    if given is None:
        raise ModelError("it has no axes")
    rank = len(context.shape(x)) + len(given)
    axes = context.axes(given, rank)
    if len(set(axes)) != len(axes):
        raise ModelError(f"the axes {given} name one of them twice")
    rest = iter(context.shape(x))
    shape = tuple(1 if axis in axes else next(rest) for axis in range(rank))
    context.emit("reshape", x, output=0, shape=shape)


@onnx_operator("Expand")
def _expand(context: Context) -> None:
    x = context.value(0)
    wanted = tuple(context.sizes(1))
    if broadcast(context.shape(x), wanted) == context.shape(x):
        context.emit("identity", x, output=0)
        return
    if any(isinstance(size, Batch) for size in wanted):
        # x already has the batch, or it could not be broadcast along it.
        if not isinstance(context.shape(x)[0], Batch) or len(wanted) > len(context.shape(x)):
            raise BatchError(f"{context.node} to the batch")
        wanted = (1, *wanted[1:])
    shape = broadcast(context.shape(x), wanted)
    own = (1,) * (len(shape) - len(context.shape(x))) + context.shape(x)
    x = context.emit("reshape", x, shape=own)
    places = {
        axis: [0] * context.size(size) for axis, size in enumerate(shape) if size != own[axis]
    }
    context.take(x, places, output=0)
