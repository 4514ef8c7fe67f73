"""A network in another library's functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from pyconv.engines.native import NativeEngine
from pyconv.errors import UnsupportedOperatorError
from pyconv.graph.batch import Batch
from pyconv.graph.compiler import optimized
from pyconv.graph.ir import Graph

Function: TypeAlias = Callable[..., Any]
"""An operator on a library's tensors: `function(attributes, *operands)`."""


class Translation:
    """A network of one input and one output, as calls of a library's functions.

    Attributes:
        input: the name of the ONNX file's input.
        output: the name of its output.
        shape: the input's, channels last as in the file; None for the batch.
    """

    def __init__(self, path: Path, library: str, functions: Mapping[str, Function]) -> None:
        """Read an ONNX file.

        `functions` has one for each native operator that it knows, "transpose" among them.

        Raises:
            UnsupportedOperatorError: the network has another form, or an operator that `functions`
                lacks.
        """
        engine = NativeEngine(path)
        if engine.network is None or len(engine.inputs) != 1 or len(engine.outputs) != 1:
            raise UnsupportedOperatorError(
                f"{path}: only networks of one input and one output are translated for {library}",
                {},
            )
        self.input, self.output = engine.inputs[0].name, engine.outputs[0].name
        self.shape = engine.inputs[0].shape
        self._graph: Graph = optimized(engine.network, [self.output])
        self._functions = functions
        lacking = sorted({node.op for node in self._graph.nodes} - set(functions))
        if lacking:
            raise UnsupportedOperatorError(
                f"{path}: pyconv does not translate {', '.join(lacking)} for {library}",
                {name: name for name in lacking},
            )

    def constants(self, make: Callable[[Any], Any]) -> None:
        """Make the library's own tensors of all weights, once."""
        self._constants = {name: make(array) for name, array in self._graph.constants.items()}
        self._attributes = [
            {
                key: make(value) if hasattr(value, "dtype") else _concrete(value)
                for key, value in node.attributes.items()
            }
            for node in self._graph.nodes
        ]

    def __call__(self, x: Any) -> Any:
        """Compute the output from the input, with the library's functions."""
        values = {**self._constants, self.input: x}
        for node, attributes in zip(self._graph.nodes, self._attributes, strict=True):
            operands = [values[name] for name in node.inputs]
            values[node.output] = self._functions[node.op](attributes, *operands)
        (result,) = self._graph.outputs
        y = values[result.value]
        if result.permutation is None:
            return y
        return self._functions["transpose"]({"permutation": list(result.permutation)}, y)


def _concrete(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [-1 if isinstance(item, Batch) else item for item in value]
    return value
