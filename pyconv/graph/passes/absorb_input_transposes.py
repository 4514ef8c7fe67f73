"""A convolution brings channels-first maps to channels last itself, a few rows at a time."""

from __future__ import annotations

from pyconv.graph.ir import Graph, Node
from pyconv.graph.passes.eliminate_dead import eliminate_dead

_TO_CHANNELS_LAST = [0, 2, 3, 1]


def absorb_input_transposes(graph: Graph) -> None:
    """Read maps in the layout in which they come.

    conv2d(transpose(x, (0, 2, 3, 1))) → conv2d(x, channels_first=1), where nothing else reads the
    transposed maps
    """
    producers = graph.producers()
    uses = graph.use_counts()

    def rewritten(node: Node) -> Node:
        source = producers.get(node.inputs[0]) if node.op == "conv2d" else None
        if source is None or source.op != "transpose" or uses[source.output] != 1:
            return node
        if list(source.attributes["permutation"]) != _TO_CHANNELS_LAST:
            return node
        return node.with_inputs(*source.inputs, *node.inputs[1:]).with_attributes(channels_first=1)

    graph.nodes = [rewritten(node) for node in graph.nodes]
    eliminate_dead(graph)
