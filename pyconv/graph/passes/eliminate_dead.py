"""What nobody needs is not computed."""

from __future__ import annotations

from pyconv.graph.ir import Graph


def eliminate_dead(graph: Graph) -> None:
    """Take out nodes and constants on which no output depends."""
    needed = {output.value for output in graph.outputs}
    kept = []
    for node in reversed(graph.nodes):
        if node.output in needed:
            needed.update(node.inputs)
            kept.append(node)
    graph.nodes = kept[::-1]
    graph.constants = {name: array for name, array in graph.constants.items() if name in needed}
