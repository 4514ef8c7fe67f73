"""Receptive fields: which part of the image each value of a tensor depends on.

For every value the smallest rectangle is found that holds all pixels which can change it, by
walking the graph from the image on: a convolution's value sees what its window's values see, a sum
what either operand sees. Araujo, Norris and Sim (2019, "Computing Receptive Fields of Convolutional
Neural Networks") give the closed form for chains of windows; walking also gives branches, crops,
resizing and what padding cuts off.
Inside the rectangle of a dilated or strided convolution some pixels may be passed over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pyconv.graph.batch import Batch, Shape, at_batch
from pyconv.graph.importer import Network
from pyconv.graph.ir import Graph, Node

Bounds: TypeAlias = NDArray[np.int32]
"""What a value's elements see: (4, *axes), of first row, first column, -last row, -last column.

An axis along which nothing differs has size 1, as the batch always has. Two rectangles are joined
by the minimum, since the last ones are negative; what sees nothing is `_NOTHING` in all four.
"""

_NOTHING = np.int32(np.iinfo(np.int32).max)
_MOST_ELEMENTS = 1 << 24  # of a tensor whose elements are told apart one by one


class Box(NamedTuple):
    """A rectangle of pixels: `image[top:bottom, left:right]`."""

    top: int
    left: int
    bottom: int
    right: int


@dataclass(frozen=True, slots=True, eq=False)
class ReceptiveField:
    """What the values of one tensor see of the image.

    Attributes:
        shape: the tensor's, without the batch.
        boxes: (4, *axes) int32 of top, left, bottom and right, as in `Box`; an axis along which
            nothing differs has size 1, all others are those of `shape`. All four are 0 for a value
            that sees no pixel.
    """

    shape: tuple[int, ...]
    boxes: NDArray[np.int32]

    def box(self, *index: int) -> Box:
        """What one value sees, such as `box(row, column)` of a map, or with its channel.

        Args:
            index: the value's place in `shape`. Axes left out at the end are joined.
        """
        boxes = self.boxes
        for i, size in zip(index, self.boxes.shape[1:], strict=False):
            boxes = boxes[:, i if size > 1 else 0]
        boxes = boxes.reshape(4, -1)
        seen = boxes[:, boxes[2] > boxes[0]]
        if not seen.size:
            return Box(0, 0, 0, 0)
        (top, left), (bottom, right) = seen[:2].min(axis=1), seen[2:].max(axis=1)
        return Box(int(top), int(left), int(bottom), int(right))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the largest rectangle, in pixels of the image."""
        height, width = self.boxes[2] - self.boxes[0], self.boxes[3] - self.boxes[1]
        return int(height.max(initial=0)), int(width.max(initial=0))

    @property
    def stride(self) -> tuple[int, int] | None:
        """How many pixels apart neighbours see, down and across; None where that differs or the
        tensor is no map (height, width, channels).
        """
        if len(self.shape) != 3:
            return None
        steps = []
        for axis in (0, 1):
            first = self.boxes[axis].min(axis=(1 - axis, 2))
            extent = (self.boxes[axis + 2] - self.boxes[axis]).max(axis=(1 - axis, 2))
            whole = first[extent == extent.max(initial=0)]  # not cut off at the image's edge
            found = {int(step) for step in np.diff(whole)}
            if len(found) != 1:
                return None
            steps.append(found.pop())
        return steps[0], steps[1]


