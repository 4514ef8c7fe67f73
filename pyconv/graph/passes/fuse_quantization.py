"""What is rounded to bytes only to become real numbers again need not be stored as bytes."""

from __future__ import annotations

import numpy as np

from pyconv.graph.ir import Graph, Node


def fuse_quantization(graph: Graph) -> None:
    """Round where a file quantizes and dequantizes.

    dequantize(quantize(x, scale, zero), scale, zero) → activation(x, quantize), where both are
    single numbers and zero is of 8 bits
    """
    producers = graph.producers()
    graph.nodes = [_rounded(graph, node, producers.get(node.inputs[0])) for node in graph.nodes]


def _rounded(graph: Graph, node: Node, before: Node | None) -> Node:
    if node.op != "dequantize" or before is None or before.op != "quantize":
        return node
    names = (*node.inputs[1:], *before.inputs[1:])
    if any(name not in graph.constants for name in names):
        return node
    scale, zero_point, other_scale, other_zero_point = (graph.constants[name] for name in names)
    same = np.array_equal(scale, other_scale) and np.array_equal(zero_point, other_zero_point)
    if not same or scale.size != 1 or zero_point.dtype not in (np.int8, np.uint8):
        return node
    step = float(scale.reshape(()))
    if not 0 < step < np.inf:
        return node
    below = int(zero_point.reshape(())) - int(np.iinfo(zero_point.dtype).min)
    attributes = {"activation": "quantize", "alpha": step, "beta": float(below)}
    tensors = before.tensors + node.tensors
    return Node("activation", before.inputs[:1], node.output, attributes, tensors)


def is_quantize(node: Node | None) -> bool:
    """Whether a node rounds to steps."""
    return (
        node is not None and node.op == "activation" and node.attributes["activation"] == "quantize"
    )
