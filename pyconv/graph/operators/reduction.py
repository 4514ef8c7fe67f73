"""Means, sums and extremes along axes, and where the extremes are."""

from __future__ import annotations

from pyconv.graph.operators.context import Context
from pyconv.graph.operators.registry import ImportFunction, onnx_operator


def _reduced(context: Context, x: str, function: str, output: int | None) -> str:
    rank = len(context.shape(x))
    axes = context.setting("axes", 1)
    if not axes and context.attribute("noop_with_empty_axes", 0):
        return context.emit("identity", x, output=output)
    return context.emit(
        "reduce",
        x,
        output=output,
        function=function,
        axes=sorted(context.axes(axes or range(rank), rank)),
        keepdims=int(context.attribute("keepdims", 1)),
    )


def _reduce(function: str) -> ImportFunction:
    def emit(context: Context) -> None:
        _reduced(context, context.value(0), function, output=0)

    return emit


for _name, _function in {
    "ReduceMax": "max",
    "ReduceMean": "mean",
    "ReduceMin": "min",
    "ReduceSum": "sum",
}.items():
    onnx_operator(_name)(_reduce(_function))


def _of_sizes(power: int, *, root: bool) -> ImportFunction:
    """The sum of |x|, or of x², or the root of that."""

    def emit(context: Context) -> None:
        x = context.value(0)
        if power == 2:
            x = context.emit("multiply", x, x)
        else:
            x = context.emit("activation", x, activation="abs")
        total = _reduced(context, x, "sum", output=None if root else 0)
        if root:
            context.emit("activation", total, output=0, activation="sqrt")

    return emit


onnx_operator("ReduceL1")(_of_sizes(1, root=False))
onnx_operator("ReduceL2")(_of_sizes(2, root=True))
onnx_operator("ReduceSumSquare")(_of_sizes(2, root=False))


def _arg(op: str) -> ImportFunction:
    def emit(context: Context) -> None:
        x = context.value(0)
        (axis,) = context.axes([context.attribute("axis", 0)], len(context.shape(x)))
        context.emit(
            op,
            x,
            output=0,
            axis=axis,
            keepdims=int(context.attribute("keepdims", 1)),
            select_last_index=int(context.attribute("select_last_index", 0)),
        )

    return emit


onnx_operator("ArgMax")(_arg("arg_max"))
onnx_operator("ArgMin")(_arg("arg_min"))
