"""The networks that come with onnx, whole, against onnxruntime: every tensor of each.

As shipped their weights are all 0.02, and half of all faults would not show. Here they are random,
of one seed, scaled as people initialise them, so that no layer dies, saturates or overflows.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from pyconv.engines.base import TensorInfo
from pyconv.engines.native import NativeEngine
from pyconv.engines.onnxruntime import OnnxRuntimeEngine
from pyconv.graph import reader

FOLDER = Path(onnx.__file__).parent / "backend/test/data/light"
NETWORKS = [
    "bvlc_alexnet",
    "densenet121",
    "inception_v1",
    "inception_v2",
    "resnet50",
    "shufflenet",
    "squeezenet",
    "vgg19",
    "zfnet512",
]


def _users(graph: onnx.GraphProto) -> dict[str, tuple[onnx.NodeProto, int]]:
    """The node that each tensor goes into first, and as which of its inputs."""
    users: dict[str, tuple[onnx.NodeProto, int]] = {}
    for node in graph.node:
        for index, name in enumerate(node.input):
            users.setdefault(name, (node, index))
    return users


def _random(
    shape: tuple[int, ...], role: tuple[str, int], random: np.random.Generator
) -> NDArray[np.float32]:
    """Weights for one of an operator's inputs."""
    operator, index = role
    if operator == "BatchNormalization" and index == 4:
        values = random.uniform(1, 3, shape)  # variances; smaller ones add up over residual blocks
    elif operator == "Mul" or (operator == "BatchNormalization" and index == 1):
        values = random.uniform(0.5, 1.5, shape)
    elif len(shape) > 1:
        # (out, in / groups, height, width) and (out, in): what goes in keeps its variance, half of
        # which the ReLU before it took (He et al. 2015).
        values = random.normal(0, math.sqrt(2 / math.prod(shape[1:])), shape)
    else:
        values = random.normal(0, 0.2, shape)
    return values.astype(np.float32)


def _with_random_weights(name: str, path: Path) -> None:
    """Write one of the networks down with the weights that its ConstantOfShape nodes stand for."""
    model = onnx.load(FOLDER / f"light_{name}.onnx")
    random = np.random.default_rng(NETWORKS.index(name))
    graph = model.graph
    shapes = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    users = _users(graph)
    kept = []
    for node in graph.node:
        if node.op_type != "ConstantOfShape":
            kept.append(node)
            continue
        user, index = users[node.output[0]]
        while user.op_type in ("Unsqueeze", "Reshape"):  # of a factor or addend for each channel
            user, index = users[user.output[0]]
        shape = tuple(map(int, shapes[node.input[0]]))
        values = _random(shape, (user.op_type, index), random)
        graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
    del graph.node[:]
    graph.node.extend(kept)
    # In files of this age the constants are inputs too; those that are left out need not be.
    model.ir_version = 4
    real = [item for item in graph.input if item.name not in shapes]
    del graph.input[:]
    graph.input.extend(real)
    onnx.save(model, path)
    if graph.node[-1].op_type == "Softmax":
        _calm_softmax(model, path)


def _calm_softmax(model: onnx.ModelProto, path: Path) -> None:
    """Scale the last weights such that the logits are about as far apart as trained ones."""
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    logits = graph.node[-1].input[0]
    last = makers[logits]
    while last.op_type not in ("Conv", "Gemm"):
        last = makers[last.input[0]]
    spread = np.std(_run_with_onnxruntime(path, [logits])[logits])
    for item in graph.initializer:
        if item.name in last.input[1:]:
            array = numpy_helper.to_array(item) * np.float32(2 / spread)
            item.CopyFrom(numpy_helper.from_array(array, item.name))
    onnx.save(model, path)


def _run_with_onnxruntime(path: Path, tensors: list[str]) -> dict[str, NDArray[np.float32]]:
    engine = OnnxRuntimeEngine(path)
    return engine.run({info.name: _picture(info) for info in engine.inputs}, tensors)


def _picture(info: TensorInfo) -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(size=info.shape or ()).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_light_model(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"{name}.onnx"
    _with_random_weights(name, path)
    # Operator sets of this age leave open what Dropout's mask is where nothing is dropped.
    tensors = [node.outputs[0] for node in reader.read(path).nodes]
    native = NativeEngine(path)
    feeds = {info.name: _picture(info) for info in native.inputs}
    (output,) = native.run(feeds).values()
    got = native.run(feeds, tensors)
    del native
    want = _run_with_onnxruntime(path, tensors)
    assert list(got) == list(want) == tensors
    for tensor in tensors:
        scale = float(np.abs(want[tensor]).max())
        assert got[tensor].shape == want[tensor].shape, tensor
        assert 1e-3 < scale < 1e4, f"{tensor} is of the scale {scale}: its layer proves little"
        difference = float(np.abs(got[tensor] - want[tensor]).max())
        assert difference <= 1e-4 * scale, f"{tensor} is off by {difference} of {scale}"
    # The program for the output alone is another: more is fused in it.
    np.testing.assert_allclose(output, want[tensors[-1]], rtol=0, atol=1e-4 * output.max())
    if name != "densenet121":  # which ends in logits
        assert output.max() < 0.9, "softmax is saturated"
