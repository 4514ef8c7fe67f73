"""What follows from constants alone is computed once."""

from __future__ import annotations

from pyconv import _core
from pyconv.graph.batch import per_image
from pyconv.graph.ir import Graph, Node
from pyconv.graph.limits import MOST_FOLDED
from pyconv.graph.native_operators import flops


def fold_constants(graph: Graph) -> None:
    """Compute now what every run would compute alike.

    f(constants) → a constant

    An output that was asked for stays a step: a program's outputs are computed. So does what would
    take long or much memory now.
    """
    left = MOST_FOLDED
    wanted = {output.value for output in graph.outputs}
    nodes: list[Node] = []
    for node in graph.nodes:
        arrays = [graph.constants[name] for name in node.inputs if name in graph.constants]
        shapes = [array.shape for array in arrays]
        if not arrays or len(arrays) < len(node.inputs) or node.output in wanted:
            nodes.append(node)
            continue
        output = graph.shape(node.output)
        cost = per_image(output) + flops(node.op, node.attributes, shapes, output)
        if cost > left:
            nodes.append(node)
            continue
        left -= cost
        graph.constants[node.output] = _core.run_operator(node.op, arrays, node.attributes)
    graph.nodes = nodes
