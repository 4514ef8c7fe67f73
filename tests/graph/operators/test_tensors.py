"""Matrix products, reductions, and operators that move or reshape tensors, against onnxruntime."""

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


def _normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).normal(size=shape).astype(np.float32)


def _ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@pytest.mark.parametrize("shape", [["n", 6], ["n", 5, 6], ["n", 2, 3, 6]], ids=str)
def test_matmul(write_onnx: Write, assert_agrees: Agree, shape: list[str | int]) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    assert_agrees(write_onnx([node], {"x": shape}, {"w": _normal(6, 4)}))


@pytest.mark.parametrize("attributes", [{}, {"transB": 1}, {"alpha": 0.5, "beta": 2.0}], ids=str)
@pytest.mark.parametrize("bias", [None, (4,), (1, 4), (1,), ()], ids=str)
def test_gemm(
    write_onnx: Write,
    assert_agrees: Agree,
    attributes: dict[str, Any],
    bias: tuple[int, ...] | None,
) -> None:
    weights = _normal(4, 6) if attributes.get("transB") else _normal(6, 4)
    constants = {"w": weights} if bias is None else {"w": weights, "b": _normal(*bias)}
    node = helper.make_node("Gemm", ["x", *constants], ["y"], **attributes)
    assert_agrees(write_onnx([node], {"x": ["n", 6]}, constants))


def test_gemm_of_a_transposed_batch(write_onnx: Write, assert_agrees: Agree) -> None:
    node = helper.make_node("Gemm", ["x", "w"], ["y"], transA=1)
    path = write_onnx([node], {"x": [5, 3]}, {"w": _normal(5, 4)})
    assert_agrees(path)


def test_gemm_with_a_computed_addend(write_onnx: Write, assert_agrees: Agree) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Gemm", ["x", "w", "r"], ["y"], beta=0.5),
    ]
    assert_agrees(write_onnx(nodes, {"x": ["n", 4]}, {"w": _normal(4, 4)}))


@pytest.mark.parametrize("operator", ["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"])
@pytest.mark.parametrize(
    "attributes", [{"axes": [2, 3]}, {"axes": [-1], "keepdims": 0}, {"axes": [1, 3], "keepdims": 0}]
)
def test_reduction(
    write_onnx: Write, assert_agrees: Agree, operator: str, attributes: dict[str, Any]
) -> None:
    node = helper.make_node(operator, ["x"], ["y"], **attributes)
    assert_agrees(write_onnx([node], {"x": ["n", 4, 3, 5]}, opset=11))


def test_reduction_with_axes_as_input(write_onnx: Write, assert_agrees: Agree) -> None:
    node = helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=0)
    assert_agrees(write_onnx([node], {"x": ["n", 4, 3]}, {"axes": _ints(1, 2)}))


def test_reduction_of_nothing(write_onnx: Write, assert_agrees: Agree) -> None:
    node = helper.make_node("ReduceSum", ["x"], ["y"], noop_with_empty_axes=1)
    assert_agrees(write_onnx([node], {"x": ["n", 4]}))


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
@pytest.mark.parametrize("pads", [[0, 0, 1, 2, 0, 0, 2, 1], [0, 0, -1, 1, 0, 0, 1, -2]], ids=str)
def test_pad(write_onnx: Write, assert_agrees: Agree, mode: str, pads: list[int]) -> None:
    as_input = helper.make_node("Pad", ["x", "p", "v"], ["y"], mode=mode)
    constants = {"p": _ints(*pads), "v": np.float32(0.5).reshape(())}
    assert_agrees(write_onnx([as_input], {"x": ["n", 2, 5, 6]}, constants))
    as_attribute = helper.make_node("Pad", ["x"], ["y"], mode=mode, pads=pads, value=0.5)
    assert_agrees(write_onnx([as_attribute], {"x": ["n", 2, 5, 6]}, opset=10))


