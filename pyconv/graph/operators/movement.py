"""Operators that put elements elsewhere: concat, pad, slice, split, tile, transpose."""

from __future__ import annotations

import numpy as np

from pyconv.errors import ModelError
from pyconv.graph.batch import Batch, BatchError, fixed
from pyconv.graph.operators.context import Context
from pyconv.graph.operators.maps import channels_first, channels_last
from pyconv.graph.operators.registry import onnx_operator


@onnx_operator("Transpose")
def _transpose(context: Context) -> None:
    x = context.value(0)
    rank = len(context.shape(x))
    permutation = context.attribute("perm") or list(reversed(range(rank)))
    if permutation and permutation[0] != 0 and isinstance(context.shape(x)[0], Batch):
        raise BatchError(f"{context.node} moves the batch")
    context.emit("transpose", x, output=0, permutation=tuple(permutation))


@onnx_operator("Concat")
def _concat(context: Context) -> None:
    values = context.values()
    if len(values) == 1:
        context.emit("identity", values[0], output=0)
    else:
        (axis,) = context.axes([context.attribute("axis", 1)], len(context.shape(values[0])))
        context.emit("concat", *values, output=0, axis=axis)


@onnx_operator("Pad")
def _pad(context: Context) -> None:
    x = context.value(0)
    shape = context.shape(x)
    rank = len(shape)
    given = context.setting("pads", 1)
    if given is None:
        raise ModelError("it has no pads")
    axes = context.axes(context.sizes(3), rank) if context.has(3) else list(range(rank))
    if len(given) != 2 * len(axes):
        raise ModelError(f"expected {2 * len(axes)} pads, got {len(given)}")
    pads = [0] * 2 * rank
    for place, axis in enumerate(axes):
        pads[axis] = fixed(given[place])
        pads[rank + axis] = fixed(given[len(axes) + place])
    mode = context.attribute("mode", "constant")
    if any(pad < 0 for pad in pads):  # first cut off what negative pads take, then pad
        x = context.emit(
            "slice",
            x,
            starts=[max(0, -begin) for begin in pads[:rank]],
            sizes=[
                size if begin >= 0 and end >= 0 else fixed(size) + min(0, begin) + min(0, end)
                for size, begin, end in zip(shape, pads[:rank], pads[rank:], strict=True)
            ],
            steps=[1] * rank,
        )
        if any(not isinstance(size, Batch) and size < 0 for size in context.shape(x)):
            raise ModelError(f"the pads {given} take more than there is")
    context.emit(
        "pad",
        x,
        output=0,
        pads=[max(0, pad) for pad in pads],
        mode=mode,
        value=context.number("value", 2, 0.0),
    )


@onnx_operator("Slice")
def _slice(context: Context) -> None:
    x = context.value(0)
    shape = context.shape(x)
    rank = len(shape)
    starts, ends = context.setting("starts", 1), context.setting("ends", 2)
    if starts is None or ends is None:
        raise ModelError("it has no starts or no ends")
    axes = context.axes(context.setting("axes", 3) or range(len(starts)), rank)
    steps = context.sizes(4) if context.has(4) else [1] * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise ModelError(
            f"starts {starts}, ends {ends}, axes {axes} and steps {steps} do not go together"
        )
    firsts, sizes, strides = [0] * rank, list(shape), [1] * rank
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        size = shape[axis]
        if isinstance(size, Batch):
            if start != 0 or step != 1 or not (end == size or _beyond(end)):
                raise BatchError(f"{context.node} cuts the batch")
            continue
        # ONNX clamps as Python does, but an end before the front means before element 0.
        stop = None if step < 0 and fixed(end) < -size else fixed(end)
        chosen = range(size)[slice(fixed(start), stop, step)]
        firsts[axis], sizes[axis], strides[axis] = chosen.start, len(chosen), step
        if not chosen:
            firsts[axis] = 0
    context.emit("slice", x, output=0, starts=firsts, sizes=sizes, steps=strides)


def _beyond(end: object) -> bool:
    """Whether exporters mean "to the end" by it."""
    return isinstance(end, int) and end >= 2**31 - 1


