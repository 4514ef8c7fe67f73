"""Depthwise and 1×1 convolutions between maps of channels first work on their planes."""

from __future__ import annotations

from dataclasses import replace

from pyconv.graph.ir import Graph, Node

_TO_CHANNELS_FIRST = (0, 3, 1, 2)
# Of more channels than this, two vectors of pixels leave the first-level cache before the next
# filters need them again; then it is as well to bring the channels together.
_MOST_CHANNELS = 128


def keep_planes(graph: Graph) -> None:
    """Bring channels neither together nor apart for a convolution that needs neither.

    output conv2d(x, channels_first=1).transpose(0, 3, 1, 2) →
        output conv2d(x, channels_first=1, output_channels_first=1),
    where nothing else reads it, and it is one that goes by planes: a filter a channel, of 3×3 taps,
    stride 1, a column of padding at either side; or 1×1 taps of few channels without
    strides, padding and groups
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
    attributes = node.attributes
    if node.op != "conv2d" or not attributes.get("channels_first"):
        return False
    if "pool_size" in attributes or attributes.get("residual"):
        return False
    if list(attributes.get("strides", [1, 1])) != [1, 1]:
        return False
    if list(attributes.get("dilations", [1, 1])) != [1, 1]:
        return False
    height, width, depth, filters = attributes["kernel"].shape
    groups = attributes.get("groups", 1)
    pads = list(attributes.get("pads", [0, 0, 0, 0]))
    depthwise = (height, width, depth) == (3, 3, 1) and groups == filters
    pointwise = (height, width, groups) == (1, 1, 1) and depth <= _MOST_CHANNELS
    return (depthwise and pads[1::2] == [1, 1]) or (pointwise and pads == [0, 0, 0, 0])