def test_pad_of_some_axes(write_onnx: Write, assert_agrees: Agree) -> None:
    node = helper.make_node("Pad", ["x", "p", "", "a"], ["y"], mode="wrap")
    constants = {"p": _ints(1, 2), "a": _ints(-1)}
    assert_agrees(write_onnx([node], {"x": ["n", 2, 5]}, constants, opset=19))


@pytest.mark.parametrize(
    ("starts", "ends", "axes", "steps"),
    [
        ([1, 0], [3, 5], [2, 3], [1, 2]),
        ([-2], [2**63 - 1], [1], [1]),
        ([-1], [-(2**63)], [3], [-1]),
        ([4], [0], [3], [-2]),
        ([100], [0], [-1], [-1]),
        ([0], [2**31 - 1], [0], [1]),
        ([0, 1], [2**63 - 1, -1], [0, 2], [1, 1]),
    ],
)
def test_slice(
    write_onnx: Write,
    assert_agrees: Agree,
    starts: list[int],
    ends: list[int],
    axes: list[int],
    steps: list[int],
) -> None:
    constants = {"s": _ints(*starts), "e": _ints(*ends), "a": _ints(*axes), "t": _ints(*steps)}
    node = helper.make_node("Slice", ["x", "s", "e", "a", "t"], ["y"])
    assert_agrees(write_onnx([node], {"x": ["n", 4, 5, 6]}, constants))
    if set(steps) == {1}:
        old = helper.make_node("Slice", ["x"], ["y"], starts=starts, ends=ends, axes=axes)
        assert_agrees(write_onnx([old], {"x": ["n", 4, 5, 6]}, opset=9))


@pytest.mark.parametrize("sizes", [[1, 4], None])
def test_split(write_onnx: Write, assert_agrees: Agree, sizes: list[int] | None) -> None:
    constants = {"s": _ints(*sizes)} if sizes else {}
    settings = {} if sizes else {"num_outputs": 2}
    nodes = [
        helper.make_node("Split", ["x", *constants], ["a", "b"], axis=1, **settings),
        helper.make_node("Concat", ["b", "a"], ["y"], axis=-2),
    ]
    assert_agrees(write_onnx(nodes, {"x": ["n", 5, 3]}, constants))


def test_tile_and_expand(write_onnx: Write, assert_agrees: Agree) -> None:
    nodes = [
        helper.make_node("Tile", ["x", "r"], ["t"]),
        helper.make_node("Expand", ["t", "s"], ["y"]),
    ]
    constants = {"r": _ints(1, 2, 1), "s": _ints(1, 1, 4)}
    assert_agrees(write_onnx(nodes, {"x": ["n", 3, 1]}, constants))


@pytest.mark.parametrize("permutation", [[0, 2, 1], [0, 1, 2]])
def test_transpose(write_onnx: Write, assert_agrees: Agree, permutation: list[int]) -> None:
    node = helper.make_node("Transpose", ["x"], ["y"], perm=permutation)
    assert_agrees(write_onnx([node], {"x": ["n", 3, 4]}))


@pytest.mark.parametrize("axis", [1, 2, -1])
def test_flatten(write_onnx: Write, assert_agrees: Agree, axis: int) -> None:
    node = helper.make_node("Flatten", ["x"], ["y"], axis=axis)
    assert_agrees(write_onnx([node], {"x": ["n", 2, 3, 4]}))


@pytest.mark.parametrize("shape", [[-1, 24], [0, 0, -1], [0, 4, 6], [-1, 2, 1, 12]], ids=str)
def test_reshape(write_onnx: Write, assert_agrees: Agree, shape: list[int]) -> None:
    node = helper.make_node("Reshape", ["x", "s"], ["y"])
    assert_agrees(write_onnx([node], {"x": ["n", 2, 3, 4]}, {"s": _ints(*shape)}))