@onnx_operator("Split")
def _split(context: Context) -> None:
    x = context.value(0)
    shape = context.shape(x)
    (axis,) = context.axes([context.attribute("axis", 0)], len(shape))
    count = len(context.node.outputs)
    size = fixed(shape[axis])
    sizes = context.setting("split", 1)
    if sizes is None:
        # Equal parts; the last is smaller where they do not come out even (opset 18).
        part = -(-size // count)
        sizes = [part] * (count - 1) + [size - part * (count - 1)]
    if len(sizes) != count or sum(sizes) != size or min(sizes) < 0:
        raise ModelError(f"{size} elements of axis {axis} cannot be split into {sizes}")
    start = 0
    for output, part in enumerate(sizes):
        if context.node.outputs[output]:
            starts, parts = [0] * len(shape), list(shape)
            starts[axis], parts[axis] = start, part
            context.emit(
                "slice", x, output=output, starts=starts, sizes=parts, steps=[1] * len(shape)
            )
        start += part


@onnx_operator("Tile")
def _tile(context: Context) -> None:
    x = context.value(0)
    shape = context.shape(x)
    repeats = context.sizes(1)
    if len(repeats) != len(shape):
        raise ModelError(f"{len(repeats)} repeats for {len(shape)} axes")
    places = {
        axis: np.arange(context.size(size * count)) % fixed(size)
        for axis, (size, count) in enumerate(zip(shape, repeats, strict=True))
        if count != 1
    }
    context.take(x, places, output=0)


@onnx_operator("Gather")
def _gather(context: Context) -> None:
    x = context.value(0)
    shape = context.shape(x)
    (axis,) = context.axes([context.attribute("axis", 0)], len(shape))
    if not context.is_known(1):
        context.emit("gather", x, context.value(1), output=0, axis=axis)
        return
    size = fixed(shape[axis])
    given = context.sizes(1)
    if any(not -size <= place < size for place in given):
        raise ModelError(f"the indices {given} are not all in axis {axis} of {size} elements")
    taken = context.take(x, {axis: [place % size for place in given]})
    result = (*shape[:axis], *context.input_shape(1), *shape[axis + 1 :])
    context.emit("reshape", taken, output=0, shape=result)


@onnx_operator("DepthToSpace")
def _depth_to_space(context: Context) -> None:
    x, block = _blocks(context)
    n, height, width, channels = context.shape(x)
    depth = fixed(channels) // block**2
    if fixed(channels) % block**2:
        raise ModelError(f"{channels} channels do not fall into blocks of {block} by {block}")
    if context.attribute("mode", "DCR") == "DCR":
        sizes, order = (block, block, depth), (0, 1, 3, 2, 4, 5)
    else:
        sizes, order = (depth, block, block), (0, 1, 4, 2, 5, 3)
    apart = context.emit("reshape", x, shape=(n, height, width, *sizes))
    moved = context.emit("transpose", apart, permutation=order)
    shape = (n, fixed(height) * block, fixed(width) * block, depth)
    channels_first(context, context.emit("reshape", moved, shape=shape))


@onnx_operator("SpaceToDepth")
def _space_to_depth(context: Context) -> None:
    x, block = _blocks(context)
    n, height, width, channels = context.shape(x)
    rows, columns = fixed(height) // block, fixed(width) // block
    if fixed(height) % block or fixed(width) % block:
        raise ModelError(
            f"{height} by {width} pixels do not fall into blocks of {block} by {block}"
        )
    apart = context.emit("reshape", x, shape=(n, rows, block, columns, block, channels))
    by_depth = context.attribute("mode", "DCR") == "DCR"
    order = (0, 1, 3, 2, 4, 5) if by_depth else (0, 1, 3, 5, 2, 4)
    moved = context.emit("transpose", apart, permutation=order)
    shape = (n, rows, columns, fixed(channels) * block**2)
    channels_first(context, context.emit("reshape", moved, shape=shape))


def _blocks(context: Context) -> tuple[str, int]:
    """x (n, height, width, c), and the block's side."""
    x = channels_last(context)
    block = int(context.attribute("blocksize"))
    if len(context.shape(x)) != 4 or block < 1:
        raise ModelError("expected x of 4 axes and a blocksize of at least 1")
    return x, block
