"""Transposes in a row are one, or none."""

from __future__ import annotations

from pyconv.graph.ir import Graph, Node
from pyconv.graph.passes.permutations import composed, is_identity


def cancel_transposes(graph: Graph) -> None:
    """Merge transposes of transposes, and drop those that move nothing.

    transpose(transpose(x, p), q) → transpose(x, p∘q) → x, where that is the identity
    """
    transposes: dict[str, Node] = {}
    names: dict[str, str] = {}
    nodes = []
    for node in graph.nodes:
        node = node.with_inputs(*(names.get(name, name) for name in node.inputs))
        if node.op == "transpose":
            node = merged_transpose(node, transposes)
            if is_identity(node.attributes["permutation"]):
                names[node.output] = node.inputs[0]
                continue
            transposes[node.output] = node
        nodes.append(node)
    graph.nodes = nodes
    graph.rename(names)


def merged_transpose(node: Node, transposes: dict[str, Node]) -> Node:
    """A transpose, reading from before the one that it follows, if it follows one."""
    before = transposes.get(node.inputs[0])
    if before is None:
        return node
    permutation = composed(before.attributes["permutation"], node.attributes["permutation"])
    return node.with_inputs(*before.inputs).with_attributes(permutation=permutation)
