from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import NodeProto
from onnx.helper import make_node as node

import pyconv
from pyconv.engines.onnxruntime import OnnxRuntimeEngine
from pyconv.errors import InputError
from pyconv.graph import importer, reader
from pyconv.inspect.gradient import before_softmax, gradient

Write = Callable[..., Path]

_SHAPE = (2, 3, 7, 6)  # of x, channels first


def _by_differences(path: Path, x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The gradient of sum(weights · y) by moving each element of x, on onnxruntime."""
    engine = OnnxRuntimeEngine(path)
    step = 4e-3
    slopes = np.zeros(x.shape)
    for place in np.ndindex(x.shape):
        ends = []
        for sign in (1, -1):
            moved = x.copy()
            moved[place] += sign * step
            y = engine.run({"x": moved}, ["y"])["y"].astype(np.float64)
            ends.append(((weights * y).sum(), float(moved[place])))
        slopes[place] = (ends[0][0] - ends[1][0]) / (ends[0][1] - ends[1][1])
    return slopes


def _conv(kernel: str, **attributes: object) -> list[NodeProto]:
    return [node("Conv", ["x", kernel], ["y"], **attributes)]


def _one(operator: str, *more: str, **attributes: object) -> list[NodeProto]:
    return [node(operator, ["x", *more], ["y"], **attributes)]


_TAILS = {
    "conv": _conv("k"),
    "conv with unequal pads": _conv("k", pads=[0, 2, 1, 0]),
    "conv whose strides leave a rest": _conv("k", strides=[3, 2], pads=[1, 0, 0, 0]),
    "conv with dilations": _conv("k", dilations=[2, 1]),
    "conv in groups": _conv("kg", group=3, strides=[2, 2]),
    "max pool": _one("MaxPool", kernel_shape=[2, 3], strides=[1, 2], pads=[1, 1, 0, 0]),
    "average pool": _one("AveragePool", kernel_shape=[2, 3], pads=[1, 0, 1, 1]),
    "average pool over pads": _one(
        "AveragePool", kernel_shape=[3, 2], pads=[1, 1, 1, 0], count_include_pad=1
    ),
    "global max pool": _one("GlobalMaxPool"),
    "global average pool": _one("GlobalAveragePool"),
    "dense": [node("Flatten", ["x"], ["f"]), node("MatMul", ["f", "w"], ["y"])],
    "softmax": _one("Softmax", axis=1),
    "log softmax": _one("LogSoftmax", axis=-1),
    "mean": _one("ReduceMean", "axes", keepdims=0),
    "sum": _one("ReduceSum", "axes"),
    "batch normalisation": _one("BatchNormalization", "s3", "b3", "m3", "v3"),
    "residual": [node("Relu", ["x"], ["r"]), node("Add", ["r", "x"], ["y"])],
    "arithmetic": [
        node("Sub", ["c", "x"], ["d"]),
        node("Mul", ["d", "x"], ["e"]),
        node("Div", ["e", "c"], ["f"]),
        node("Max", ["f", "x"], ["g"]),
        node("Min", ["g", "c"], ["y"]),
    ],
    "divisor": [node("Exp", ["x"], ["e"]), node("Div", ["c", "e"], ["y"])],
    "concat, pad and slice": [
        node("Sigmoid", ["x"], ["a"]),
        node("Concat", ["a", "x"], ["b"], axis=1),
        node("Pad", ["b", "pads"], ["d"]),
        node("Slice", ["d", "starts", "ends", "axes", "steps"], ["y"]),
    ],
    "matrices": [
        node("Transpose", ["x"], ["t"], perm=[0, 1, 3, 2]),
        node("MatMul", ["x", "t"], ["y"]),
    ],
    **{
        name: _one(name)
        for name in (
            "Relu",
            "Sigmoid",
            "Tanh",
            "Elu",
            "Selu",
            "LeakyRelu",
            "Softplus",
            "Softsign",
            "HardSigmoid",
            "HardSwish",
            "Mish",
            "Gelu",
            "Swish",
            "Exp",
            "Neg",
            "Abs",
            "Erf",
        )
    },
    "Log": [node("Exp", ["x"], ["e"]), node("Log", ["e"], ["y"])],
    "Reciprocal": [node("Exp", ["x"], ["e"]), node("Reciprocal", ["e"], ["y"])],
    "Sqrt": [node("Exp", ["x"], ["e"]), node("Sqrt", ["e"], ["y"])],
    "Clip": _one("Clip", "low", "high"),
    "Gelu by tanh": _one("Gelu", approximate="tanh"),
    "gelu": [
        node("Div", ["x", "root"], ["a"]),
        node("Erf", ["a"], ["b"]),
        node("Add", ["b", "one"], ["d"]),
        node("Mul", ["x", "d"], ["y"]),
    ],
}


@pytest.mark.parametrize("nodes", _TAILS.values(), ids=_TAILS)
def test_gradient_equals_differences(nodes: list[NodeProto], write_onnx: Write) -> None:
    random = np.random.default_rng(3)
    constants = {
        "k": random.normal(size=(4, 3, 3, 2)),
        "kg": random.normal(size=(6, 1, 2, 2)),
        "w": random.normal(size=(3 * 7 * 6, 4)),
        "c": random.uniform(1, 2, size=(1, 3, 1, 6)),
        "s3": random.uniform(1, 2, 3),
        "b3": random.normal(size=3),
        "m3": random.normal(size=3),
        "v3": random.uniform(1, 2, 3),
        "low": np.array(-38 / 75),
        "high": np.array(56 / 75),
        "root": np.array(2**0.5),
        "one": np.array(1.0),
    }
    settings = {
        "axes": np.array([2, 3]),
        "pads": np.array([0, 0, 1, 0, 0, 0, 0, 2]),
        "starts": np.array([1, 7]),
        "ends": np.array([8, 0]),
        "steps": np.array([2, -3]),
    }
    every = {name: value.astype(np.float32) for name, value in constants.items()} | settings
    used = {name: value for name, value in every.items() if any(name in n.input for n in nodes)}
    newest = {"Gelu": 20, "Swish": 24}.get(nodes[0].op_type, 18)
    path = write_onnx(nodes, {"x": ["n", *_SHAPE[1:]]}, used, ["y"], opset=newest)
    # So far apart, and from kinks, that no difference crosses one or changes which is the largest.
    places = np.arange(np.prod(_SHAPE)) + 0.5
    x = ((random.permutation(places) - len(places) / 2) / 75).reshape(_SHAPE).astype(np.float32)
    file = reader.read(path)
    network = importer.build(file, importer.batch_shapes(file))
    y = OnnxRuntimeEngine(path).run({"x": x}, ["y"])["y"]
    weights = random.normal(size=y.shape)
    found = gradient(network, {"x": x}, "y", weights, "x")
    np.testing.assert_allclose(found.score, y, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found.values, x)
    expected = _by_differences(path, x, weights)
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(found.gradient, expected, rtol=5e-3, atol=2e-3 * scale)


def test_gradient_with_respect_to_a_tensor_in_the_middle(write_onnx: Write) -> None:
    weights = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    nodes = [
        node("Tanh", ["x"], ["t"]),
        node("MatMul", ["t", "w"], ["z"]),
        node("Softmax", ["z"], ["y"], axis=-1),
    ]
    path = write_onnx(nodes, {"x": ["n", 4]}, {"w": weights}, ["y"])
    file = reader.read(path)
    network = importer.build(file, importer.batch_shapes(file))
    assert before_softmax(network.graph, "y") == "z"
    assert before_softmax(network.graph, "t") == "t"
    x = np.ones((1, 4), np.float32)
    found = gradient(network, {"x": x}, "z", np.array([[0.0, 1.0, 0.0]]), "t")
    np.testing.assert_allclose(found.gradient, weights[:, 1][np.newaxis], rtol=1e-6)
    np.testing.assert_allclose(found.values, np.tanh(x), rtol=1e-6)


def test_gradient_says_what_it_lacks(write_onnx: Write) -> None:
    nodes = [
        node("Relu", ["x"], ["r"]),
        node("LRN", ["r"], ["y"], size=3),
        node("Tanh", ["x"], ["aside"]),
    ]
    path = write_onnx(nodes, {"x": ["n", *_SHAPE[1:]]}, {}, ["y", "aside"])
    file = reader.read(path)
    network = importer.build(file, importer.batch_shapes(file))
    x = np.ones(_SHAPE, np.float32)
    with pytest.raises(InputError, match="no derivative of local_response_normalization"):
        gradient(network, {"x": x}, "y", np.ones(_SHAPE), "r")
    with pytest.raises(InputError, match="does not depend on the tensor 'aside'"):
        gradient(network, {"x": x}, "y", np.ones(_SHAPE), "aside")


def test_bundled_model_before_softmax() -> None:
    model = pyconv.load("digits")
    file = reader.read(model.path)
    network = importer.build(file, importer.batch_shapes(file))
    contract = model.metadata.output
    assert contract is not None
    scores = before_softmax(network.graph, contract.tensor)
    image = np.random.default_rng(0).integers(0, 256, (1, 28, 28), np.uint8)
    raw = model.run(model.preprocess(image), [scores])[scores]
    shares = np.exp(raw - raw.max())
    np.testing.assert_allclose(shares / shares.sum(), model.predict(image), rtol=1e-4, atol=1e-7)
