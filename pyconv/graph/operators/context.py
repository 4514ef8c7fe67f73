"""What an operator's import function sees of its node, and how it emits native ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyconv.errors import ModelError
from pyconv.graph import native_operators
from pyconv.graph.batch import Batch, BatchError, Dim, Shape, fixed
from pyconv.graph.constants import Known
from pyconv.graph.ir import Graph, Node
from pyconv.graph.limits import MOST_PLACES
from pyconv.graph.operators.registry import Unsupported, ValueNeeded
from pyconv.graph.reader import OnnxNode


class Context:
    """One ONNX node on its way into the IR.

    Attributes:
        node: the node.
        opset: the version of the operator set that it is of.
    """

    def __init__(
        self,
        node: OnnxNode,
        opset: int,
        graph: Graph,
        known: Mapping[str, Known],
        given: Mapping[str, Known],
    ) -> None:
        self.node = node
        self.opset = opset
        self._graph = graph
        self._known = known
        self._given = given

    # What comes in.

    def has(self, index: int) -> bool:
        """Whether the optional input is given."""
        return index < len(self.node.inputs) and bool(self.node.inputs[index])

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute's value."""
        return self.node.attributes.get(name, default)

    def is_known(self, index: int) -> bool:
        """Whether the elements of an input are known when the model is loaded."""
        return self.node.inputs[index] in self._known

    def sizes(self, index: int) -> list[Any]:
        """A known integer input, in which the batch may stand.

        Raises:
            Unsupported: it is computed.
            ValueNeeded: it is given at each run.
        """
        values = self._known_input(index).values
        return [v if isinstance(v, Batch) else int(v) for v in values.reshape(-1)]

    def weights(self, index: int) -> NDArray[np.float32]:
        """A constant float32 input.

        Raises:
            Unsupported: it is computed, or of another type.
            ValueNeeded: it is given at each run.
            BatchError: its elements depend on the batch.
        """
        item = self._known_input(index)
        if item.dtype != "float32":
            raise Unsupported(f"{self.node.operator} of {item.dtype}")
        if item.symbolic:
            raise BatchError(f"{self.node} with the batch as a weight")
        return item.values

    def steps(self, index: int, axis: int) -> NDArray[np.float32] | None:
        """What a step of one is worth in a constant input that the file holds as int8.

        Returns:
            A number for each place of the axis; None where the file holds no int8, or its steps
            differ along another axis.
        """
        item = self._known_input(index)
        if item.steps is None or (item.steps.size > 1 and item.steps_axis != axis):
            return None
        usable = np.isfinite(item.steps).all() and (item.steps > 0).all()
        return np.broadcast_to(item.steps, item.values.shape[axis]).copy() if usable else None

    def setting(self, name: str, index: int) -> list[Any] | None:
        """Integers that were an attribute in old operator sets and are an input in new ones."""
        if self.has(index):
            return self.sizes(index)
        values: list[Any] | None = self.attribute(name)
        return values

    def number(self, name: str, index: int, default: float) -> float:
        """A scalar that was an attribute in old operator sets and is an input in new ones."""
        if self.has(index):
            values = self.weights(index)
            if values.size != 1:
                raise ModelError(f"expected {name} to be one number, got {values.size}")
            return float(values.reshape(()))
        return float(self.attribute(name, default))

    def numbers(self, index: int) -> list[float]:
        """A constant float32 input as a list.

        Raises:
            Unsupported: it is computed, or of another type.
        """
        return [float(number) for number in self.weights(index).reshape(-1)]

    def value(self, index: int) -> str:
        """The IR's name for an input; a known one becomes a constant.

        Raises:
            Unsupported: it is of an element type that the native engine lacks.
            BatchError: its elements depend on the batch.
        """
        name = self.node.inputs[index]
        item = self._known.get(name)
        dtype = self._graph.dtype(name) if item is None else item.dtype
        if dtype not in native_operators.DTYPES:
            raise Unsupported(f"{self.node.operator} of {dtype}")
        if item is not None and name not in self._graph.constants:
            if item.symbolic:
                raise BatchError(f"{self.node} with the batch as a number")
            array = np.asarray(item.values, order="C").reshape(item.values.shape)
            self._graph.constants[name] = array
            self._graph.declare(name, array.shape, dtype)
        return name

    def values(self) -> list[str]:
        """The IR's names for all inputs."""
        return [self.value(index) for index in range(len(self.node.inputs))]

    def shape(self, value: str) -> Shape:
        """The shape of a value of the IR."""
        return self._graph.shape(value)

    def input_shape(self, index: int) -> Shape:
        """The shape of an input, known or computed."""
        name = self.node.inputs[index]
        item = self._known.get(name)
        return self._graph.shape(name) if item is None else tuple(item.values.shape)

    def dtype(self, value: str) -> str:
        """The element type of a value of the IR."""
        return self._graph.dtype(value)

    def size(self, size: Dim) -> int:
        """A size that the file asks for, once it is known to be no nonsense."""
        if not 0 <= fixed(size) <= MOST_PLACES:
            raise ModelError(f"an axis of {size} elements, of at most {MOST_PLACES:,}")
        return fixed(size)

    def axes(self, axes: Sequence[int], rank: int) -> list[int]:
        """Axes counted from the front, each checked."""
        for axis in axes:
            if not -rank <= axis < rank:
                raise ModelError(f"axis {axis} does not exist in a tensor of {rank} axes")
        return [int(axis) % rank for axis in axes]

    # What goes out.

    def constant(self, array: NDArray[Any]) -> str:
        """An operand that never changes; real numbers become float32."""
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        return self._graph.add_constant(array, self._tensor())

    def emit(self, op: str, *inputs: str, output: int | None = None, **attributes: Any) -> str:
        """Add a native node.

        Args:
            op: the native operator.
            inputs: values of the IR.
            output: which output of the ONNX node it makes; None for a step on the way.
            attributes: as the native operator takes them.

        Returns:
            The name of what it makes.
        """
        name = self._graph.fresh(self._tensor()) if output is None else self.node.outputs[output]
        try:
            dtype = native_operators.infer_dtype(op, attributes, [*map(self.dtype, inputs)])
        except native_operators.DtypeError as error:
            raise Unsupported(f"{self.node.operator} of {error.dtype}") from None
        shape = native_operators.infer(op, attributes, [*map(self.shape, inputs)])
        self._graph.declare(name, shape, dtype)
        self._graph.append(Node(op, inputs, name, attributes, (self._tensor(),)))
        return name

    def take(self, x: str, places: Mapping[int, Iterable[int]], output: int | None = None) -> str:
        """Add a node that takes places along some axes, in any order and as often as wanted.

        Args:
            x: a value of the IR.
            places: by axis, what is taken of it; all of every other axis.
            output: as for `emit`.
        """
        if not places:
            return self.emit("identity", x, output=output)
        chosen = {axis: [int(place) for place in along] for axis, along in places.items()}
        return self.emit(
            "take",
            x,
            output=output,
            axes=list(chosen),
            sizes=[len(along) for along in chosen.values()],
            indices=[place for along in chosen.values() for place in along],
        )

    def refuse_outputs(self, first: int) -> None:
        """Refuse a node that makes more than its first outputs.

        Raises:
            Unsupported: it does.
        """
        if any(self.node.outputs[first:]):
            raise Unsupported(f"{self.node.operator} with {len(self.node.outputs)} outputs")

    def _known_input(self, index: int) -> Known:
        name = self.node.inputs[index]
        item = self._known.get(name) or self._given.get(name)
        if item is None:
            if name in self._graph.inputs:
                raise ValueNeeded(name)
            raise Unsupported(f"{self.node.operator} with a computed input {index}")
        return item

    def _tensor(self) -> str:
        return next(name for name in self.node.outputs if name)
