"""A constant of a few channels is repeated, so that arithmetic with it runs in long rows."""

from __future__ import annotations

import math

import numpy as np

from pyconv.graph.ir import Graph

_ARITHMETIC = frozenset({"add", "subtract", "multiply", "divide", "maximum", "minimum"})
_FEW = 16
"""Channels below which a row of the innermost loop costs more than what is computed in it."""


def widen_constants(graph: Graph) -> None:
    """Give a constant a second axis: x - mean, where x is a picture of three channels.

    x (n, height, width, c) ∘ constant (c,) → x ∘ constant (width, c), for c from 2 to 15
    """
    for index, node in enumerate(graph.nodes):
        if node.op not in _ARITHMETIC:
            continue
        shape = graph.shape(node.output)
        if len(shape) < 2:
            continue
        width, channels = shape[-2:]
        if not isinstance(width, int) or not isinstance(channels, int):
            continue
        names = list(node.inputs)
        for place, name in enumerate(names):
            constant = graph.constants.get(name)
            other = graph.shape(names[1 - place])
            if constant is None or other != shape or not 1 < channels < _FEW or width == 1:
                continue
            if constant.shape[-1:] == (channels,) and math.prod(constant.shape) == channels:
                wide = np.broadcast_to(constant.reshape(channels), (width, channels))
                names[place] = graph.add_constant(wide, name)
        graph.nodes[index] = node.with_inputs(*names)
