"""Moving an axis of size 1 moves no element."""

from __future__ import annotations

from pyconv.graph.ir import Graph, Node
from pyconv.graph.passes.permutations import moves_only_unit_axes


def reshape_unit_transposes(graph: Graph) -> None:
    """Make a reshape, which costs nothing, of every transpose that moves only axes of size 1.

    transpose(x of (n, 28, 28, 1), (0, 3, 1, 2)) → reshape(x, (n, 1, 28, 28))
    """
    graph.nodes = [
        Node("reshape", node.inputs, node.output, {"shape": graph.shape(node.output)}, node.tensors)
        if node.op == "transpose"
        and moves_only_unit_axes(graph.shape(node.inputs[0]), node.attributes["permutation"])
        else node
        for node in graph.nodes
    ]
