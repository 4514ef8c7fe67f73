"""Activations, arithmetic, softmax and batch normalisation, against onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from pyconv.errors import ModelError, UnsupportedOperatorError
from pyconv.graph import importer, reader

Write = Callable[..., Path]
Agree = Callable[..., Any]


@pytest.mark.parametrize(
    ("operator", "attributes", "opset"),
    [
        *[
            (name, {}, 18)
            for name in [
                *["Abs", "Elu", "Erf", "Exp", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish"],
                *["Neg", "Reciprocal", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Tanh"],
            ]
        ],
        ("Elu", {"alpha": 0.3}, 18),
        ("LeakyRelu", {"alpha": 0.3}, 18),
        ("Selu", {"alpha": 1.1, "gamma": 0.7}, 18),
        ("HardSigmoid", {"alpha": 0.4, "beta": 0.3}, 18),
        ("Gelu", {}, 20),
        ("Gelu", {"approximate": "tanh"}, 20),
        ("Clip", {"min": -0.5, "max": 0.25}, 10),
        ("Clip", {"max": 0.25}, 6),
    ],
)
def test_activation(
    write_onnx: Write, assert_agrees: Agree, operator: str, attributes: dict[str, Any], opset: int
) -> None:
    node = helper.make_node(operator, ["x"], ["y"], **attributes)
    assert_agrees(write_onnx([node], {"x": ["n", 3, 17]}, opset=opset))


@pytest.mark.parametrize("operator", ["Sqrt", "Log"])
def test_functions_of_positive_numbers(
    write_onnx: Write, assert_agrees: Agree, operator: str
) -> None:
    nodes = [helper.make_node("Abs", ["x"], ["a"]), helper.make_node(operator, ["a"], ["y"])]
    assert_agrees(write_onnx(nodes, {"x": ["n", 9]}))


def test_swish(write_onnx: Write, import_network: Callable[[Path], Any]) -> None:
    # onnxruntime has no Swish yet, so the import itself is looked at.
    node = helper.make_node("Swish", ["x"], ["y"], alpha=0.5)
    network = import_network(write_onnx([node], {"x": ["n", 3]}, opset=24))
    assert network.graph.nodes[0].attributes == {"activation": "swish", "alpha": 0.5}


@pytest.mark.parametrize(
    ("inputs", "bounds"),
    [
        (["x", "low", "high"], {"low": -0.5, "high": 0.25}),
        (["x", "low"], {"low": 0.1}),
        (["x", "", "high"], {"high": 0.1}),
        (["x", "low", "high"], {"low": 0.5, "high": -0.25}),
    ],
)
def test_clip_with_bounds_as_inputs(
    write_onnx: Write, assert_agrees: Agree, inputs: list[str], bounds: dict[str, float]
) -> None:
    constants = {name: np.float32(value).reshape(()) for name, value in bounds.items()}
    assert_agrees(write_onnx([helper.make_node("Clip", inputs, ["y"])], {"x": ["n", 9]}, constants))


@pytest.mark.parametrize("shape", [(4, 1, 1), (1,), (4, 3, 5)])
def test_prelu(write_onnx: Write, assert_agrees: Agree, shape: tuple[int, ...]) -> None:
    slope = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    node = helper.make_node("PRelu", ["x", "s"], ["y"])
    assert_agrees(write_onnx([node], {"x": ["n", 4, 3, 5]}, {"s": slope}))


@pytest.mark.parametrize("operator", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize(
    ("attributes", "opset"),
    [
        ({}, 18),
        ({"axis": 1}, 13),
        ({"axis": -1}, 18),
        ({}, 12),
        ({"axis": 2}, 11),
        ({"axis": -1}, 11),
    ],
)
def test_softmax(
    write_onnx: Write, assert_agrees: Agree, operator: str, attributes: dict[str, Any], opset: int
) -> None:
    node = helper.make_node(operator, ["x"], ["y"], **attributes)
    assert_agrees(write_onnx([node], {"x": ["n", 4, 3, 5]}, opset=opset))


@pytest.mark.parametrize("operator", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize(
    "shape", [(), (1,), (5,), (3, 1), (4, 1, 1), (1, 4, 3, 5), (1, 1, 4, 3, 5)]
)
def test_arithmetic_with_a_constant(
    write_onnx: Write, assert_agrees: Agree, operator: str, shape: tuple[int, ...]
) -> None:
    constant = np.random.default_rng(0).uniform(0.5, 2, shape).astype(np.float32)
    for order in (["x", "c"], ["c", "x"]):
        if order[0] == "c" and operator == "Div":
            continue  # divides by numbers near 0
        node = helper.make_node(operator, order, ["y"])
        assert_agrees(write_onnx([node], {"x": ["n", 4, 3, 5]}, {"c": constant}))


def test_power(write_onnx: Write, assert_agrees: Agree) -> None:
    nodes = [helper.make_node("Abs", ["x"], ["a"]), helper.make_node("Pow", ["a", "c"], ["y"])]
    assert_agrees(write_onnx(nodes, {"x": ["n", 6]}, {"c": np.float32(1.7).reshape(())}))


@pytest.mark.parametrize("operator", ["Sum", "Max", "Min", "Mean"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_variadic(write_onnx: Write, assert_agrees: Agree, operator: str, count: int) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Tanh", ["x"], ["b"])]
    nodes.append(helper.make_node(operator, ["x", "a", "b"][:count], ["y"]))
    assert_agrees(write_onnx(nodes, {"x": ["n", 2, 3]}))


def test_broadcasting_of_opset_6(write_onnx: Write, import_network: Callable[[Path], Any]) -> None:
    node = helper.make_node("Add", ["x", "c"], ["y"], broadcast=1, axis=1)
    path = write_onnx([node], {"x": ["n", 4, 3, 5]}, {"c": np.ones(4, np.float32)}, opset=6)
    reshape, add = import_network(path).graph.nodes
    assert reshape.attributes["shape"] == (4, 1, 1)
    assert add.inputs == ("x", reshape.output)


def test_shapes_that_do_not_broadcast(write_onnx: Write) -> None:
    node = helper.make_node("Add", ["x", "c"], ["y"], name="sum")
    path = write_onnx([node], {"x": ["n", 4, 3]}, {"c": np.ones((5, 1), np.float32)})
    file = reader.read(path)
    with pytest.raises(ModelError, match=r"Add 'sum': the shapes \(n, 4, 3\) and \(5, 1\)"):
        importer.build(file, importer.batch_shapes(file))


@pytest.mark.parametrize("shape", [["n", 4, 3, 5], ["n", 4], ["n", 4, 7]], ids=str)
def test_batch_normalization(
    write_onnx: Write, assert_agrees: Agree, shape: list[str | int]
) -> None:
    random = np.random.default_rng(0)
    constants = {
        name: random.uniform(0.5, 2, 4).astype(np.float32) for name in ("scale", "b", "mean", "var")
    }
    node = helper.make_node("BatchNormalization", ["x", *constants], ["y"], epsilon=1e-3)
    assert_agrees(write_onnx([node], {"x": shape}, constants))


def test_what_takes_reals_alone_refuses_integers(write_onnx: Write, assert_agrees: Agree) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["i"], to=7),
        helper.make_node("Softplus", ["i"], ["y"]),
    ]
    with pytest.raises(UnsupportedOperatorError, match="Softplus of int64") as caught:
        assert_agrees(write_onnx(nodes, {"x": ["n", 3]}))
    assert caught.value.operators == ["Softplus"]


@pytest.mark.parametrize("operator", ["Celu", "ThresholdedRelu"])
@pytest.mark.parametrize("attributes", [{}, {"alpha": 0.7}], ids=str)
def test_activations_of_several_steps(
    write_onnx: Write, assert_agrees: Agree, operator: str, attributes: dict[str, float]
) -> None:
    node = helper.make_node(operator, ["x"], ["y"], **attributes)
    assert_agrees(write_onnx([node], {"x": ["n", 3, 5]}))


@pytest.mark.parametrize("bounds", [["lo", "hi"], ["lo", ""], ["", "hi"]], ids=str)
def test_clip_between_what_is_computed(
    write_onnx: Write, assert_agrees: Agree, bounds: list[str]
) -> None:
    node = helper.make_node("Clip", ["x", *bounds], ["y"])
    inputs = {"x": [7, 5], **{name: [] for name in bounds if name}}
    assert_agrees(write_onnx([node], inputs), batches=(7,))
