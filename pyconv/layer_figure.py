"""The lesson's figure: rows of pictures, columns of layers, asked from a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyconv import figures
from pyconv.client import Activations, Client, Picture
from pyconv.engines.base import Array, EngineName
from pyconv.errors import InputError, ModelError
from pyconv.model import Prediction

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

    Raises:
        InputError: a picture cannot be read, or a layer or channel does not exist.
    """
    shapes = {layer.name: layer.shape for layer in client.describe(model, engine=engine).layers}
    if layers is None:
        layers = [name for name, shape in shapes.items() if len(shape) == 3][:LESSON_LAYERS]
    if not layers:
        raise InputError("layers: no layer of this network puts out maps; name the layers wanted")
    chosen = {
        name: list(channels) if channels is not None else _lesson_channel(shapes.get(name, ()))
        for name in layers
    }
    activations = client.activations(
        pictures, layers=chosen, model=model, engine=engine, return_inputs=True
    )
    predictions: list[Prediction | None]
    try:
        answer = client.classify(pictures, model=model, engine=engine)
        predictions = [likeliest[0] for likeliest in answer.predictions]
    except ModelError:
        predictions = [None] * len(pictures)
    return LayerFigure(activations, chosen, captions, predictions)


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
