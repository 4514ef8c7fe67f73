"""The look of every figure of `pyconv.inspect`, drawn with Matplotlib (the extra `plot`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pyconv.engines.base import Array
from pyconv.errors import MissingExtraError
from pyconv.figures import in_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#22262b"
FAINT = "#6b7280"
OUTLINE = "#39c5f5"  # stands out from every colour of inferno
COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#882255",
    "#44aa99",
    "#6b7280",
    "#999933",
)
"""Told apart by most people: Okabe and Ito's, and some of Paul Tol's."""


def new_figure(title: str, width: float, height: float) -> Figure:
    """An empty figure of some inches, which lays its panels out by itself.

    Raises:
        MissingExtraError: Matplotlib is not installed.
    """
    figure = _blank(width, height)
    figure.set_layout_engine("constrained")
    figure.suptitle(title, x=0.01, ha="left", color=INK, size=12, weight="bold")
    return figure


def _blank(width: float, height: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib", "plot", "drawing a figure") from None
    return Figure(figsize=(width, height))


def side_by_side(title: str, width: float, height: float, count: int) -> list[Axes]:
    """A figure of a row of panels without ticks; `panel.figure` is the figure."""
    panels: list[Axes] = list(new_figure(title, width, height).subplots(1, count))
    for panel in panels:
        _bare(panel)
    return panels


def tiles(title: str, count: int, most_columns: int = 8, side: float = 1.25) -> list[Axes]:
    """A figure of small square panels in rows, `side` inches each; `panel.figure` is the figure."""
    columns = min(count, most_columns)
    rows = math.ceil(count / columns)
    margin, gap, above, head = 0.12, 0.08, 0.2, 0.4
    # As wide as the title at least, about a twelfth of an inch a letter.
    width = max(2 * margin + columns * (side + gap) - gap, 0.09 * len(title) + 2 * margin)
    height = head + rows * (side + above) + margin
    figure = _blank(width, height)
    top = 1 - margin / height
    figure.suptitle(title, x=margin / width, y=top, ha="left", color=INK, size=12, weight="bold")
    panels = []
    for number in range(count):  # laid out here, as Matplotlib takes seconds for a hundred panels
        left = margin + number % columns * (side + gap)
        bottom = height - head - (number // columns + 1) * (side + above)
        place = (left / width, bottom / height, side / width, side / height)
        panels.append(figure.add_axes(place))
        _bare(panels[-1])
    return panels


def _bare(panel: Axes) -> None:
    panel.set_xticks([])
    panel.set_yticks([])
    panel.spines[:].set_visible(False)


def caption(panel: Axes, text: str) -> None:
    """A small line above a panel."""
    panel.set_title(text, fontsize=8, color=FAINT, pad=3)


def show_picture(panel: Axes, image: Array) -> None:
    """A network's input as a picture, its darkest value black; grey or in colour."""
    low, high = float(image.min()), float(image.max())
    if image.dtype == np.uint8:
        low, high = 0.0, 255.0
    shown = (image.astype(np.float64) - low) / ((high - low) or 1.0)
    if shown.shape[-1] == 3:
        panel.imshow(shown, interpolation="nearest")
    else:
        panel.imshow(shown[..., 0], cmap="gray", vmin=0, vmax=1, interpolation="nearest")


def show_map(panel: Axes, values: Array, limits: tuple[float, float] | None = None) -> None:
    """Values (height, width), or units in rows, in inferno, from the lowest to the highest."""
    if values.ndim == 1:
        values = in_rows(values.astype(np.float64))
    low, high = limits or (float(values.min()), float(values.max()))
    panel.imshow(values, cmap="inferno", vmin=low, vmax=high or 1.0, interpolation="nearest")


def show_signed(panel: Axes, values: Array, limit: float) -> None:
    """Values (height, width) on both sides of zero: blue below, white at it, red above."""
    panel.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")


def outline(panel: Axes, box: Sequence[int]) -> None:
    """A frame around pixels: top, left, bottom, right."""
    from matplotlib.patches import Rectangle

    top, left, bottom, right = box
    panel.add_patch(
        Rectangle(
            (left - 0.5, top - 0.5),
            right - left,
            bottom - top,
            fill=False,
            edgecolor=OUTLINE,
            linewidth=1.5,
        )
    )
