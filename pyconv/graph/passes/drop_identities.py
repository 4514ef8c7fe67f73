"""Identity, inference-time Dropout, a Cast to the same type: nothing at all."""

from __future__ import annotations

from pyconv.graph.ir import Graph


def drop_identities(graph: Graph) -> None:
    """Let the users of an identity use what it copies.

    identity(x) → x
    """
    identities = [node for node in graph.nodes if node.op == "identity"]
    graph.remove(identities)
    graph.rename({node.output: node.inputs[0] for node in identities})
