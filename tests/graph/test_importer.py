"""Import into the IR: what is known at load, the arithmetic of shapes, and every batch size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from pyconv.engines.native import NativeEngine
from pyconv.errors import ModelError, UnsupportedOperatorError
from pyconv.graph import importer, reader
from pyconv.graph.batch import Batch, BatchError
from pyconv.graph.constants import Known, evaluate
from pyconv.graph.limits import Allowance

Write = Callable[..., Path]
Agree = Callable[..., Any]


def _ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def test_the_flatten_of_an_exporter_is_one_reshape(
    write_onnx: Write, assert_agrees: Agree, import_network: Callable[[Path], Any]
) -> None:
    # As tf2onnx writes it: the shape, cut, put together again and cast to and fro.
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Cast", ["shape"], ["as_int32"], to=6),
        helper.make_node("Slice", ["as_int32", "zero", "one", "zero"], ["n"]),
        helper.make_node("Concat", ["n", "rest"], ["joined"], axis=0),
        helper.make_node("Cast", ["joined"], ["as_int64"], to=7),
        helper.make_node("Reshape", ["x", "as_int64"], ["y"]),
    ]
    constants = {"zero": _ints(0), "one": _ints(1), "rest": np.array([-1], np.int32)}
    path = write_onnx(nodes, {"x": ["n", 3, 4]}, constants)
    network = import_network(path)
    assert [(n.op, n.attributes["shape"]) for n in network.graph.nodes] == [
        ("reshape", (Batch(), 12))
    ]
    assert network.known["joined"].dtype == "int32"
    assert_agrees(path, (1, 2, 33))  # onnxruntime takes no -1 for an empty batch


def test_arithmetic_of_shapes(write_onnx: Write, assert_agrees: Agree) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["n"], axis=0),
        helper.make_node("Gather", ["shape", "one"], ["three"], axis=0),
        helper.make_node("Mul", ["n", "three"], ["product"]),
        helper.make_node("Div", ["product", "three"], ["n2"]),
        helper.make_node("Add", ["n2", "zero"], ["sum"]),
        helper.make_node("Sub", ["sum", "zero"], ["n3"]),
        helper.make_node("Unsqueeze", ["n3", "zeros"], ["u"]),
        helper.make_node("Squeeze", ["u", "zeros"], ["s"]),
        helper.make_node("Reshape", ["s", "ones"], ["r"]),
        helper.make_node("ReduceProd", ["shape"], ["all"], keepdims=1),
        helper.make_node("Size", ["x"], ["size"]),
        helper.make_node("Identity", ["r"], ["i"]),
        helper.make_node("Concat", ["i", "minus"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"]),
    ]
    constants = {
        "zero": np.array(0),
        "one": np.array(1),
        "zeros": _ints(0),
        "ones": _ints(1),
        "minus": _ints(-1),
    }
    assert_agrees(write_onnx(nodes, {"x": ["n", 3, 4]}, constants), (1, 5))


def test_part_of_a_shape(import_network: Callable[[Path], Any], write_onnx: Write) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"], start=1, end=-1),
        helper.make_node("Relu", ["x"], ["y"]),
    ]
    network = import_network(write_onnx(nodes, {"x": ["n", 3, 4]}))
    np.testing.assert_array_equal(network.known["s"].values, [3])


@pytest.mark.parametrize(
    "nodes",
    [
        [helper.make_node("Transpose", ["x"], ["y"], perm=[1, 0, 2])],
        [helper.make_node("Reshape", ["x", "moved"], ["y"])],
        [helper.make_node("Concat", ["x", "x"], ["y"], axis=0)],
        [helper.make_node("ReduceMean", ["x", "zero"], ["y"])],
        [helper.make_node("Softmax", ["x"], ["y"], axis=0)],
        [helper.make_node("Slice", ["x", "one", "moved", "zero"], ["y"])],
        [helper.make_node("Squeeze", ["x"], ["y"])],
        [helper.make_node("Add", ["x", "seven"], ["y"])],
        [helper.make_node("Flatten", ["x"], ["y"], axis=0)],
        [helper.make_node("Unsqueeze", ["x", "zero"], ["y"])],
        [helper.make_node("Pad", ["x", "pads"], ["y"])],
    ],
    ids=lambda nodes: nodes[0].op_type,
)
def test_what_mixes_images_waits_for_the_batch(
    write_onnx: Write, assert_agrees: Agree, nodes: list[onnx.NodeProto]
) -> None:
    constants = {
        "moved": _ints(3, -1, 1)[: 1 if nodes[0].op_type == "Slice" else 3],
        "zero": _ints(0),
        "one": _ints(1),
        "seven": np.ones((7, 1, 1), np.float32),
        "pads": _ints(1, 0, 0, 0, 0, 0),
    }
    path = write_onnx(nodes, {"x": ["n", 3, 4]}, constants)
    file = reader.read(path)
    with pytest.raises(BatchError):
        importer.build(file, importer.batch_shapes(file))
    # And then it runs, each batch size with a program of its own.
    assert_agrees(path, (7, 1) if nodes[0].op_type == "Add" else (2, 5))


def test_dense_layers_over_maps_have_one_program_for_every_batch(
    write_onnx: Write, assert_agrees: Agree
) -> None:
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("Reshape", ["x", "rows"], ["r"]),
        helper.make_node("MatMul", ["r", "w"], ["m"]),
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Slice", ["s", "zero", "two"], ["t"]),
        helper.make_node("Concat", ["t", "five"], ["u"], axis=0),
        helper.make_node("Reshape", ["m", "u"], ["d"]),
        helper.make_node("Add", ["d", "b"], ["e"]),
        helper.make_node("Relu", ["e"], ["y"]),
    ]
    constants = {
        "rows": _ints(-1, 4),
        "w": random.normal(size=(4, 5)).astype(np.float32),
        "zero": _ints(0),
        "two": _ints(2),
        "five": _ints(5),
        "b": random.normal(size=5).astype(np.float32),
    }
    engine = assert_agrees(write_onnx(nodes, {"x": ["n", 3, 4]}, constants))
    assert [(step.operator, step.shape) for step in engine.steps()] == [("dense", (None, 3, 5))]


@pytest.mark.parametrize("then", ["Identity", "ReduceMean"])
def test_rows_that_are_no_dense_layer_wait_for_the_batch(
    write_onnx: Write, assert_agrees: Agree, then: str
) -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "rows"], ["r"]),
        helper.make_node(then, ["r", "one"][: 1 + (then != "Identity")], ["y"]),
    ]
    path = write_onnx(nodes, {"x": ["n", 3, 4]}, {"rows": _ints(-1, 4), "one": _ints(1)})
    engine = assert_agrees(path)
    assert engine.network is None
    assert not engine.steps()


def test_free_heights_and_widths(write_onnx: Write, assert_agrees: Agree) -> None:
    weights = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    path = write_onnx([node], {"x": ["n", 3, "height", "width"]}, {"w": weights})
    with pytest.raises(BatchError, match="axis 2 of the input 'x'"):
        importer.batch_shapes(reader.read(path))
    # The fixture gives every free axis the batch's size.
    assert assert_agrees(path, (4, 9, 5)).network is None


def test_all_missing_operators_are_named_at_once(write_onnx: Write, assert_agrees: Agree) -> None:
    nodes = [
        helper.make_node("Cos", ["x"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Sin", ["b"], ["c"]),
        helper.make_node("Cos", ["c"], ["d"]),
        helper.make_node("Cos", ["w"], ["constant"]),
        helper.make_node("Add", ["d", "constant"], ["y"]),
    ]
    path = write_onnx(nodes, {"x": ["n", 3]}, {"w": np.ones(3, np.float32)})
    with pytest.raises(UnsupportedOperatorError) as caught:
        assert_agrees(path)
    assert caught.value.operators == ["Cos", "Sin"]
    assert str(caught.value) == (
        f"{path}: the native engine lacks 2 operators that this network needs: Cos, Sin; "
        'load it with engine="onnxruntime"'
    )


def test_missing_uses_are_named_at_once(write_onnx: Write, assert_agrees: Agree) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["i"], to=7),
        helper.make_node("Softmax", ["i"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Cast", ["x"], ["y"], to=10),
    ]
    with pytest.raises(UnsupportedOperatorError) as caught:
        assert_agrees(write_onnx(nodes, {"x": [3, 3]}))
    assert caught.value.operators == ["Cast", "Softmax"]
    assert "Cast to float16, Softmax of int64" in str(caught.value)


def test_an_operator_of_another_domain(write_onnx: Write, assert_agrees: Agree) -> None:
    path = write_onnx([helper.make_node("Relu", ["x"], ["y"])], {"x": ["n", 3]})
    model = onnx.load(path)
    model.graph.node[0].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    onnx.save(model, path)
    with pytest.raises(UnsupportedOperatorError, match=r"com\.example\.Relu"):
        assert_agrees(path)


def test_weights_are_counted_by_tensor(
    write_onnx: Write, import_network: Callable[[Path], Any]
) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"]),
        helper.make_node("Clip", ["c", "low"], ["y"]),
    ]
    constants = {
        "w": np.ones((4, 2, 3, 3), np.float32),
        "b": np.ones(4, np.float32),
        "low": np.float32(0).reshape(()),
    }
    network = import_network(write_onnx(nodes, {"x": ["n", 2, 5, 5]}, constants))
    assert network.parameters == {"c": 76, "y": 0}


def test_a_constant_too_large_to_be_meant(write_onnx: Write, assert_agrees: Agree) -> None:
    nodes = [
        helper.make_node("ConstantOfShape", ["s"], ["c"]),
        helper.make_node("Add", ["x", "c"], ["y"]),
    ]
    with pytest.raises(Exception, match="more than a file of this size"):
        assert_agrees(write_onnx(nodes, {"x": ["n", 3]}, {"s": _ints(2**20, 2**20)}))


def test_known_for_one_batch() -> None:
    known = Known.of(np.array([Batch(2), 5], object), "int32")
    assert known.symbolic
    np.testing.assert_array_equal(known.at_batch(3), np.array([6, 5], np.int32))
    assert known.at_batch(3).dtype == np.int32
    assert not Known.of(np.array([1, 5], object)).symbolic


def test_other_operators_on_the_batch_are_left_to_run_time(write_onnx: Write) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Equal", ["s", "s"], ["y"]),
    ]
    file = reader.read(write_onnx(nodes, {"x": ["n", 3]}))
    sizes = Known.of(np.array([Batch(), 3], object))
    with pytest.raises(BatchError):
        evaluate(file.nodes[1], [sizes, sizes], 18, Allowance(0))


def test_missing_operators_and_missing_uses_are_named_together(
    write_onnx: Write, assert_agrees: Agree
) -> None:
    nodes = [
        helper.make_node("Cos", ["x"], ["a"]),
        helper.make_node("Sin", ["a"], ["b"]),
        helper.make_node("Cast", ["x"], ["y"], to=10),
    ]
    with pytest.raises(UnsupportedOperatorError, match="Cast to float16, Cos, Sin") as e:
        assert_agrees(write_onnx(nodes, {"x": [3, 3]}))
    assert e.value.operators == ["Cast", "Cos", "Sin"]


def test_what_is_missing_behind_a_moved_batch_is_said_at_load(write_onnx: Write) -> None:
    nodes = [
        helper.make_node("Transpose", ["x"], ["moved"], perm=[1, 0, 2]),
        helper.make_node("Cast", ["moved"], ["y"], to=10),
    ]
    path = write_onnx(nodes, {"x": ["n", 3, 3]})
    with pytest.raises(UnsupportedOperatorError, match="Cast to float16"):
        NativeEngine(path)


def test_missing_operators_are_named_at_load_for_free_sizes_too(write_onnx: Write) -> None:
    path = write_onnx([helper.make_node("Cos", ["x"], ["y"])], {"x": ["n", "height", "width"]})
    with pytest.raises(UnsupportedOperatorError, match="Cos"):
        NativeEngine(path)


def test_a_file_for_some_batches_only_loads(write_onnx: Write, assert_agrees: Agree) -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "two"], ["a"]),  # two images: another batch cannot
        helper.make_node("Relu", ["a"], ["y"]),
    ]
    path = write_onnx(nodes, {"x": ["n", 4]}, {"two": _ints(2, 4)})
    assert_agrees(path, (2,))
    with pytest.raises(ModelError, match=f"{path}.*Reshape"):
        NativeEngine(path).run({"x": np.zeros((3, 4), np.float32)})


@pytest.mark.parametrize(
    ("operator", "constant"),
    [
        ("Reshape", np.array([np.nan], np.float32)),
        ("Reshape", np.array([np.inf], np.float32)),
        ("Gemm", np.ones(3, np.float32)),
        ("MatMul", np.array(2, np.float32)),
        ("Expand", np.array([2**62, 2**62, 3])),
        ("Tile", np.array([1])),
    ],
    ids=str,
)
def test_nonsense_is_an_error_that_names_file_and_node(
    write_onnx: Write, operator: str, constant: np.ndarray
) -> None:
    path = write_onnx(
        [helper.make_node(operator, ["x", "c"], ["y"])], {"x": [2, 3]}, {"c": constant}
    )
    with pytest.raises(ModelError, match=f"{path}.*{operator}"):
        NativeEngine(path)


def test_a_tensor_without_axes_keeps_none(write_onnx: Write, assert_agrees: Agree) -> None:
    nodes = [
        helper.make_node("ReduceMin", ["x"], ["least"], keepdims=0),
        helper.make_node("Mean", ["least", "least"], ["y"]),
    ]
    assert_agrees(write_onnx(nodes, {"x": [2, 3]}))


def test_padding_a_tensor_without_axes_does_nothing(write_onnx: Write) -> None:
    nodes = [helper.make_node("Pad", ["x", "pads"], ["y"])]  # onnxruntime refuses it
    path = write_onnx(nodes, {"x": []}, {"pads": _ints()})
    (y,) = NativeEngine(path).run({"x": np.array(3, np.float32)}).values()
    assert y.shape == ()
    assert y == 3


def test_a_batch_that_is_summed_over_by_a_matrix(write_onnx: Write, assert_agrees: Agree) -> None:
    path = write_onnx(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"x": ["n"]},
        {"w": np.ones((3, 2), np.float32)},
    )
    assert_agrees(path, (3,))
    with pytest.raises(ModelError, match=r"matrix of shape \(3, 2\) does not fit .*\(2,\)"):
        NativeEngine(path).run({"x": np.zeros(2, np.float32)})


def test_arithmetic_on_maps_without_elements(write_onnx: Write, assert_agrees: Agree) -> None:
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"], axis=0),
        helper.make_node("Sub", ["flat", "nothing"], ["y"]),
    ]
    path = write_onnx(nodes, {"x": [0, 5, 1]}, {"nothing": np.zeros(0, np.float32)})
    assert_agrees(path)


@pytest.mark.parametrize("opset", [7, 9, 12])
def test_old_attributes_of_what_is_known(
    write_onnx: Write, assert_agrees: Agree, opset: int
) -> None:
    pads = [0, 0, 0, 1]
    nodes = [helper.make_node("Unsqueeze", ["w"], ["u"], axes=[0])]
    if opset < 11:
        nodes += [
            helper.make_node("Clip", ["u"], ["c"], min=-0.5),
            helper.make_node("Pad", ["c"], ["p"], pads=pads, value=0.25),
        ]
    nodes.append(helper.make_node("Add", ["x", nodes[-1].output[0]], ["y"]))
    width = 3 if opset > 10 else 4
    weights = {"w": np.array([-2, 0.5, 1], np.float32)}
    engine = assert_agrees(write_onnx(nodes, {"x": ["n", width]}, weights, opset=opset))
    assert [step.operator for step in engine.steps()] == ["add"]


def test_the_size_of_a_shape(write_onnx: Write, assert_agrees: Agree) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Size", ["s"], ["rank"]),
        helper.make_node("Cast", ["rank"], ["number"], to=1),
        helper.make_node("Mul", ["x", "number"], ["y"]),
    ]
    native = assert_agrees(write_onnx(nodes, {"x": ["n", 3, 4]}))
    assert [step.operator for step in native.steps()] == ["multiply"]
