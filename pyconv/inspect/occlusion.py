"""Occlusion: how much the probability of a class falls where a patch hides the picture.

Zeiler and Fergus (2014), "Visualizing and Understanding Convolutional Networks", section 4.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pyconv.engines.base import Array
from pyconv.errors import InputError, ModelError
from pyconv.inspect.layers import Progress, batch_of, checked_image, contract_of, label_of
from pyconv.model import Model

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True, eq=False)
class OcclusionMap:
    """How much each part of a picture matters for a class.

    Attributes:
        image: (height, width, channels), the picture as the network takes it.
        index: the class.
        label: its name.
        probability: of the class for the whole picture; the output's value where the network is no
            classifier.
        size: side of the patch, in pixels.
        stride: how far it moves, in pixels.
        drops: (rows, columns) float64: the probability less that with the patch there.
        heat: (height, width) float64: the mean drop over the patches that hide a pixel; NaN where
            none does.
    """

    image: Array
    index: int
    label: str
    probability: float
    size: int
    stride: int
    drops: NDArray[np.float64]
    heat: NDArray[np.float64]

    def plot(self) -> Figure:
        """The picture, and beside it where hiding it lowers the probability (red) or raises it.

        Raises:
            MissingExtraError: Matplotlib is not installed.
        """
        from pyconv.inspect import drawing

        patch = f"{self.size}×{self.size} pixels"
        title = f"{self.label} {self.probability:.1%}: the cost of hiding {patch}"
        picture, heat = drawing.side_by_side(title, 6.4, 3.4, 2)
        figure: Figure = heat.figure  # type: ignore[assignment]
        drawing.show_picture(picture, self.image)
        limit = float(np.nanmax(np.abs(self.heat))) or 1.0
        drawing.show_signed(heat, self.heat, limit)
        bar = figure.colorbar(heat.images[0], ax=heat, shrink=0.8)
        bar.outline.set_visible(False)
        bar.ax.tick_params(colors=drawing.FAINT, length=0, labelsize=8)
        drawing.caption(heat, "fall of the probability")
        return figure


def occlusion_map(
    model: Model,
    image: Array,
    index: int | None = None,
    *,
    size: int = 5,
    stride: int = 1,
    fill: float | None = None,
    progress: Progress | None = None,
) -> OcclusionMap:
    """Hide the picture behind a patch, everywhere in turn.

    Args:
        model: on any engine.
        image: (height, width) or (height, width, channels), uint8 or float32, as `Model.predict`
            takes them.
        index: the class; the likeliest by default.
        size: side of the square patch, in pixels.
        stride: how far it moves, in pixels. It also stands at the far edges.
        fill: the patch's value, on the image's own scale; by default the image's darkest, which is
            the background of MNIST and Fashion-MNIST.
        progress: told how many patches are done.

    Raises:
        InputError: the image has another shape or dtype, there is no such class, the patch is
            larger than the picture, or `fill` lies outside of the image's dtype.
        ModelError: the network's output is no row of scores.
    """
    image = checked_image(model, image)
    contract = contract_of(model)
    for name, value, most in (
        ("size", size, min(contract.height, contract.width)),
        ("stride", stride, max(contract.height, contract.width)),
    ):
        if not 1 <= value <= most:
            raise InputError(f"{name}: expected 1 to {most} pixels, got {value}")
    if image.dtype == np.uint8 and fill is not None and not 0 <= fill <= 255:
        raise InputError(f"fill: expected 0 to 255 for an image of uint8, got {fill}")
    scores = model.predict(image[np.newaxis])
    if scores.ndim != 2:
        raise ModelError(f"{model.path}: occlusion needs an output of shape (n, classes)")
    chosen = int(scores[0].argmax()) if index is None else index
    if not 0 <= chosen < scores.shape[1]:
        raise InputError(f"index: expected a class from 0 to {scores.shape[1] - 1}, got {chosen}")
    rows, columns = (_starts(side, size, stride) for side in image.shape[:2])
    corners = [(row, column) for row in rows for column in columns]
    hidden = image.min() if fill is None else image.dtype.type(fill)
    after: list[NDArray[np.float32]] = []
    at_once = batch_of(model)
    for start in range(0, len(corners), at_once):
        some = corners[start : start + at_once]
        batch = np.repeat(image[np.newaxis], len(some), axis=0)
        for one, (row, column) in zip(batch, some, strict=True):
            one[row : row + size, column : column + size] = hidden
        after.append(model.predict(batch)[:, chosen])
        if progress is not None:
            progress(start + len(some), len(corners))
    drops = float(scores[0, chosen]) - np.concatenate(after).astype(np.float64)
    total, covers = np.zeros(image.shape[:2]), np.zeros(image.shape[:2])
    for drop, (row, column) in zip(drops, corners, strict=True):
        total[row : row + size, column : column + size] += drop
        covers[row : row + size, column : column + size] += 1
    heat = np.where(covers > 0, total / np.maximum(covers, 1), np.nan)
    return OcclusionMap(
        image=image,
        index=chosen,
        label=label_of(model, chosen),
        probability=float(scores[0, chosen]),
        size=size,
        stride=stride,
        drops=drops.reshape(len(rows), len(columns)),
        heat=heat,
    )


def _starts(side: int, size: int, stride: int) -> list[int]:
    """Where patches begin along a side; the last one ends at its end."""
    last = side - size
    return sorted({*range(0, last + 1, stride), last})
