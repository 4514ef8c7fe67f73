"""Grad-CAM: which places of a layer's maps speak for a class.

Selvaraju et al. (2017), "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
Localization". The gradient of the class's score before softmax with respect to the maps A is
averaged over their places to a weight a channel, and the map is relu(Σ weight · A).
`pyconv.inspect.gradient` says how the gradient is computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pyconv.engines.base import Array
from pyconv.errors import InputError
from pyconv.graph.importer import Network
from pyconv.inspect.gradient import ancestors, before_softmax, gradient
from pyconv.inspect.layers import LayerView, checked_image, label_of, network_of, view, views
from pyconv.model import Model

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True, eq=False)
class GradCam:
    """Which places of a layer's maps speak for a class.

    Attributes:
        image: (height, width, channels), the picture as the network takes it.
        layer: the layer whose maps are weighted.
        index: the class.
        label: its name.
        score: the class's score before softmax.
        gradient: (rows, columns, channels) float64 of the score with respect to the maps.
        weights: (channels,) float64, the gradient's mean over the places.
        map: (rows, columns) float64, relu of the maps' weighted sum.
        heat: (height, width) float64, the map in the picture's size, by bilinear interpolation.
    """

    image: Array
    layer: str
    index: int
    label: str
    score: float
    gradient: NDArray[np.float64]
    weights: NDArray[np.float64]
    map: NDArray[np.float64]
    heat: NDArray[np.float64]

    def plot(self) -> Figure:
        """The picture, and the map laid over it.

        Raises:
            MissingExtraError: Matplotlib is not installed.
        """
        from pyconv.inspect import drawing

        title = f"What speaks for {self.label} in {self.layer}"
        picture, heat = drawing.side_by_side(title, 5.6, 3.2, 2)
        drawing.show_picture(picture, self.image)
        drawing.show_picture(heat, self.image)
        heat.imshow(self.heat, cmap="inferno", alpha=0.75, vmin=0, vmax=self.heat.max() or 1.0)
        drawing.caption(heat, f"Grad-CAM, score {self.score:.2f}")
        figure: Figure = heat.figure  # type: ignore[assignment]
        return figure


def grad_cam(
    model: Model, image: Array, index: int | None = None, *, layer: str | None = None
) -> GradCam:
    """Which places of a layer's maps speak for a class.

    Args:
        model: on any engine; the computation is the native operators' own.
        image: (height, width) or (height, width, channels), uint8 or float32, as `Model.predict`
            takes them.
        index: the class; the likeliest by default.
        layer: a layer that puts out maps; by default the last that is made of a convolution's
            maps place by place, before they are pooled: its activation, or the sum that ends a
            residual block.

    Raises:
        InputError: the image has another shape or dtype, there is no such class or layer, the layer
            puts out no maps, or an operator behind it has no derivative here.
        UnsupportedOperatorError: the compiler does not know an operator of the file.
    """
    image = checked_image(model, image)
    network = network_of(model)
    inputs = model.preprocess(image[np.newaxis])
    contract = model.metadata.output
    output = contract.tensor if contract else model.outputs[0].name
    score = before_softmax(network.graph, output)
    chosen = view(model, layer) if layer is not None else _last_maps(model, network, score)
    if len(network.shape(chosen.tensor) or ()) != 4:
        raise InputError(f"layer: {chosen.name!r} puts out no maps; choose a convolution")
    scores = model.run(inputs, [output])[output]
    if scores.ndim != 2:
        raise InputError(f"{model.path}: Grad-CAM needs an output of shape (n, classes)")
    best = int(scores[0].argmax()) if index is None else index
    if not 0 <= best < scores.shape[1]:
        raise InputError(f"index: expected a class from 0 to {scores.shape[1] - 1}, got {best}")
    wanted = np.zeros((1, scores.shape[1]))
    wanted[0, best] = 1
    found = gradient(network, inputs, score, wanted, chosen.tensor)
    maps = chosen.channels_last(found.values)[0].astype(np.float64)
    slopes = chosen.channels_last(found.gradient)[0]
    weights = slopes.mean(axis=(0, 1))
    weighted = np.maximum(maps @ weights, 0)
    return GradCam(
        image=image,
        layer=chosen.name,
        index=best,
        label=label_of(model, best),
        score=float(found.score[0, best]),
        gradient=slopes,
        weights=weights,
        map=weighted,
        heat=_resized(weighted, image.shape[0], image.shape[1]),
    )


_PLACE_BY_PLACE = frozenset(
    {
        *("activation", "identity", "prelu", "transpose", "reshape", "concat"),
        *("add", "subtract", "multiply", "divide", "maximum", "minimum"),
    }
)


def _last_maps(model: Model, network: Network, score: str) -> LayerView:
    """The last layer whose maps are made of a convolution's place by place, and give the score."""
    made: set[str] = set()
    for node in network.graph.nodes:
        if node.op == "conv2d" or (
            node.op in _PLACE_BY_PLACE and any(name in made for name in node.inputs)
        ):
            made.add(node.output)
    made &= ancestors(network.graph, score)
    for layer in reversed(views(model)):
        shape = network.shape(layer.tensor) or ()
        if layer.tensor in made and len(shape) == 4:
            _, rows, columns, _ = (shape[axis] for axis in layer.permutation(4))
            if (rows, columns) != (1, 1):
                return layer
    raise InputError(f"{model.path}: no layer of this network is a convolution of its picture")


def _resized(values: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
    from PIL import Image

    image = Image.fromarray(values.astype(np.float32))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), np.float64)
