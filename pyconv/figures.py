"""Pictures made of pixels: heat maps, contact sheets, and the grid of activations.

They are drawn with Pillow, so that looking inside a network needs no plotting library; every value
stays one visible square.
"""

from __future__ import annotations

import io
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pyconv.colormap import INFERNO
from pyconv.errors import InputError

_PAPER = (255, 255, 255)
_INK = (31, 35, 40)
_QUIET_INK = (101, 109, 118)
_FRAME = (208, 215, 222)
_NOT_A_NUMBER = (140, 149, 159)

_MARGIN = 20
_GAP = 10
_LEADING = 1.35  # the height of a line of text over its font's size

# What Pillow's own font can draw besides ASCII, and what stands in for signs that it cannot.
_DRAWABLE = frozenset("«»°±·“”…™")
_STAND_INS = str.maketrans({"×": "x", "–": "-", "\u2212": "-", "\u2019": "'"})

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def png_bytes(image: Image.Image) -> bytes:
    """An image as the bytes of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def enlarged(pixels: NDArray[np.uint8], *, cell: int = 10) -> Image.Image:
    """A small picture with every pixel drawn as a square.

    Args:
        pixels: (height, width), (height, width, 1) or (height, width, 3) uint8.
        cell: side of a pixel's square.

    Returns:
        A grey or RGB image of width·cell by height·cell.

    Raises:
        InputError: another shape or dtype, or a cell below 1.
    """
    image = _from_pixels(pixels)
    _at_least_one("cell", cell)
    return image.resize((image.width * cell, image.height * cell), Image.Resampling.NEAREST)


def heat_map(
    values: NDArray[Any], *, cell: int = 8, value_range: tuple[float, float] | None = None
) -> Image.Image:
    """One channel's activations in the colours of the inferno map.

    Args:
        values: (height, width) of any real dtype, or (units,), which is laid out in rows.
        cell: side of a value's square, in pixels.
        value_range: the values that get the map's first and last colour; by default the lowest
            and the highest there are. Where all values are equal, all get the first colour.
            A NaN is grey; an infinity is drawn as the end of the range that it lies beyond.

    Returns:
        An RGB image of width·cell by height·cell.

    Raises:
        InputError: another number of axes, no values, a cell below 1, or a range that is reversed
            or not finite.
    """
    _at_least_one("cell", cell)
    image = _colored(values, value_range)
    return image.resize((image.width * cell, image.height * cell), Image.Resampling.NEAREST)


def contact_sheet(
    images: Sequence[NDArray[np.uint8]],
    captions: Sequence[str],
    *,
    columns: int = 10,
    cell: int = 84,
) -> Image.Image:
    """Small pictures in rows, each with its caption below.

    Args:
        images: (height, width), (height, width, 1) or (height, width, 3) uint8 each.
        captions: one an image; a caption wider than its picture is cut, with a sign of it.
        columns: pictures in a row.
        cell: side in pixels of the square that a picture is fitted into.

    Raises:
        InputError: no images, another count of captions, or an image of another shape or dtype.
    """
    _same_length("captions", captions, "images", images)
    _at_least_one("columns", columns)
    _at_least_one("cell", cell)
    columns = min(columns, len(images))
    size = max(10, round(cell / 7))
    font = _font(size)
    caption_height = round(size * _LEADING)
    step_x, step_y = cell + _GAP, cell + caption_height + _GAP
    rows = math.ceil(len(images) / columns)
    sheet = Image.new(
        "RGB",
        (2 * _MARGIN + columns * step_x - _GAP, 2 * _MARGIN + rows * step_y - _GAP),
        _PAPER,
    )
    draw = ImageDraw.Draw(sheet)
    for place, (pixels, caption) in enumerate(zip(images, captions, strict=True)):
        left = _MARGIN + place % columns * step_x
        top = _MARGIN + place // columns * step_y
        _place(sheet, _from_pixels(pixels), left, top, cell)
        text = _shortened(_drawable(caption), font, cell)
        draw.text((left + cell / 2, top + cell + size * 0.3), text, _INK, font, anchor="ma")
    return sheet


def activation_grid(
    pictures: Sequence[NDArray[np.uint8]],
    captions: Sequence[str],
    columns: Sequence[tuple[str, Sequence[NDArray[Any]]]],
    *,
    cell: int = 112,
) -> Image.Image:
    """What layers make of pictures: a row a picture, a column a layer.

    Every map is drawn with its own range of values, from the lowest in black to the highest in pale
    yellow, as the figure shows where a channel looks and not how strongly.

    Args:
        pictures: the network's inputs, (height, width), (height, width, 1) or (height, width, 3)
            uint8 each; they make the first column.
        captions: one a picture, such as `"Ankle boot\\n0.99"`; its first line stands out.
        columns: a caption, such as `"conv2d\\n26×26 · channel 32"`, and one map a picture:
            (height, width) or (units,) of any real dtype.
        cell: side in pixels of the square that a picture or map is fitted into.

    Raises:
        InputError: no pictures, a count of captions or maps that differs from that of the
            pictures, or an array of another shape or dtype.
    """
    _same_length("captions", captions, "pictures", pictures)
    for caption, maps in columns:
        _same_length(f"the maps of column {caption!r}", maps, "pictures", pictures)
    _at_least_one("cell", cell)
    size = max(10, round(cell / 8.6))
    rows = [_Caption(text, size) for text in captions]
    heads = [_Caption(text, size, cell) for text in ("input", *(text for text, _ in columns))]
    left = _MARGIN + math.ceil(max(row.width for row in rows)) + 2 * _GAP
    top = _MARGIN + max(head.height for head in heads) + _GAP
    step = cell + _GAP
    grid = Image.new(
        "RGB",
        (left + len(heads) * step - _GAP + _MARGIN, top + len(rows) * step - _GAP + _MARGIN),
        _PAPER,
    )
    draw = ImageDraw.Draw(grid)
    for x, head in enumerate(heads):
        # Captions stand on a common bottom line, right above what they name.
        head.draw(draw, left + x * step + cell / 2, top - _GAP - head.height, "m")
    for y, row in enumerate(rows):
        row.draw(draw, left - 2 * _GAP, top + y * step + (cell - row.height) / 2, "r")
        _place(grid, _from_pixels(pictures[y]), left, top + y * step, cell)
        for x, (_, maps) in enumerate(columns, start=1):
            _place(grid, _colored(maps[y], None), left + x * step, top + y * step, cell)
    return grid


@dataclass(frozen=True, slots=True)
class _Caption:
    """Lines of text: the first stands out, the others are smaller and quieter.

    Attributes:
        text: the lines, separated by newlines.
        size: of the first line's font, in pixels.
        limit: the width in pixels past which a line is cut; 0 for none.
    """

    text: str
    size: int
    limit: int = 0

    def _lines(self) -> list[tuple[str, int]]:
        sizes = [self.size, *[max(9, round(self.size * 0.85))] * self.text.count("\n")]
        return [
            (_shortened(line, _font(size), self.limit) if self.limit else line, size)
            for line, size in zip(_drawable(self.text).split("\n"), sizes, strict=True)
        ]

    @property
    def width(self) -> float:
        return max(_font(size).getlength(line) for line, size in self._lines())

    @property
    def height(self) -> int:
        return sum(round(size * _LEADING) for _, size in self._lines())

    def draw(self, draw: ImageDraw.ImageDraw, x: float, y: float, align: str) -> None:
        """Draw from y downwards; x is the middle (`"m"`) or the right end (`"r"`)."""
        for number, (line, size) in enumerate(self._lines()):
            color = _QUIET_INK if number else _INK
            draw.text((x, y), line, color, _font(size), anchor=f"{align}a")
            y += round(size * _LEADING)


def _font(size: int) -> _Font:
    return ImageFont.load_default(size)


def _drawable(text: str) -> str:
    """The text in signs that the font has: `"é"` becomes `"e"`, `"×"` becomes `"x"`."""
    plain = unicodedata.normalize("NFC", text).translate(_STAND_INS)
    return "".join(sign if sign in _DRAWABLE else _folded(sign) for sign in plain)


def _folded(sign: str) -> str:
    if sign.isascii():
        return sign
    letters = "".join(c for c in unicodedata.normalize("NFKD", sign) if c.isascii())
    return letters or "?"


def _shortened(text: str, font: _Font, limit: float) -> str:
    """The text if it is no wider than the limit, else as much of it as fits, and an ellipsis."""
    if font.getlength(text) <= limit:
        return text
    while text and font.getlength(f"{text}…") > limit:
        text = text[:-1]
    return f"{text.rstrip()}…"


def _place(sheet: Image.Image, image: Image.Image, left: int, top: int, cell: int) -> None:
    """Enlarge or reduce an image into a square cell, centred, with a hairline around it."""
    scale = cell / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    # Straight to a size that is no multiple, nearest neighbours would become unequal squares; from
    # the next multiple down by area they stay equal, with soft edges.
    whole = max(1, math.ceil(scale))
    image = image.convert("RGB").resize(
        (image.width * whole, image.height * whole), Image.Resampling.NEAREST
    )
    image = image.resize((width, height), Image.Resampling.BOX)
    x, y = left + (cell - width) // 2, top + (cell - height) // 2
    sheet.paste(image, (x, y))
    ImageDraw.Draw(sheet).rectangle((x - 1, y - 1, x + width, y + height), outline=_FRAME)


def _from_pixels(pixels: NDArray[np.uint8]) -> Image.Image:
    array = np.asarray(pixels)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    colored = array.ndim == 3 and array.shape[2] == 3
    if array.dtype != np.uint8 or not (array.ndim == 2 or colored) or 0 in array.shape:
        raise InputError(
            "pixels: expected uint8 of shape (height, width), (height, width, 1) or "
            f"(height, width, 3), got {array.dtype} {array.shape}"
        )
    return Image.fromarray(np.ascontiguousarray(array))


def _colored(values: NDArray[Any], value_range: tuple[float, float] | None) -> Image.Image:
    """A pixel a value."""
    array = np.asarray(values, np.float64)
    if array.ndim == 1:
        array = in_rows(array)
    if array.ndim != 2 or 0 in array.shape:
        raise InputError(
            f"values: expected shape (height, width) or (units,), got {np.shape(values)}"
        )
    finite = array[np.isfinite(array)]
    if value_range is not None:
        low, high = value_range
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise InputError(f"value_range: expected (lowest, highest), got {value_range}")
    else:
        low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    # Halves where the difference of two doubles exceeds the largest double.
    part = 1.0 if math.isfinite(float(high) - float(low)) else 0.5
    span = (high * part - low * part) or 1.0
    shares = np.clip((array * part - low * part) / span, 0.0, 1.0)
    missing = np.isnan(shares)
    colors = INFERNO[np.rint(np.where(missing, 0.0, shares) * 255).astype(np.uint8)]
    colors[missing] = _NOT_A_NUMBER
    return Image.fromarray(colors)


def in_rows(units: NDArray[np.float64]) -> NDArray[np.float64]:
    """A vector as a matrix in rows, nearly square; where its length is prime, padded with NaN."""
    count = len(units)
    height = next((h for h in range(math.isqrt(count), 0, -1) if count % h == 0), 1)
    width = count // height if count else 0
    if width > 4 * height and count > 16:
        width = math.ceil(math.sqrt(count))
        height = math.ceil(count / width)
    return np.pad(units, (0, width * height - count), constant_values=np.nan).reshape(height, width)


def _same_length(name: str, given: Sequence[Any], of: str, expected: Sequence[Any]) -> None:
    if not len(expected):
        raise InputError(f"{of}: expected at least one")
    if len(given) != len(expected):
        raise InputError(
            f"{name}: expected {len(expected)}, one for each of the {of}; got {len(given)}"
        )


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise InputError(f"{name}: expected at least 1, got {value}")
