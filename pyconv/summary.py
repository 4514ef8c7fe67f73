"""The table of a network's layers: shapes, weights, operations, and how each is computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pyconv.engines.base import EngineName, Step
from pyconv.graph.batch import Batch
from pyconv.graph.cost import Cost, split_cost
from pyconv.graph.importer import Network

if TYPE_CHECKING:
    from pyconv.metadata import Layer
    from pyconv.model import Model


@dataclass(frozen=True, slots=True)
class Row:
    """One layer.

    Attributes:
        name: the name that `Model.activations` takes.
        operator: its Keras class or ONNX operator, such as `"Conv2D"`.
        shape: what it puts out for one image in Keras' layout, such as (26, 26, 64); an axis is
            None where the file leaves it free, the whole shape where it is not known.
        parameters: count of its weights.
        flops: floating-point operations for one image, a multiply and an add counting as two, as
            `pyconv.graph.native_operators` counts them; None where they are not known.
        algorithm: how the native engine computes it; empty for other engines.
    """

    name: str
    operator: str
    shape: tuple[int | None, ...] | None
    parameters: int
    flops: int | None
    algorithm: str


@dataclass(frozen=True, slots=True)
class Summary:
    """A network, layer by layer.

    Attributes:
        name: the file's name.
        engine: the engine that was asked.
        rows: the layers, in the order of the network.
        parameters: count of all weights.
        flops: floating-point operations for one image of all that the outputs need; None where
            they are not known.
    """

    name: str
    engine: EngineName
    rows: Sequence[Row]
    parameters: int
    flops: int | None

    def __str__(self) -> str:
        """The table, as plain text."""
        header = ["layer", "operator", "output", "parameters", "FLOPs"]
        lines = [
            [row.name, row.operator, _shape(row.shape), f"{row.parameters:,}", _count(row.flops)]
            for row in self.rows
        ]
        total = ["total", "", "", f"{self.parameters:,}", _count(self.flops)]
        if self.engine == "native":
            header.append("algorithm")
            total.append("")
            for line, row in zip(lines, self.rows, strict=True):
                line.append(row.algorithm)
        widths = [max(map(len, column)) for column in zip(header, *lines, total, strict=True)]
        rule = "─" * (sum(widths) + 2 * len(widths) - 2)
        table = [_line(header, widths), rule, *(_line(line, widths) for line in lines), rule]
        return "\n".join([f"{self.name} on {self.engine}", "", *table, _line(total, widths)])

    def to_json(self) -> dict[str, Any]:
        """The same as an object that `json` can write."""
        return {**asdict(self), "rows": [asdict(row) for row in self.rows]}


def summarize(model: Model) -> Summary:
    """Describe a network.

    Args:
        model: on any engine.

    Returns:
        A row for each of `model.layers`. What cannot be known without running the network (for a
        file whose heights and widths are free, or that the compiler does not understand) is None.
    """
    layers = model.layer_map
    network = model.network
    costs = split_cost(network, [layer.tensor for layer in layers]) if network else {}
    algorithms = _algorithms(model.steps())
    rows = [
        Row(
            name=layer.name,
            operator=layer.operator,
            shape=_keras_shape(layer, network),
            parameters=layer.parameters or (_cost(costs, layer).parameters if network else 0),
            flops=_cost(costs, layer).flops if network else None,
            algorithm=_algorithm(layer, costs, algorithms) if model.engine == "native" else "",
        )
        for layer in layers
    ]
    flops = None
    if network is not None:
        outputs = split_cost(network, [info.name for info in model.outputs])
        flops = sum(cost.flops for cost in outputs.values())
    return Summary(
        name=model.path.name,
        engine=model.engine,
        rows=rows,
        parameters=sum(row.parameters for row in rows),
        flops=flops,
    )


_NOTHING = Cost(0, 0, frozenset())


def _cost(costs: Any, layer: Layer) -> Cost:
    cost: Cost = costs.get(layer.tensor, _NOTHING)
    return cost


def _algorithms(steps: Sequence[Step]) -> dict[str, str]:
    """By ONNX tensor, how the step works that computes it."""
    found: dict[str, str] = {}
    for step in steps:
        for tensor in step.tensors:
            found.setdefault(tensor, f"{step.operator}: {step.algorithm}")
    return found


def _algorithm(layer: Layer, costs: Any, algorithms: dict[str, str]) -> str:
    """How a layer's own tensors are computed; the steps in their order, each once."""
    own = _cost(costs, layer).tensors
    used = dict.fromkeys(text for tensor, text in algorithms.items() if tensor in own)
    return "; ".join(used) if used else "view"


def _keras_shape(layer: Layer, network: Network | None) -> tuple[int | None, ...] | None:
    if layer.shape or network is None:
        return layer.shape or None
    shape = network.shape(layer.tensor)
    if shape is None:
        return None
    if layer.axes:
        shape = tuple(shape[axis] for axis in layer.axes)
    sizes = [None if isinstance(size, Batch) else size for size in shape]
    return tuple(sizes[1:] if shape and isinstance(shape[0], Batch) else sizes)


def _shape(shape: tuple[int | None, ...] | None) -> str:
    if shape is None:
        return "?"
    axes = ["?" if size is None else str(size) for size in shape]
    return f"({', '.join(axes)}{',' if len(axes) == 1 else ''})"


def _count(flops: int | None) -> str:
    if flops is None:
        return "?"
    if flops < 10_000:
        return f"{flops:,}"
    power = min(3, int(math.log10(flops)) // 3)
    return f"{flops / 1000**power:.3g} {' kMG'[power]}"


def _line(cells: list[str], widths: list[int]) -> str:
    numbers = {3, 4}
    padded = [
        cell.rjust(width) if index in numbers else cell.ljust(width)
        for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(padded).rstrip()
