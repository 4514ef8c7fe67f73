"""What each tensor of a network costs, before anything is fused.

Floating-point operations are counted for one image as `pyconv.graph.native_operators` says; weights
are the elements of the constant float inputs that have an axis. Both are the same whichever engine
runs the network.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pyconv.graph.importer import Network
from pyconv.graph.native_operators import flops


@dataclass(frozen=True, slots=True)
class Cost:
    """What some tensors cost that others do not already pay for.

    Attributes:
        flops: floating-point operations for one image.
        parameters: weights.
        tensors: the ONNX tensors that are computed for them.
    """

    flops: int
    parameters: int
    tensors: frozenset[str]


def split_cost(network: Network, tensors: Iterable[str]) -> Mapping[str, Cost]:
    """Share a network's cost out among some of its tensors.

    Args:
        network: as imported.
        tensors: in the order of the network. Each is charged with all that it needs and no tensor
            before it does.

    Returns:
        The cost of each tensor.
    """
    graph = network.graph
    producers = graph.producers()
    operations: dict[str, int] = defaultdict(int)
    for node in graph.nodes:
        shapes = [graph.shape(name) for name in node.inputs]
        operations[node.output] = flops(node.op, node.attributes, shapes, graph.shape(node.output))
    paid: set[str] = set()
    costs = {}
    for tensor in tensors:
        own: set[str] = set()
        waiting = [tensor]
        while waiting:
            name = waiting.pop()
            if name in producers and name not in paid and name not in own:
                own.add(name)
                waiting += producers[name].inputs
        paid |= own
        made = frozenset(name for value in own for name in producers[value].tensors)
        costs[tensor] = Cost(
            flops=sum(operations[name] for name in own),
            parameters=sum(network.parameters.get(name, 0) for name in own),
            tensors=made,
        )
    return costs
