"""Rounding moves behind a max pool: there is less to round, and the convolution before can pool."""

from __future__ import annotations

from pyconv.graph.ir import Graph, Node
from pyconv.graph.passes.fuse_quantization import is_quantize


def sink_quantization(graph: Graph) -> None:
    """Round after a max pool, and once.

    max_pool2d(quantize(x)) → quantize(max_pool2d(x)), since rounding never changes an order
    quantize(quantize(x)) → quantize(x), where the steps are the same
    """
    uses = graph.use_counts()
    roundings: dict[str, Node] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        before = roundings.get(node.inputs[0])
        if before is not None and node.op == "max_pool2d" and uses[before.output] == 1:
            nodes.remove(before)
            value = graph.fresh(node.output)
            graph.declare(value, graph.shape(node.output))
            nodes.append(Node(node.op, before.inputs, value, node.attributes, node.tensors))
            node = Node(before.op, (value,), node.output, before.attributes, before.tensors)
            node = node.fused_with(Node("max_pool2d", (), node.output, {}, nodes[-1].tensors[-1:]))
        elif before is not None and is_quantize(node) and node.attributes == before.attributes:
            node = node.with_inputs(*before.inputs)
        if is_quantize(node):
            roundings[node.output] = node
        nodes.append(node)
    graph.nodes = nodes
