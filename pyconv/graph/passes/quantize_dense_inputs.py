"""A dense layer of int8 weights multiplies integers where what it reads has been rounded."""

from __future__ import annotations

from pyconv.graph.ir import Graph, Node
from pyconv.graph.passes.fuse_quantization import is_quantize

MOST_TERMS = 65_000
"""The native integer product's sums are of 32 bits."""


def quantize_dense_inputs(graph: Graph) -> None:
    """Let a dense layer round its own input, in passing.

    dense(quantize(x), int8 weights) → dense(x, int8 weights, x_scale, x_below); likewise where the
    rounded tensor is reshaped in between
    """
    producers = graph.producers()
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.op == "dense" and node.attributes.get("storage") == "int8":
            reshapes, rounding = _before(producers, node.inputs[0])
            if is_quantize(rounding) and node.attributes["weights"].shape[0] <= MOST_TERMS:
                node = _rounding_itself(graph, node, reshapes, rounding, nodes)
        nodes.append(node)
    graph.nodes = nodes


def _before(producers: dict[str, Node], value: str) -> tuple[list[Node], Node | None]:
    """The reshapes, first to last, that lead to a value, and what comes before them."""
    reshapes: list[Node] = []
    node = producers.get(value)
    while node is not None and node.op == "reshape":
        reshapes.insert(0, node)
        node = producers.get(node.inputs[0])
    return reshapes, node


def _rounding_itself(
    graph: Graph, dense: Node, reshapes: list[Node], rounding: Node | None, nodes: list[Node]
) -> Node:
    assert rounding is not None
    source = rounding.inputs[0]
    for reshape in reshapes:
        value = graph.fresh(reshape.output)
        graph.declare(value, graph.shape(reshape.output))
        nodes.append(Node("reshape", (source,), value, reshape.attributes, reshape.tensors))
        source = value
    step, below = rounding.attributes["alpha"], int(rounding.attributes["beta"])
    rounded = dense.with_inputs(source).with_attributes(x_scale=step, x_below=below)
    return Node(
        rounded.op,
        rounded.inputs,
        rounded.output,
        rounded.attributes,
        rounding.tensors + dense.tensors,
    )
