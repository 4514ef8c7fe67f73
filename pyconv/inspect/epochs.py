"""How one image's activations changed while a network was trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pyconv.engines.base import Array, EngineName
from pyconv.errors import InputError
from pyconv.inspect.layers import checked_channel, checked_image, computed, view
from pyconv.model import load

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True, eq=False)
class EpochMaps:
    """What one layer made of one image after each epoch.

    Attributes:
        image: (height, width, channels), the picture as the network takes it.
        layer: the layer.
        channels: which of its channels.
        epochs: what each file is called: its name without the ending, such as `"001"`.
        values: (epochs, rows, columns, channels) float32 of a layer that puts out maps,
            (epochs, channels) of one that does not.
    """

    image: Array
    layer: str
    channels: Sequence[int]
    epochs: Sequence[str]
    values: NDArray[np.float32]

    @property
    def changes(self) -> NDArray[np.float64]:
        """(epochs - 1, channels): how much each channel changed from one epoch to the next, as the
        root mean square of the differences.
        """
        steps = np.diff(self.values.astype(np.float64), axis=0)
        places = tuple(range(1, steps.ndim - 1))
        means: NDArray[np.float64] = np.sqrt((steps**2).mean(axis=places))
        return means

    def plot(self) -> Figure:
        """A row a channel, a column an epoch; each channel has one scale for all epochs.

        Raises:
            MissingExtraError: Matplotlib is not installed.
        """
        from pyconv.inspect import drawing

        title = f"{self.layer} over {len(self.epochs)} epochs"
        if self.values.ndim == 2:
            figure = drawing.new_figure(title, 7.2, 4.2)
            panel = figure.subplots()
            places = np.arange(1, len(self.epochs) + 1)
            for place, channel in enumerate(self.channels):
                colour = drawing.COLOURS[place % len(drawing.COLOURS)]
                panel.plot(places, self.values[:, place], "o-", color=colour, label=str(channel))
            panel.set_xticks(places, self.epochs)
            panel.set_xlabel("epoch", color=drawing.FAINT)
            panel.legend(frameon=False, title="unit")
            panel.spines[["top", "right"]].set_visible(False)
            return figure
        panels = drawing.tiles(title, len(self.channels) * len(self.epochs), len(self.epochs))
        for place, channel in enumerate(self.channels):
            maps = self.values[..., place]
            limits = (float(maps.min()), float(maps.max()))
            for column, epoch in enumerate(self.epochs):
                panel = panels[place * len(self.epochs) + column]
                drawing.show_map(panel, maps[column], limits)
                drawing.caption(panel, f"{epoch}  ·  channel {channel}")
        made: Figure = panels[0].figure  # type: ignore[assignment]
        return made


def activations_over_epochs(
    files: str | Path | Sequence[str | Path],
    image: Array,
    layer: str,
    channels: Sequence[int] = (0,),
    *,
    engine: EngineName = "native",
) -> EpochMaps:
    """What a layer made of an image after each epoch of training.

    Args:
        files: the network as it was after each epoch, as ONNX files in their order; or the folder
            that holds them, such as the `epochs` of a run of `pyconv study`, in the order of their
            names.
        image: (height, width) or (height, width, channels), uint8 or float32, as `Model.predict`
            takes them.
        layer: a layer that all of them have.
        channels: which of its channels, or units.
        engine: what computes.

    Raises:
        InputError: there are no files, or a file has no such layer or channel, or another shape
            there than the first.
        ModelError: a file cannot be loaded.
    """
    paths = files_of(files)
    if not channels:
        raise InputError("channels: expected at least one")
    maps: list[Array] = []
    for path in paths:
        model = load(path, engine=engine)
        picture = checked_image(model, image)
        values = computed(model, picture[np.newaxis], [view(model, layer)])[layer]
        chosen = [checked_channel(layer, values, channel) for channel in channels]
        maps.append(values[0][..., chosen])
        if maps[-1].shape != maps[0].shape:
            raise InputError(
                f"{path}: expected the layer {layer!r} to have the shape {maps[0].shape}, as in "
                f"{paths[0]}, got {maps[-1].shape}"
            )
    names = [path.stem for path in paths]
    return EpochMaps(picture, layer, chosen, names, np.stack(maps).astype(np.float32))


def files_of(files: str | Path | Sequence[str | Path]) -> list[Path]:
    """The files of `activations_over_epochs`, in their order.

    Raises:
        InputError: there are none.
    """
    if not isinstance(files, str | Path):
        paths = [Path(file) for file in files]
        if not paths:
            raise InputError("files: expected at least one ONNX file, got none")
        return paths
    folder = Path(files)
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder of ONNX files, one an epoch")
    paths = sorted(folder.glob("*.onnx"))
    if not paths and (folder / "epochs").is_dir():
        paths = sorted((folder / "epochs").glob("*.onnx"))
    if not paths:
        raise InputError(f"{folder}: there are no ONNX files in this folder")
    return paths
