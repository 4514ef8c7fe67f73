"""A constant added to each channel becomes the bias."""

from __future__ import annotations

import numpy as np

from pyconv.graph.ir import Graph, Node
from pyconv.graph.passes.fusion import LINEAR, channel_constant, fuse, is_plain_linear


def fuse_bias(graph: Graph) -> None:
    """Let a convolution or dense layer start its sums at the constant that is added to them.

    conv2d(x, bias=b) + c → conv2d(x, bias=b + c); likewise dense, and subtraction of a constant
    """

    def merge(linear: Node, node: Node) -> Node | None:
        subtracted = node.op == "subtract" and node.inputs[0] == linear.output
        if not (node.op == "add" or subtracted) or not is_plain_linear(linear):
            return None
        if graph.shape(node.output) != graph.shape(linear.output):
            return None
        other = node.inputs[1] if node.inputs[0] == linear.output else node.inputs[0]
        channels = linear.attributes[LINEAR[linear.op]].shape[-1]
        constant = graph.constants.get(other)
        addend = None if constant is None else channel_constant(constant, channels)
        if addend is None:
            return None
        bias = linear.attributes.get("bias")
        total = np.zeros(channels, np.float32) if bias is None else bias
        total = total - addend if subtracted else total + addend
        return linear.fused_with(node).with_attributes(bias=np.ascontiguousarray(total))

    fuse(graph, merge)
