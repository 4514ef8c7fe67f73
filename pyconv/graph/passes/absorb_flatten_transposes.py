"""A dense layer over flattened channels-first maps reads channels-last maps as well."""

from __future__ import annotations

import numpy as np

from pyconv.graph.ir import Graph, Node
from pyconv.graph.passes.eliminate_dead import eliminate_dead
from pyconv.graph.passes.permutations import inverse


def absorb_flatten_transposes(graph: Graph) -> None:
    """Permute a matrix's rows once, instead of every image.

    dense(flatten(transpose(x)), w) → dense(flatten(x), w with its rows permuted)
    """
    producers = graph.producers()
    nodes: list[Node] = []
    for node in graph.nodes:
        found = _flattened_transpose(graph, node, producers)
        if found is None:
            nodes.append(node)
            continue
        transpose, reshape = found
        maps = graph.shape(transpose.output)[1:]
        weights = node.attributes["weights"]
        back = [axis - 1 for axis in inverse(transpose.attributes["permutation"])[1:]]
        rows = np.arange(weights.shape[0]).reshape(maps).transpose(back).reshape(-1)
        value = graph.fresh(reshape.output)
        graph.declare(value, graph.shape(reshape.output), graph.dtype(reshape.output))
        nodes.append(Node("reshape", transpose.inputs, value, reshape.attributes, reshape.tensors))
        nodes.append(
            node.with_inputs(value).with_attributes(weights=np.ascontiguousarray(weights[rows]))
        )
    graph.nodes = nodes
    eliminate_dead(graph)


def _flattened_transpose(
    graph: Graph, node: Node, producers: dict[str, Node]
) -> tuple[Node, Node] | None:
    reshape = producers.get(node.inputs[0]) if node.op == "dense" else None
    if reshape is None or reshape.op != "reshape":
        return None
    transpose = producers.get(reshape.inputs[0])
    if transpose is None or transpose.op != "transpose":
        return None
    flat, maps = graph.shape(reshape.output), graph.shape(transpose.output)
    one_row_an_image = len(flat) == 2 and flat[0] == maps[0]
    stays = transpose.attributes["permutation"][0] == 0
    return (transpose, reshape) if one_row_an_image and stays else None
