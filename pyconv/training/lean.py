"""Make a converted graph lean: only what the model computes, under names that people can read.

Each layer's output was an extra output of the graph. Here it becomes a note, which tensor holds it
and by which permutation of axes, and the nodes that served it alone go.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from pyconv.training.conversion import Conversion


@dataclass(frozen=True, slots=True)
class LayerTensor:
    """Where a layer's output is: `keras_output = tensor.transpose(axes)`.

    Attributes:
        tensor: the ONNX tensor.
        axes: the permutation.
        shape: Keras' shape without the batch; None for a size that is not fixed.
    """

    tensor: str
    axes: tuple[int, ...]
    shape: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class LeanModel:
    """The result.

    Attributes:
        onnx: the model, its outputs the Keras model's own.
        outputs: their names.
        layers: by layer name, as recorded, where its output is.
        untraced: names of layers whose output is not computed on the way to the model's output.
    """

    onnx: onnx.ModelProto
    outputs: list[str]
    layers: dict[str, LayerTensor]
    untraced: list[str]


def make_lean(conversion: Conversion) -> LeanModel:
    """Turn the extra outputs into notes, drop what is not needed, and name the rest.

    The conversion's own model is changed.
    """
    model = conversion.onnx
    graph = model.graph
    shapes = _shapes(conversion)
    constants = _constants(graph)
    producers = {name: node for node in graph.node for name in node.output}
    found: dict[str, LayerTensor] = {}
    for output, recorded in conversion.layers:
        shape = tuple(recorded.tensor.shape)
        tensor, axes = _trace(output, len(shape), producers, constants, shapes)
        found[recorded.name] = LayerTensor(tensor, axes, shape[1:])

    del graph.output[len(conversion.outputs) :]
    _cancel_permutations(graph, constants, shapes)
    _fix_reshapes(graph, shapes)
    _drop_unused(graph)

    alive = {name for node in graph.node for name in node.output} | {i.name for i in graph.input}
    layers = {name: layer for name, layer in found.items() if layer.tensor in alive}
    renamed = _readable_names(graph, layers)
    _rename(graph, renamed)
    _strip(model)
    onnx.checker.check_model(model)
    return LeanModel(
        model,
        [output.name for output in graph.output],
        {name: dataclasses.replace(at, tensor=renamed[at.tensor]) for name, at in layers.items()},
        [name for name in found if name not in layers],
    )


def _shapes(conversion: Conversion) -> dict[str, tuple[int | None, ...]]:
    """The shapes of tensors, as far as they are known; None for a size that is not fixed."""
    inferred = onnx.shape_inference.infer_shapes(conversion.onnx, data_prop=True).graph
    shapes = {
        item.name: tuple(
            axis.dim_value if axis.HasField("dim_value") else None
            for axis in item.type.tensor_type.shape.dim
        )
        for item in (*inferred.input, *inferred.value_info, *inferred.output)
        if item.type.tensor_type.HasField("shape")
    }
    # Where a shape is computed while the graph runs, Keras knows better.
    for output, recorded in conversion.layers:
        shapes[output] = tuple(recorded.tensor.shape)
    return shapes


def _constants(graph: onnx.GraphProto) -> set[str]:
    return {item.name for item in graph.initializer}


# --- tracing ---------------------------------------------------------------------------------


def _trace(
    tensor: str,
    rank: int,
    producers: Mapping[str, onnx.NodeProto],
    constants: Set[str],
    shapes: Mapping[str, tuple[int | None, ...]],
) -> tuple[str, tuple[int, ...]]:
    """Walk back over nodes that only rename or permute axes."""
    axes = tuple(range(rank))
    while (node := producers.get(tensor)) is not None:
        permutation = _permutation(node, constants, shapes)
        if permutation is None:
            break
        if permutation:
            axes = tuple(permutation[axis] for axis in axes)
        tensor = node.input[0]
    return tensor, axes


def _permutation(
    node: onnx.NodeProto,
    constants: Set[str],
    shapes: Mapping[str, tuple[int | None, ...]],
) -> tuple[int, ...] | None:
    """The permutation that a node performs; () where it does nothing, None where it computes."""
    if node.op_type == "Identity":
        return ()
    if node.op_type == "Transpose":
        return _perm(node)
    if node.op_type == "Reshape" and node.input[1] in constants:
        return unit_axes_permutation(shapes.get(node.input[0]), shapes.get(node.output[0]))
    return None


def unit_axes_permutation(
    before: Sequence[int | None] | None, after: Sequence[int | None] | None
) -> tuple[int, ...] | None:
    """The permutation that a reshape amounts to, where it only moves axes of size 1.

    >>> unit_axes_permutation((None, 1, 26, 26), (None, 26, 26, 1))
    (0, 2, 3, 1)

    Args:
        before: the shape before; None for an unknown size, allowed for the batch (axis 0) alone.
        after: the shape after.

    Returns:
        `p` such that `after[i] == before[p[i]]`, or None where the reshape does more.
    """
    if before is None or after is None or len(before) != len(after) or not before:
        return None
    if before[0] != after[0] or None in before[1:] or None in after[1:]:
        return None
    longer_before = [axis for axis, size in enumerate(before) if axis and size != 1]
    longer_after = [axis for axis, size in enumerate(after) if axis and size != 1]
    if [before[axis] for axis in longer_before] != [after[axis] for axis in longer_after]:
        return None
    unit_before = [axis for axis, size in enumerate(before) if axis and size == 1]
    unit_after = [axis for axis, size in enumerate(after) if axis and size == 1]
    moved = dict(zip([*longer_after, *unit_after], [*longer_before, *unit_before], strict=True))
    return (0, *(moved[axis] for axis in range(1, len(after))))


# --- rewriting -------------------------------------------------------------------------------


def _cancel_permutations(
    graph: onnx.GraphProto, constants: Set[str], shapes: Mapping[str, tuple[int | None, ...]]
) -> None:
    """Take out identities, and permutations that undo one another."""
    origin: dict[str, str] = {}  # of a tensor that is another one: that one
    permuted: dict[str, tuple[str, tuple[int, ...]]] = {}  # of a tensor: which one, and how
    nodes = []
    for node in graph.node:
        permutation = _permutation(node, constants, shapes)
        for place, name in enumerate(node.input):
            node.input[place] = origin.get(name, name)
        if permutation is not None:
            source = node.input[0]
            if permutation and source in permuted:
                source, below = permuted[source]
                permutation = tuple(below[axis] for axis in permutation)
                node = helper.make_node("Transpose", [source], node.output, perm=permutation)
            if list(permutation) == sorted(permutation):
                origin[node.output[0]] = source
                continue
            permuted[node.output[0]] = (source, permutation)
        nodes.append(node)
    # An output needs a tensor of its own: neither the graph's input nor another output's.
    taken = {item.name for item in graph.input}
    for output in graph.output:
        source = origin.get(output.name, output.name)
        if source in taken:
            nodes.append(helper.make_node("Identity", [source], [output.name]))
        else:
            output.name = source
        taken.add(output.name)
    _replace_nodes(graph, nodes)


def _fix_reshapes(graph: onnx.GraphProto, shapes: Mapping[str, tuple[int | None, ...]]) -> None:
    """Give a reshape whose result is known but for the batch that shape as a constant.

    tf2onnx writes Keras' Flatten as seven nodes that compute the shape of their input first.
    """
    constants = _constants(graph)
    for node in graph.node:
        if node.op_type != "Reshape" or node.input[1] in constants:
            continue
        shape = shapes.get(node.output[0])
        if shape is None or shape.count(None) > 1:
            continue
        sizes = np.array([-1 if size is None else size for size in shape], np.int64)
        name = f"{node.output[0]}/shape"
        graph.initializer.append(numpy_helper.from_array(sizes, name))
        node.input[1] = name


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Drop the nodes and weights that no output needs."""
    needed = {output.name for output in graph.output}
    nodes = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(node.input)
    _replace_nodes(graph, nodes[::-1])
    weights = [item for item in graph.initializer if item.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(weights)


def _replace_nodes(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _perm(node: onnx.NodeProto) -> tuple[int, ...]:
    """A transpose's permutation; tf2onnx always writes it."""
    return next(tuple(item.ints) for item in node.attribute if item.name == "perm")


# --- names -----------------------------------------------------------------------------------

_OPERANDS = {
    ("Conv", 1): "kernel",
    ("Conv", 2): "bias",
    ("MatMul", 1): "kernel",
    ("Add", 1): "bias",
    ("Reshape", 1): "shape",
}


def _readable_names(graph: onnx.GraphProto, layers: Mapping[str, LayerTensor]) -> dict[str, str]:
    """New names for all tensors: a layer's output is called as the layer, the rest after it.

    What a layer computes on the way is `layer/Operator`, its weights are `layer/kernel` and so on.
    Where several layers put out one tensor (a Dropout does nothing), the first names it.
    """
    names = {item.name: item.name for item in graph.input}
    used = set(names.values())

    def name(tensor: str, wanted: str) -> None:
        unique, count = wanted, 1
        while unique in used:
            count += 1
            unique = f"{wanted}_{count}"
        used.add(unique)
        names[tensor] = unique

    for layer, at in layers.items():
        if at.tensor not in names:
            name(at.tensor, layer)
    for output in graph.output:
        if output.name not in names:
            name(output.name, "output")
    owners = _owners(graph, names)
    weights = _constants(graph)
    for node in graph.node:
        owner = owners[node.output[0]]
        for place, tensor in enumerate(node.input):
            if tensor in weights and tensor not in names:
                name(tensor, f"{owner}/{_OPERANDS.get((node.op_type, place), 'constant')}")
        for tensor in node.output:
            if tensor not in names:
                name(tensor, f"{owner}/{node.op_type}")
    return names


def _owners(graph: onnx.GraphProto, named: Mapping[str, str]) -> dict[str, str]:
    """For every tensor the layer that it is computed for: the next one downstream."""
    owners: dict[str, str] = {}
    for node in reversed(graph.node):
        for tensor in node.output:
            owner = named.get(tensor) or owners.get(tensor, "output")
            owners[tensor] = owner
        for tensor in node.input:
            owners[tensor] = owners[node.output[0]]
    return owners


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names[name] for name in node.output]
        node.name = node.output[0]
    for weight in graph.initializer:
        weight.name = names[weight.name]
    for output in graph.output:
        output.name = names[output.name]


def _strip(model: onnx.ModelProto) -> None:
    """Leave out what only the converter had a use for."""
    del model.graph.value_info[:]
    model.graph.doc_string = ""
    for node in model.graph.node:
        node.doc_string = ""
    domains = {node.domain for node in model.graph.node}
    imports = [item for item in model.opset_import if item.domain in domains | {""}]
    kept = [onnx.OperatorSetIdProto.FromString(item.SerializeToString()) for item in imports]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    for item in (*model.graph.input, *model.graph.output):
        batch = item.type.tensor_type.shape.dim
        if len(batch) and not batch[0].HasField("dim_value"):
            batch[0].dim_param = "n"
