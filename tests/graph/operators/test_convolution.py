"""Convolution and pooling in every form, against onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import helper

from pyconv.errors import ModelError, UnsupportedOperatorError

Write = Callable[..., Path]
Agree = Callable[..., Any]


def _weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"strides": [2, 1]},
        {"pads": [0, 1, 2, 0]},
        {"pads": [2, 0, 1, 3], "strides": [3, 2]},
        {"dilations": [2, 1], "pads": [1, 1, 1, 1]},
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
        {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
        {"auto_pad": "VALID", "strides": [2, 2]},
        {"kernel_shape": [3, 2]},
    ],
    ids=str,
)
@pytest.mark.parametrize("groups", [1, 2])
def test_conv(
    write_onnx: Write, assert_agrees: Agree, attributes: dict[str, Any], groups: int
) -> None:
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], group=groups, **attributes)
    constants = {"w": _weights(6, 4 // groups, 3, 2), "b": _weights(6)}
    assert_agrees(write_onnx([node], {"x": ["n", 4, 9, 8]}, constants))


def test_conv_of_the_same_size_with_dilation(
    write_onnx: Write, import_network: Callable[[Path], Any]
) -> None:
    # onnxruntime refuses this; ONNX defines it.
    node = helper.make_node("Conv", ["x", "w"], ["y"], auto_pad="SAME_UPPER", dilations=[2, 2])
    path = write_onnx([node], {"x": ["n", 1, 6, 7]}, {"w": _weights(1, 1, 3, 2)})
    _, conv, _ = import_network(path).graph.nodes
    assert conv.attributes["pads"] == [2, 1, 2, 1]


def test_conv_without_bias(write_onnx: Write, assert_agrees: Agree) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    assert_agrees(write_onnx([node], {"x": ["n", 1, 5, 5]}, {"w": _weights(3, 1, 2, 2)}))


@pytest.mark.parametrize(
    "attributes",
    [{}, {"strides": [2], "pads": [1, 0]}, {"dilations": [2]}, {"auto_pad": "SAME_UPPER"}],
    ids=str,
)
def test_conv_in_one_dimension(
    write_onnx: Write, assert_agrees: Agree, attributes: dict[str, Any]
) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], **attributes)
    assert_agrees(write_onnx([node], {"x": ["n", 3, 11]}, {"w": _weights(4, 3, 3)}))


@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"strides": [2, 3]},
        {"pads": [0, 1, 2, 1], "strides": [2, 2]},
        {"ceil_mode": 1, "strides": [2, 2]},
        {"ceil_mode": 1, "strides": [2, 2], "pads": [1, 1, 1, 1]},
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
        {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
        {"dilations": [2, 1]},
    ],
    ids=str,
)
def test_pool(
    write_onnx: Write, assert_agrees: Agree, operator: str, attributes: dict[str, Any]
) -> None:
    node = helper.make_node(operator, ["x"], ["y"], kernel_shape=[3, 2], **attributes)
    assert_agrees(write_onnx([node], {"x": ["n", 5, 10, 9]}, opset=19))


def test_average_pool_over_its_pads(write_onnx: Write, assert_agrees: Agree) -> None:
    node = helper.make_node(
        "AveragePool", ["x"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1
    )
    assert_agrees(write_onnx([node], {"x": ["n", 2, 6, 5]}))


@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool"])
def test_pool_in_one_dimension(write_onnx: Write, assert_agrees: Agree, operator: str) -> None:
    node = helper.make_node(operator, ["x"], ["y"], kernel_shape=[3], strides=[2], pads=[1, 1])
    assert_agrees(write_onnx([node], {"x": ["n", 4, 9]}))


@pytest.mark.parametrize("operator", ["GlobalMaxPool", "GlobalAveragePool"])
@pytest.mark.parametrize("shape", [["n", 5, 6, 7], ["n", 5, 6], ["n", 1, 1, 1]], ids=str)
def test_global_pool(
    write_onnx: Write, assert_agrees: Agree, operator: str, shape: list[str | int]
) -> None:
    assert_agrees(write_onnx([helper.make_node(operator, ["x"], ["y"])], {"x": shape}))


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_conv_with_any_attributes(
    write_onnx: Write, assert_agrees: Agree, data: st.DataObject
) -> None:
    pair = st.lists(st.integers(1, 3), min_size=2, max_size=2)
    kernel, strides, dilations = (data.draw(pair) for _ in range(3))
    size = data.draw(st.lists(st.integers(1, 12), min_size=2, max_size=2))
    pads = data.draw(st.lists(st.integers(0, 3), min_size=4, max_size=4))
    groups = data.draw(st.sampled_from([1, 1, 2, 3]))
    into, out = (groups * data.draw(st.integers(1, 6)) for _ in range(2))
    assume(
        all(size[i] + pads[i] + pads[2 + i] >= (kernel[i] - 1) * dilations[i] + 1 for i in range(2))
    )
    node = helper.make_node(
        "Conv", ["x", "w"], ["y"], strides=strides, dilations=dilations, pads=pads, group=groups
    )
    constants = {"w": _weights(out, into // groups, *kernel)}
    assert_agrees(write_onnx([node], {"x": ["n", into, *size]}, constants), (3,))


@pytest.mark.parametrize(
    ("node", "inputs", "what"),
    [
        (helper.make_node("Conv", ["x", "w"], ["y"]), {"w": [4, 2, 3, 3]}, "computed input 1"),
        (
            helper.make_node("MaxPool", ["x"], ["y", "i"], kernel_shape=[2, 2]),
            {},
            "MaxPool with 2 outputs",
        ),
    ],
)
def test_what_is_lacking_is_named(
    write_onnx: Write, assert_agrees: Agree, node: Any, inputs: dict[str, Any], what: str
) -> None:
    with pytest.raises(UnsupportedOperatorError, match=what) as caught:
        assert_agrees(write_onnx([node], {"x": ["n", 2, 6, 6], **inputs}))
    assert caught.value.operators == [node.op_type]


def test_three_dimensions_are_lacking(write_onnx: Write, assert_agrees: Agree) -> None:
    node = helper.make_node("GlobalMaxPool", ["x"], ["y"])
    with pytest.raises(UnsupportedOperatorError, match="in 3 dimensions"):
        assert_agrees(write_onnx([node], {"x": ["n", 2, 3, 4, 5]}))


@pytest.mark.parametrize(
    ("attributes", "weights", "what"),
    [
        ({}, (4, 3, 3, 3), "does not fit x of shape"),
        ({}, (4, 2, 9, 9), "does not fit into the map"),
        ({}, (4, 2, 3), "does not fit the input's axes"),
        ({"kernel_shape": [2, 2]}, (4, 2, 3, 3), "kernel_shape"),
        ({"strides": [1]}, (4, 2, 3, 3), "of 2 values"),
        ({"strides": [0, 1]}, (4, 2, 3, 3), "at least 1"),
        ({"auto_pad": "SOMEHOW"}, (4, 2, 3, 3), "SOMEHOW"),
    ],
)
def test_nonsense_is_refused_with_its_place(
    write_onnx: Write,
    assert_agrees: Agree,
    attributes: dict[str, Any],
    weights: tuple[int, ...],
    what: str,
) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="first", **attributes)
    path = write_onnx([node], {"x": ["n", 2, 6, 6]}, {"w": _weights(*weights)})
    with pytest.raises(ModelError, match=what) as caught:
        assert_agrees(path)
    assert str(caught.value).startswith(f"{path}: Conv 'first': ")
