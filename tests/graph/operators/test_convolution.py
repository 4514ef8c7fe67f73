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


def test_computed_weights_are_lacking(write_onnx: Write, assert_agrees: Agree) -> None:
    nodes = [
        helper.make_node("Relu", ["w"], ["r"]),
        helper.make_node("Conv", ["x", "r"], ["y"]),
    ]
    path = write_onnx(nodes, {"x": [1, 2, 6, 6], "w": [4, 2, 3, 3]})
    with pytest.raises(UnsupportedOperatorError, match="Conv with a computed input 1"):
        assert_agrees(path)


def test_weights_may_be_given_at_each_run(write_onnx: Write, assert_agrees: Agree) -> None:
    """The network is compiled for the weights that come, and for the next ones again."""
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"])
    native = assert_agrees(
        write_onnx([node], {"x": ["n", 2, 6, 6], "w": [4, 2, 3, 3], "b": [4]}), seed=1
    )
    x, kernel = np.ones((1, 2, 6, 6), np.float32), np.ones((4, 2, 3, 3), np.float32)
    for factor in (1, 2, 1):
        feeds = {"x": x, "w": kernel * factor, "b": np.zeros(4, np.float32)}
        np.testing.assert_array_equal(native.run(feeds)["y"], np.full((1, 4, 4, 4), 18.0 * factor))


@pytest.mark.parametrize("storage_order", [0, 1])
@pytest.mark.parametrize("size", [[7], [5, 7]], ids=str)
def test_places_of_maxima(
    write_onnx: Write, assert_agrees: Agree, size: list[int], storage_order: int
) -> None:
    node = helper.make_node(
        "MaxPool",
        ["x"],
        ["y", "i"],
        kernel_shape=[3] * len(size),
        strides=[2] * len(size),
        pads=[1] * 2 * len(size),
        storage_order=storage_order,
    )
    path = write_onnx([node], {"x": ["n", 3, *size]}, outputs=["y", "i"], dtypes={"i": "int64"})
    assert_agrees(path)


@pytest.mark.parametrize("operator", ["GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool"])
@pytest.mark.parametrize("size", [[5], [4, 5], [3, 4, 5]], ids=str)
def test_global_pools_in_any_dimension(
    write_onnx: Write, assert_agrees: Agree, operator: str, size: list[int]
) -> None:
    node = helper.make_node(operator, ["x"], ["y"])
    assert_agrees(write_onnx([node], {"x": ["n", 2, *size]}))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("strides", [[1, 1, 1], [2, 1, 3]], ids=str)
@pytest.mark.parametrize("pads", [[0, 0, 0, 0, 0, 0], [1, 0, 2, 0, 1, 1]], ids=str)
def test_conv_in_three_dimensions(
    write_onnx: Write, assert_agrees: Agree, groups: int, strides: list[int], pads: list[int]
) -> None:
    node = helper.make_node(
        "Conv",
        ["x", "w", "b"],
        ["y"],
        strides=strides,
        pads=pads,
        group=groups,
        dilations=[2, 1, 1],
    )
    constants = {"w": _weights(6, 4 // groups, 2, 3, 2), "b": _weights(6)}
    assert_agrees(write_onnx([node], {"x": ["n", 4, 6, 5, 7]}, constants))


@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool", "LpPool"])
@pytest.mark.parametrize("size", [[9], [7, 9], [5, 6, 7]], ids=str)
@pytest.mark.parametrize("ceil_mode", [0, 1])
def test_pools_in_any_dimension(
    write_onnx: Write, assert_agrees: Agree, operator: str, size: list[int], ceil_mode: int
) -> None:
    spatial = len(size)
    node = helper.make_node(
        operator,
        ["x"],
        ["y"],
        kernel_shape=[3, 2, 3][:spatial],
        strides=[2, 1, 2][:spatial],
        pads=[1, 0, 1][:spatial] + [0, 1, 1][:spatial],
        ceil_mode=ceil_mode,
    )
    assert_agrees(write_onnx([node], {"x": ["n", 2, *size]}, opset=19))


@pytest.mark.parametrize("p", [1, 2, 3])
def test_lp_pool(write_onnx: Write, assert_agrees: Agree, p: int) -> None:
    node = helper.make_node("LpPool", ["x"], ["y"], kernel_shape=[2, 3], p=p)
    assert_agrees(write_onnx([node], {"x": ["n", 2, 5, 6]}))


_TRANSPOSED: list[dict[str, Any]] = [
    {},
    {"strides": [2, 2]},
    {"strides": [2, 3], "pads": [1, 0, 2, 1], "output_padding": [1, 2]},
    {"strides": [2, 2], "dilations": [2, 3]},
    {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
    {"strides": [3, 2], "auto_pad": "SAME_LOWER"},
    {"strides": [2, 2], "auto_pad": "VALID"},
    {"strides": [3, 2], "output_shape": [11, 9]},
    {"strides": [3, 2], "output_shape": [10, 9], "auto_pad": "SAME_UPPER"},
]


@pytest.mark.parametrize("attributes", _TRANSPOSED, ids=str)
@pytest.mark.parametrize("groups", [1, 2])
def test_conv_transpose(
    write_onnx: Write, assert_agrees: Agree, attributes: dict[str, Any], groups: int
) -> None:
    node = helper.make_node("ConvTranspose", ["x", "w", "b"], ["y"], group=groups, **attributes)
    constants = {"w": _weights(4, 6 // groups, 3, 3), "b": _weights(6)}
    assert_agrees(write_onnx([node], {"x": ["n", 4, 4, 5]}, constants))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("size", [[5], [3, 4, 5]], ids=str)
def test_conv_transpose_in_any_dimension(
    write_onnx: Write, assert_agrees: Agree, size: list[int], groups: int
) -> None:
    spatial = len(size)
    node = helper.make_node(
        "ConvTranspose",
        ["x", "w", "b"],
        ["y"],
        group=groups,
        strides=[2, 1, 3][:spatial],
        pads=[1, 0, 1][:spatial] + [0, 1, 0][:spatial],
        output_padding=[1, 0, 1][:spatial],
        dilations=[1, 2, 1][:spatial],
    )
    constants = {"w": _weights(4, 6 // groups, *[2, 3, 2][:spatial]), "b": _weights(6)}
    assert_agrees(write_onnx([node], {"x": ["n", 4, *size]}, constants))


def test_what_follows_a_transposed_convolution_is_fused(
    write_onnx: Write, assert_agrees: Agree
) -> None:
    nodes = [
        helper.make_node("ConvTranspose", ["x", "w"], ["c"], strides=[2, 2]),
        helper.make_node("Add", ["c", "b"], ["a"]),
        helper.make_node("Mul", ["a", "f"], ["m"]),
        helper.make_node("Relu", ["m"], ["y"]),
    ]
    constants = {"w": _weights(3, 4, 2, 2), "b": _weights(4, 1, 1), "f": _weights(4, 1, 1)}
    native = assert_agrees(write_onnx(nodes, {"x": ["n", 3, 4, 5]}, constants))
    assert [step.operator for step in native.steps()] == ["transpose", "conv2d_transpose"]


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