def receptive_fields(
    network: Network, image: str, axes: tuple[int, int], tensors: Mapping[str, Sequence[int]]
) -> dict[str, ReceptiveField]:
    """What the values of some tensors see.

    Args:
        network: as imported.
        image: the input that is the image.
        axes: which of its axes are height and width.
        tensors: by ONNX name, the permutation of axes in which the field is wanted; none if empty.
            Tensors without an axis for the batch alone, or known without running, are left out.

    Returns:
        By tensor, in the order of `tensors`.
    """
    graph = network.graph
    last_use: dict[str, int] = {}
    for place, node in enumerate(graph.nodes):
        last_use.update(dict.fromkeys(node.inputs, place))
    found = {image: _of_image(graph.shape(image), axes)}
    kept = {image: found[image]}
    for place, node in enumerate(graph.nodes):
        found[node.output] = _bounds_after(node, graph, found)
        if node.output in tensors:
            kept[node.output] = found[node.output]
        for name in node.inputs:
            if last_use[name] == place:  # large maps' bounds are not kept for nothing
                found.pop(name, None)
    fields = {}
    for name, permutation in tensors.items():
        shape = graph.shape(name) if name in kept else ()
        if len(shape) >= 2 and not (isinstance(shape[0], Batch) and shape[0].factor > 1):
            fields[name] = _field(kept[name], shape, permutation)
    return fields


def _field(bounds: Bounds, shape: Shape, permutation: Sequence[int]) -> ReceptiveField:
    if permutation:
        bounds = bounds.transpose(0, *(axis + 1 for axis in permutation))
        shape = tuple(shape[axis] for axis in permutation)
    boxes = bounds[:, 0].copy()  # values may share their bounds
    blind = boxes[0] == _NOTHING
    boxes[2:] = 1 - boxes[2:]
    boxes[:, blind] = 0
    return ReceptiveField(_sizes(shape)[1:], boxes)


def _of_image(shape: Shape, axes: tuple[int, int]) -> Bounds:
    sizes = _sizes(shape)
    height, width = (sizes[axis] for axis in axes)
    kept = [size if axis in axes else 1 for axis, size in enumerate(sizes)]
    bounds = np.empty((4, *kept), np.int32)
    along = [np.arange(size, dtype=np.int32) for size in (height, width)]
    for edge, values in enumerate((along[0], along[1], -along[0], -along[1])):
        spread = [1] * len(sizes)
        spread[axes[edge % 2]] = len(values)
        bounds[edge] = values.reshape(spread)
    return bounds


def _sizes(shape: Shape) -> tuple[int, ...]:
    """A shape with a batch of one."""
    return tuple(at_batch(size, 1) for size in shape)


def _bounds_after(node: Node, graph: Graph, found: Mapping[str, Bounds]) -> Bounds:
    """What the values see that a node makes."""
    operands = [_operand(name, graph, found) for name in node.inputs]
    shapes = [_sizes(graph.shape(name)) for name in node.inputs]
    made = _sizes(graph.shape(node.output))
    seen = operands[0]
    settings = node.attributes
    rank = len(made)
    match node.op:
        case "conv2d" | "patches":
            kernel = (
                settings["kernel"].shape[:2] if "kernel" in settings else settings["kernel_size"]
            )
            windows = _windows(_joined(seen, [3]), shapes[0], made, kernel, settings)
            return windows if node.op == "conv2d" else windows.reshape(4, 1, *made[1:3], 1, 1, 1)
        case "max_pool2d" | "average_pool2d":
            return _windows(seen, shapes[0], made, settings["kernel_size"], settings)
        case "conv2d_transpose":
            return _spread(_joined(seen, [3]), shapes[0], made, settings)
        case "global_max_pool2d" | "global_average_pool2d":
            return _joined(seen, [1, 2])
        case "dense" | "local_response_normalization":
            return _joined(seen, [rank - 1])
        case "matmul":
            return _merged([_joined(operands[0], [-1]), _joined(operands[1], [-2])], rank)
        case "softmax" | "log_softmax":
            return _joined(seen, [settings.get("axis", -1)])
        case "layer_normalization":
            return _joined(seen, range(settings.get("axis", -1) % rank, rank))
        case "reduce" | "arg_max" | "arg_min":
            chosen = settings["axes"] if node.op == "reduce" else [settings.get("axis", 0)]
            joined = _joined(seen, chosen)
            if settings.get("keepdims", 1):
                return joined
            return joined.squeeze(tuple(axis % len(shapes[0]) + 1 for axis in chosen))
        case "transpose":
            return seen.transpose(0, *(axis + 1 for axis in settings["permutation"]))
        case "reshape":
            return _reshaped(seen, shapes[0], made)
        case "concat":
            return _concatenated(operands, shapes, settings.get("axis", 0) % rank)
        case "pad":
            return _padded(seen, shapes[0], settings)
        case "slice":
            return _sliced(seen, settings)
        case "take":
            return _taken(seen, settings)
        case "resample":
            return _resampled(seen, shapes[0], settings)
        case "max_pool2d_indices" | "gather":
            every = [_joined(operand, range(operand.ndim - 1)) for operand in operands]
            return _merged([bounds.reshape(4) for bounds in every], 0).reshape(4, *[1] * rank)
        case _:  # element by element, operands broadcast
            return _merged(operands, rank)