def test_squeeze_and_unsqueeze(write_onnx: Write, assert_agrees: Agree) -> None:
    nodes = [
        helper.make_node("Unsqueeze", ["x", "a"], ["u"]),
        helper.make_node("Squeeze", ["u", "b"], ["y"]),
    ]
    constants = {"a": _ints(-1, 1), "b": _ints(1)}
    assert_agrees(write_onnx(nodes, {"x": ["n", 3]}, constants))
    old = [
        helper.make_node("Unsqueeze", ["x"], ["u"], axes=[1, 3]),
        helper.make_node("Squeeze", ["u"], ["y"], axes=[1]),
    ]
    assert_agrees(write_onnx(old, {"x": ["n", 3]}, opset=11))


def test_identities(write_onnx: Write, assert_agrees: Agree) -> None:
    nodes = [
        helper.make_node("Identity", ["x"], ["a"]),
        helper.make_node("Dropout", ["a"], ["b"]),
        helper.make_node("Cast", ["b"], ["y"], to=1),
    ]
    assert_agrees(write_onnx(nodes, {"x": ["n", 3]}))


def test_constants_are_computed_when_loading(write_onnx: Write, assert_agrees: Agree) -> None:
    nodes = [
        helper.make_node("Constant", [], ["c"], value_floats=[1.0, 2.0, 3.0]),
        helper.make_node(
            "ConstantOfShape", ["s"], ["o"], value=helper.make_tensor("", 1, [1], [2])
        ),
        helper.make_node("Mul", ["c", "o"], ["p"]),
        helper.make_node("Add", ["x", "p"], ["y"]),
    ]
    native = assert_agrees(write_onnx(nodes, {"x": ["n", 3]}, {"s": _ints(3)}))
    assert [step.operator for step in native.steps()] == ["add"]


@pytest.mark.parametrize(
    ("nodes", "what"),
    [
        ([helper.make_node("Cast", ["x"], ["y"], to=10)], "Cast to float16"),
        ([helper.make_node("PRelu", ["x", "cube"], ["y"])], "PRelu with a slope"),
    ],
)
def test_what_is_lacking_is_named(
    write_onnx: Write, assert_agrees: Agree, nodes: list[Any], what: str
) -> None:
    path = write_onnx(nodes, {"x": [3, 3]}, {"cube": _normal(2, 3, 3)})
    with pytest.raises(UnsupportedOperatorError, match=what):
        assert_agrees(path)


@pytest.mark.parametrize(
    ("node", "what"),
    [
        (helper.make_node("Transpose", ["x"], ["y"], perm=[0, 1, 1]), "permutation"),
        (helper.make_node("Flatten", ["x"], ["y"], axis=5), "axis 5"),
        (helper.make_node("Reshape", ["x", "seven"], ["y"]), "does not fit"),
        (helper.make_node("Reshape", ["x", "twice"], ["y"]), "is no shape"),
        (helper.make_node("Squeeze", ["x", "one"], ["y"]), "cannot be dropped"),
        (helper.make_node("Concat", ["x", "x"], ["y"], axis=7), "axis 7"),
        (helper.make_node("ReduceSum", ["x", "seven"], ["y"]), "axis 7"),
        (helper.make_node("Pad", ["x", "one"], ["y"]), "expected 6 pads, got 1"),
        (helper.make_node("Slice", ["x", "one", "twice"], ["y"]), "do not go together"),
    ],
    ids=lambda value: value.op_type if hasattr(value, "op_type") else None,
)
def test_nonsense_is_refused(write_onnx: Write, node: Any, what: str) -> None:
    constants = {"seven": _ints(7), "twice": _ints(-1, -1), "one": _ints(1)}
    file = reader.read(write_onnx([node], {"x": [2, 3, 4]}, constants))
    with pytest.raises(ModelError, match=what):
        importer.build(file, importer.batch_shapes(file))


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space(write_onnx: Write, assert_agrees: Agree, mode: str) -> None:
    node = helper.make_node("DepthToSpace", ["x"], ["y"], blocksize=2, mode=mode)
    assert_agrees(write_onnx([node], {"x": ["n", 12, 3, 5]}))


