"""An activation is applied to what a kernel has just written, while it is in the cache."""

from __future__ import annotations

from pyconv.graph.ir import Graph, Node
from pyconv.graph.passes.fusion import fuse, is_plain_linear


def fuse_activation(graph: Graph) -> None:
    """Let a convolution or dense layer apply the activation that follows it.

    activation(conv2d(x), f) → conv2d(x, activation=f); likewise dense
    """

    def merge(linear: Node, node: Node) -> Node | None:
        if node.op != "activation" or not is_plain_linear(linear):
            return None
        return linear.fused_with(node).with_attributes(**node.attributes)

    fuse(graph, merge)
