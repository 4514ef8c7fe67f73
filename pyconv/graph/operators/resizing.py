"""Resize and Upsample in all their modes.

An axis is resized on its own: by places that are taken (nearest), or by sums of a few places with
weights that do not depend on the image (linear, cubic, antialiased). Both are worked out here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyconv.errors import ModelError
from pyconv.graph.batch import Batch, BatchError, Dim, fixed
from pyconv.graph.operators.context import Context
from pyconv.graph.operators.registry import Unsupported, onnx_operator

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis on its way to another size.

    Attributes:
        size: its places.
        output: those that it is to have.
        scale: output / size, before that was rounded.
        region: where the part begins and ends that `tf_crop_and_resize` takes, 0 to 1.
    """

    size: int
    output: int
    scale: float
    region: tuple[float, float] = (0.0, 1.0)


def _align_corners(axis: Axis, places: Floats) -> Floats:
    last = axis.scale * axis.size - 1
    return places * (axis.size - 1) / last if last else 0 * places


def _crop(axis: Axis, places: Floats) -> Floats:
    begin, end = (edge * (axis.size - 1) for edge in axis.region)
    last = axis.scale * axis.size - 1
    return begin + (places * (end - begin) / last if last else (end - begin) / 2 + 0 * places)


def _half_pixel(axis: Axis, places: Floats) -> Floats:
    return (places + 0.5) / axis.scale - 0.5


def _half_pixel_symmetric(axis: Axis, places: Floats) -> Floats:
    rounded = axis.output / (axis.scale * axis.size)
    return axis.size / 2 * (1 - rounded) + _half_pixel(axis, places)


COORDINATES: Mapping[str, Callable[[Axis, Floats], Any]] = {
    "align_corners": _align_corners,
    "asymmetric": lambda axis, places: places / axis.scale,
    "half_pixel": _half_pixel,
    "half_pixel_symmetric": _half_pixel_symmetric,
    "pytorch_half_pixel": lambda axis, places: (
        _half_pixel(axis, places) if axis.output > 1 else 0 * places
    ),
    "tf_crop_and_resize": _crop,
    "tf_half_pixel_for_nn": lambda axis, places: (places + 0.5) / axis.scale,
}
"""By ONNX's `coordinate_transformation_mode`: where in x, in places, each output lies."""

ROUNDINGS: Mapping[str, Callable[[Floats], Any]] = {
    "ceil": np.ceil,
    "floor": np.floor,
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
}
"""By ONNX's `nearest_mode`."""


def nearest_places(axis: Axis, coordinates: Floats, mode: str) -> NDArray[np.int64]:
    """The place that each output takes."""
    if mode == "simple":  # operator set 10, which leaves it open; as onnxruntime has it
        mode = "ceil" if axis.scale < 1 else "floor"
    places: NDArray[np.int64] = np.clip(ROUNDINGS[mode](coordinates), 0, axis.size - 1).astype(
        np.int64
    )
    return places


def _triangle(x: Floats) -> Floats:
    weights: Floats = np.maximum(0, 1 - np.abs(x))
    return weights


def _cubic(a: float) -> Callable[[Floats], Floats]:
    """The kernel of Keys, "Cubic convolution interpolation for digital image processing" (1981)."""

    def kernel(x: Floats) -> Floats:
        x = np.abs(x)
        inner = ((a + 2) * x - (a + 3)) * x * x + 1
        outer = a * (((x - 5) * x + 8) * x - 4)
        return np.where(x <= 1, inner, np.where(x < 2, outer, 0))

    return kernel


