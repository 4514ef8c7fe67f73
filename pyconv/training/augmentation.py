"""Changing training images a little, anew every epoch, in ways that leave their class alone.

Everything is drawn from the generator that is passed in, so an epoch's images depend on the seed
and the epoch's number alone, on any of Keras' backends.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

_TRANSFORMS = 256
"""So many rotations and zooms are drawn an epoch; images that lie so far apart share one."""


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What may happen to a training image, in this order.

    Attributes:
        rotate: turned about its centre by up to so many degrees each way.
        zoom: made larger or smaller by up to this share of its size.
        shift: moved by up to so many whole pixels along both axes.
        flip: mirrored left to right, half of the images.
        erase: a square of so many rows and columns, anywhere in the image, filled with noise, in
            half of the images (random erasing: Zhong et al. 2017, arXiv:1708.04896).
    """

    rotate: float = 0.0
    zoom: float = 0.0
    shift: int = 0
    flip: bool = False
    erase: int = 0


def augmented(images: Pixels, how: Augmentation, random: np.random.Generator) -> Pixels:
    """Change every image by steps of its own.

    Args:
        images: (n, height, width) uint8.
        how: what may happen.
        random: draws it.

    Returns:
        (n, height, width) uint8; what comes in from outside is 0. `images` itself where nothing may
        happen.
    """
    images = turned(images, how.rotate, how.zoom, random)
    images = shifted(images, how.shift, random)
    if how.flip:
        mirrored = random.random(len(images)) < 0.5
        images = np.where(mirrored[:, None, None], images[:, :, ::-1], images)
    return erased(images, how.erase, random)


def turned(images: Pixels, rotate: float, zoom: float, random: np.random.Generator) -> Pixels:
    """Rotate and zoom about the centre, with linear interpolation between the pixels.

    Args:
        images: (n, height, width) uint8.
        rotate: the largest angle in degrees, either way.
        zoom: the largest change of size, as a share of it; below 1.
        random: draws angles and sizes.

    Returns:
        (n, height, width) uint8.
    """
    if rotate == 0 and zoom == 0:
        return images
    result = np.empty_like(images)
    for first in range(min(_TRANSFORMS, len(images))):
        angle = np.deg2rad(random.uniform(-rotate, rotate))
        size = 1 + random.uniform(-zoom, zoom)
        chosen = images[first::_TRANSFORMS]
        result[first::_TRANSFORMS] = _resampled(chosen, float(angle), size)
    return result


def _resampled(images: Pixels, angle: float, size: float) -> Pixels:
    """Each image turned counter-clockwise by an angle in radians and enlarged by a factor."""
    count, height, width = images.shape
    middle_row, middle_column = (height - 1) / 2, (width - 1) / 2
    rows, columns = np.mgrid[:height, :width] - np.array([middle_row, middle_column])[:, None, None]
    # Where the pixel that lands at (row, column) comes from. Rows grow downwards.
    from_row = (np.cos(angle) * rows + np.sin(angle) * columns) / size + middle_row + 1
    from_column = (np.cos(angle) * columns - np.sin(angle) * rows) / size + middle_column + 1
    # A border of black, to interpolate with and to read from beyond the image.
    padded = np.pad(images, ((0, 0), (1, 2), (1, 2))).reshape(count, -1)
    from_row = np.clip(from_row, 0, height + 1)
    from_column = np.clip(from_column, 0, width + 1)
    row, column = from_row.astype(np.intp), from_column.astype(np.intp)
    down, right = from_row - row, from_column - column
    total = np.zeros((count, height * width), np.float32)
    for weight, place in (
        ((1 - down) * (1 - right), row * (width + 3) + column),
        ((1 - down) * right, row * (width + 3) + column + 1),
        (down * (1 - right), (row + 1) * (width + 3) + column),
        (down * right, (row + 1) * (width + 3) + column + 1),
    ):
        total += padded[:, place.ravel()] * weight.ravel().astype(np.float32)
    return np.rint(total).astype(np.uint8).reshape(images.shape)


def shifted(images: Pixels, most: int, random: np.random.Generator) -> Pixels:
    """Move each image by a step of its own, whole pixels.

    Args:
        images: (n, height, width) uint8.
        most: steps are drawn from -most to most, alike for rows and columns; 0 returns `images`.
        random: draws the steps.

    Returns:
        (n, height, width) uint8; what comes in from outside is 0.
    """
    if most == 0:
        return images
    count, height, width = images.shape
    padded = np.pad(images, ((0, 0), (most, most), (most, most)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(1, 2))
    rows, columns = random.integers(0, 2 * most + 1, (2, count))
    moved: Pixels = windows[np.arange(count), rows, columns]
    return moved


def erased(images: Pixels, side: int, random: np.random.Generator) -> Pixels:
    """Fill a square in half of the images with noise.

    Args:
        images: (n, height, width) uint8.
        side: rows and columns of the square, at most the image's; 0 returns `images`.
        random: draws which images, where, and the noise.

    Returns:
        (n, height, width) uint8.
    """
    if side == 0:
        return images
    count, height, width = images.shape
    chosen = np.flatnonzero(random.random(count) < 0.5)
    tops = random.integers(0, height - side + 1, len(chosen))
    lefts = random.integers(0, width - side + 1, len(chosen))
    within = np.arange(side)
    result = images.copy()
    result[
        chosen[:, None, None],
        tops[:, None, None] + within[:, None],
        lefts[:, None, None] + within,
    ] = random.integers(0, 256, (len(chosen), side, side), np.uint8)
    return result
