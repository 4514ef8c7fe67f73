"""Where every operator is listed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from pyconv.graph.operators.context import Context

ImportFunction: TypeAlias = "Callable[[Context], None]"

OPERATORS: dict[str, ImportFunction] = {}
"""By ONNX name, the function that emits the native nodes of an operator."""


class Unsupported(Exception):  # noqa: N818  (collected and reported together, never seen outside)
    """A use of an operator that the native engine lacks; the message says which."""


class ValueNeeded(Exception):  # noqa: N818  (never seen outside)
    """A node has to know the elements of an input of the graph: weights, or sizes.

    Never seen by a caller: the engine then compiles for the elements that it is given.

    Attributes:
        name: the input of the graph.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def onnx_operator(*names: str) -> Callable[[ImportFunction], ImportFunction]:
    """Declare a function as the importer of these ONNX operators."""

    def register(function: ImportFunction) -> ImportFunction:
        for name in names:
            if name in OPERATORS:
                raise ValueError(f"the operator {name} is declared twice")
            OPERATORS[name] = function
        return function

    return register
