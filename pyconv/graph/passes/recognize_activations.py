"""Activations that a file spells out in arithmetic."""

from __future__ import annotations

import math

from pyconv.graph.ir import Graph, Node
from pyconv.graph.passes.eliminate_dead import eliminate_dead


def recognize_activations(graph: Graph) -> None:
    """Name the activations that exporters write as several operators.

    x · sigmoid(x) → swish(x)
    x · hard_sigmoid(x; 1/6, 1/2) → hard_swish(x)
    relu(x) + c · relu(-x) → prelu(x, -c), for a constant c
    x · 1/2 · (1 + erf(x / √2)), in any order of its factors → gelu(x); likewise 1 - erf(-x / √2)
    """
    producers = graph.producers()
    for index, node in enumerate(graph.nodes):
        if node.op == "add":
            prelu = _prelu(graph, node, producers)
            if prelu is not None:
                graph.nodes[index] = producers[node.output] = prelu
        if node.op != "multiply":
            continue
        found = _gated(node, producers) or _gelu(graph, node, producers)
        if found is not None:
            x, attributes = found
            if graph.shape(x) == graph.shape(node.output):
                named = Node("activation", (x,), node.output, attributes, node.tensors)
                graph.nodes[index] = producers[node.output] = named
    eliminate_dead(graph)  # what only the spelt-out form needed would count as a use


def _gated(node: Node, producers: dict[str, Node]) -> tuple[str, dict[str, object]] | None:
    for x, gate in (node.inputs, node.inputs[::-1]):
        before = producers.get(gate)
        if before is None or before.op != "activation" or before.inputs != (x,):
            continue
        function = before.attributes["activation"]
        if function == "sigmoid":
            return x, {"activation": "swish"}
        slope, offset = before.attributes.get("alpha"), before.attributes.get("beta")
        if function == "hard_sigmoid" and offset == 0.5 and _close(slope, 1 / 6):
            return x, {"activation": "hard_swish"}
    return None


def _prelu(graph: Graph, node: Node, producers: dict[str, Node]) -> Node | None:
    for above, below in (node.inputs, node.inputs[::-1]):
        positive, product = producers.get(above), producers.get(below)
        if positive is None or product is None or product.op != "multiply":
            continue
        for part, slope in (product.inputs, product.inputs[::-1]):
            negative = producers.get(part)
            if negative is None or slope not in graph.constants:
                continue
            opposite = producers.get(negative.inputs[0])
            relus = positive.attributes.get("activation"), negative.attributes.get("activation")
            if relus != ("relu", "relu") or opposite is None or opposite.inputs != positive.inputs:
                continue
            same = graph.shape(node.output) == graph.shape(positive.output)
            if opposite.attributes.get("activation") == "negative" and same:
                slopes = graph.add_constant(-graph.constants[slope], slope)
                inputs = (*positive.inputs, slopes)
                return Node("prelu", inputs, node.output, {}, node.tensors)
    return None


def _gelu(
    graph: Graph, node: Node, producers: dict[str, Node]
) -> tuple[str, dict[str, object]] | None:
    factors = _factors(graph, node, producers)
    scale = math.prod(value for _, value in factors if value is not None)
    names = [name for name, value in factors if value is None]
    if len(names) != 2 or not _close(scale, 0.5):
        return None
    for x, gate in (names, names[::-1]):
        one_and_erf = producers.get(gate)
        if one_and_erf is None or one_and_erf.op not in ("add", "subtract"):
            continue
        erfs = [n for n in one_and_erf.inputs if _scalar(graph, n) is None]
        ones = [n for n in one_and_erf.inputs if _scalar(graph, n) == 1.0]
        erf = producers.get(erfs[0]) if len(erfs) == len(ones) == 1 else None
        if erf is None or erf.attributes.get("activation") != "erf":
            continue
        if one_and_erf.op == "add":
            wanted = math.sqrt(0.5)
        elif one_and_erf.inputs[0] == ones[0]:
            wanted = -math.sqrt(0.5)  # 1 - erf(-z), from the complement erfc
        else:
            continue
        if _close(_quotient(graph, erf.inputs[0], x, producers), wanted):
            return x, {"activation": "gelu"}
    return None


def _factors(
    graph: Graph, node: Node, producers: dict[str, Node]
) -> list[tuple[str, float | None]]:
    """The factors of a product, looking into those that are products, if a number is in either."""
    values = [(name, _scalar(graph, name)) for name in node.inputs]
    result: list[tuple[str, float | None]] = []
    for name, value in values:
        inner = producers.get(name)
        within = [(n, _scalar(graph, n)) for n in inner.inputs] if inner else []
        numbered = any(number is not None for _, number in values + within)
        if inner and inner.op == "multiply" and numbered:
            result += within
        else:
            result.append((name, value))
    return result


def _quotient(graph: Graph, name: str, x: str, producers: dict[str, Node]) -> float | None:
    """The number that x was multiplied by; None where that is not all that was done to it."""
    number = 1.0
    while name != x:
        node = producers.get(name)
        if node is None:
            return None
        if node.attributes.get("activation") == "negative":
            number = -number
            name = node.inputs[0]
            continue
        factors = [_scalar(graph, each) for each in node.inputs]
        if node.op == "multiply" and (factors[0] is None) != (factors[1] is None):
            place = factors.index(None)
            number *= factors[1 - place] or 0.0
        elif node.op == "divide" and factors[0] is None and factors[1]:
            place, number = 0, number / factors[1]
        else:
            return None
        name = node.inputs[place]
    return number


def _scalar(graph: Graph, name: str) -> float | None:
    array = graph.constants.get(name)
    return float(array.reshape(())) if array is not None and array.size == 1 else None


def _close(value: object, wanted: float) -> bool:
    return isinstance(value, float) and math.isclose(value, wanted, rel_tol=1e-6)
