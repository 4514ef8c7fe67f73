"""Statistics of channels over a data set: what is on, what is off, what is dead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pyconv.engines.base import Array
from pyconv.inspect.layers import Progress, batch_of, checked_images, computed_in_batches, views
from pyconv.model import Model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class ChannelStatistics:
    """One layer's channels over all images and places; every array is (channels,).

    Attributes:
        layer: the layer.
        images: how many images there were.
        mean: of all values.
        deviation: the standard deviation of all values.
        lowest: the lowest value.
        highest: the highest value.
        zeros: the share of values that are exactly 0, between 0 and 1.
    """

    layer: str
    images: int
    mean: Floats
    deviation: Floats
    lowest: Floats
    highest: Floats
    zeros: Floats

    @property
    def dead(self) -> NDArray[np.bool_]:
        """Channels that are 0 everywhere in every image, and so tell nothing."""
        silent: NDArray[np.bool_] = (self.lowest == 0) & (self.highest == 0)
        return silent

    def plot(self) -> Figure:
        """Mean and spread of each channel, and its share of zeros; dead channels stand out.

        Raises:
            MissingExtraError: Matplotlib is not installed.
        """
        from pyconv.inspect import drawing

        count = len(self.mean)
        dead = int(self.dead.sum())
        noun = "image" if self.images == 1 else "images"
        title = f"{self.layer}: {count} channels over {self.images:,} {noun}, {dead} dead"
        figure = drawing.new_figure(title, 9, 4.6)
        values, zeros = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
        places = np.arange(count)
        colours = [drawing.COLOURS[1] if gone else drawing.COLOURS[0] for gone in self.dead]
        values.bar(places, self.mean, color=colours, width=0.8)
        values.errorbar(
            places, self.mean, self.deviation, fmt="none", ecolor=drawing.FAINT, elinewidth=0.7
        )
        values.set_ylabel("mean ± deviation", color=drawing.FAINT)
        zeros.bar(places, self.zeros, color=colours, width=0.8)
        zeros.set_ylabel("share of zeros", color=drawing.FAINT)
        zeros.set_ylim(0, 1)
        zeros.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        zeros.set_xlabel("channel", color=drawing.FAINT)
        zeros.xaxis.get_major_locator().set_params(integer=True)
        for panel in (values, zeros):
            panel.spines[["top", "right"]].set_visible(False)
            panel.tick_params(colors=drawing.FAINT, length=0)
        return figure


def channel_statistics(
    model: Model,
    images: Array,
    layers: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> list[ChannelStatistics]:
    """Statistics of every channel of every layer.

    Args:
        model: on any engine.
        images: a data set's, as `Model.predict` takes them; computed a batch at a time.
        layers: names from `model.layers`; all that put out a float for each image by default.
        progress: told how many images are done.

    Raises:
        InputError: a layer does not exist, or the images have another shape or dtype.
    """
    images = checked_images(model, images)
    chosen = views(model, layers)
    sums: dict[str, _Sums] = {}
    for start, values in computed_in_batches(model, images, chosen, progress):
        for name, array in values.items():
            # A file without a layer map also has tensors that belong to no image.
            batch = min(len(images) - start, batch_of(model))
            if array.ndim >= 2 and len(array) == batch and array.dtype == np.float32:
                sums.setdefault(name, _Sums(array.shape[-1])).add(array)
    return [total.statistics(name, len(images)) for name, total in sums.items()]


class _Sums:
    """What is kept of the values of a layer's channels."""

    def __init__(self, channels: int) -> None:
        self._count = 0
        self._sum, self._squares, self._zeros = (np.zeros(channels) for _ in range(3))
        self._lowest, self._highest = np.full(channels, np.inf), np.full(channels, -np.inf)

    def add(self, array: Array) -> None:
        rows = array.reshape(-1, array.shape[-1])
        self._count += len(rows)
        self._sum += rows.sum(axis=0, dtype=np.float64)
        self._squares += np.einsum("ij,ij->j", rows, rows, dtype=np.float64)
        self._zeros += (rows == 0).sum(axis=0)
        self._lowest = np.minimum(self._lowest, rows.min(axis=0))
        self._highest = np.maximum(self._highest, rows.max(axis=0))

    def statistics(self, layer: str, images: int) -> ChannelStatistics:
        mean = self._sum / self._count
        variance = np.maximum(self._squares / self._count - mean**2, 0)
        return ChannelStatistics(
            layer,
            images,
            mean,
            np.sqrt(variance),
            self._lowest,
            self._highest,
            self._zeros / self._count,
        )
