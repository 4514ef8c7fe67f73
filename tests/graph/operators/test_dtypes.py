"""Networks of other element types than float32, and the operators that take or make them."""

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


def _small(dtype: str, *shape: int, seed: int = 0) -> NDArray[Any]:
    low = -100 if dtype == "int8" else 0
    return np.random.default_rng(seed).integers(low, 100, shape).astype(dtype)


def _scale(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(0.01, 0.02, shape).astype(np.float32)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_gather_of_what_comes(
    write_onnx: Write, assert_agrees: Agree, axis: int, dtype: str
) -> None:
    node = helper.make_node("Gather", ["t", "i"], ["y"], axis=axis)
    table = {"t": np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.float32)}
    assert_agrees(write_onnx([node], {"i": ["n", 2]}, table, dtypes={"i": dtype}))


def test_gather_of_constants(write_onnx: Write, assert_agrees: Agree) -> None:
    node = helper.make_node("Gather", ["x", "i"], ["y"], axis=2)
    indices = {"i": np.array([[0, -1], [2, 2]])}
    assert_agrees(write_onnx([node], {"x": ["n", 4, 3]}, indices))


@pytest.mark.parametrize("operator", ["Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"])
@pytest.mark.parametrize("dtype", ["float32", "int32", "int64"])
def test_comparison(write_onnx: Write, assert_agrees: Agree, operator: str, dtype: str) -> None:
    nodes = [
        helper.make_node(operator, ["a", "b"], ["c"]),
        helper.make_node("Not", ["c"], ["d"]),
        helper.make_node("And", ["c", "d"], ["e"]),
        helper.make_node("Or", ["e", "d"], ["f"]),
        helper.make_node("Xor", ["f", "c"], ["g"]),
        helper.make_node("Where", ["g", "a", "b"], ["y"]),
    ]
    inputs = {"a": ["n", 3, 4], "b": ["n", 3, 1]}
    assert_agrees(write_onnx(nodes, inputs, dtypes=dict.fromkeys("aby", dtype)))


@pytest.mark.parametrize("operator", ["Add", "Sub", "Mul", "Div", "Max", "Min"])
@pytest.mark.parametrize("dtype", ["float64", "int32", "int64"])
def test_arithmetic(write_onnx: Write, assert_agrees: Agree, operator: str, dtype: str) -> None:
    node = helper.make_node(operator, ["a", "one"], ["y"])
    constants = {"one": np.array([3, 2, 5], dtype)}
    dtypes = dict.fromkeys("ay", dtype)
    assert_agrees(write_onnx([node], {"a": ["n", 3]}, constants, dtypes=dtypes))


@pytest.mark.parametrize(("base", "exponent"), [("float32", "int64"), ("int64", "float32")])
def test_power(write_onnx: Write, assert_agrees: Agree, base: str, exponent: str) -> None:
    node = helper.make_node("Pow", ["a", "b"], ["y"])
    inputs = {"a": ["n", 3], "b": ["n", 3]}
    dtypes = {"a": base, "b": exponent, "y": base}
    if exponent == "float32":  # a negative one of 0 has no integer
        nodes = [helper.make_node("Abs", ["b"], ["c"]), node]
        node.input[1] = "c"
        assert_agrees(write_onnx(nodes, inputs, dtypes=dtypes))
    else:
        assert_agrees(write_onnx([node], inputs, dtypes=dtypes))


@pytest.mark.parametrize("operator", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("attributes", [{}, {"axis": 2}, {"axis": -1, "keepdims": 0}], ids=str)
def test_arg_extreme(
    write_onnx: Write, assert_agrees: Agree, operator: str, attributes: dict[str, Any]
) -> None:
    node = helper.make_node(operator, ["x"], ["y"], **attributes)
    path = write_onnx([node], {"x": [4, 3, 5]}, dtypes={"y": "int64"})
    assert_agrees(path, batches=(4,))


def test_where_with_a_constant(write_onnx: Write, assert_agrees: Agree) -> None:
    nodes = [
        helper.make_node("Greater", ["x", "zero"], ["c"]),
        helper.make_node("Where", ["c", "x", "zero"], ["y"]),
    ]
    assert_agrees(write_onnx(nodes, {"x": ["n", 3]}, {"zero": np.zeros((), np.float32)}))


def test_dropout_with_a_mask(write_onnx: Write, assert_agrees: Agree) -> None:
    node = helper.make_node("Dropout", ["x"], ["y", "mask"])
    path = write_onnx([node], {"x": ["n", 3]}, outputs=["y", "mask"], dtypes={"mask": "bool"})
    assert_agrees(path)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_max_pool_of_integers(write_onnx: Write, assert_agrees: Agree, dtype: str) -> None:
    node = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2])
    path = write_onnx([node], {"x": ["n", 2, 5, 6]}, dtypes={"x": dtype, "y": dtype})
    assert_agrees(path)


