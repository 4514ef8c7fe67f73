"""A factor for each channel goes into the weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyconv.graph.ir import Graph, Node
from pyconv.graph.passes.fusion import LINEAR, channel_constant, fuse, is_plain_linear


def fold_batch_normalization(graph: Graph) -> None:
    """Scale weights once instead of every output.

    conv2d(x, k, b) · f → conv2d(x, k · f, b · f); likewise dense, and division by a constant

    A trained batch normalisation is such a factor and then an addend, which `fuse_bias` takes.
    """

    def merge(linear: Node, node: Node) -> Node | None:
        divided = node.op == "divide" and node.inputs[0] == linear.output
        if not (node.op == "multiply" or divided) or not is_plain_linear(linear):
            return None
        if graph.shape(node.output) != graph.shape(linear.output):
            return None
        other = node.inputs[1] if node.inputs[0] == linear.output else node.inputs[0]
        name = LINEAR[linear.op]
        weights = linear.attributes[name]  # (…, out)
        constant = graph.constants.get(other)
        factor = None if constant is None else channel_constant(constant, weights.shape[-1])
        if factor is None or not np.isfinite(factor).all() or (divided and not factor.all()):
            return None
        factor = np.float32(1) / factor if divided else factor
        scaled: dict[str, Any] = {name: np.ascontiguousarray(weights * factor)}
        if "weight_scales" in linear.attributes:
            # Steps of int8 grow with their weights, and are above zero.
            if not (factor > 0).all():
                return None
            scaled["weight_scales"] = linear.attributes["weight_scales"] * factor
        if linear.attributes.get("bias") is not None:
            scaled["bias"] = np.ascontiguousarray(linear.attributes["bias"] * factor)
        return linear.fused_with(node).with_attributes(**scaled)

    fuse(graph, merge)
