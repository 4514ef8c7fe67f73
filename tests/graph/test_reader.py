"""Reading ONNX files: what is in them, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from pyconv.engines.base import TensorInfo
from pyconv.errors import ModelError
from pyconv.graph import reader

Write = Callable[..., Path]


def _relu(write_onnx: Write, **settings: object) -> Path:
    node = helper.make_node("LeakyRelu", ["x"], ["y"], alpha=0.25, name="leak")
    return write_onnx([node], {"x": ["n", 3]}, **settings)


def test_contents(write_onnx: Write) -> None:
    weights = {"w": np.ones((3, 2), np.float32)}
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    file = reader.read(write_onnx([node], {"x": ["n", 3]}, weights))
    assert file.inputs == (TensorInfo("x", "float32", (None, 3)),)
    assert file.outputs == (TensorInfo("y", "float32", None),)
    assert file.opset == 18
    assert list(file.constants) == ["w"]
    assert file.tensors() == ["y"]
    assert str(file.nodes[0]) == "MatMul 'y'"


def test_attributes_are_python_values(write_onnx: Write) -> None:
    nodes = [
        helper.make_node("LeakyRelu", ["x"], ["a"], alpha=0.25),
        helper.make_node("Transpose", ["a"], ["b"], perm=[1, 0]),
        helper.make_node("Gelu", ["b"], ["c"], approximate="tanh"),
        helper.make_node("Constant", [], ["d"], value=helper.make_tensor("", 1, [2], [1.0, 2.0])),
    ]
    file = reader.read(write_onnx(nodes, {"x": ["n", 3]}, opset=20))
    values = [dict(node.attributes) for node in file.nodes]
    assert values[:3] == [{"alpha": 0.25}, {"perm": [1, 0]}, {"approximate": "tanh"}]
    np.testing.assert_array_equal(values[3]["value"], [1, 2])


def test_initialisers_that_are_inputs_too_are_no_inputs(write_onnx: Write) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    weights = {"w": np.ones((3, 2), np.float32)}
    file = reader.read(write_onnx([node], {"x": ["n", 3], "w": [3, 2]}, weights))
    assert [info.name for info in file.inputs] == ["x"]


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nothing\.onnx: cannot be read: No such file"):
        reader.read(tmp_path / "nothing.onnx")


@pytest.mark.parametrize("contents", [b"", b"\xff" * 40, b"PNG", b"\x08\x08"])
def test_no_onnx_file(tmp_path: Path, contents: bytes) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(contents)
    with pytest.raises(ModelError, match=r"broken\.onnx"):
        reader.read(path)


@pytest.mark.parametrize("opset", [5, 29])
def test_an_operator_set_out_of_range(write_onnx: Write, opset: int) -> None:
    with pytest.raises(ModelError, match=f"version 6 to 28, got {opset}"):
        reader.read(_relu(write_onnx, opset=opset))


def test_a_dangling_name(write_onnx: Write) -> None:
    node = helper.make_node("Relu", ["nowhere"], ["y"])
    with pytest.raises(ModelError, match="nowhere"):
        reader.read(write_onnx([node], {"x": ["n", 3]}))


def _with_external_data(write_onnx: Write, location: str) -> Path:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    path = write_onnx([node], {"x": ["n", 3]}, {"w": np.ones((3, 2), np.float32)})
    model = onnx.load(path)
    weights = model.graph.initializer[0]
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value=location)
    path.write_bytes(model.SerializeToString())
    return path


def test_external_data_beside_the_file(write_onnx: Write, tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(np.arange(6, dtype=np.float32).tobytes())
    file = reader.read(_with_external_data(write_onnx, "weights.bin"))
    np.testing.assert_array_equal(file.constants["w"], np.arange(6).reshape(3, 2))


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/hostname", "a/../../b", ""])
def test_external_data_elsewhere(write_onnx: Write, location: str) -> None:
    with pytest.raises(ModelError, match="outside the model's folder"):
        reader.read(_with_external_data(write_onnx, location))


def test_external_data_through_a_link(write_onnx: Write, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc")
    with pytest.raises(ModelError, match="outside the model's folder"):
        reader.read(_with_external_data(write_onnx, "link/hostname"))


def test_external_data_that_is_missing(write_onnx: Write) -> None:
    with pytest.raises(ModelError, match="is not there"):
        reader.read(_with_external_data(write_onnx, "gone.bin"))


def test_an_initialiser_shorter_than_its_shape(write_onnx: Write) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    path = write_onnx([node], {"x": ["n", 3]}, {"w": np.ones((3, 2), np.float32)})
    model = onnx.load(path)
    model.graph.initializer[0].raw_data = b"\0" * 8
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="is broken"):
        reader.read(path)


def test_local_functions_are_inlined(write_onnx: Write) -> None:
    path = _relu(write_onnx)
    model = onnx.load(path)
    double = helper.make_function(
        "own",
        "Double",
        ["a"],
        ["b"],
        [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 18)],
    )
    model.functions.append(double)
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.graph.node.append(helper.make_node("Double", ["y"], ["z"], domain="own"))
    model.graph.output[0].name = "z"
    onnx.save(model, path)
    assert [node.operator for node in reader.read(path).nodes] == ["LeakyRelu", "Add"]
