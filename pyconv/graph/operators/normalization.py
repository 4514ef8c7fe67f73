"""Normalisation: by statistics of the training, of the image, or of what is near."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pyconv.errors import ModelError
from pyconv.graph.batch import fixed
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
    shape = (-1, *(1,) * max(0, len(context.shape(x)) - 2))  # along axis 1
    if not all(map(context.is_known, range(1, 5))):
        _normalize(context, x, len(shape) - 1)
        return
    # A factor and an addend for each channel, once trained.
    scale, offset, mean, variance = (
        context.weights(index).astype(np.float64) for index in range(1, 5)
    )
    factor = scale / np.sqrt(variance + context.attribute("epsilon", 1e-5))
    addend = offset - mean * factor
    scaled = context.emit("multiply", x, context.constant(factor.reshape(shape)))
    context.emit("add", scaled, context.constant(addend.reshape(shape)), output=0)


def _by_channel(context: Context, index: int, after: int) -> str:
    """An input (channels,) in a shape that goes along axis 1 of x."""
    value = context.value(index)
    return context.emit("reshape", value, shape=(*context.shape(value), *(1,) * after))


def _normalize(context: Context, x: str, after: int) -> None:
    """Batch normalisation by statistics that are computed."""
    scale, offset, mean, variance = (_by_channel(context, index, after) for index in range(1, 5))
    epsilon = context.constant(np.array(float(context.attribute("epsilon", 1e-5))))
    positive = context.emit("add", variance, epsilon)
    deviation = context.emit("activation", positive, activation="sqrt")
    centred = context.emit("subtract", x, mean)
    factor = context.emit("divide", scale, deviation)
    context.emit("add", context.emit("multiply", centred, factor), offset, output=0)


@onnx_operator("LayerNormalization")
def _layer_normalization(context: Context) -> None:
    context.refuse_outputs(1)
    x = context.value(0)
    shape = context.shape(x)
    (axis,) = context.axes([context.attribute("axis", -1)], len(shape))
    row = tuple(fixed(size) for size in shape[axis:])
    settings: dict[str, Any] = {"axis": axis, "epsilon": float(context.attribute("epsilon", 1e-5))}
    rest: list[tuple[str, str]] = []
    for name, index, op in (("scale", 1, "multiply"), ("bias", 2, "add")):
        if not context.has(index):
            continue
        if context.is_known(index) and not rest:
            settings[name] = np.ascontiguousarray(np.broadcast_to(context.weights(index), row))
        else:
            rest.append((op, context.value(index)))
    y = context.emit("layer_normalization", x, output=None if rest else 0, **settings)
    for place, (op, value) in enumerate(rest):
        y = context.emit(op, y, value, output=0 if place == len(rest) - 1 else None)


@onnx_operator("InstanceNormalization")
def _instance_normalization(context: Context) -> None:
    """Every channel of an image by its own mean and variance."""
    _group_normalization_of(context, fixed(context.shape(context.value(0))[1]))


@onnx_operator("GroupNormalization")
def _group_normalization(context: Context) -> None:
    if context.opset < 21:
        raise Unsupported("GroupNormalization before opset 21")
    _group_normalization_of(context, context.attribute("num_groups", 1))


def _group_normalization_of(context: Context, groups: int) -> None:
    x = context.value(0)
    shape = context.shape(x)
    after = len(shape) - 2
    channels = fixed(shape[1])
    if groups < 1 or channels % groups:
        raise ModelError(f"{channels} channels do not fall into {groups} groups")
    row = math.prod(fixed(size) for size in shape[2:]) * (channels // groups)
    rows = context.emit("reshape", x, shape=(shape[0], groups, row))
    epsilon = float(context.attribute("epsilon", 1e-5))
    normal = context.emit("layer_normalization", rows, axis=2, epsilon=epsilon)
    y = context.emit("reshape", normal, shape=shape)
    scaled = context.emit("multiply", y, _by_channel(context, 1, after))
    context.emit("add", scaled, _by_channel(context, 2, after), output=0)


@onnx_operator("LRN")
def _local_response_normalization(context: Context) -> None:
    x = context.value(0)
    rank = len(context.shape(x))
    last = context.emit("transpose", x, permutation=(0, *range(2, rank), 1))
    y = context.emit(
        "local_response_normalization",
        last,
        size=context.attribute("size"),
        alpha=float(context.attribute("alpha", 1e-4)),
        beta=float(context.attribute("beta", 0.75)),
        bias=float(context.attribute("bias", 1.0)),
    )
    context.emit("transpose", y, output=0, permutation=(0, rank - 1, *range(1, rank - 1)))
