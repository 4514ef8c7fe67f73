"""A depthwise convolution between maps of channels first works on their planes."""

from __future__ import annotations

from dataclasses import replace

from pyconv.graph.ir import Graph, Node

_TO_CHANNELS_FIRST = (0, 3, 1, 2)


def keep_planes(graph: Graph) -> None:
    """Bring channels neither together nor apart for a depthwise convolution that needs neither.

    output conv2d(x, channels_first=1).transpose(0, 3, 1, 2) →
        output conv2d(x, channels_first=1, output_channels_first=1),
    where nothing else reads it, and it is one that goes by planes: a filter a channel, of 3×3 taps,
    stride 1, a column of padding at either side
    """
    uses = graph.use_counts()
    asked = {output.value: output for output in graph.outputs}

    for place, node in enumerate(graph.nodes):
        output = asked.get(node.output)
        if output is None or uses[node.output] != 1:
            continue
        if output.permutation == _TO_CHANNELS_FIRST and _goes_by_planes(node):
            shape = graph.shape(node.output)
            value = graph.fresh(node.output)
            graph.declare(value, tuple(shape[axis] for axis in _TO_CHANNELS_FIRST))
            node = node.with_attributes(output_channels_first=1)
            graph.nodes[place] = replace(node, output=value)
            graph.outputs[graph.outputs.index(output)] = replace(
                output, value=value, permutation=None
            )


def _goes_by_planes(node: Node) -> bool:
    if node.op != "conv2d" or not node.attributes.get("channels_first"):
        return False
    height, width, depth, filters = node.attributes["kernel"].shape
    pads = node.attributes.get("pads", [0, 0, 0, 0])
    return (
        (height, width, depth) == (3, 3, 1)
        and node.attributes.get("groups", 1) == filters
        and list(node.attributes.get("strides", [1, 1])) == [1, 1]
        and list(node.attributes.get("dilations", [1, 1])) == [1, 1]
        and (pads[1], pads[3]) == (1, 1)
        and "pool_size" not in node.attributes
        and not node.attributes.get("residual")
    )
