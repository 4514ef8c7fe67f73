"""The oracle itself against onnxruntime, an implementation by other people.

The operators are checked against the naive loops of cpp/reference; here those are checked, through
ONNX models of one node, with tensors moved to ONNX's channels-first layout and back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from pyconv import _core
from pyconv.errors import InputError

FloatArray = NDArray[np.float32]
Draw = Callable[..., FloatArray]

# onnxruntime sums at most a few hundred products of numbers below 1, in float32.
TOLERANCE = 2e-5

TO_NCHW = (0, 3, 1, 2)
TO_NHWC = (0, 2, 3, 1)


def onnx_output(operation: str, inputs: list[FloatArray], **attributes: Any) -> FloatArray:
    names = [f"input{i}" for i in range(len(inputs))]
    infos = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape)
        for name, array in zip(names, inputs, strict=True)
    ]
    return _run(operation, infos, dict(zip(names, inputs, strict=True)), {}, attributes)


def onnx_output_with_integers(
    operation: str,
    x: FloatArray,
    integers: list[list[int] | None],
    value: float | None = None,
    **attributes: Any,
) -> FloatArray:
    """For operators that take their settings as int64 inputs; None leaves one out."""
    constants = {f"integers{i}": values for i, values in enumerate(integers)}
    infos = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)]
    arrays: dict[str, NDArray[Any]] = {
        name: np.array(values, np.int64) for name, values in constants.items() if values is not None
    }
    if value is not None:
        arrays["value"] = np.array(value, np.float32)
    order = ["x", *(name if values is not None else "" for name, values in constants.items())]
    if value is not None:
        order.append("value")
    return _run(operation, infos, {"x": x}, arrays, attributes, order)


def _run(
    operation: str,
    infos: list[onnx.ValueInfoProto],
    feeds: dict[str, FloatArray],
    constants: dict[str, NDArray[Any]],
    attributes: dict[str, Any],
    order: list[str] | None = None,
) -> FloatArray:
    node = helper.make_node(operation, order or [info.name for info in infos], ["y"], **attributes)
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(
        [node],
        "one",
        infos,
        [output],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    # Opset 20 is the first with Gelu, 22 the first with Mish's and the pools' present definitions.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    result: FloatArray = session.run(None, feeds)[0]
    return result


def agree(name: str, inputs: list[FloatArray], attributes: dict[str, Any], expected: Any) -> None:
    got = _core.reference_operator(name, inputs, attributes)
    assert got.dtype == np.float64
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"kernel_shape": [1, 1]},
        {"kernel_shape": [4, 2], "strides": [2, 3]},
        {"kernel_shape": [2, 2], "strides": [3, 5]},
        {"pads": [0, 1, 2, 3]},
        {"pads": [4, 0, 1, 5], "strides": [2, 2]},
        {"dilations": [2, 3]},
        {"dilations": [3, 1], "pads": [2, 0, 1, 4], "strides": [1, 2]},
        {"group": 2},
        {"group": 3, "pads": [1, 1, 1, 1]},
        {"group": 6, "strides": [2, 1]},
    ],
    ids=str,
)
@pytest.mark.parametrize("multiplier", [1, 2])
def test_conv2d(settings: dict[str, Any], multiplier: int, uniform: Draw) -> None:
    groups = settings.get("group", 1)
    settings = {"kernel_shape": [3, 3]} | settings
    x = uniform(2, 9, 10, 6)
    kernel = uniform(*settings["kernel_shape"], 6 // groups, 6 * multiplier)
    bias = uniform(6 * multiplier)
    # ONNX: (filters, in / groups, kernel_height, kernel_width)
    expected = onnx_output(
        "Conv", [x.transpose(TO_NCHW), kernel.transpose(3, 2, 0, 1), bias], **settings
    )
    attributes: dict[str, Any] = {"kernel": kernel, "bias": bias, "groups": groups}
    attributes |= {k: settings[k] for k in ("strides", "dilations", "pads") if k in settings}
    agree("conv2d", [x], attributes, expected.transpose(TO_NHWC))


def test_conv2d_with_activation_and_pool(uniform: Draw) -> None:
    x, kernel, bias = uniform(2, 9, 10, 3), uniform(3, 3, 3, 4), uniform(4)
    conv = onnx_output("Conv", [x.transpose(TO_NCHW), kernel.transpose(3, 2, 0, 1), bias])
    negative = onnx_output("Neg", [conv])
    expected = onnx_output("MaxPool", [negative], kernel_shape=[2, 3], strides=[3, 2])
    attributes = {
        "kernel": kernel,
        "bias": bias,
        "activation": "negative",
        "pool_size": [2, 3],
        "pool_strides": [3, 2],
    }
    agree("conv2d", [x], attributes, expected.transpose(TO_NHWC))


POOLS: list[dict[str, Any]] = [
    {},
    {"kernel_shape": [3, 2], "strides": [2, 1]},
    {"kernel_shape": [2, 2], "strides": [3, 4]},
    {"kernel_shape": [3, 3], "pads": [1, 2, 0, 1]},
    {"kernel_shape": [2, 3], "dilations": [3, 2]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
    {"kernel_shape": [3, 3], "strides": [2, 3], "ceil_mode": 1, "pads": [1, 1, 1, 1]},
    {"kernel_shape": [2, 2], "strides": [3, 3], "ceil_mode": 1, "pads": [0, 1, 1, 1]},
    {"kernel_shape": [3, 3], "strides": [4, 4], "ceil_mode": 1, "pads": [0, 0, 2, 2]},
]


def pool_attributes(settings: dict[str, Any]) -> dict[str, Any]:
    attributes = dict(settings)
    attributes["kernel_size"] = attributes.pop("kernel_shape")
    return attributes


@pytest.mark.parametrize("settings", POOLS, ids=str)
@pytest.mark.parametrize("size", [(8, 9), (9, 10), (7, 7), (10, 8)], ids=str)
def test_max_pool2d(settings: dict[str, Any], size: tuple[int, int], uniform: Draw) -> None:
    settings = {"kernel_shape": [2, 2]} | settings
    x = uniform(2, *size, 3)
    expected = onnx_output("MaxPool", [x.transpose(TO_NCHW)], **settings)
    agree("max_pool2d", [x], pool_attributes(settings), expected.transpose(TO_NHWC))


@pytest.mark.parametrize("settings", POOLS, ids=str)
@pytest.mark.parametrize("size", [(8, 9), (9, 10), (7, 7), (10, 8)], ids=str)
@pytest.mark.parametrize("count_include_pad", [0, 1])
def test_average_pool2d(
    settings: dict[str, Any], size: tuple[int, int], count_include_pad: int, uniform: Draw
) -> None:
    settings = {"kernel_shape": [2, 2], "count_include_pad": count_include_pad} | settings
    x = uniform(2, *size, 3)
    expected = onnx_output("AveragePool", [x.transpose(TO_NCHW)], **settings)
    agree("average_pool2d", [x], pool_attributes(settings), expected.transpose(TO_NHWC))


@pytest.mark.parametrize(
    ("name", "operation"),
    [("global_max_pool2d", "GlobalMaxPool"), ("global_average_pool2d", "GlobalAveragePool")],
)
def test_global_pools(name: str, operation: str, uniform: Draw) -> None:
    x = uniform(3, 5, 4, 7)
    expected = onnx_output(operation, [x.transpose(TO_NCHW)])
    agree(name, [x], {}, expected.transpose(TO_NHWC))


def test_dense(uniform: Draw) -> None:
    x, weights, bias = uniform(4, 11), uniform(11, 6), uniform(6)
    expected = onnx_output("Gemm", [x, weights, bias])
    agree("dense", [x], {"weights": weights, "bias": bias}, expected)
    images = uniform(2, 3, 5, 11)
    agree("dense", [images], {"weights": weights}, onnx_output("MatMul", [images, weights]))


# Name, ONNX's operator, the attributes here, the attributes there.
ACTIVATIONS: list[tuple[str, str, dict[str, float], dict[str, Any]]] = [
    ("linear", "Identity", {}, {}),
    ("relu", "Relu", {}, {}),
    ("leaky_relu", "LeakyRelu", {}, {}),
    ("leaky_relu", "LeakyRelu", {"alpha": 0.3}, {"alpha": 0.3}),
    ("elu", "Elu", {}, {}),
    ("elu", "Elu", {"alpha": 0.7}, {"alpha": 0.7}),
    ("selu", "Selu", {}, {}),
    ("selu", "Selu", {"alpha": 1.5, "beta": 0.5}, {"alpha": 1.5, "gamma": 0.5}),
    ("sigmoid", "Sigmoid", {}, {}),
    ("tanh", "Tanh", {}, {}),
    ("softplus", "Softplus", {}, {}),
    ("softsign", "Softsign", {}, {}),
    ("hard_sigmoid", "HardSigmoid", {}, {}),
    ("hard_sigmoid", "HardSigmoid", {"alpha": 0.1, "beta": 0.4}, {"alpha": 0.1, "beta": 0.4}),
    ("hard_swish", "HardSwish", {}, {}),
    ("gelu", "Gelu", {}, {}),
    ("gelu_tanh", "Gelu", {}, {"approximate": "tanh"}),
    ("mish", "Mish", {}, {}),
    ("exp", "Exp", {}, {}),
    ("abs", "Abs", {}, {}),
    ("negative", "Neg", {}, {}),
    ("reciprocal", "Reciprocal", {}, {}),
    ("erf", "Erf", {}, {}),
    ("log", "Log", {}, {}),
    ("sqrt", "Sqrt", {}, {}),
]


@pytest.mark.parametrize(("name", "operation", "settings", "onnx_settings"), ACTIVATIONS)
def test_activation(
    name: str, operation: str, settings: dict[str, float], onnx_settings: dict[str, Any]
) -> None:
    x = np.linspace(-9, 9, 360, dtype=np.float32).reshape(18, 20)  # without a 0
    x = np.abs(x) if name in ("log", "sqrt") else x
    expected = onnx_output(operation, [x], **onnx_settings)
    agree("activation", [x], {"activation": name, **settings}, expected)


def test_activations_made_of_several_onnx_operators() -> None:
    x = np.linspace(-9, 9, 360, dtype=np.float32)
    sigmoid = onnx_output("Sigmoid", [2 * x])
    agree("activation", [x], {"activation": "swish", "alpha": 2.0}, x * sigmoid)
    agree("activation", [x], {"activation": "swish"}, x * onnx_output("Sigmoid", [x]))
    agree("activation", [x], {"activation": "relu6"}, np.clip(x, 0, 6))
    clip = {"activation": "clip", "alpha": -2.0, "beta": 3.0}
    agree("activation", [x], clip, np.clip(x, -2, 3))
    agree("activation", [x], {"activation": "clip"}, x)


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2])
def test_softmax(axis: int, uniform: Draw) -> None:
    x = 5 * uniform(3, 4, 5)
    agree("softmax", [x], {"axis": axis}, onnx_output("Softmax", [x], axis=axis))
    agree("log_softmax", [x], {"axis": axis}, onnx_output("LogSoftmax", [x], axis=axis))


@pytest.mark.parametrize(
    ("name", "operation"),
    [
        ("add", "Add"),
        ("subtract", "Sub"),
        ("multiply", "Mul"),
        ("divide", "Div"),
        ("maximum", "Max"),
        ("minimum", "Min"),
        ("power", "Pow"),
    ],
)
@pytest.mark.parametrize(
    ("a_shape", "b_shape"),
    [((3, 4), (3, 4)), ((3, 4), (4,)), ((), (2, 3)), ((2, 1, 4), (3, 1)), ((1,), (2, 2))],
    ids=str,
)
def test_binaries(
    name: str, operation: str, a_shape: tuple[int, ...], b_shape: tuple[int, ...], uniform: Draw
) -> None:
    a, b = uniform(*a_shape), uniform(*b_shape, seed=1)
    b += np.float32(2)
    if name == "power":
        a += np.float32(1.5)
    agree(name, [a, b], {}, onnx_output(operation, [a, b]))


@pytest.mark.parametrize("function", ["mean", "sum", "max", "min"])
@pytest.mark.parametrize("axes", [[0], [1, 2], [-1], [0, 1, 2], [2, 0]], ids=str)
@pytest.mark.parametrize("keepdims", [0, 1])
def test_reduce(function: str, axes: list[int], keepdims: int, uniform: Draw) -> None:
    x = uniform(3, 4, 5)
    operation = f"Reduce{function.capitalize()}"
    expected = onnx_output_with_integers(operation, x, [axes], keepdims=keepdims)
    agree("reduce", [x], {"function": function, "axes": axes, "keepdims": keepdims}, expected)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_concat(axis: int, uniform: Draw) -> None:
    shapes = [[2, 3, 4], [2, 3, 4], [2, 3, 4]]
    for size, shape in enumerate(shapes, start=1):
        shape[axis] = size
    arrays = [uniform(*shape) for shape in shapes]
    agree("concat", arrays, {"axis": axis}, onnx_output("Concat", arrays, axis=axis))


@pytest.mark.parametrize("permutation", [(0, 3, 1, 2), (3, 2, 1, 0), (1, 3, 0, 2)])
def test_transpose(permutation: tuple[int, ...], uniform: Draw) -> None:
    x = uniform(2, 3, 4, 5)
    expected = onnx_output("Transpose", [x], perm=permutation)
    agree("transpose", [x], {"permutation": permutation}, expected)


@pytest.mark.parametrize("shape", [[24], [4, 6], [-1, 2], [2, -1, 3], [1, 24, 1]], ids=str)
def test_reshape(shape: list[int], uniform: Draw) -> None:
    x = uniform(2, 3, 4)
    agree("reshape", [x], {"shape": shape}, onnx_output_with_integers("Reshape", x, [shape]))


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
@pytest.mark.parametrize(
    "pads",
    [[0, 0, 0, 0], [1, 2, 2, 1], [0, 3, 2, 0], [-1, 0, 0, -2], [-1, -2, 0, 0], [-2, 1, -1, 2]],
    ids=str,
)
def test_pad(mode: str, pads: list[int], uniform: Draw) -> None:
    x = uniform(4, 5)
    value = 0.25 if mode == "constant" else None
    expected = onnx_output_with_integers("Pad", x, [pads], value, mode=mode)
    agree("pad", [x], {"pads": pads, "mode": mode, "value": value}, expected)


def test_slice(uniform: Draw) -> None:
    x = uniform(6, 7, 8)
    # ONNX has ends where the operator has sizes.
    expected = onnx_output_with_integers("Slice", x, [[1, 6, 0], [6, -8, 8], [0, 1, 2], [2, -3, 1]])
    attributes = {"starts": [1, 6, 0], "sizes": [3, 3, 8], "steps": [2, -3, 1]}
    agree("slice", [x], attributes, expected)


@pytest.mark.parametrize("name", _core.operators())
def test_every_operator_has_a_reference(name: str, uniform: Draw) -> None:
    refused = ""
    try:
        _core.reference_operator(name, [uniform(1, 1, 1, 1)] * 2, {})
    except InputError as error:  # an attribute that it needs
        refused = str(error)
    assert "there is no operator" not in refused


def test_reference_refuses_what_it_does_not_know(uniform: Draw) -> None:
    with pytest.raises(InputError, match="there is no operator 'conv3d'"):
        _core.reference_operator("conv3d", [uniform(1)], {})
    with pytest.raises(InputError, match="there is no activation 'rely'"):
        _core.reference_operator("activation", [uniform(1)], {"activation": "rely"})
    with pytest.raises(InputError, match="expected 1, got 0"):
        _core.reference_operator("activation", [], {})
    with pytest.raises(InputError, match="expected 2, got 1"):
        _core.reference_operator("add", [uniform(1)], {})
