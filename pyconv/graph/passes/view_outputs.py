"""A transpose that only an output waits for is left to NumPy."""

from __future__ import annotations

from dataclasses import replace

from pyconv.graph.ir import Graph
from pyconv.graph.passes.permutations import composed


def view_outputs(graph: Graph) -> None:
    """Hand out a transposed output as a strided view of what it is the transpose of."""
    producers = graph.producers()
    outputs = []
    for output in graph.outputs:
        node = producers.get(output.value)
        while node is not None and node.op == "transpose":
            permutation = tuple(node.attributes["permutation"])
            if output.permutation is not None:
                permutation = composed(permutation, output.permutation)
            output = replace(output, value=node.inputs[0], permutation=permutation)
            node = producers.get(output.value)
        outputs.append(output)
    graph.outputs = outputs
