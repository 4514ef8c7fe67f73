"""Checked ONNX contents → IR, for given input shapes.

What is known when the model is loaded is computed here and never again; every other node goes
through its operator's import function.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyconv.errors import ModelError, UnsupportedOperatorError
from pyconv.graph.batch import Batch, BatchError, Dim, Shape, element_count, has_batch
from pyconv.graph.constants import EVALUATED, Known, evaluate
from pyconv.graph.ir import Graph
from pyconv.graph.limits import Allowance, brief
from pyconv.graph.operators import OPERATORS, Context, Unsupported, ValueNeeded
from pyconv.graph.reader import OnnxFile, OnnxNode


@dataclass(slots=True)
class Network:
    """An ONNX graph in the IR, before anybody has said what is wanted of it.

    Attributes:
        graph: every computed tensor; it has no outputs yet.
        known: every tensor that is known without running anything, weights included.
        given: inputs of the graph that it was imported for, with their elements.
        parameters: by ONNX tensor, how many weights its node has: elements of the constant float
            inputs that have an axis.
    """

    graph: Graph
    known: dict[str, Known]
    given: dict[str, Known] = field(default_factory=dict)
    parameters: dict[str, int] = field(default_factory=dict)

    def shape(self, tensor: str) -> Shape | None:
        """The shape of an ONNX tensor; None where the graph has no such tensor."""
        if tensor in self.known:
            return tuple(self.known[tensor].values.shape)
        return self.graph.shape(tensor) if tensor in self.graph.types else None

    def dtype(self, tensor: str) -> str:
        """The dtype of an ONNX tensor that has a shape, as NumPy names it."""
        if tensor in self.known:
            return str(self.known[tensor].values.dtype)
        return self.graph.dtype(tensor)


_NONSENSE = (
    ArithmeticError,
    AttributeError,
    IndexError,
    KeyError,
    MemoryError,
    TypeError,
    ValueError,
)
"""What a node raises on its way in whose attributes or inputs are not what ONNX says."""


def refuse_missing_operators(file: OnnxFile) -> None:
    """Look for operators that the native engine lacks, whatever the shapes of the inputs.

    Raises:
        UnsupportedOperatorError: naming all of them.
    """
    missing = _missing_operators(file)
    if missing:
        raise _unsupported(file, {name: name for name in missing})


def _missing_operators(file: OnnxFile) -> list[str]:
    """Nodes whose inputs are all known need no native operator."""
    known = set(file.constants)
    missing = set()
    for node in file.nodes:
        if _is_known(node, known):
            known.update(node.outputs)
        elif node.operator not in OPERATORS:
            missing.add(node.operator)
    return sorted(missing)


def _unsupported(file: OnnxFile, uses: Mapping[str, str]) -> UnsupportedOperatorError:
    """The error that names all that is missing.

    Args:
        file: the model.
        uses: by operator, what of it is missing, such as `"Cast to float64"`.
    """
    count = "an operator" if len(uses) == 1 else f"{len(uses)} operators"
    return UnsupportedOperatorError(
        f"{file.path}: the native engine lacks {count} that this network needs: "
        f"{', '.join(uses[name] for name in sorted(uses))}; "
        'load it with engine="onnxruntime"',
        uses,
    )


def batch_shapes(file: OnnxFile) -> dict[str, Shape]:
    """The shape of every input, a free leading axis being the batch.

    Raises:
        BatchError: an axis is free that is not the first, or only some inputs have a batch.
    """
    shapes: dict[str, Shape] = {}
    for info in file.inputs:
        if info.shape is None:
            raise BatchError(f"the input {info.name!r} may have any shape")
        sizes: list[Dim] = []
        for axis, size in enumerate(info.shape):
            if size is None and axis > 0:
                raise BatchError(f"axis {axis} of the input {info.name!r} may have any size")
            sizes.append(Batch() if size is None else size)
        shapes[info.name] = tuple(sizes)
    batched = [has_batch(shape) for shape in shapes.values()]
    if any(batched) and not all(batched):
        raise BatchError("only some of the inputs have a batch")
    return shapes


class ValuesNeeded(Exception):  # noqa: N818  (never seen outside)
    """A network depends on the elements of inputs: they are weights, or sizes.

    Never seen by a caller: the engine then compiles for the elements that it is given.

    Attributes:
        names: the inputs.
    """

    def __init__(self, names: Set[str]) -> None:
        super().__init__(", ".join(sorted(names)))
        self.names = frozenset(names)


def build(
    file: OnnxFile, shapes: Mapping[str, Shape], given: Mapping[str, NDArray[Any]] | None = None
) -> Network:
    """Import a whole file for given input shapes.

    Args:
        file: what `read` found.
        shapes: of every input.
        given: inputs whose elements the network may depend on. They steer what is compiled and
            become weights; nothing is computed from them here.

    Raises:
        ValuesNeeded: the network depends on elements of other inputs.
        BatchError: some tensor cannot be computed for every batch size at once.
        ModelError: the graph is not consistent.
        UnsupportedOperatorError: operators that the native engine lacks, and uses of others; all
            are named at once but for uses of what only follows from something that is missing.
    """
    reserved = {*file.constants, *file.tensors()}
    graph = Graph(inputs=[info.name for info in file.inputs], reserved=frozenset(reserved))
    for info in file.inputs:
        try:
            graph.declare(info.name, shapes[info.name], info.dtype)
        except ModelError as error:
            raise ModelError(f"{file.path}: the input {info.name!r}: {error}") from error
    network = Network(graph, {name: Known.of(array) for name, array in file.constants.items()})
    allowance = Allowance(sum(array.nbytes for array in file.constants.values()))
    network.given.update((name, Known.of(array)) for name, array in (given or {}).items())
    lacking = {name: name for name in _missing_operators(file)}
    stuck: BatchError | None = None
    needed: set[str] = set()
    unusable: set[str] = set()  # what follows from something that is missing or stuck
    for node in file.nodes:
        if any(name in unusable for name in node.inputs):
            unusable.update(node.outputs)
            continue
        try:
            _import_node(file, node, network, allowance)
        except Unsupported as use:
            lacking.setdefault(node.operator, str(use))
            unusable.update(node.outputs)
        except ValueNeeded as error:
            needed.add(error.name)
            unusable.update(node.outputs)
        except BatchError as error:
            stuck = stuck or error
            unusable.update(node.outputs)
        except (ModelError, *_NONSENSE) as error:
            problem = brief(error) or type(error).__name__
            raise ModelError(f"{file.path}: {node}: {problem}") from error
    if lacking:
        raise _unsupported(file, lacking)
    if needed:
        raise ValuesNeeded(needed)
    if stuck is not None:
        raise stuck
    return network


def _import_node(file: OnnxFile, node: OnnxNode, network: Network, allowance: Allowance) -> None:
    known = network.known
    if node.operator in ("Shape", "Size"):
        _know_shape(node, network)
        return
    if _is_known(node, known):
        inputs = [known[name] if name else None for name in node.inputs]
        results = evaluate(node, inputs, file.opset, allowance)
        known.update(zip(node.outputs, results, strict=False))
        return
    if node.operator not in OPERATORS:
        raise Unsupported(node.operator)
    OPERATORS[node.operator](Context(node, file.opset, network.graph, known, network.given))
    weights = [known[name] for name in node.inputs if name in known]
    network.parameters[node.outputs[0]] = sum(
        item.values.size for item in weights if item.dtype == "float32" and item.values.ndim > 0
    )


def _is_known(node: OnnxNode, known: Container[str]) -> bool:
    if node.operator in ("Shape", "Size"):
        return True
    return node.operator in EVALUATED and all(name in known for name in node.inputs if name)


def _know_shape(node: OnnxNode, network: Network) -> None:
    shape = network.shape(node.inputs[0])
    if shape is None:
        raise ModelError(f"there is no tensor {node.inputs[0]!r}")
    if node.operator == "Size":
        values = np.array(element_count(shape), object)
    else:
        start, end = node.attributes.get("start", 0), node.attributes.get("end")
        values = np.array([*shape[start:end]], object)
    network.known[node.outputs[0]] = Known.of(values)
