"""Where every pixel is a row of one matrix, each image gets an axis of its own again."""

from __future__ import annotations

from pyconv.graph.batch import Batch, BatchError, Shape
from pyconv.graph.batch import text as shape_text
from pyconv.graph.ir import Graph, Node
from pyconv.graph.native_operators import BINARY

_ROW_BY_ROW = ("activation", "dense", "identity", *BINARY)
"""Operators that make of a row what they make of it wherever it stands, their attributes alike."""


def split_rows(graph: Graph) -> None:
    """Give each image an axis of its own where the rows of all lie in one.

    reshape(x, (k·n, c)) → reshape(x, (n, k, c)), and so on through what goes row by row

    Exporters write a dense layer over maps as such a reshape, a product of matrices and a reshape
    back.

    Raises:
        BatchError: something else reads or makes such rows, or they were asked for.
    """
    split = {value for value, type_ in graph.types.items() if _images(type_.shape) > 1}
    for output in graph.outputs:
        if output.value in split:
            raise BatchError(f"{output.name} has the shape {shape_text(graph.shape(output.value))}")
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.op == "reshape":
            node = node.with_attributes(shape=_split(graph.shape(node.output)))
        elif not split.isdisjoint((*node.inputs, node.output)) and node.op not in _ROW_BY_ROW:
            rows = shape_text(graph.shape(node.inputs[0]))
            raise BatchError(f"{node.op} of {rows} that makes {node.tensors[-1]}")
        nodes.append(node)
    graph.nodes = nodes
    for value in split:
        graph.declare(value, _split(graph.shape(value)), graph.dtype(value))


def _images(shape: Shape) -> int:
    """How many rows of axis 0 are of one image; 0 where there is no batch."""
    return shape[0].factor if shape and isinstance(shape[0], Batch) else 0


def _split(shape: Shape) -> Shape:
    return (Batch(), _images(shape), *shape[1:]) if _images(shape) > 1 else shape
