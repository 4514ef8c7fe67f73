"""Reshapes in a row are one, or none."""

from __future__ import annotations

from pyconv.graph.ir import Graph, Node


def merge_reshapes(graph: Graph) -> None:
    """Merge reshapes of reshapes, and drop those to the shape that there is.

    reshape(reshape(x, s), t) → reshape(x, t) → x, where x has the shape t
    """
    reshapes: dict[str, Node] = {}
    names: dict[str, str] = {}
    nodes = []
    for node in graph.nodes:
        node = node.with_inputs(*(names.get(name, name) for name in node.inputs))
        if node.op == "reshape":
            before = reshapes.get(node.inputs[0])
            if before is not None:
                node = node.with_inputs(*before.inputs)
            if graph.shape(node.inputs[0]) == graph.shape(node.output):
                names[node.output] = node.inputs[0]
                continue
            reshapes[node.output] = node
        nodes.append(node)
    graph.nodes = nodes
    graph.rename(names)
