"""Layer normalisation that a file spells out in arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pyconv.graph.batch import has_batch
from pyconv.graph.ir import Graph, Node
from pyconv.graph.passes.eliminate_dead import eliminate_dead
from pyconv.graph.passes.fusion import fuse


def recognize_normalization(graph: Graph) -> None:
    """Name the layer normalisation that exporters write as a dozen operators.

    With m the mean of x along its last axes, v that of (x - m)², and s = √(v + ε):

    (x - m) / s → layer_normalization(x), and so is (x - m) · (1 / s)
    x · f + (b - m · f), where f = g / s → layer_normalization(x, scale=g, bias=b)
    layer_normalization(x) · g + b → layer_normalization(x, scale=g, bias=b)
    """
    search = _Search(graph, graph.producers())
    for index, node in enumerate(graph.nodes):
        named = search.quotient(node) or search.sum(node)
        if named is not None:
            graph.nodes[index] = search.producers[node.output] = named
    eliminate_dead(graph)
    fuse(graph, lambda before, node: _scaled(graph, before, node))


@dataclass(frozen=True, slots=True)
class _Search:
    graph: Graph
    producers: dict[str, Node]

    def quotient(self, node: Node) -> Node | None:
        """(x - m) / s."""
        if node.op == "divide":
            pairs = [(node.inputs[0], self._deviation(node.inputs[1]))]
        elif node.op == "multiply":
            pairs = [(a, self._inverse_deviation(b)) for a, b in _both_ways(node)]
        else:
            return None
        for centred, deviation in pairs:
            difference = self._made(centred, "subtract")
            if deviation is None or difference is None:
                continue
            x, mean, axis, epsilon = deviation
            if difference.inputs == (x, mean):
                return self._named(node, x, axis, epsilon)
        return None

    def sum(self, node: Node) -> Node | None:
        """x · f + (b - m · f)."""
        if node.op != "add":
            return None
        for product, rest in _both_ways(node):
            scaled = self._made(product, "multiply")
            if scaled is None:
                continue
            for x, factor in _both_ways(scaled):
                found = self._factor(factor)
                if found is None or found[0] != x:
                    continue
                _, mean, axis, epsilon, scale = found
                bias = self._bias(rest, mean, factor)
                if bias is not None:
                    return self._named(node, x, axis, epsilon, scale, bias)
        return None

    def _bias(self, value: str, mean: str, factor: str) -> NDArray[np.float32] | None:
        """b of b - m · f; zeros where there is none."""
        addition = self._made(value, "add")
        for product, constant in _both_ways(addition) if addition else ():
            if constant in self.graph.constants and self._is_opposite(product, mean, factor):
                return self.graph.constants[constant]
        return np.zeros(1, np.float32) if self._is_opposite(value, mean, factor) else None

    def _is_opposite(self, value: str, mean: str, factor: str) -> bool:
        """Whether a value is -m · f."""
        product = self._made(value, "multiply")
        for negative, other in _both_ways(product) if product else ():
            opposite = self._activation(negative, "negative")
            if other == factor and opposite is not None and opposite.inputs == (mean,):
                return True
        return False

    def _factor(self, value: str) -> tuple[str, str, int, float, NDArray[np.float32] | None] | None:
        """x, m, axis, ε and g of g / s."""
        plain = self._inverse_deviation(value)
        if plain is not None:
            return *plain, None
        product = self._made(value, "multiply")
        for inverse, scale in _both_ways(product) if product else ():
            found = self._inverse_deviation(inverse)
            if found is not None and scale in self.graph.constants:
                return *found, self.graph.constants[scale]
        return None

    def _inverse_deviation(self, value: str) -> tuple[str, str, int, float] | None:
        inverse = self._activation(value, "reciprocal")
        return None if inverse is None else self._deviation(inverse.inputs[0])

    def _deviation(self, value: str) -> tuple[str, str, int, float] | None:
        """x, m, axis and ε of √(v + ε)."""
        root = self._activation(value, "sqrt")
        addition = self._made(root.inputs[0], "add") if root else None
        for variance, constant in _both_ways(addition) if addition else ():
            epsilon = self.graph.constants.get(constant)
            mean_square = self._mean(variance)
            if epsilon is None or epsilon.size != 1 or mean_square is None:
                continue
            difference = self._square_root(mean_square[0])
            centred = self._made(difference, "subtract") if difference else None
            mean = self._mean(centred.inputs[1]) if centred else None
            if centred and mean and mean == (centred.inputs[0], mean_square[1]):
                x, centre = centred.inputs
                return x, centre, mean[1], float(epsilon.reshape(()))
        return None

    def _square_root(self, value: str) -> str | None:
        """d of d · d or of d to the power of two."""
        square = self._made(value, "multiply")
        if square is not None:
            return square.inputs[0] if square.inputs[0] == square.inputs[1] else None
        power = self._made(value, "power")
        exponent = self.graph.constants.get(power.inputs[1]) if power else None
        two = exponent is not None and exponent.size == 1 and exponent.reshape(()) == 2
        return power.inputs[0] if power and two else None

    def _mean(self, value: str) -> tuple[str, int] | None:
        """What a value is the mean of, and the first of the last axes that it is taken along."""
        node = self._made(value, "reduce")
        if node is None or node.attributes["function"] != "mean" or not node.attributes["keepdims"]:
            return None
        axes, rank = list(node.attributes["axes"]), len(self.graph.shape(value))
        return (node.inputs[0], axes[0]) if axes and axes == [*range(axes[0], rank)] else None

    def _made(self, value: str, op: str) -> Node | None:
        node = self.producers.get(value)
        return node if node is not None and node.op == op else None

    def _activation(self, value: str, name: str) -> Node | None:
        node = self._made(value, "activation")
        return node if node is not None and node.attributes["activation"] == name else None

    def _named(
        self,
        node: Node,
        x: str,
        axis: int,
        epsilon: float,
        scale: NDArray[np.float32] | None = None,
        bias: NDArray[np.float32] | None = None,
    ) -> Node | None:
        parameters = {
            name: _row(self.graph, x, axis, array)
            for name, array in (("scale", scale), ("bias", bias))
            if array is not None
        }
        shapes_differ = self.graph.shape(x) != self.graph.shape(node.output)
        if shapes_differ or any(array is None for array in parameters.values()):
            return None
        attributes = {"axis": axis, "epsilon": epsilon, **parameters}
        return Node("layer_normalization", (x,), node.output, attributes, node.tensors)


def _both_ways(node: Node) -> tuple[tuple[str, str], tuple[str, str]]:
    a, b = node.inputs
    return (a, b), (b, a)


def _row(graph: Graph, x: str, axis: int, array: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """A constant that is the same for every row of x, as one row; None where it is not."""
    shape = graph.shape(x)
    if has_batch(shape[axis:]) or any(size != 1 for size in array.shape[: -(len(shape) - axis)]):
        return None
    own = array.reshape(array.shape[-(len(shape) - axis) :])
    try:
        return np.ascontiguousarray(np.broadcast_to(own, [*map(int, shape[axis:])]))
    except ValueError:
        return None


def _scaled(graph: Graph, before: Node, node: Node) -> Node | None:
    """layer_normalization(x) · g, or + b, as one node."""
    if before.op != "layer_normalization" or node.op not in ("multiply", "add"):
        return None
    other = node.inputs[1] if node.inputs[0] == before.output else node.inputs[0]
    if other not in graph.constants or graph.shape(node.output) != graph.shape(before.output):
        return None
    row = _row(graph, before.output, before.attributes["axis"], graph.constants[other])
    if row is None:
        return None
    given: Mapping[str, NDArray[np.float32]] = before.attributes
    scale, bias = given.get("scale"), given.get("bias")
    if node.op == "add":
        changed = {"bias": row if bias is None else bias + row}
    else:
        changed = {"scale": row if scale is None else scale * row}
        if bias is not None:
            changed["bias"] = bias * row
    return before.fused_with(node).with_attributes(**changed)
