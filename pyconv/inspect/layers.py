"""A model's layers as looking inside needs them: channels last, whatever the file's layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pyconv.engines.base import Array, shape_text
from pyconv.errors import InputError, unknown_name
from pyconv.graph import importer, reader
from pyconv.graph.batch import BatchError, Shape
from pyconv.graph.importer import Network
from pyconv.metadata import InputContract
from pyconv.model import Model

_BATCH = 256

Progress = Callable[[int, int], None]
"""Told how many images are done, and of how many."""


@dataclass(frozen=True, slots=True)
class LayerView:
    """One layer.

    Attributes:
        name: as `model.layers` has it.
        operator: its Keras class or ONNX operator.
        tensor: the ONNX tensor.
        axes: the permutation that brings the tensor to Keras' layout; None where the file does not
            say, and the channels are in axis 1, as ONNX' own operators have them.
    """

    name: str
    operator: str
    tensor: str
    axes: tuple[int, ...] | None

    def permutation(self, rank: int) -> tuple[int, ...]:
        """What brings the channels of a tensor of that many axes to the last one."""
        if self.axes:
            return self.axes
        moved = self.axes is None and rank > 2
        return (0, *range(2, rank), 1) if moved else tuple(range(rank))

    def channels_last(self, array: Array) -> Array:
        """The tensor as (n, …, channels)."""
        return array.transpose(self.permutation(array.ndim))


def contract_of(model: Model) -> InputContract:
    """How the model takes pictures.

    Raises:
        InputError: it takes none.
    """
    if model.input_contract is None:
        inputs = ", ".join(f"{i.name} {i.dtype} {shape_text(i.shape)}" for i in model.inputs)
        raise InputError(
            f"{model.path}: this network takes no pictures that can be looked at here: one input "
            f"of a fixed height and width with 1, 3 or 4 channels; its inputs are {inputs}"
        )
    return model.input_contract


def network_of(model: Model) -> Network:
    """The file in the compiler's terms, for any batch or else for one picture.

    Raises:
        UnsupportedOperatorError: the compiler does not know an operator of the file.
    """
    contract = contract_of(model)
    file = reader.read(model.path)
    try:
        return importer.build(file, importer.batch_shapes(file))
    except BatchError:
        sizes: Shape = (contract.height, contract.width)
        if contract.rank == 4:
            channels = (contract.channels,)
            sizes = (*channels, *sizes) if contract.layout == "NCHW" else (*sizes, *channels)
        return importer.build(file, {contract.tensor: (1, *sizes)})


def views(model: Model, layers: Sequence[str] | None = None) -> list[LayerView]:
    """Layers by name; all of them where none is named.

    Raises:
        InputError: a layer does not exist.
    """
    known = {layer.name: layer for layer in model.layer_map}
    for name in layers or ():
        if name not in known:
            raise InputError(unknown_name("layer", name, known))
    mapped = bool(model.metadata.layers)
    chosen = [known[name] for name in (layers if layers is not None else known)]
    return [
        LayerView(layer.name, layer.operator, layer.tensor, layer.axes if mapped else None)
        for layer in chosen
    ]


def view(model: Model, layer: str) -> LayerView:
    """One layer by name.

    Raises:
        InputError: it does not exist.
    """
    return views(model, [layer])[0]


def checked_images(model: Model, images: Array) -> Array:
    """A batch of images that the model takes, (n, height, width, channels).

    Raises:
        InputError: they have another shape or dtype, or there is none.
    """
    contract = contract_of(model)
    images = np.asarray(images)
    if images.ndim == 3 and contract.channels == 1:
        images = images[..., np.newaxis]
    if len(images) == 0:
        raise InputError("images: expected at least one, got none")
    model.preprocess(images[:1])
    return images


def checked_image(model: Model, image: Array) -> Array:
    """One image that the model takes, (height, width, channels).

    Raises:
        InputError: it has another shape or dtype.
    """
    one: Array = checked_images(model, np.asarray(image)[np.newaxis])[0]
    return one


def batch_of(model: Model) -> int:
    """How many images are computed at once where many go through: what the file fixes, if it does.

    Raises:
        InputError: the network takes no pictures.
    """
    tensor = contract_of(model).tensor
    (shape,) = (info.shape for info in model.inputs if info.name == tensor)
    fixed = shape[0] if shape else None
    return fixed or _BATCH


def computed(model: Model, images: Array, chosen: Sequence[LayerView]) -> dict[str, Array]:
    """What layers put out, by name: (n, …, channels)."""
    arrays = model.run(
        model.preprocess(images), list(dict.fromkeys(view.tensor for view in chosen))
    )
    return {view.name: view.channels_last(arrays[view.tensor]) for view in chosen}


def computed_in_batches(
    model: Model,
    images: Array,
    chosen: Sequence[LayerView],
    progress: Progress | None = None,
) -> Iterator[tuple[int, dict[str, Array]]]:
    """The same, batch after batch, each with the place of its first image."""
    size = batch_of(model)
    for start in range(0, len(images), size):
        batch = images[start : start + size]
        yield start, computed(model, batch, chosen)
        if progress is not None:
            progress(start + len(batch), len(images))


def checked_channel(layer: str, values: Array, channel: int) -> int:
    """A channel that a layer has.

    Raises:
        InputError: it has not.
    """
    count = values.shape[-1]
    if not isinstance(channel, int | np.integer) or not 0 <= channel < count:
        raise InputError(
            f"channel: layer {layer!r} has {count} channels, 0 to {count - 1}; got {channel!r}"
        )
    return int(channel)


def label_of(model: Model, index: int) -> str:
    """A class's name, or its number where the file has no names."""
    labels = model.labels
    return labels[index] if index < len(labels) else str(index)
