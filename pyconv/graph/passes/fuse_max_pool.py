"""A max pool reads the rows that a convolution has just written, and nothing else need be kept."""

from __future__ import annotations

from pyconv.graph.ir import Graph, Node
from pyconv.graph.passes.fusion import fuse


def fuse_max_pool(graph: Graph) -> None:
    """Let a convolution pool its own output.

    max_pool2d(conv2d(x), size, strides) → conv2d(x, pool_size=size, pool_strides=strides), where
    the pool has no pads, no dilation and no window that hangs over the end
    """

    def merge(conv2d: Node, node: Node) -> Node | None:
        if node.op != "max_pool2d" or conv2d.op != "conv2d" or "pool_size" in conv2d.attributes:
            return None
        if "residual" in conv2d.attributes:
            return None
        pool = node.attributes
        if any(pool["pads"]) or pool["ceil_mode"] or pool["dilations"] != [1, 1]:
            return None
        return conv2d.fused_with(node).with_attributes(
            pool_size=pool["kernel_size"], pool_strides=pool["strides"]
        )

    fuse(graph, merge)
