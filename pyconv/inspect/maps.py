"""What every layer puts out: the maps of all its channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyconv.engines.base import Array
from pyconv.errors import InputError, unknown_name
from pyconv.inspect.layers import checked_images, computed, views
from pyconv.model import Model

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True, eq=False)
class ActivationMaps:
    """The activations of some images.

    Attributes:
        images: (n, height, width, channels), as they were given.
        layers: by name, (n, height, width, channels) or (n, units) float32.
    """

    images: Array
    layers: Mapping[str, Array]

    def plot(self, layer: str, image: int = 0) -> Figure:
        """All channels of one layer for one image; the units of a dense layer in rows.

        Every map has its own scale, from its lowest value in black to its highest in pale yellow.

        Raises:
            InputError: there is no such layer or image here.
            MissingExtraError: Matplotlib is not installed.
        """
        from pyconv.inspect import drawing

        if layer not in self.layers:
            raise InputError(unknown_name("layer", layer, self.layers))
        if not 0 <= image < len(self.images):
            raise InputError(f"image: expected 0 to {len(self.images) - 1}, got {image}")
        values = self.layers[layer][image]
        maps = [values[..., c] for c in range(values.shape[-1])] if values.ndim == 3 else [values]
        if values.ndim == 3:
            title = f"{layer}: {values.shape[2]} maps of {values.shape[0]}×{values.shape[1]}"
        else:
            title = f"{layer}: {values.size} units"
        picture, *panels = drawing.tiles(title, 1 + len(maps), side=1.1 if len(maps) > 1 else 2.6)
        drawing.show_picture(picture, self.images[image])
        drawing.caption(picture, "input")
        for channel, (panel, shown) in enumerate(zip(panels, maps, strict=True)):
            drawing.show_map(panel, shown if shown.ndim == 2 else shown.reshape(-1))
            drawing.caption(panel, str(channel) if values.ndim == 3 else layer)
        figure: Figure = picture.figure  # type: ignore[assignment]
        return figure


def activation_maps(
    model: Model, images: Array, layers: Sequence[str] | None = None
) -> ActivationMaps:
    """The maps of every channel of every layer.

    Args:
        model: on any engine.
        images: (n, height, width) or (n, height, width, channels), uint8 or float32, as
            `Model.predict` takes them.
        layers: names from `model.layers`; all that put out a value for each image by default.

    Raises:
        InputError: a layer does not exist, or the images have another shape or dtype.
    """
    images = checked_images(model, images)
    values = computed(model, images, views(model, layers))
    if layers is None:  # a file without a layer map also has tensors that belong to no image
        values = {
            name: array
            for name, array in values.items()
            if array.ndim >= 2 and len(array) == len(images)
        }
    return ActivationMaps(images, values)
