"""The images of a data set that excite a channel most, and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pyconv.engines.base import Array
from pyconv.errors import InputError
from pyconv.graph.receptive_field import Box
from pyconv.inspect.fields import receptive_fields
from pyconv.inspect.layers import (
    Progress,
    checked_channel,
    checked_images,
    computed_in_batches,
    view,
)
from pyconv.model import Model

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True, eq=False)
class ExcitingImages:
    """The images in which one channel's highest value is highest, the highest first.

    Attributes:
        layer: the layer.
        channel: its channel, or unit.
        indices: (k,) the images' places in the data set.
        values: (k,) float32, the channel's highest value in each.
        places: (k, 2) row and column of that value in the channel's map; (k, 0) for a unit.
        boxes: the part of each image that the value depends on.
        images: (k, height, width, channels), the images themselves.
    """

    layer: str
    channel: int
    indices: NDArray[np.intp]
    values: NDArray[np.float32]
    places: NDArray[np.intp]
    boxes: Sequence[Box]
    images: Array

    @property
    def patches(self) -> list[Array]:
        """The outlined part of each image alone: (height, width, channels)."""
        return [
            image[box.top : box.bottom, box.left : box.right]
            for image, box in zip(self.images, self.boxes, strict=True)
        ]

    def plot(self) -> Figure:
        """The images, with the part outlined that does it.

        Raises:
            MissingExtraError: Matplotlib is not installed.
        """
        from pyconv.inspect import drawing

        title = f"What excites channel {self.channel} of {self.layer} most"
        panels = drawing.tiles(title, len(self.images))
        for panel, image, box, value, index in zip(
            panels, self.images, self.boxes, self.values, self.indices, strict=True
        ):
            drawing.show_picture(panel, image)
            drawing.outline(panel, box)
            drawing.caption(panel, f"{value:.3g}  ·  {index}")
        figure: Figure = panels[0].figure  # type: ignore[assignment]
        return figure


def exciting_images(
    model: Model,
    layer: str,
    channel: int,
    images: Array,
    count: int = 16,
    progress: Progress | None = None,
) -> ExcitingImages:
    """The images of a data set that excite a channel most.

    Args:
        model: on any engine.
        layer: its name in `model.layers`.
        channel: from 0.
        images: the data set's, as `Model.predict` takes them; computed a batch at a time.
        count: how many to find; fewer if there are fewer.
        progress: told how many images are done.

    Returns:
        Images that are equally exciting stand in the order of the data set; of several places in
        one image that are, the first counts.

    Raises:
        InputError: there is no such layer or channel, or the images have another shape or dtype.
        UnsupportedOperatorError: the compiler does not know an operator of the file.
    """
    images = checked_images(model, images)
    if count < 1:
        raise InputError(f"count: expected at least 1, got {count}")
    chosen = view(model, layer)
    best, where = [], []
    shape: tuple[int, ...] = ()
    for _, values in computed_in_batches(model, images, [chosen], progress):
        array = values[layer]
        if array.ndim < 2:
            raise InputError(f"layer {layer!r} holds no values of each image")
        channel = checked_channel(layer, array, channel)
        shape = array.shape[1:-1]
        flat = array[..., channel].reshape(len(array), -1)
        where.append(flat.argmax(axis=1))
        best.append(flat.max(axis=1))
    found, at = np.concatenate(best), np.concatenate(where)
    order = np.argsort(-found, kind="stable")[:count]
    places = (
        np.stack(np.unravel_index(at[order], shape), axis=1) if shape else at[order, None][:, :0]
    )
    field = receptive_fields(model, [layer])[layer]
    boxes = [field.box(*map(int, place), channel) for place in places]
    return ExcitingImages(
        layer, channel, order, found[order].astype(np.float32), places, boxes, images[order]
    )
