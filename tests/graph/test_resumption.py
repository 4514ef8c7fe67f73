"""A graph from some of its tensors on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import pyconv
from pyconv.engines.base import EngineName
from pyconv.errors import ModelError


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its one node that splits makes two tensors, each the other's neighbour."""
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size])
        for name, size in (("x", 4), ("y", 4), ("left", 2))
    ]
    nodes = [
        helper.make_node("Split", ["x"], ["left", "right"], axis=1, num_outputs=2),
        helper.make_node("Concat", ["right", "left"], ["y"], axis=1),
    ]
    graph = helper.make_graph(nodes, "halves", values[:1], values[1:])
    path = tmp_path_factory.mktemp("halves") / "halves.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("engine", ["native", "onnxruntime"])
def test_one_of_the_outputs_of_a_node_may_be_given(halves: Path, engine: EngineName) -> None:
    x = np.arange(4, dtype=np.float32)[None]
    given = np.array([[7, 8]], np.float32)
    rest = pyconv.load(halves, engine=engine).resumed(["right"])
    np.testing.assert_array_equal(rest.run({"x": x, "right": given})["y"], [[7, 8, 0, 1]])
    rest = pyconv.load(halves, engine=engine).resumed(["left"])
    np.testing.assert_array_equal(rest.run({"x": x, "left": given})["y"], [[2, 3, 7, 8]])


def test_no_place_for_a_temporary_file_is_told_of(
    halves: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = pyconv.load(halves)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(ModelError, match=r"from a temporary file, and none can be written"):
        model.resumed(["left"])