def test_space_to_depth(write_onnx: Write, assert_agrees: Agree) -> None:
    node = helper.make_node("SpaceToDepth", ["x"], ["y"], blocksize=3)
    assert_agrees(write_onnx([node], {"x": ["n", 4, 6, 9]}))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (["n", 3, 4], ["n", 4, 5]),
        (["n", 2, 3, 4], ["n", 1, 4, 5]),
        (["n", 3, 4], [4]),
        ([4], [4, 5]),
        ([4], [3, 4, 5]),
        ([4], [4]),
        ([3, 1, 2, 4], [2, 4, 3]),
    ],
    ids=str,
)
def test_matmul_of_what_is_computed(
    write_onnx: Write, assert_agrees: Agree, a: list[Any], b: list[Any]
) -> None:
    node = helper.make_node("MatMul", ["a", "b"], ["y"])
    assert_agrees(write_onnx([node], {"a": a, "b": b}))


def test_matmul_with_a_constant_of_three_axes(write_onnx: Write, assert_agrees: Agree) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    assert_agrees(write_onnx([node], {"x": ["n", 2, 3, 4]}, {"w": _normal(2, 4, 5)}))


@pytest.mark.parametrize(
    "attributes", [{}, {"transB": 1, "alpha": 0.5, "beta": 2.0}, {"transA": 1}], ids=str
)
def test_gemm_of_what_is_computed(
    write_onnx: Write, assert_agrees: Agree, attributes: dict[str, Any]
) -> None:
    a = [6, 3] if attributes.get("transA") else [3, 6]
    b = [4, 6] if attributes.get("transB") else [6, 4]
    node = helper.make_node("Gemm", ["a", "b", "c"], ["y"], **attributes)
    assert_agrees(write_onnx([node], {"a": a, "b": b, "c": [3, 1]}))


@pytest.mark.parametrize("operator", ["ReduceL1", "ReduceL2", "ReduceSumSquare"])
@pytest.mark.parametrize("attributes", [{"axes": [1]}, {"axes": [-1, 1], "keepdims": 0}], ids=str)
def test_reduction_of_sizes(
    write_onnx: Write, assert_agrees: Agree, operator: str, attributes: dict[str, Any]
) -> None:
    node = helper.make_node(operator, ["x"], ["y"], **attributes)
    assert_agrees(write_onnx([node], {"x": ["n", 4, 3]}, opset=11))


@pytest.mark.parametrize("repeats", [(1, 2, 3), (1, 1, 1), (2, 1, 0)], ids=str)
def test_tile_of_fixed_sizes(
    write_onnx: Write, assert_agrees: Agree, repeats: tuple[int, ...]
) -> None:
    node = helper.make_node("Tile", ["x", "r"], ["y"])
    path = write_onnx([node], {"x": [2, 3, 4]}, {"r": _ints(*repeats)})
    assert_agrees(path, batches=(2,))


def test_sizes_may_be_given_at_each_run(write_onnx: Write, assert_agrees: Agree) -> None:
    nodes = [
        helper.make_node("Slice", ["x", "s", "e"], ["a"]),
        helper.make_node("Relu", ["a"], ["y"]),
    ]
    dtypes = {"s": "int64", "e": "int64"}
    path = write_onnx(nodes, {"x": [5, 6], "s": [2], "e": [2]}, dtypes=dtypes)
    native = assert_agrees(path, batches=(5,))
    x = np.abs(_normal(5, 6))
    for start, end in ((0, 3), (1, 4), (0, 3)):
        feeds = {"x": x, "s": _ints(start, start), "e": _ints(end, end)}
        np.testing.assert_array_equal(native.run(feeds)["y"], x[start:end, start:end])
