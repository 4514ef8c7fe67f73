"""Normalisation in all the forms that files have."""

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


def _uniform(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(0.5, 2, shape).astype(np.float32)


@pytest.mark.parametrize("shape", [["n", 5, 4, 6], ["n", 5, 7], ["n", 5]], ids=str)
@pytest.mark.parametrize("size", [1, 3, 7])
def test_local_response_normalization(
    write_onnx: Write, assert_agrees: Agree, shape: list[Any], size: int
) -> None:
    shape = [*shape, *[1] * (4 - len(shape))]  # onnxruntime takes four axes alone
    node = helper.make_node("LRN", ["x"], ["y"], size=size, alpha=0.3, beta=0.6, bias=1.5)
    assert_agrees(write_onnx([node], {"x": shape}))


def test_local_response_normalization_between_convolutions(
    write_onnx: Write, assert_agrees: Agree
) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("LRN", ["c"], ["l"], size=5),
        helper.make_node("Conv", ["l", "w"], ["y"]),
    ]
    native = assert_agrees(write_onnx(nodes, {"x": ["n", 8, 5, 6]}, {"w": _uniform(8, 8, 1, 1)}))
    operators = [step.operator for step in native.steps()]
    assert operators == ["conv2d", "local_response_normalization", "conv2d"]


@pytest.mark.parametrize("axis", [1, 2, -1])
@pytest.mark.parametrize("bias", [False, True])
def test_layer_normalization(
    write_onnx: Write, assert_agrees: Agree, axis: int, bias: bool
) -> None:
    shape = (3, 4, 5)[axis - 1 if axis > 0 else axis :]
    constants = {"s": _uniform(*shape), **({"b": _uniform(*shape, seed=1)} if bias else {})}
    node = helper.make_node("LayerNormalization", ["x", *constants], ["y"], axis=axis, epsilon=0.1)
    assert_agrees(write_onnx([node], {"x": ["n", 3, 4, 5]}, constants))


@pytest.mark.parametrize("computed", ["s", "b"])
def test_layer_normalization_by_what_is_computed(
    write_onnx: Write, assert_agrees: Agree, computed: str
) -> None:
    constants = {"s": _uniform(5), "b": _uniform(5, seed=1)}
    del constants[computed]
    node = helper.make_node("LayerNormalization", ["x", "s", "b"], ["y"])
    assert_agrees(write_onnx([node], {"x": [4, 3, 5], computed: [5]}, constants), batches=(4,))


@pytest.mark.parametrize("shape", [["n", 6, 4, 5], ["n", 6, 7], ["n", 6, 2, 3, 4]], ids=str)
def test_by_image(write_onnx: Write, assert_agrees: Agree, shape: list[Any]) -> None:
    constants = {"s": _uniform(6), "b": _uniform(6, seed=1)}
    node = helper.make_node("InstanceNormalization", ["x", "s", "b"], ["y"], epsilon=0.01)
    assert_agrees(write_onnx([node], {"x": shape}, constants))
    node = helper.make_node("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=3)
    assert_agrees(write_onnx([node], {"x": shape}, constants, opset=21))


def test_batch_normalization_by_what_is_computed(write_onnx: Write, assert_agrees: Agree) -> None:
    nodes = [
        helper.make_node("Abs", ["v"], ["variance"]),
        helper.make_node("BatchNormalization", ["x", "s", "b", "m", "variance"], ["y"]),
    ]
    inputs = {"x": [2, 3, 4, 5], **{name: [3] for name in "sbmv"}}
    assert_agrees(write_onnx(nodes, inputs), batches=(2,))
