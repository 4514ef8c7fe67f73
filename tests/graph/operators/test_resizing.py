"""Resize and Upsample against onnxruntime, in the modes that it has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from pyconv.errors import ModelError
from pyconv.graph import importer, reader

Agree = Callable[..., Any]
Write = Callable[..., Path]

_NHWC = [0, 2, 3, 1]


def _resize(mode: str, **attributes: Any) -> Any:
    return helper.make_node("Resize", ["x", "", "scales"], ["y"], mode=mode, **attributes)


def _scales(*scales: float) -> dict[str, np.ndarray]:
    return {"scales": np.array(scales, np.float32)}


_COORDINATES = (
    "half_pixel",
    "asymmetric",
    "align_corners",
    "pytorch_half_pixel",
    "half_pixel_symmetric",
)


@pytest.mark.parametrize(
    ("coordinates", "scales"),
    [
        (coordinates, scales)
        for coordinates in _COORDINATES
        for scales in ((2, 2), (3, 1), (0.5, 0.6), (1.7, 2.2))
        # There onnxruntime aligns to the rounded size, which ONNX's own suite does not.
        if coordinates != "align_corners" or scales in ((2, 2), (3, 1))
    ],
    ids=str,
)
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_modes_and_coordinates(
    write_onnx: Write,
    assert_agrees: Agree,
    mode: str,
    coordinates: str,
    scales: tuple[float, float],
) -> None:
    node = _resize(mode, coordinate_transformation_mode=coordinates)
    path = write_onnx([node], {"x": ["n", 3, 5, 6]}, _scales(1, 1, *scales), opset=19)
    assert_agrees(path)


@pytest.mark.parametrize("rounding", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
@pytest.mark.parametrize("scales", [(2, 2), (0.5, 0.5), (3, 2.5)], ids=str)
def test_rounding(
    write_onnx: Write, assert_agrees: Agree, rounding: str, scales: tuple[float, float]
) -> None:
    node = _resize("nearest", nearest_mode=rounding)
    assert_agrees(write_onnx([node], {"x": ["n", 2, 6, 4]}, _scales(1, 1, *scales)))


@pytest.mark.parametrize("policy", ["stretch", "not_larger", "not_smaller"])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_sizes_and_policies(
    write_onnx: Write, assert_agrees: Agree, policy: str, mode: str
) -> None:
    node = helper.make_node(
        "Resize",
        ["x", "", "", "sizes"],
        ["y"],
        mode=mode,
        axes=[3, 2],
        keep_aspect_ratio_policy=policy,
    )
    constants = {"sizes": np.array([9, 4], np.int64)}
    assert_agrees(write_onnx([node], {"x": ["n", 2, 5, 6]}, constants, opset=19))


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_exclude_outside(write_onnx: Write, assert_agrees: Agree, mode: str) -> None:
    node = _resize(mode, exclude_outside=1, cubic_coeff_a=-0.5)
    if mode == "linear":  # onnxruntime has it for cubic alone; inside, it makes no difference
        node = _resize(mode, exclude_outside=0)
    assert_agrees(write_onnx([node], {"x": ["n", 2, 4, 5]}, _scales(1, 1, 2, 1.5)))


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_crop_and_resize(write_onnx: Write, assert_agrees: Agree, mode: str) -> None:
    node = helper.make_node(
        "Resize",
        ["x", "roi", "", "sizes"],
        ["y"],
        mode=mode,
        coordinate_transformation_mode="tf_crop_and_resize",
        extrapolation_value=7.0,
    )
    constants = {
        "roi": np.array([0, 0, 0.21, -0.33, 1, 1, 0.93, 1.21], np.float32),
        "sizes": np.array([2, 3, 4, 7], np.int64),
    }
    assert_agrees(write_onnx([node], {"x": [2, 3, 5, 6]}, constants, opset=13), batches=(2,))


@pytest.mark.parametrize("shape", [[4], [5, 6], [3, 4, 5]], ids=str)
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_any_number_of_axes(
    write_onnx: Write, assert_agrees: Agree, shape: list[int], mode: str
) -> None:
    node = _resize(mode)
    scales = _scales(1, 1, *[2, 1.5, 3][: len(shape)])
    assert_agrees(write_onnx([node], {"x": ["n", 2, *shape]}, scales))


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("opset", [7, 9])
def test_upsample(write_onnx: Write, assert_agrees: Agree, mode: str, opset: int) -> None:
    scales = [1.0, 1.0, 2.0, 3.0]
    if opset == 7:
        node = helper.make_node("Upsample", ["x"], ["y"], mode=mode, scales=scales)
    else:
        node = helper.make_node("Upsample", ["x", "scales"], ["y"], mode=mode)
    constants = {} if opset == 7 else _scales(*scales)
    assert_agrees(write_onnx([node], {"x": ["n", 2, 4, 5]}, constants, opset=opset))


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("scales", [(2, 3), (0.5, 0.5)], ids=str)
def test_resize_of_operator_set_10(
    write_onnx: Write, assert_agrees: Agree, mode: str, scales: tuple[float, float]
) -> None:
    node = helper.make_node("Resize", ["x", "scales"], ["y"], mode=mode)
    path = write_onnx([node], {"x": ["n", 2, 4, 6]}, _scales(1, 1, *scales), opset=10)
    assert_agrees(path)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_a_channels_last_network_stays_so(
    write_onnx: Write, assert_agrees: Agree, mode: str
) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Resize", ["c", "", "scales"], ["r"], mode=mode),
        helper.make_node("Conv", ["r", "w"], ["y"]),
    ]
    kernel = np.random.default_rng(0).normal(size=(4, 4, 1, 1)).astype(np.float32)
    constants = {"w": kernel, **_scales(1, 1, 2, 2)}
    native = assert_agrees(write_onnx(nodes, {"x": ["n", 4, 5, 6]}, constants))
    operators = [step.operator for step in native.steps()]
    between = ["take"] if mode == "nearest" else ["resample", "resample"]
    assert operators == ["conv2d", *between, "conv2d"]


def test_antialias_is_what_pillow_does_inside(write_onnx: Write, assert_agrees: Agree) -> None:
    """Where no window reaches over the edge, onnxruntime and ONNX's suite agree."""
    from pyconv.engines.native import NativeEngine
    from pyconv.engines.onnxruntime import OnnxRuntimeEngine

    node = _resize("linear", antialias=1)
    path = write_onnx([node], {"x": [1, 1, 12, 15]}, _scales(1, 1, 0.5, 0.4), opset=18)
    x = np.random.default_rng(0).normal(size=(1, 1, 12, 15)).astype(np.float32)
    got, want = (engine(path).run({"x": x})["y"] for engine in (NativeEngine, OnnxRuntimeEngine))
    np.testing.assert_allclose(got[..., 1:-1, 1:-1], want[..., 1:-1, 1:-1], atol=1e-5)


@pytest.mark.parametrize(
    ("node", "what"),
    [
        (_resize("nearest", nearest_mode="up"), "nearest_mode"),
        (_resize("linear", coordinate_transformation_mode="odd"), "coordinate_transformation_mode"),
        (helper.make_node("Resize", ["x", "", "none"], ["y"]), "0 scales for 4 axes"),
        (helper.make_node("Resize", ["x", "", "zero"], ["y"]), "scales above 0"),
        (helper.make_node("Resize", ["x", "", "huge"], ["y"]), "of at most"),
        (helper.make_node("Resize", ["x"], ["y"]), "neither scales nor sizes"),
    ],
)
def test_nonsense_is_refused(write_onnx: Write, node: Any, what: str) -> None:
    constants = {
        **_scales(1, 1, 2, 2),
        "none": np.zeros((0, 2), np.float32),
        "zero": np.array([1, 1, 0, 1], np.float32),
        "huge": np.array([1, 1, 1e9, 1], np.float32),
    }
    file = reader.read(write_onnx([node], {"x": [2, 3, 4, 5]}, constants))
    with pytest.raises(ModelError, match=what):
        importer.build(file, importer.batch_shapes(file))
