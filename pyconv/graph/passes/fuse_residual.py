"""What a residual branch is added to is added while the branch's last rows are in the cache."""

from __future__ import annotations

from pyconv.graph.ir import Graph, Node
from pyconv.graph.passes.fusion import fuse, is_plain_linear


def fuse_residual(graph: Graph) -> None:
    """Let a convolution add maps of the shape of its own.

    conv2d(x) + y → conv2d(x, y, residual=1)
    """

    def merge(conv2d: Node, node: Node) -> Node | None:
        if conv2d.op != "conv2d" or node.op != "add" or not is_plain_linear(conv2d):
            return None
        others = [name for name in node.inputs if name != conv2d.output]
        shapes = {graph.shape(name) for name in (*node.inputs, node.output)}
        if len(conv2d.inputs) > 1 or len(others) != 1 or len(shapes) > 1:
            return None
        merged = conv2d.with_inputs(*conv2d.inputs, *others).fused_with(node)
        return merged.with_attributes(residual=1)

    fuse(graph, merge)
