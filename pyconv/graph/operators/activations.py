"""Functions of one tensor, element by element, and softmax."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from pyconv.graph.batch import fixed
from pyconv.graph.native_operators import broadcast
from pyconv.graph.operators.context import Context
from pyconv.graph.operators.registry import ImportFunction, Unsupported, onnx_operator

_WITHOUT_PARAMETERS = {
    "Abs": "abs",
    "Erf": "erf",
    "Exp": "exp",
    "HardSwish": "hard_swish",
    "Log": "log",
    "Mish": "mish",
    "Neg": "negative",
    "Reciprocal": "reciprocal",
    "Relu": "relu",
    "Sigmoid": "sigmoid",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "Sqrt": "sqrt",
    "Tanh": "tanh",
}
"""By ONNX operator, the native activation that is the same."""

_WITH_PARAMETERS: Mapping[str, tuple[str, Mapping[str, tuple[str, float]]]] = {
    "Elu": ("elu", {"alpha": ("alpha", 1.0)}),
    "HardSigmoid": ("hard_sigmoid", {"alpha": ("alpha", 0.2), "beta": ("beta", 0.5)}),
    "LeakyRelu": ("leaky_relu", {"alpha": ("alpha", 0.01)}),
    "Selu": (
        "selu",
        {
            "alpha": ("alpha", 1.67326319217681884765625),
            "beta": ("gamma", 1.05070102214813232421875),
        },
    ),
    "Swish": ("swish", {"alpha": ("alpha", 1.0)}),
}
"""The native activation, and for each of its parameters ONNX's attribute and default."""


def _importer(
    activation: str, parameters: Mapping[str, tuple[str, float]]
) -> Callable[[Context], None]:
    def emit(context: Context) -> None:
        values = {
            native: float(context.attribute(name, default))
            for native, (name, default) in parameters.items()
        }
        context.emit("activation", context.value(0), output=0, activation=activation, **values)

    return emit


def _declare(table: Mapping[str, tuple[str, Mapping[str, tuple[str, float]]]]) -> None:
    for name, (activation, parameters) in table.items():
        onnx_operator(name)(_importer(activation, parameters))


_declare({name: (activation, {}) for name, activation in _WITHOUT_PARAMETERS.items()})
_declare(_WITH_PARAMETERS)


@onnx_operator("Clip")
def _clip(context: Context) -> None:
    if any(context.has(index) and not context.is_known(index) for index in (1, 2)):
        _clip_between(context)
        return
    lowest = context.number("min", 1, -math.inf)
    highest = context.number("max", 2, math.inf)
    # ONNX: where the bounds cross, everything becomes the upper one.
    context.emit(
        "activation",
        context.value(0),
        output=0,
        activation="clip",
        alpha=min(lowest, highest),
        beta=highest,
    )


def _clip_between(context: Context) -> None:
    """Clip between bounds that are computed."""
    y = context.value(0)
    bounds = [(op, i) for op, i in (("maximum", 1), ("minimum", 2)) if context.has(i)]
    for place, (op, index) in enumerate(bounds):
        last = place == len(bounds) - 1
        y = context.emit(op, y, context.value(index), output=0 if last else None)


@onnx_operator("Celu")
def _celu(context: Context) -> None:
    alpha = context.constant(np.array(float(context.attribute("alpha", 1.0))))
    shrunk = context.emit("divide", context.value(0), alpha)
    elu = context.emit("activation", shrunk, activation="elu", alpha=1.0)
    context.emit("multiply", elu, alpha, output=0)


@onnx_operator("ThresholdedRelu")
def _thresholded_relu(context: Context) -> None:
    x = context.value(0)
    alpha = context.constant(np.array(float(context.attribute("alpha", 1.0))))
    above = context.emit("greater", x, alpha)
    context.emit("where", above, x, context.constant(np.array(0.0)), output=0)


@onnx_operator("Gelu")
def _gelu(context: Context) -> None:
    exact = context.attribute("approximate", "none") == "none"
    context.emit(
        "activation", context.value(0), output=0, activation="gelu" if exact else "gelu_tanh"
    )


@onnx_operator("PRelu")
def _prelu(context: Context) -> None:
    x, slope = context.value(0), context.value(1)
    if context.opset < 7 and len(context.shape(slope)) == 1 and context.shape(slope) != (1,):
        # Opset 6: one slope for each channel, axis 1; since opset 7 axes end where x's do.
        ones = (1,) * (len(context.shape(x)) - 2)
        slope = context.emit("reshape", slope, shape=(*context.shape(slope), *ones))
    if broadcast(context.shape(x), context.shape(slope)) != context.shape(x):
        raise Unsupported("PRelu with a slope larger than its input")
    context.emit("prelu", x, slope, output=0)


def _softmax_importer(op: str) -> ImportFunction:
    def emit(context: Context) -> None:
        x = context.value(0)
        shape = context.shape(x)
        if context.opset >= 13:
            context.emit(op, x, output=0, axis=context.attribute("axis", -1))
            return
        # Up to opset 12 the axis cuts the shape in two, and softmax goes over all of the second.
        (axis,) = context.axes([context.attribute("axis", 1)], len(shape))
        count = math.prod(fixed(size) for size in shape[axis:])
        rows = context.emit("reshape", x, shape=(*shape[:axis], count))
        probabilities = context.emit(op, rows, axis=-1)
        context.emit("reshape", probabilities, output=0, shape=shape)

    return emit


onnx_operator("Softmax")(_softmax_importer("softmax"))
onnx_operator("LogSoftmax")(_softmax_importer("log_softmax"))
