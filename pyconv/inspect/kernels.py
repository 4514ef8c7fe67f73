"""The filters of a layer: the weights that its convolution multiplies windows with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pyconv.errors import InputError
from pyconv.graph.ir import Graph, Node
from pyconv.inspect.layers import LayerView, network_of, view, views
from pyconv.model import Model

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True, eq=False)
class Filters:
    """The filters of one convolution.

    Attributes:
        layer: its name.
        kernel: (height, width, in / groups, out) float32, as Keras has it.
        bias: (out,) float32, or None where the convolution itself adds none.
        groups: how many groups the channels are in.
    """

    layer: str
    kernel: NDArray[np.float32]
    bias: NDArray[np.float32] | None
    groups: int

    def plot(self, channel: int | None = None) -> Figure:
        """The filters, red where a weight adds and blue where it takes away, all on one scale.

        Args:
            channel: one filter's weights for each of its inputs. By default all filters are drawn,
                each as the mean over its inputs, of which a first layer on grey has one.

        Raises:
            InputError: the layer has no such channel.
            MissingExtraError: Matplotlib is not installed.
        """
        from pyconv.inspect import drawing

        height, width, inputs, outputs = self.kernel.shape
        if channel is None:
            tiles = self.kernel.mean(axis=2)
            what = "" if inputs == 1 else f", mean over {inputs} inputs"
            title = f"{self.layer}: {outputs} filters of {height}×{width}{what}"
        else:
            if not 0 <= channel < outputs:
                raise InputError(f"channel: expected 0 to {outputs - 1}, got {channel}")
            tiles = self.kernel[..., channel]
            title = f"{self.layer}, filter {channel}: its weights for each of {inputs} inputs"
        limit = float(np.abs(tiles).max()) or 1.0
        panels = drawing.tiles(title, tiles.shape[-1], most_columns=16, side=0.75)
        for number, panel in enumerate(panels):
            drawing.show_signed(panel, tiles[..., number], limit)
            drawing.caption(panel, str(number))
        figure: Figure = panels[0].figure  # type: ignore[assignment]
        return figure


def filters(model: Model, layer: str) -> Filters:
    """The filters of a convolution.

    Args:
        model: on any engine.
        layer: its name in `model.layers`, or that of what the file computes of it element by
            element: an activation, a batch normalisation.

    Raises:
        InputError: there is no such layer, or it is no convolution with weights in the file.
        UnsupportedOperatorError: the compiler does not know an operator of the file.
    """
    graph = network_of(model).graph
    found = convolution(graph, view(model, layer))
    if found is None:
        others = [v.name for v in views(model) if convolution(graph, v) is not None]
        raise InputError(
            f"layer {layer!r} has no filters; layers that have: {', '.join(others) or 'none'}"
        )
    bias = found.attributes.get("bias")
    return Filters(
        layer,
        np.array(found.attributes["kernel"], np.float32),
        None if bias is None else np.array(bias, np.float32),
        int(found.attributes.get("groups", 1)),
    )


def layers_with_filters(model: Model) -> list[str]:
    """The layers for which `filters` has an answer.

    Raises:
        InputError: the network takes no pictures.
        UnsupportedOperatorError: the compiler does not know an operator of the file.
    """
    graph = network_of(model).graph
    return [layer.name for layer in views(model) if convolution(graph, layer) is not None]


_PASSED = frozenset({"activation", "transpose", "reshape", "identity", "prelu"})
_BY_CONSTANTS = frozenset({"add", "subtract", "multiply", "divide", "maximum", "minimum"})


def convolution(graph: Graph, layer: LayerView) -> Node | None:
    """The convolution that a layer is, past what is done to its result element by element."""
    producers = graph.producers()
    name = layer.tensor
    while name in producers:
        node = producers[name]
        if node.op == "conv2d":
            return node
        computed = [value for value in node.inputs if value not in graph.constants]
        passed = node.op in _PASSED or (node.op in _BY_CONSTANTS and len(computed) == 1)
        if not passed:
            return None
        name = computed[0]
    return None
