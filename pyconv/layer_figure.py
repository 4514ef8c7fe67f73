"""The lesson's figure: rows of pictures, columns of layers, of a model or asked from a server."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pyconv import figures
from pyconv.client import Activations, Client, Examination, Picture
from pyconv.engines.base import Array, EngineName
from pyconv.errors import InputError, ModelError
from pyconv.model import Model, Prediction

if TYPE_CHECKING:
    from PIL import Image

LESSON_CHANNEL = 32
LESSON_LAYERS = 4


@dataclass(frozen=True, slots=True)
class LayerFigure:
    """What the figure shows.

    Attributes:
        activations: the chosen channels of the chosen layers.
        channels: which channels these are, by layer; empty where all of them came.
        captions: what each picture is called.
        predictions: the likeliest class of each picture; None where the network is no classifier.
    """

    activations: Activations
    channels: Mapping[str, Sequence[int]]
    captions: Sequence[str]
    predictions: Sequence[Prediction | None]

    def draw(self) -> Image.Image:
        """The figure: one row a picture, one column a channel of a layer."""
        inputs = self.activations.inputs
        assert inputs is not None  # `compute` asks for them
        captions = [
            f"{caption}\n{prediction.label} {prediction.probability:.0%}" if prediction else caption
            for caption, prediction in zip(self.captions, self.predictions, strict=True)
        ]
        columns = [
            column
            for name, values in self.activations.layers.items()
            for column in _columns(name, values, self.channels[name])
        ]
        return figures.activation_grid(list(inputs), captions, columns)


def compute(
    client: Client,
    pictures: Sequence[Picture],
    *,
    captions: Sequence[str],
    model: str = "",
    engine: EngineName | None = None,
    layers: Sequence[str] | None = None,
    channels: Sequence[int] | None = None,
    examination: Examination | None = None,
) -> LayerFigure:
    """Ask a server for all that the figure shows.

    Args:
        client: the server.
        pictures: files, or their bytes; a row each.
        captions: what to call each picture.
        model: the model's name on the server; may be empty where it holds a single one.
        engine: the server's default if None.
        layers: the columns; the first four that put out maps if None.
        channels: the channels of each layer; channel 32 if None, or a layer's last where it has
            fewer. A layer without maps, such as a dense one, then comes whole.
        examination: edits of layers, if there are any.

    Raises:
        InputError: a picture cannot be read, or a layer or channel does not exist.
    """
    shapes = {layer.name: layer.shape for layer in client.describe(model, engine=engine).layers}
    chosen = _chosen(shapes, layers, channels)
    activations = client.activations(
        pictures,
        layers=chosen,
        model=model,
        engine=engine,
        return_inputs=True,
        examination=examination,
    )
    predictions: list[Prediction | None]
    try:
        answer = client.classify(pictures, model=model, engine=engine, examination=examination)
        predictions = [likeliest[0] for likeliest in answer.predictions]
    except ModelError:
        predictions = [None] * len(pictures)
    return LayerFigure(activations, chosen, captions, predictions)


def of_model(model: Model, images: NDArray[np.uint8], captions: Sequence[str]) -> LayerFigure:
    """The lesson's figure of a model that is loaded here: four layers, channel 32.

    Args:
        model: a classifier that names its layers.
        images: (n, height, width) uint8, a row each.
        captions: what to call each image.

    Raises:
        InputError: no layer puts out maps.
    """
    chosen = _chosen({layer.name: layer.shape for layer in model.layer_map}, None, None)
    started = time.perf_counter()
    layers = {
        name: values[..., chosen[name]]
        for name, values in model.activations(images, list(chosen)).items()
    }
    took_ms = 1e3 * (time.perf_counter() - started)
    return LayerFigure(
        Activations(layers, "", model.engine, 0.0, took_ms, images),
        chosen,
        captions,
        [likeliest[0] for likeliest in model.classify(images)],
    )


def _chosen(
    shapes: Mapping[str, Sequence[int | None]],
    layers: Sequence[str] | None,
    channels: Sequence[int] | None,
) -> dict[str, list[int]]:
    """The channels to show of each layer."""
    if layers is None:
        layers = [name for name, shape in shapes.items() if len(shape) == 3][:LESSON_LAYERS]
    if not layers:
        raise InputError("layers: no layer of this network puts out maps; name the layers wanted")
    return {
        name: list(channels) if channels is not None else _lesson_channel(shapes.get(name, ()))
        for name in layers
    }


def _lesson_channel(shape: Sequence[int | None]) -> list[int]:
    if len(shape) != 3 or shape[-1] is None:
        return []
    return [min(LESSON_CHANNEL, shape[-1] - 1)]


def _columns(
    name: str, values: Array, channels: Sequence[int]
) -> list[tuple[str, Sequence[Array]]]:
    """The columns of one layer: caption, and a map, or a row of units, for each picture."""
    if values.ndim == 4:
        _, height, width, count = values.shape
        return [
            (f"{name}\n{height}×{width} · channel {channel}", list(values[..., place]))
            for place, channel in enumerate(channels or range(count))
        ]
    units = values.reshape(len(values), -1)
    return [(f"{name}\n{units.shape[1]} units", list(units))]
