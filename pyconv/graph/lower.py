"""IR → the native program that computes it."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyconv import _core
from pyconv.engines.base import WeightStorage
from pyconv.errors import InputError, ModelError
from pyconv.graph.batch import Batch, Shape, per_image
from pyconv.graph.ir import Graph
from pyconv.graph.limits import check_memory


def lower(
    graph: Graph,
    inputs: list[str],
    outputs: list[str],
    threads: int,
    exact: bool = False,
    weights: WeightStorage = "float32",
) -> _core.Program:
    """Build the program.

    Args:
        graph: after the passes.
        inputs: the values that each run is given, in order.
        outputs: the values that each run returns, in order, each once.
        threads: how many threads a run may use.
        exact: whether convolutions keep to direct products.
        weights: how dense layers keep their weights, where the file does not say it itself.

    Raises:
        ModelError: the native engine refuses a step.
    """
    check_memory("the weights of all steps", weight_bytes(graph))
    check_memory("the tables of what goes where", table_bytes(graph))
    try:
        builder = _core.ProgramBuilder()
        ids = _add_steps(builder, graph, inputs, exact, weights)
        program = builder.build([ids[name] for name in outputs], threads=threads)
    except InputError as error:
        raise ModelError(str(error)) from error
    except MemoryError as error:
        raise ModelError(str(error) or "there is no memory for it") from error
    check_memory("what a run needs while it goes on", threads * program.arena_bytes)
    return program


def weight_bytes(graph: Graph) -> int:
    """Bytes of all constants, each counted for every node that has it among its attributes."""
    arrays = [value for node in graph.nodes for value in node.attributes.values()]
    return sum(
        array.nbytes
        for array in (*graph.constants.values(), *arrays)
        if isinstance(array, np.ndarray)
    )


_WITH_TABLES = ("pad", "patches", "reduce", "slice", "take", "transpose")


def table_bytes(graph: Graph) -> int:
    """Bytes of the lists of places that operators which move elements make, at most."""
    elements = 0
    for node in graph.nodes:
        if node.op in _WITH_TABLES:
            elements += max(per_image(graph.shape(name)) for name in (*node.inputs, node.output))
    return 8 * elements


def _add_steps(
    builder: _core.ProgramBuilder,
    graph: Graph,
    inputs: list[str],
    exact: bool,
    weights: WeightStorage,
) -> dict[str, int]:
    """Hand the whole graph to the builder; returns the builder's number for each value."""
    ids: dict[str, int] = {}
    for name in (*inputs, *graph.constants):
        try:
            if name in graph.constants:
                ids[name] = builder.constant(graph.constants[name])
            else:
                sizes = native_shape(graph.shape(name))
                ids[name] = builder.input(name, sizes, graph.dtype(name))
        except InputError as error:
            raise ModelError(f"{name!r}: {error}") from error
    for node in graph.nodes:
        operands = [ids[name] for name in node.inputs]
        attributes = {name: _native(value) for name, value in node.attributes.items()}
        if node.op == "conv2d":
            attributes["exact"] = int(exact)
        elif node.op == "dense":
            attributes.setdefault("storage", weights)
        shape = graph.shape(node.output)
        try:
            ids[node.output] = builder.add(node.op, operands, attributes, name=node.tensors[-1])
        except InputError as error:
            raise ModelError(f"the step that computes {node.tensors[-1]!r}: {error}") from error
        expected = (graph.dtype(node.output), native_shape(shape))
        made = (builder.dtype(ids[node.output]), builder.shape(ids[node.output]))
        if made != expected:
            raise AssertionError(
                f"the compiler takes {node.output!r} for {graph.types[node.output]}, "
                f"the native {node.op} makes {made[0]} {made[1]}"
            )
    return ids


def native_shape(shape: Shape) -> list[int]:
    """A shape as the native engine writes it: -1 for the batch."""
    return [-1 if isinstance(size, Batch) else size for size in shape]


def _native(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return np.ascontiguousarray(value, np.float32)
    if isinstance(value, list | tuple):
        return native_shape(tuple(value))
    return value
