"""The intermediate representation: typed values, and nodes that are native operators.

A value has a name and a type. Values that stand for a tensor of the ONNX file bear its name, so
that any of them can be asked for; values that the compiler makes have names with `//` in them. All
layouts are explicit: an ONNX convolution is a transpose, a channels-last `conv2d` and a transpose
back, until the passes have their say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyconv.errors import ModelError
from pyconv.graph.batch import Batch, BatchError, Shape, per_image
from pyconv.graph.batch import text as shape_text
from pyconv.graph.limits import MOST_ELEMENTS, MOST_NUMBERS


@dataclass(frozen=True, slots=True)
class TensorType:
    """The element type and shape of a value."""

    shape: Shape
    dtype: str = "float32"

    def __str__(self) -> str:
        return f"{self.dtype} {shape_text(self.shape)}"


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One operator applied to values.

    Attributes:
        op: the native operator's name (`pyconv.graph.native_operators`).
        inputs: names of values or constants.
        output: the name of the value that it makes.
        attributes: as the native operator takes them; arrays among them are float32.
        tensors: the ONNX tensors whose computation this node does, the last of them being what it
            makes; several once others have been fused into it.
    """

    op: str
    inputs: tuple[str, ...]
    output: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    tensors: tuple[str, ...] = ()

    def with_inputs(self, *inputs: str) -> Node:
        """The same operator on other values."""
        return self if inputs == self.inputs else replace(self, inputs=inputs)

    def with_attributes(self, **attributes: Any) -> Node:
        """The same node with some attributes set."""
        return replace(self, attributes={**self.attributes, **attributes})

    def fused_with(self, after: Node) -> Node:
        """This node taking the place of the one that consumes it."""
        return replace(self, output=after.output, tensors=self.tensors + after.tensors)


@dataclass(frozen=True, slots=True)
class Output:
    """A tensor that was asked for.

    Attributes:
        name: its ONNX name.
        value: the value in the graph that holds it.
        permutation: `tensor = value.transpose(permutation)`; None where they are the same.
    """

    name: str
    value: str
    permutation: tuple[int, ...] | None = None


@dataclass(slots=True)
class Graph:
    """A network, in an order in which it can be computed.

    Attributes:
        inputs: the values that are given at each run.
        nodes: each after those that make its inputs.
        outputs: what was asked for.
        types: the type of every value, constants included.
        constants: operands that never change.
        reserved: the file's own names, which no other value may bear.
    """

    inputs: list[str] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    types: dict[str, TensorType] = field(default_factory=dict)
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)
    reserved: frozenset[str] = frozenset()
    _made: int = 0
    _numbers: int = 0

    def copy(self) -> Graph:
        """A graph to rewrite; nodes and arrays, which nobody changes, are shared."""
        return Graph(
            list(self.inputs),
            list(self.nodes),
            list(self.outputs),
            dict(self.types),
            dict(self.constants),
            self.reserved,
            self._made,
            self._numbers,
        )

    def shape(self, value: str) -> Shape:
        """The shape of a value."""
        return self.types[value].shape

    def dtype(self, value: str) -> str:
        """The element type of a value, as NumPy names it."""
        return self.types[value].dtype

    def fresh(self, base: str) -> str:
        """A name that no value has."""
        while True:
            self._made += 1
            name = f"{base.partition('//')[0]}//{self._made}"
            if name not in self.types and name not in self.reserved:
                return name

    def add_constant(self, array: NDArray[Any], base: str = "constant") -> str:
        """Take up an operand that never changes; returns its name."""
        name = self.fresh(base)
        self.constants[name] = np.asarray(array, order="C")
        self.types[name] = TensorType(self.constants[name].shape, self.constants[name].dtype.name)
        return name

    def declare(self, value: str, shape: Shape, dtype: str = "float32") -> None:
        """State the type of a computed value.

        Raises:
            BatchError: the batch is in another axis than 0.
            ModelError: it has too many elements.
        """
        for axis, size in enumerate(shape):
            if isinstance(size, Batch) and (axis > 0 or size.factor < 1):
                raise BatchError(f"{value} has the shape {shape_text(shape)}")
        # As in NumPy, an empty tensor's other axes count: its strides are numbers too.
        if per_image([size or 1 for size in shape]) > MOST_ELEMENTS:
            raise ModelError(
                f"a tensor of shape {shape_text(shape)} is too large; expected at most "
                f"{MOST_ELEMENTS:,} elements an image"
            )
        self.types[value] = TensorType(tuple(shape), dtype)

    def append(self, node: Node) -> None:
        """Add a node whose inputs are there and whose output is declared.

        Raises:
            ModelError: the network becomes too large.
        """
        self.nodes.append(node)
        lists = [value for value in node.attributes.values() if isinstance(value, list | tuple)]
        self._numbers += 1 + len(node.inputs) + sum(map(len, lists))
        if self._numbers > MOST_NUMBERS:
            raise ModelError(f"up to here the network takes more than {MOST_NUMBERS:,} settings")

    def producers(self) -> dict[str, Node]:
        """The node that makes each computed value."""
        return {node.output: node for node in self.nodes}

    def use_counts(self) -> dict[str, int]:
        """How many times each value is used, being asked for included."""
        counts = dict.fromkeys(self.types, 0)
        for node in self.nodes:
            for name in node.inputs:
                counts[name] += 1
        for output in self.outputs:
            counts[output.value] += 1
        return counts

    def rename(self, names: Mapping[str, str]) -> None:
        """Let every use of a value be a use of another: keys become their mapped names."""
        if not names:
            return

        ends: dict[str, str] = {}  # where a chain of names ends, so that none is walked twice

        def resolved(name: str) -> str:
            chain = []
            while name in names and name not in ends:
                chain.append(name)
                name = names[name]
            end = ends.get(name, name)
            ends.update(dict.fromkeys(chain, end))
            return end

        self.nodes = [
            node.with_inputs(*map(resolved, node.inputs))
            if any(name in names for name in node.inputs)
            else node
            for node in self.nodes
        ]
        self.outputs = [replace(out, value=resolved(out.value)) for out in self.outputs]

    def remove(self, dead: Iterable[Node]) -> None:
        """Take nodes out."""
        gone = {id(node) for node in dead}
        self.nodes = [node for node in self.nodes if id(node) not in gone]

    def __str__(self) -> str:
        """The network as text."""
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """The network as text, one input, node or output a line: what `pyconv explain` prints."""
        lines = [f"input {name}: {self.types[name]}" for name in self.inputs]
        for node in self.nodes:
            settings = ", ".join(
                f"{key}={_attribute_text(value)}" for key, value in node.attributes.items()
            )
            operands = ", ".join(node.inputs)
            lines.append(
                f"{node.output}: {self.types[node.output]} = {node.op}({operands})"
                + (f" {{{settings}}}" if settings else "")
            )
        for out in self.outputs:
            view = f".transpose{out.permutation}" if out.permutation else ""
            lines.append(f"output {out.name} = {out.value}{view}")
        return lines


def _attribute_text(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}"
    if isinstance(value, list | tuple):
        shown = [str(item) for item in value[:16]] + (["…"] if len(value) > 16 else [])
        return f"({', '.join(shown)})"
    return str(value)