def _operand(name: str, graph: Graph, found: Mapping[str, Bounds]) -> Bounds:
    """What a value sees; constants, and inputs that are not the image, see nothing."""
    if name in found:
        return found[name]
    return np.full((4, *[1] * len(graph.shape(name))), _NOTHING)


def _joined(bounds: Bounds, axes: Iterable[int]) -> Bounds:
    """One rectangle around all that lie along some axes of the value, which keep size 1."""
    rank = bounds.ndim - 1
    joined: Bounds = bounds.min(axis=tuple(axis % rank + 1 for axis in axes), keepdims=True)
    return joined


def _merged(operands: Sequence[Bounds], rank: int) -> Bounds:
    """Rectangles around what each operand sees, broadcast as NumPy does."""
    aligned = [b.reshape(4, *[1] * (rank - b.ndim + 1), *b.shape[1:]) for b in operands]
    merged = aligned[0]
    for other in aligned[1:]:
        merged = np.minimum(merged, other)
    return merged


def _told_apart(bounds: Bounds, shape: Sequence[int], axes: Iterable[int]) -> Bounds:
    """The same with the whole size of some axes, where they had size 1."""
    wanted = list(bounds.shape)
    for axis in axes:
        wanted[axis + 1] = shape[axis]
    whole: Bounds = np.broadcast_to(bounds, wanted)
    return whole


def _picked(bounds: Bounds, axis: int, places: NDArray[Any], valid: NDArray[Any]) -> Bounds:
    """One rectangle around several places of an axis.

    Args:
        bounds: of the whole size along the axis.
        axis: of the value.
        places: (outputs, taps) along the axis.
        valid: which of them are there.
    """
    size = bounds.shape[axis + 1]
    if size == 0 or not places.size:
        shape = [*bounds.shape]
        shape[axis + 1] = len(places)
        return np.full(shape, _NOTHING)
    result = None
    for tap, there in zip(places.T, valid.T, strict=True):  # a window may have thousands of taps
        spread = there.reshape(-1, *[1] * (bounds.ndim - axis - 2))
        taken = np.where(spread, bounds.take(np.clip(tap, 0, size - 1), axis + 1), _NOTHING)
        result = taken if result is None else np.minimum(result, taken)
    assert result is not None
    return result


def _windows(
    bounds: Bounds,
    shape: Sequence[int],
    made: Sequence[int],
    kernel: Sequence[int],
    settings: Mapping[str, Any],
) -> Bounds:
    """What sliding windows over axes 1 and 2 see."""
    strides, dilations = settings.get("strides", [1, 1]), settings.get("dilations", [1, 1])
    pads = settings.get("pads", [0, 0, 0, 0])
    bounds = _told_apart(bounds, shape, [1, 2])
    for i in range(2):
        starts = np.arange(made[1 + i]) * strides[i] - pads[i]
        places = starts[:, np.newaxis] + np.arange(kernel[i]) * dilations[i]
        bounds = _picked(bounds, 1 + i, places, (places >= 0) & (places < shape[1 + i]))
    return bounds


