"""A graph from some of its tensors on: they become inputs, and what made them is left out."""

from __future__ import annotations

from collections.abc import Sequence, Set

import onnx

from pyconv.errors import InputError, unknown_name


def resumed(model: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    """The part of a graph that is left to compute once some tensors are known.

    Args:
        model: the whole; not changed.
        tensors: names of tensors that its nodes make.

    Returns:
        A model with the same outputs whose inputs are these tensors, and those of its own inputs
        that something else still needs. Tensors that no output depends on are no inputs.

    Raises:
        InputError: no node makes a tensor of that name.
    """
    made = {name for node in model.graph.node for name in node.output if name}
    for name in tensors:
        if name not in made:
            raise InputError(unknown_name("tensor", name, sorted(made)))
    inferred = onnx.shape_inference.infer_shapes(model)
    infos = {info.name: info for info in (*inferred.graph.value_info, *inferred.graph.output)}
    needed = {info.name for info in model.graph.output}
    kept = []
    for node in reversed(model.graph.node):
        own = [name for name in node.output if name in needed and name not in tensors]
        if own:
            kept.append(node)
            needed.update(name for name in _reads(node) if name)
    rest = onnx.ModelProto()
    rest.CopyFrom(model)
    del rest.graph.node[:]
    rest.graph.node.extend(reversed(kept))
    _rename_given(rest.graph, frozenset(tensors), made)
    inputs = [info for info in model.graph.input if info.name in needed]
    del rest.graph.input[:]
    rest.graph.input.extend(inputs)
    for name in dict.fromkeys(tensors):
        if name in needed:
            rest.graph.input.append(infos.get(name) or onnx.ValueInfoProto(name=name))
    weights = [weight for weight in model.graph.initializer if weight.name in needed]
    del rest.graph.initializer[:]
    rest.graph.initializer.extend(weights)
    del rest.graph.value_info[:]
    del rest.metadata_props[:]  # layers and pictures are the whole graph's
    return rest


def _rename_given(graph: onnx.GraphProto, given: Set[str], made: Set[str]) -> None:
    """Where a node makes something that is given beside what is needed, nothing reads that."""
    for node in graph.node:
        for place, name in enumerate(node.output):
            if name in given:
                unread = f"{name} as computed"
                while unread in made:
                    unread += "'"
                node.output[place] = unread


def _reads(node: onnx.NodeProto) -> list[str]:
    """What a node reads, its subgraphs too."""
    names = list(node.input)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                names += _reads(inner)
            names += [info.name for info in graph.output]
    return names
