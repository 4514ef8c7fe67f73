"""QuantizeLinear and DequantizeLinear in the forms that files give them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import helper

Agree = Callable[..., Any]
Write = Callable[..., Path]


def _scales(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(1).uniform(0.01, 0.05, shape).astype(np.float32)


def _zero_points(dtype: str, *shape: int) -> NDArray[Any]:
    return np.random.default_rng(2).integers(0, 9, shape).astype(dtype)


def _there_and_back(*parameters: str, **attributes: Any) -> list[Any]:
    return [
        helper.make_node("QuantizeLinear", ["x", *parameters], ["q"], **attributes),
        helper.make_node("DequantizeLinear", ["q", *parameters], ["y"], **attributes),
    ]


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("opset", [10, 13, 21])
def test_one_scale(write_onnx: Write, assert_agrees: Agree, dtype: str, opset: int) -> None:
    constants = {"s": _scales(), "z": _zero_points(dtype)}
    nodes = _there_and_back("s", "z")
    assert_agrees(write_onnx(nodes, {"x": ["n", 3, 4]}, constants, opset=opset))


def test_no_zero_point(write_onnx: Write, assert_agrees: Agree) -> None:
    assert_agrees(write_onnx(_there_and_back("s"), {"x": ["n", 3, 4]}, {"s": _scales()}))


@pytest.mark.parametrize("axis", [1, -1, 2])
def test_scales_along_an_axis(write_onnx: Write, assert_agrees: Agree, axis: int) -> None:
    size = [0, 3, 4, 5][axis]
    constants = {"s": _scales(size), "z": _zero_points("int8", size)}
    nodes = _there_and_back("s", "z", axis=axis)
    assert_agrees(write_onnx(nodes, {"x": ["n", 3, 4, 5]}, constants, opset=13))


def test_scales_of_blocks(write_onnx: Write, assert_agrees: Agree) -> None:
    constants = {"s": _scales(4, 3, 5), "z": _zero_points("int8", 4, 3, 5)}
    nodes = _there_and_back("s", "z", axis=1, block_size=2)
    assert_agrees(write_onnx(nodes, {"x": [4, 6, 5]}, constants, opset=21), batches=(4,))


def test_scales_travel_with_the_layout(write_onnx: Write, assert_agrees: Agree) -> None:
    """Between convolutions, channels last, a scale for each channel still meets its channel."""
    random = np.random.default_rng(0)
    constants = {
        "k": random.normal(size=(6, 3, 3, 3)).astype(np.float32),
        "l": random.normal(size=(2, 6, 3, 3)).astype(np.float32),
        "s": _scales(6),
        "z": _zero_points("uint8", 6),
    }
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"]),
        helper.make_node("QuantizeLinear", ["c", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("Conv", ["d", "l"], ["y"]),
    ]
    native = assert_agrees(write_onnx(nodes, {"x": ["n", 3, 8, 8]}, constants, opset=13))
    operators = [step.operator for step in native.steps()]
    assert operators == ["conv2d", "quantize", "dequantize", "conv2d"]
