"""The ONNX operators that the native engine has, each declared in one place.

A module here imports a family of operators: a function under `@onnx_operator("Name")` emits the
native nodes that compute it, whatever version of the operator set the file is of.
"""

from pyconv.graph.operators import (
    activations,
    arithmetic,
    convolution,
    matrix,
    movement,
    normalization,
    pooling,
    quantization,
    reduction,
    resizing,
    shaping,
)
from pyconv.graph.operators.context import Context
from pyconv.graph.operators.registry import OPERATORS, Unsupported, ValueNeeded

__all__ = [
    "OPERATORS",
    "Context",
    "Unsupported",
    "ValueNeeded",
    "activations",
    "arithmetic",
    "convolution",
    "matrix",
    "movement",
    "normalization",
    "pooling",
    "quantization",
    "reduction",
    "resizing",
    "shaping",
]
