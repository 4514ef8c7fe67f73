"""Make the sample pictures in `pyconv/bundled/samples/`.

The digits are drawn here, stroke by stroke, as a person would with a pen on paper: larger than the
network's input, dark on light, not centred, each a little slanted, in its own ink. The clothing is
chosen from Fashion-MNIST's test set, a picture a class.

    python tools/draw_samples.py

It draws the pictures of docs/data.md, too: they show the samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from pyconv import bundled, data, figures, pictures
from pyconv.metadata import InputContract

_ROOT = Path(__file__).parents[1]
_SAMPLES = _ROOT / "pyconv" / "bundled" / "samples"
_IMAGES = _ROOT / "docs" / "images"

_SIDE = 140
_OVERSAMPLING = 4  # drawn four times as large, for soft edges

Point = tuple[float, float]
Stroke = list[Point]

# The strokes of each digit as points that a smooth curve goes through: x to the right and y
# downwards, in a box one high.
_STROKES: dict[int, list[Stroke]] = {
    0: [[(0.36, 0.02), (0.14, 0.14), (0.04, 0.45), (0.1, 0.8), (0.32, 0.98), (0.55, 0.85),
         (0.64, 0.5), (0.56, 0.15), (0.36, 0.02), (0.26, 0.05)]],
    1: [[(0.12, 0.24), (0.3, 0.02)], [(0.3, 0.02), (0.3, 0.5), (0.28, 1.0)]],
    2: [[(0.06, 0.22), (0.2, 0.04), (0.44, 0.04), (0.56, 0.24), (0.44, 0.52), (0.2, 0.8),
         (0.04, 0.97)], [(0.04, 0.97), (0.3, 0.94), (0.64, 0.97)]],
    3: [[(0.06, 0.12), (0.28, 0.01), (0.52, 0.12), (0.5, 0.34), (0.24, 0.46)],
        [(0.24, 0.46), (0.52, 0.54), (0.6, 0.76), (0.4, 0.97), (0.16, 0.96), (0.02, 0.84)]],
    4: [[(0.26, 0.02), (0.18, 0.3), (0.04, 0.58)], [(0.04, 0.58), (0.35, 0.56), (0.66, 0.56)],
        [(0.5, 0.22), (0.48, 0.6), (0.45, 1.0)]],
    5: [[(0.58, 0.03), (0.36, 0.04), (0.14, 0.04)], [(0.14, 0.04), (0.11, 0.22), (0.09, 0.42)],
        [(0.09, 0.42), (0.3, 0.36), (0.54, 0.48), (0.6, 0.72), (0.42, 0.95), (0.18, 0.97),
         (0.03, 0.86)]],
    6: [[(0.5, 0.02), (0.26, 0.2), (0.1, 0.5), (0.08, 0.8), (0.26, 0.98), (0.5, 0.9), (0.56, 0.68),
         (0.38, 0.52), (0.18, 0.6), (0.09, 0.76)]],
    7: [[(0.04, 0.06), (0.3, 0.05), (0.6, 0.05)], [(0.6, 0.05), (0.44, 0.42), (0.26, 1.0)]],
    8: [[(0.5, 0.14), (0.32, 0.02), (0.12, 0.12), (0.16, 0.34), (0.36, 0.5), (0.54, 0.7),
         (0.48, 0.92), (0.28, 0.99), (0.1, 0.88), (0.14, 0.66), (0.34, 0.48), (0.5, 0.32),
         (0.5, 0.14)]],
    9: [[(0.54, 0.18), (0.38, 0.02), (0.16, 0.08), (0.06, 0.28), (0.2, 0.46), (0.42, 0.4),
         (0.54, 0.18)], [(0.54, 0.18), (0.53, 0.55), (0.46, 0.99)]],
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Hand:
    """How one digit is written.

    Attributes:
        pen: the pen's width, in pixels.
        height: of the digit, in pixels.
        corner: of the box it is written into, in pixels.
        slant: how far to the right the top leans, over the height.
        ink: red, green and blue.
        paper: red, green and blue.
    """

    pen: float
    height: float
    corner: Point
    slant: float
    ink: tuple[int, int, int]
    paper: tuple[int, int, int]


_BLACK, _BLUE, _PENCIL = (28, 28, 32), (24, 52, 140), (70, 70, 74)
_WHITE, _CREAM, _GREYISH = (252, 252, 250), (246, 240, 224), (226, 228, 230)

_HANDS = {
    0: _Hand(9, 92, (34, 22), 0.10, _BLACK, _WHITE),
    1: _Hand(8, 96, (50, 20), 0.08, _BLUE, _CREAM),
    2: _Hand(9, 88, (30, 30), 0.06, _BLACK, _CREAM),
    3: _Hand(8, 94, (40, 18), 0.05, _BLUE, _WHITE),
    4: _Hand(8, 90, (32, 26), 0.12, _PENCIL, _WHITE),
    5: _Hand(9, 86, (42, 34), 0.08, _BLACK, _GREYISH),
    6: _Hand(8, 98, (28, 24), 0.10, _BLUE, _GREYISH),
    7: _Hand(9, 90, (38, 30), 0.06, _BLACK, _WHITE),
    8: _Hand(8, 94, (44, 16), 0.10, _PENCIL, _CREAM),
    9: _Hand(9, 92, (36, 28), 0.05, _BLUE, _WHITE),
}

# Typical pictures, looked at one by one: the place in the test set for each class.
_CLOTHING = {
    "T-shirt/top": 85,
    "Trouser": 2,
    "Pullover": 1,
    "Dress": 13,
    "Coat": 10,
    "Sandal": 82,
    "Shirt": 7,
    "Sneaker": 9,
    "Bag": 30,
    "Ankle boot": 0,
}


def curve(points: Stroke, steps: int = 24) -> Stroke:
    """A smooth curve through points (Catmull-Rom), each piece of it in so many steps."""
    knots = np.array([points[0], *points, points[-1]])
    t = np.linspace(0, 1, steps, endpoint=False)[:, np.newaxis]
    pieces = [
        a + 0.5 * t * (c - a0 + t * (2 * a0 - 5 * a + 4 * c - d + t * (3 * (a - c) + d - a0)))
        for a0, a, c, d in zip(knots, knots[1:], knots[2:], knots[3:], strict=False)
    ]
    return [(float(x), float(y)) for x, y in [*np.concatenate(pieces), knots[-1]]]


def draw_digit(digit: int) -> Image.Image:
    """A digit with a round pen on paper, RGB, 140 by 140."""
    hand = _HANDS[digit]
    image = Image.new("L", (_SIDE * _OVERSAMPLING,) * 2, 0)
    draw = ImageDraw.Draw(image)
    for stroke in _STROKES[digit]:
        points = curve(stroke)
        for number, (x, y) in enumerate(points):
            # A hand presses a little more in the middle of a stroke.
            pressure = 0.9 + 0.15 * math.sin(math.pi * number / len(points))
            radius = hand.pen * pressure / 2 * _OVERSAMPLING
            left = (hand.corner[0] + hand.height * (x + hand.slant * (1 - y))) * _OVERSAMPLING
            top = (hand.corner[1] + hand.height * y) * _OVERSAMPLING
            draw.ellipse((left - radius, top - radius, left + radius, top + radius), fill=255)
    cover = image.resize((_SIDE, _SIDE), Image.Resampling.BOX)
    ink, paper = (Image.new("RGB", cover.size, color) for color in (hand.ink, hand.paper))
    return Image.composite(ink, paper, cover)


def write_samples() -> None:
    """Write the pictures that come with pyconv."""
    (_SAMPLES / "digits").mkdir(parents=True, exist_ok=True)
    for digit in _STROKES:
        draw_digit(digit).save(_SAMPLES / "digits" / f"{digit}.png", optimize=True)
    (_SAMPLES / "fashion").mkdir(parents=True, exist_ok=True)
    fashion = data.load("fashion-mnist")
    for label, place in _CLOTHING.items():
        if fashion.labels[fashion.test_labels[place]] != label:
            raise SystemExit(f"test image {place} is no {label}")
        name = label.partition("/")[0].lower().replace(" ", "-")
        Image.fromarray(fashion.test_images[place]).save(
            _SAMPLES / "fashion" / f"{name}.png", optimize=True
        )


def main() -> None:
    """Write the pictures."""
    write_samples()
    _IMAGES.mkdir(exist_ok=True)
    contract = InputContract("input", 28, 28, picture="mnist")
    drawn = [pictures.read(path) for path in bundled.samples("digits")]
    seen = pictures.prepare_all(drawn, contract)
    sheet = figures.contact_sheet([*map(np.asarray, drawn), *seen], [""] * 2 * len(drawn))
    (_IMAGES / "digits.png").write_bytes(figures.png_bytes(sheet))
    fashion = data.load("fashion-mnist")
    captions = [fashion.labels[label] for label in fashion.test_labels[:20]]
    sheet = figures.contact_sheet(list(fashion.test_images[:20]), captions)
    (_IMAGES / "fashion-mnist.png").write_bytes(figures.png_bytes(sheet))


if __name__ == "__main__":
    main()