_WINDOWS: list[dict[str, Any]] = [
    {},
    {"pads": [1, 0, 2, 1], "strides": [2, 1]},
    {"dilations": [1, 2], "pads": [1, 1, 1, 1]},
    {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
]


@pytest.mark.parametrize("attributes", _WINDOWS, ids=str)
@pytest.mark.parametrize("groups", [1, 2])
def test_conv_integer(
    write_onnx: Write, assert_agrees: Agree, attributes: dict[str, Any], groups: int
) -> None:
    node = helper.make_node("ConvInteger", ["x", "w", "xz"], ["y"], group=groups, **attributes)
    constants = {"w": _small("uint8", 6, 4 // groups, 3, 2), "xz": _small("uint8")}
    path = write_onnx([node], {"x": ["n", 4, 6, 7]}, constants, dtypes={"x": "uint8", "y": "int32"})
    assert_agrees(path)


@pytest.mark.parametrize("attributes", _WINDOWS, ids=str)
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_qlinear_conv(
    write_onnx: Write,
    assert_agrees: Agree,
    attributes: dict[str, Any],
    per_channel: bool,
    dtype: str,
) -> None:
    shape = (6,) if per_channel else ()
    constants = {
        "xs": _scale(),
        "xz": _small(dtype, seed=1),
        "w": _small("int8", 6, 4, 3, 2, seed=2),
        "ws": _scale(*shape, seed=3),
        "wz": np.zeros(shape, np.int8),
        "ys": _scale() * 4,
        "yz": _small(dtype, seed=4),
        "b": np.random.default_rng(5).integers(-9999, 9999, 6).astype(np.int32),
    }
    node = helper.make_node("QLinearConv", ["x", *constants], ["y"], **attributes)
    path = write_onnx([node], {"x": ["n", 4, 6, 7]}, constants, dtypes={"x": dtype, "y": dtype})
    assert_agrees(path)


def test_qlinear_conv_in_one_dimension(write_onnx: Write, assert_agrees: Agree) -> None:
    constants = {
        "xs": _scale(),
        "xz": _small("uint8", seed=1),
        "w": _small("int8", 6, 4, 3, seed=2),
        "ws": _scale(seed=3),
        "wz": np.zeros((), np.int8),
        "ys": _scale() * 4,
        "yz": _small("uint8", seed=4),
    }
    node = helper.make_node("QLinearConv", ["x", *constants], ["y"], pads=[1, 1])
    path = write_onnx([node], {"x": ["n", 4, 9]}, constants, dtypes={"x": "uint8", "y": "uint8"})
    assert_agrees(path)


@pytest.mark.parametrize("shape", [["n", 4], ["n", 3, 4]], ids=str)
def test_integer_matrix_products(write_onnx: Write, assert_agrees: Agree, shape: list[Any]) -> None:
    constants = {
        "xs": _scale(),
        "xz": _small("uint8", seed=1),
        "w": _small("uint8", 4, 5, seed=2),
        "ws": _scale(seed=3),
        "wz": _small("uint8", seed=4),
        "ys": _scale() * 4,
        "yz": _small("uint8", seed=5),
    }
    node = helper.make_node("QLinearMatMul", ["x", *constants], ["y"])
    dtypes = {"x": "uint8", "y": "uint8"}
    assert_agrees(write_onnx([node], {"x": shape}, constants, dtypes=dtypes))
    node = helper.make_node("MatMulInteger", ["x", "w", "xz", "wz"], ["y"])
    dtypes = {"x": "uint8", "y": "int32"}
    assert_agrees(write_onnx([node], {"x": shape}, constants, dtypes=dtypes))


def test_the_shape_of_a_constant_may_be_given_at_each_run(
    write_onnx: Write, assert_agrees: Agree
) -> None:
    node = helper.make_node(
        "ConstantOfShape", ["s"], ["y"], value=helper.make_tensor("v", 6, [1], [7])
    )
    path = write_onnx([node], {"s": [3]}, dtypes={"s": "int64", "y": "int32"})
    native = assert_agrees(path)
    for shape in ([2, 3, 4], [1, 0, 2], [1, 1, 1]):
        y = native.run({"s": np.array(shape)})["y"]
        np.testing.assert_array_equal(y, np.full(shape, 7, np.int32), strict=True)