def weighted_places(
    axis: Axis,
    coordinates: Floats,
    kernel: Callable[[Floats], Floats],
    radius: int,
    antialias: bool,
    exclude_outside: bool,
) -> tuple[NDArray[np.int64], Floats]:
    """The places that each output is a sum of, and their weights.

    Args:
        axis: what is resized.
        coordinates: where each output lies in x.
        kernel: the weight at a distance.
        radius: beyond it the kernel is 0.
        antialias: whether the kernel is stretched where the axis shrinks: every place counts.
        exclude_outside: whether places beyond the ends are left out, and not the ends repeated.

    Returns:
        places and weights, both (outputs, taps).
    """
    if not coordinates.size:  # a scale so small that nothing is left stretches without bounds
        return np.zeros((0, 1), np.int64), np.zeros((0, 1))
    stretch = min(axis.scale, 1.0) if antialias else 1.0
    reach = radius / stretch
    taps = 2 * math.ceil(reach)
    first = np.floor(coordinates - reach).astype(np.int64) + 1
    places = first[:, np.newaxis] + np.arange(taps)
    weights = kernel(stretch * (places - coordinates[:, np.newaxis]))
    if exclude_outside:
        weights = np.where((places < 0) | (places >= axis.size), 0, weights)
    if antialias or exclude_outside:
        total = weights.sum(1, keepdims=True)
        weights = weights / np.where(total == 0, 1, total)
    used = (weights != 0).any(0)
    used[0] |= not used.any()
    return np.clip(places, 0, axis.size - 1)[:, used], weights[:, used]


@onnx_operator("Resize")
def _resize(context: Context) -> None:
    x = context.value(0)
    rank = len(context.shape(x))
    if context.opset < 11:
        axes = _axes_by_scales(context, x, range(rank), context.numbers(1))
        _resize_by(context, x, axes, "asymmetric", "simple")
        return
    given = context.attribute("axes")
    chosen = list(range(rank)) if given is None else context.axes(given, rank)
    if context.has(2) and context.input_shape(2) != (0,):
        axes = _axes_by_scales(context, x, chosen, context.numbers(2))
    elif context.has(3):
        axes = _axes_by_sizes(context, x, chosen)
    else:
        raise ModelError("it has neither scales nor sizes")
    coordinates = context.attribute("coordinate_transformation_mode", "half_pixel")
    if coordinates == "tf_crop_and_resize":
        region = context.numbers(1)
        if len(region) != 2 * len(chosen):
            raise ModelError(f"a region of {len(region)} numbers for {len(chosen)} axes")
        edges = zip(chosen, region[: len(chosen)], region[len(chosen) :], strict=True)
        for axis, begin, end in edges:
            if axis in axes:
                old = axes[axis]
                axes[axis] = Axis(old.size, old.output, old.scale, (begin, end))
            elif (begin, end) != (0, 1):
                raise BatchError(f"{context.node} cuts the batch")
    mode = context.attribute("nearest_mode", "round_prefer_floor")
    _resize_by(context, x, axes, coordinates, mode)


@onnx_operator("Upsample")
def _upsample(context: Context) -> None:
    x = context.value(0)
    rank = len(context.shape(x))
    scales = context.numbers(1) if context.has(1) else context.attribute("scales")
    if scales is None:
        raise ModelError("it has no scales")
    axes = _axes_by_scales(context, x, range(rank), scales)
    _resize_by(context, x, axes, "asymmetric", "floor")


def _axes_by_scales(
    context: Context, x: str, chosen: Sequence[int], scales: Sequence[float]
) -> dict[int, Axis]:
    """The axes that are resized, by number."""
    if len(scales) != len(chosen):
        raise ModelError(f"{len(scales)} scales for {len(chosen)} axes")
    axes = {}
    for axis, scale in zip(chosen, scales, strict=True):
        size = context.shape(x)[axis]
        if not scale > 0:
            raise ModelError(f"expected scales above 0, got {scale}")
        if isinstance(size, Batch):
            if scale != 1:
                raise BatchError(f"{context.node} resizes the batch")
            continue
        # In float32, as the scale is given: 0.7 · 10 is 7 there.
        output = context.size(math.floor(np.float32(scale) * np.float32(size)))
        axes[axis] = Axis(size, output, scale)
    return axes


