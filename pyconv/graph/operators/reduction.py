"""Means, sums and extremes along axes."""

from __future__ import annotations

from pyconv.graph.operators.context import Context
from pyconv.graph.operators.registry import ImportFunction, onnx_operator


def _reduce(function: str) -> ImportFunction:
    def emit(context: Context) -> None:
        x = context.value(0)
        rank = len(context.shape(x))
        axes = context.setting("axes", 1)
        if not axes and context.attribute("noop_with_empty_axes", 0):
            context.emit("identity", x, output=0)
            return
        context.emit(
            "reduce",
            x,
            output=0,
            function=function,
            axes=sorted(context.axes(axes or range(rank), rank)),
            keepdims=int(context.attribute("keepdims", 1)),
        )

    return emit


for _name, _function in {
    "ReduceMax": "max",
    "ReduceMean": "mean",
    "ReduceMin": "min",
    "ReduceSum": "sum",
}.items():
    onnx_operator(_name)(_reduce(_function))
