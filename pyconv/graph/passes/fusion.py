"""What the fusing passes share: finding a node and the only one that uses it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pyconv.graph.batch import Dim
from pyconv.graph.ir import Graph, Node

LINEAR = {"conv2d": "kernel", "conv2d_transpose": "kernel", "dense": "weights"}
"""The operators that end in a sum for each channel, and the attribute with its weights."""


def fuse(graph: Graph, merge: Callable[[Node, Node], Node | None]) -> None:
    """Merge nodes with the ones that consume them.

    Args:
        graph: changed in place.
        merge: from a node and the only user of its output, which nobody asked for, one node that
            does the work of both, made by `Node.fused_with`; None where there is no such node.
    """
    uses = graph.use_counts()
    kept: dict[str, Node] = {}
    for node in graph.nodes:
        for name in node.inputs:
            before = kept.get(name)
            merged = merge(before, node) if before is not None and uses[name] == 1 else None
            if merged is not None:
                del kept[name]
                node = merged
                break
        kept[node.output] = node
    graph.nodes = list(kept.values())


def is_plain_linear(node: Node) -> bool:
    """Whether a node ends in its sums: neither activation nor pool has been fused into it."""
    return (
        node.op in LINEAR
        and node.attributes.get("activation", "linear") == "linear"
        and "pool_size" not in node.attributes
    )


def channel_constant(array: NDArray[np.float32], channels: Dim) -> NDArray[np.float32] | None:
    """A constant as one number for all channels, or one for each; None where it is neither.

    Args:
        array: an operand that broadcasts with (…, channels).
        channels: the size of the last axis.

    Returns:
        A vector of 1 or `channels` elements.
    """
    if array.size == 1:
        return array.reshape(1)
    if array.size == channels != 0 and array.shape[-1] == channels:
        return array.reshape(-1)
    return None