def _axes_by_sizes(context: Context, x: str, chosen: Sequence[int]) -> dict[int, Axis]:
    sizes: Sequence[Dim] = context.sizes(3)
    if len(sizes) != len(chosen):
        raise ModelError(f"{len(sizes)} sizes for {len(chosen)} axes")
    policy = context.attribute("keep_aspect_ratio_policy", "stretch")
    wanted: dict[int, tuple[int, int]] = {}
    for axis, output in zip(chosen, sizes, strict=True):
        size = context.shape(x)[axis]
        if size == output and isinstance(size, Batch):
            continue
        wanted[axis] = (fixed(size), context.size(output))
    if policy == "stretch":
        return {
            axis: Axis(size, output, output / size if size else 1.0)
            for axis, (size, output) in wanted.items()
        }
    if policy not in ("not_larger", "not_smaller"):
        raise ModelError(
            f"expected a keep_aspect_ratio_policy stretch, not_larger or not_smaller, got {policy}"
        )
    choose = min if policy == "not_larger" else max
    scale = choose(output / size for size, output in wanted.values())
    return {
        axis: Axis(size, context.size(math.floor(scale * size + 0.5)), scale)
        for axis, (size, _) in wanted.items()
    }


def _resize_by(
    context: Context, x: str, axes: Mapping[int, Axis], coordinates: str, nearest: str
) -> None:
    if coordinates not in COORDINATES:
        raise ModelError(
            f"expected a coordinate_transformation_mode of {sorted(COORDINATES)}, got {coordinates}"
        )
    if any(axis.output > 0 == axis.size for axis in axes.values()):
        raise ModelError("an axis without places cannot grow")
    found = {
        number: COORDINATES[coordinates](axis, np.arange(axis.output, dtype=np.float64))
        for number, axis in axes.items()
    }
    mode = context.attribute("mode", "nearest")
    crops = coordinates == "tf_crop_and_resize"
    if mode == "nearest" and not crops:
        if nearest not in (*ROUNDINGS, "simple"):
            raise ModelError(f"expected a nearest_mode of {sorted(ROUNDINGS)}, got {nearest}")
        places = {
            number: nearest_places(axis, found[number], nearest) for number, axis in axes.items()
        }
        context.take(
            x,
            {n: p for n, p in places.items() if [*p] != [*range(axes[n].size)]},
            output=0,
        )
        return
    steps: list[tuple[int, dict[str, Any]]] = []
    # What shrinks goes first: there is less left to do for the others.
    for number in sorted(axes, key=lambda n: axes[n].output / max(axes[n].size, 1)):
        axis, at = axes[number], found[number]
        if mode == "nearest":
            indices = nearest_places(axis, at, nearest)[:, np.newaxis]
            weights = np.ones(indices.shape)
        else:
            indices, weights = _weighted(context, mode, axis, at)
        if crops:
            outside = (at < 0) | (at > axis.size - 1)
            indices = np.where(outside[:, np.newaxis], -1, indices)
        if indices.shape[1] == 1 and [*indices[:, 0]] == [*range(axis.size)]:
            continue
        steps.append((number, {"indices": [*map(int, indices.flat)], "weights": weights}))
    for place, (number, settings) in enumerate(steps):
        x = context.emit(
            "resample",
            x,
            output=0 if place == len(steps) - 1 else None,
            axis=number,
            fill=float(context.attribute("extrapolation_value", 0.0)),
            indices=settings["indices"],
            weights=np.ascontiguousarray(settings["weights"], np.float32),
        )
    if not steps:
        context.emit("identity", x, output=0)


def _weighted(
    context: Context, mode: str, axis: Axis, coordinates: Floats
) -> tuple[NDArray[np.int64], Floats]:
    antialias = bool(context.attribute("antialias", 0))
    exclude = bool(context.attribute("exclude_outside", 0))
    if mode in ("linear", "bilinear"):
        return weighted_places(axis, coordinates, _triangle, 1, antialias, exclude)
    if mode == "cubic":
        kernel = _cubic(context.attribute("cubic_coeff_a", -0.75))
        return weighted_places(axis, coordinates, kernel, 2, antialias, exclude)
    raise Unsupported(f"{context.node.operator} by {mode}")
