"""Operators of several tensors, element by element, with NumPy's broadcasting."""

from __future__ import annotations

import numpy as np

from pyconv.errors import ModelError
from pyconv.graph.operators.context import Context
from pyconv.graph.operators.registry import ImportFunction, onnx_operator


def _operands(context: Context) -> tuple[str, str]:
    a, b = context.values()
    if (
        context.opset < 7
        and context.attribute("broadcast", 0)
        and context.attribute("axis", -1) != -1
    ):
        # Opset 6: b's axes begin at `axis` of a; since opset 7 they end where a's do.
        rank, (axis,) = (
            len(context.shape(a)),
            context.axes([context.attribute("axis")], len(context.shape(a))),
        )
        missing = rank - axis - len(context.shape(b))
        if missing < 0:
            raise ModelError(f"the second operand does not fit from axis {axis} on")
        b = context.emit("reshape", b, shape=(*context.shape(b), *(1,) * missing))
    return a, b


def _binary(op: str) -> ImportFunction:
    def emit(context: Context) -> None:
        context.emit(op, *_operands(context), output=0)

    return emit


def _variadic(op: str, *, mean: bool = False) -> ImportFunction:
    def emit(context: Context) -> None:
        first, *rest = context.values()
        if not rest:
            context.emit("identity", first, output=0)
            return
        total = first
        for index, value in enumerate(rest):
            last = index == len(rest) - 1 and not mean
            total = context.emit(op, total, value, output=0 if last else None)
        if mean:
            share = context.constant(np.array(1 / (len(rest) + 1)))
            context.emit("multiply", total, share, output=0)

    return emit


for _name, _op in {
    "Add": "add",
    "And": "logical_and",
    "Div": "divide",
    "Equal": "equal",
    "Greater": "greater",
    "GreaterOrEqual": "greater_or_equal",
    "Less": "less",
    "LessOrEqual": "less_or_equal",
    "Mul": "multiply",
    "Or": "logical_or",
    "Sub": "subtract",
    "Xor": "logical_xor",
}.items():
    onnx_operator(_name)(_binary(_op))
for _name, _op in {"Max": "maximum", "Min": "minimum", "Sum": "add"}.items():
    onnx_operator(_name)(_variadic(_op))
onnx_operator("Mean")(_variadic("add", mean=True))


@onnx_operator("Not")
def _not(context: Context) -> None:
    context.emit("logical_xor", context.value(0), context.constant(np.array(True)), output=0)


@onnx_operator("Where")
def _where(context: Context) -> None:
    context.emit("where", *context.values(), output=0)


@onnx_operator("Pow")
def _power(context: Context) -> None:
    a, b = _operands(context)
    dtype = context.dtype(a)
    if context.dtype(b) == dtype:
        context.emit("power", a, b, output=0)
        return
    # The result is of the base's type, whatever the exponent's is.
    if dtype in ("float32", "float64"):
        context.emit("power", a, context.emit("cast", b, dtype=dtype), output=0)
        return
    a, b = (context.emit("cast", operand, dtype="float64") for operand in (a, b))
    context.emit("cast", context.emit("power", a, b), output=0, dtype=dtype)
