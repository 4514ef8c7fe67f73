"""What follows from constants alone is computed once."""

from __future__ import annotations

from pyconv import _core
from pyconv.graph.ir import Graph, Node


def fold_constants(graph: Graph) -> None:
    """Compute now what every run would compute alike.

    f(constants) → a constant

    An output that was asked for stays a step: a program's outputs are computed.
    """
    wanted = {output.value for output in graph.outputs}
    nodes: list[Node] = []
    for node in graph.nodes:
        arrays = [graph.constants[name] for name in node.inputs if name in graph.constants]
        if not arrays or len(arrays) < len(node.inputs) or node.output in wanted:
            nodes.append(node)
        else:
            graph.constants[node.output] = _core.run_operator(node.op, arrays, node.attributes)
    graph.nodes = nodes
