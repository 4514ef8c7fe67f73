"""Reshapes move behind elementwise steps, out of the way of fusion."""

from __future__ import annotations

from pyconv.graph.ir import Graph, Node
from pyconv.graph.native_operators import BINARY
from pyconv.graph.passes.fusion import channel_constant


def sink_reshapes(graph: Graph) -> None:
    """Compute before a reshape what goes element by element.

    activation(reshape(x)) → reshape(activation(x))
    reshape(x) + c → reshape(x + c), c being one number, or one for each channel and the reshape
    leaving the channels alone
    """
    reshapes: dict[str, Node] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        reshape = next((reshapes[name] for name in node.inputs if name in reshapes), None)
        operands = None if reshape is None else _operands(graph, node, reshape)
        if node.op == "reshape":
            reshapes[node.output] = node
        if reshape is None or operands is None:
            nodes.append(node)
            continue
        value = graph.fresh(node.output)
        graph.declare(value, graph.shape(reshape.inputs[0]), graph.dtype(node.output))
        nodes.append(Node(node.op, operands, value, node.attributes, node.tensors))
        moved = Node("reshape", (value,), node.output, reshape.attributes, node.tensors)
        nodes.append(moved)
        reshapes[node.output] = moved
    graph.nodes = nodes


def _operands(graph: Graph, node: Node, reshape: Node) -> tuple[str, ...] | None:
    """What the node would read before the reshape; None where it cannot go there."""
    before, after = graph.shape(reshape.inputs[0]), graph.shape(reshape.output)
    if node.op == "activation":
        return reshape.inputs
    if node.op not in BINARY or graph.shape(node.output) != after or not before or not after:
        return None
    operands = []
    for name in node.inputs:
        if name == reshape.output:
            operands.append(reshape.inputs[0])
            continue
        constant = graph.constants.get(name)
        if constant is None:
            return None
        channels = channel_constant(constant, after[-1])
        if channels is None or (channels.size > 1 and before[-1] != after[-1]):
            return None
        operands.append(graph.add_constant(channels.reshape(-1), name))
    return tuple(operands)