def _spread(
    bounds: Bounds, shape: Sequence[int], made: Sequence[int], settings: Mapping[str, Any]
) -> Bounds:
    """What a transposed convolution's values see: input i reaches i · stride + tap · dilation."""
    strides, dilations = settings.get("strides", [1, 1]), settings.get("dilations", [1, 1])
    pads, kernel = settings.get("pads", [0, 0, 0, 0]), settings["kernel"].shape
    bounds = _told_apart(bounds, shape, [1, 2])
    for i in range(2):
        outputs = np.arange(made[1 + i])[:, np.newaxis] + pads[i]
        reached = outputs - np.arange(kernel[i]) * dilations[i]
        places = reached // strides[i]
        valid = (reached % strides[i] == 0) & (places >= 0) & (places < shape[1 + i])
        bounds = _picked(bounds, 1 + i, places, valid)
    return bounds


def _reshaped(bounds: Bounds, shape: Sequence[int], made: Sequence[int]) -> Bounds:
    if all(size == 1 for size in bounds.shape[1:]):
        return bounds.reshape(4, *[1] * len(made))
    if [size for size in shape if size != 1] == [size for size in made if size != 1]:
        kept = iter([b for b, size in zip(bounds.shape[1:], shape, strict=True) if size != 1])
        return bounds.reshape(4, *(1 if size == 1 else next(kept) for size in made))
    if np.prod(shape, dtype=np.int64) > _MOST_ELEMENTS:
        return _joined(bounds, range(len(shape))).reshape(4, *[1] * len(made))
    return np.broadcast_to(bounds, (4, *shape)).reshape(4, *made)


def _concatenated(operands: Sequence[Bounds], shapes: Sequence[Sequence[int]], axis: int) -> Bounds:
    common = list(
        np.broadcast_shapes(*([*b.shape[: axis + 1], 1, *b.shape[axis + 2 :]] for b in operands))
    )
    parts = []
    for bounds, shape in zip(operands, shapes, strict=True):
        common[axis + 1] = shape[axis]
        parts.append(np.broadcast_to(bounds, common))
    return np.concatenate(parts, axis + 1)


_PAD_MODES = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}


def _padded(bounds: Bounds, shape: Sequence[int], settings: Mapping[str, Any]) -> Bounds:
    pads, mode = settings["pads"], settings.get("mode", "constant")
    for axis, (begin, end) in enumerate(zip(pads[: len(shape)], pads[len(shape) :], strict=True)):
        if begin == end == 0:
            continue
        bounds = _told_apart(bounds, shape, [axis])
        size = shape[axis]
        keep = slice(max(0, -begin), size - max(0, -end))
        bounds = bounds[(*[slice(None)] * (axis + 1), keep)]
        widths = [(0, 0)] * bounds.ndim
        widths[axis + 1] = (max(0, begin), max(0, end))
        if mode == "constant":
            bounds = np.pad(bounds, widths, constant_values=_NOTHING)
        else:
            bounds = np.pad(bounds, widths, mode=_PAD_MODES[mode])  # type: ignore[call-overload]
    return bounds


def _sliced(bounds: Bounds, settings: Mapping[str, Any]) -> Bounds:
    for axis, (start, size, step) in enumerate(
        zip(settings["starts"], settings["sizes"], settings["steps"], strict=True)
    ):
        if bounds.shape[axis + 1] > 1:
            bounds = bounds.take(start + step * np.arange(size), axis + 1)
    return bounds


def _taken(bounds: Bounds, settings: Mapping[str, Any]) -> Bounds:
    begin = 0
    for axis, size in zip(settings["axes"], settings["sizes"], strict=True):
        places = np.asarray(settings["indices"][begin : begin + size], np.intp)
        begin += size
        if bounds.shape[axis + 1] > 1:
            bounds = bounds.take(places, axis + 1)
    return bounds


def _resampled(bounds: Bounds, shape: Sequence[int], settings: Mapping[str, Any]) -> Bounds:
    axis, weights = settings["axis"], settings["weights"]
    places = np.asarray(settings["indices"], np.intp).reshape(weights.shape)
    return _picked(_told_apart(bounds, shape, [axis]), axis, places, (places >= 0) & (weights != 0))
