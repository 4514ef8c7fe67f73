"""Transposes move towards the outputs, until they meet their opposites."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pyconv.graph.ir import Graph, Node
from pyconv.graph.native_operators import BINARY, COMPARISONS, LOGICAL
from pyconv.graph.passes.cancel_transposes import merged_transpose
from pyconv.graph.passes.permutations import (
    Permutation,
    inverse,
    is_identity,
    moves_only_unit_axes,
    permuted,
)


def sink_transposes(graph: Graph) -> None:
    """Compute on the far side of a transpose what can be computed there as well.

    f(transpose(x, p)) → transpose(f'(x), p), where f' is f with its axes renamed

    Of several operands all must be transposed alike; a constant is permuted now, and a computed
    operand that would have only axes of size 1 moved is reshaped, which costs nothing.
    """
    transposes: dict[str, Node] = {}
    names: dict[str, str] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        node = node.with_inputs(*(names.get(name, name) for name in node.inputs))
        for made in _sunk(graph, node, transposes) or [node]:
            if made.op == "transpose":
                made = merged_transpose(made, transposes)
                if is_identity(made.attributes["permutation"]):
                    names[made.output] = made.inputs[0]
                    continue
                transposes[made.output] = made
            nodes.append(made)
    graph.nodes = nodes
    graph.rename(names)


def _sunk(graph: Graph, node: Node, transposes: Mapping[str, Node]) -> list[Node] | None:
    """The nodes to have instead of one that follows transposes; None where it must stay."""
    sink = _SINKS.get(node.op)
    if sink is None:
        return None
    permutations = {
        transposes[name].attributes["permutation"] for name in node.inputs if name in transposes
    }
    if len(permutations) != 1:
        return None
    permutation = permutations.pop()
    changed = sink(graph, node, permutation)
    if changed is None:
        return None
    inner, outer = changed
    reshapes, operands = [], []
    for name in node.inputs:
        if name in transposes:
            operands.append(transposes[name].inputs[0])
            continue
        operand = _on_the_far_side(graph, name, permutation, node)
        if operand is None:
            return None
        if isinstance(operand, Node):
            reshapes.append(operand)
            operand = operand.output
        operands.append(operand)
    value = graph.fresh(node.output)
    shape = graph.shape(node.output)
    graph.declare(value, permuted(shape, inverse(outer)), graph.dtype(node.output))
    return [
        *reshapes,
        Node(node.op, tuple(operands), value, inner.attributes, node.tensors),
        Node("transpose", (value,), node.output, {"permutation": outer}, node.tensors),
    ]


def _on_the_far_side(
    graph: Graph, name: str, permutation: Permutation, node: Node
) -> str | Node | None:
    """An operand that no transpose made, as it has to be where the transposes have not yet been."""
    back = inverse(permutation)
    if name in graph.constants:
        array = graph.constants[name]
        if array.ndim > len(permutation):
            return None
        full = array.reshape((1,) * (len(permutation) - array.ndim) + array.shape)
        return graph.add_constant(full.transpose(back), name)
    shape = graph.shape(name)
    if len(shape) != len(permutation) or not moves_only_unit_axes(shape, back):
        return None
    value = graph.fresh(name)
    graph.declare(value, permuted(shape, back), graph.dtype(name))
    return Node("reshape", (name,), value, {"shape": graph.shape(value)}, node.tensors)


# For each operator: the node with its axes renamed, and the permutation that comes after it; None
# where it cannot be computed before the transpose.
_Sink = Callable[[Graph, Node, Permutation], tuple[Node, Permutation] | None]


def _unchanged(graph: Graph, node: Node, permutation: Permutation) -> tuple[Node, Permutation]:
    return node, permutation


def _broadcasting(
    graph: Graph, node: Node, permutation: Permutation
) -> tuple[Node, Permutation] | None:
    if len(graph.shape(node.output)) != len(permutation):
        return None
    return node, permutation


def _one_axis(graph: Graph, node: Node, permutation: Permutation) -> tuple[Node, Permutation]:
    return node.with_attributes(axis=permutation[node.attributes["axis"]]), permutation


def _pads(graph: Graph, node: Node, permutation: Permutation) -> tuple[Node, Permutation]:
    pads, rank, back = node.attributes["pads"], len(permutation), inverse(permutation)
    ends = [pads[rank + axis] for axis in back]
    return node.with_attributes(pads=[pads[axis] for axis in back] + ends), permutation


def _ranges(graph: Graph, node: Node, permutation: Permutation) -> tuple[Node, Permutation]:
    back = inverse(permutation)
    names = ("starts", "sizes", "steps")
    renamed = {name: [node.attributes[name][axis] for axis in back] for name in names}
    return node.with_attributes(**renamed), permutation


def _taken(graph: Graph, node: Node, permutation: Permutation) -> tuple[Node, Permutation]:
    axes = [permutation[axis] for axis in node.attributes["axes"]]
    return node.with_attributes(axes=axes), permutation


def _reduced(graph: Graph, node: Node, permutation: Permutation) -> tuple[Node, Permutation]:
    axes = [permutation[axis] for axis in node.attributes["axes"]]
    inner = node.with_attributes(axes=sorted(axes))
    if node.attributes["keepdims"]:
        return inner, permutation
    # Renumber what is left of the axes.
    left = [axis for axis in permutation if axis not in axes]
    return inner, tuple(sorted(left).index(axis) for axis in left)


def _last_axis(
    graph: Graph, node: Node, permutation: Permutation
) -> tuple[Node, Permutation] | None:
    return (node, permutation) if permutation[-1] == len(permutation) - 1 else None


def _unit_axes(
    graph: Graph, node: Node, permutation: Permutation
) -> tuple[Node, Permutation] | None:
    """A reshape that only adds and drops axes of size 1, as `Squeeze` does."""
    before, after = graph.shape(node.inputs[0]), graph.shape(node.output)
    if [size for size in before if size != 1] != [size for size in after if size != 1]:
        return None
    # Every larger axis goes where it was before the transpose; an axis of size 1 stays with the
    # larger axis that follows it.
    came_from = iter(permutation[axis] for axis, size in enumerate(before) if size != 1)
    places = [next(came_from) if size != 1 else -1 for size in after]
    following = len(before)
    for axis in reversed(range(len(after))):
        following = places[axis] = following if places[axis] == -1 else places[axis]
    order = sorted(range(len(after)), key=lambda axis: (places[axis], after[axis] != 1, axis))
    return node.with_attributes(shape=permuted(after, order)), inverse(order)


_SINKS: Mapping[str, _Sink] = {
    "activation": _unchanged,
    "cast": _unchanged,
    "concat": _one_axis,
    "dense": _last_axis,
    "dequantize": _broadcasting,
    "log_softmax": _one_axis,
    "pad": _pads,
    "prelu": _broadcasting,
    "quantize": _broadcasting,
    "reduce": _reduced,
    "resample": _one_axis,
    "reshape": _unit_axes,
    "slice": _ranges,
    "softmax": _one_axis,
    "take": _taken,
    "where": _broadcasting,
    **dict.fromkeys((*BINARY, *COMPARISONS, *LOGICAL), _broadcasting),
}
