"""Networks to measure that need no training: speed does not depend on what the weights are.

The lesson's networks in the form in which `pyconv train` exports them, and single convolutions as
they stand in VGG, ResNet and MobileNet. The weights are random and scaled as He et al. (2015)
initialise, so that activations neither grow nor vanish.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

_LESSON: Mapping[str, Sequence[int]] = {
    "dense": (),
    "16": (16,),
    "32": (32,),
    "64": (64,),
    "64-64": (64, 64),
    "32-32-32": (32, 32, 32),
    "64-64-64": (64, 64, 64),
}
"""By name: the filters of each convolution, as the lesson varies them."""

_CONV3X3 = (
    *((64, 64, 112), (128, 128, 56), (256, 256, 28), (512, 512, 14), (512, 512, 7)),
    *((32, 32, 112), (64, 64, 56), (128, 128, 28), (256, 256, 14)),
)
"""Channels in, channels out and the side of the map."""

_CONV1X1 = ((64, 256, 56), (256, 64, 56), (512, 128, 28), (32, 64, 112), (96, 24, 56))
_DEPTHWISE = ((32, 32, 112), (144, 144, 56), (576, 576, 14))


class _Graph:
    """An ONNX graph that grows node by node."""

    def __init__(self, name: str, shape: Sequence[int | str]) -> None:
        self._name = name
        self._shape = shape
        self._rng = np.random.default_rng(0)
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self.last = "input"

    def constant(self, values: NDArray[np.generic]) -> str:
        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(values, name))
        return name

    def weights(self, *shape: int) -> str:
        """Random weights for a layer whose sums run over all axes but the first."""
        deviation = np.sqrt(2 / np.prod(shape[1:]))
        return self.constant((self._rng.standard_normal(shape) * deviation).astype(np.float32))

    def bias(self, size: int) -> str:
        return self.constant((self._rng.standard_normal(size) * 0.1).astype(np.float32))

    def add(self, operator: str, *operands: str, **attributes: Any) -> None:
        output = f"{operator.lower()}_{len(self._nodes)}"
        self._nodes.append(
            helper.make_node(operator, [self.last, *operands], [output], output, **attributes)
        )
        self.last = output

    def dense(self, inputs: int, outputs: int, activation: str) -> None:
        deviation = np.sqrt(2 / inputs)
        weights = (self._rng.standard_normal((inputs, outputs)) * deviation).astype(np.float32)
        self.add("MatMul", self.constant(weights))
        self.add("Add", self.bias(outputs))
        self.add(activation)

    def save(self, path: Path) -> None:
        graph = helper.make_graph(
            self._nodes,
            self._name,
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, self._shape)],
            [helper.make_tensor_value_info(self.last, TensorProto.FLOAT, None)],
            self._constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        onnx.save(onnx.shape_inference.infer_shapes(model), str(path))


def _lesson(name: str, filters: Sequence[int]) -> _Graph:
    """(n, 28, 28, 1) through 3×3 convolutions with a 2×2 pool after each, then dense layers."""
    graph = _Graph(name, ["n", 28, 28, 1])
    side, channels = 28, 1
    graph.add("Reshape", graph.constant(np.array([-1, 1, 28, 28])))
    for count in filters:
        graph.add("Conv", graph.weights(count, channels, 3, 3), graph.bias(count))
        graph.add("Relu")
        graph.add("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
        side, channels = (side - 2) // 2, count
    graph.add("Transpose", perm=[0, 2, 3, 1])
    graph.add("Reshape", graph.constant(np.array([-1, side * side * channels])))
    graph.dense(side * side * channels, 128, "Relu")
    graph.dense(128, 10, "Softmax")
    return graph


def _convolution(
    name: str, kernel: int, inputs: int, outputs: int, side: int, groups: int
) -> _Graph:
    """(n, inputs, side, side) through one convolution that keeps the map's size."""
    graph = _Graph(name, ["n", inputs, side, side])
    weights = graph.weights(outputs, inputs // groups, kernel, kernel)
    graph.add("Conv", weights, graph.bias(outputs), pads=[kernel // 2] * 4, group=groups)
    return graph


def _convolutions(
    kernel: int, shapes: Sequence[tuple[int, int, int]], *, depthwise: bool = False
) -> dict[str, Callable[[str], _Graph]]:
    return {
        f"{i}-{o}-{side}": partial(
            _convolution,
            kernel=kernel,
            inputs=i,
            outputs=o,
            side=side,
            groups=i if depthwise else 1,
        )
        for i, o, side in shapes
    }


WORKLOADS: Mapping[str, Mapping[str, Callable[[str], _Graph]]] = {
    "lesson": {name: partial(_lesson, filters=filters) for name, filters in _LESSON.items()},
    "conv3x3": _convolutions(3, _CONV3X3),
    "conv1x1": _convolutions(1, _CONV1X1),
    "depthwise": _convolutions(3, _DEPTHWISE, depthwise=True),
}
"""By name: networks by their names, each with the function that builds it."""


def write(workload: str, folder: Path) -> list[Path]:
    """Write the ONNX files of a workload, one for each of its networks.

    Args:
        workload: one of `WORKLOADS`.
        folder: where the files go; it exists.

    Returns:
        Their paths, in the workload's order, each named after workload and network.
    """
    paths = []
    for name, build in WORKLOADS[workload].items():
        path = folder / f"{workload}-{name}.onnx"
        build(path.stem).save(path)
        paths.append(path)
    return paths
