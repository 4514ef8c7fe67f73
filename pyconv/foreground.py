"""What stands out from a picture's background: ink on paper, clothing before a wall.

The background is estimated first, as a smooth surface, since paper is never evenly lit; whether the
object is lighter or darker follows from what differs most from it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Pixels = NDArray[np.uint8]

INSIDE = 0.3
"""The strength from which a pixel counts as part of the ink."""

# Less than this is no deviation from the background. Fashion-MNIST's authors trimmed by 5 %.
_LEAST_INK = 0.06
_LEAST_LIGHT = 0.05


def ink(pixels: Pixels) -> Floats | None:
    """How much ink is in each pixel.

    Ink is what differs from the paper in the way that most of what differs does: dark on light and
    light on dark, grey and coloured, are all the same.

    Args:
        pixels: (height, width) or (height, width, 3) uint8.

    Returns:
        (height, width) from 0, paper, to 1, all ink; None where nothing is drawn.
    """
    array = pixels / 255.0
    colors = array[:, :, np.newaxis] if array.ndim == 2 else array
    # Ink is thin, so nearly all of the picture shows the paper, and most surely its outer eighths.
    height, width = colors.shape[:2]
    weights = np.full((height, width), 4.0)
    y, x = height // 8, width // 8
    weights[y + 1 : height - y - 1, x + 1 : width - x - 1] = 1.0
    deviation = colors - _background(colors, weights, degree=2)
    size = _size(deviation)
    noise = _noise(size)
    candidates = size[size > _threshold(_LEAST_INK, noise)]
    if not candidates.size:
        return None
    # A mean that the many pixels with a trace of ink (edges, JPEG's ripples) hardly lower.
    strong = size > (candidates**2).sum() / candidates.sum() / 2
    toward_ink = deviation[strong].mean(axis=0)
    toward_ink /= np.linalg.norm(toward_ink) or 1.0
    strength = deviation @ toward_ink
    full = strength[strong & (strength > 0)]
    if not full.size:  # as much is lighter than the paper as is darker
        return None
    level = float(np.median(full))
    # Below the one end is paper, above the other is full ink; half-covered pixels stay half.
    low = min(max(0.1, 4 * noise / level), 0.4)
    strength = np.clip((strength / level - low) / (1 - 2 * low), 0.0, 1.0)
    shape = _significant(strength, strength > INSIDE, noise)
    shape &= ~_intruders(shape)
    return np.where(_grown(shape), strength, 0.0) if shape.any() else None


def clothing(pixels: Pixels) -> Floats | None:
    """A light object on black: how far a grey picture is from its background, pixel by pixel.

    Args:
        pixels: (height, width) uint8.

    Returns:
        (height, width) from 0, the background, to 1, white before black or black before white;
        None where no object stands out.
    """
    grey = pixels[:, :, np.newaxis] / 255.0
    # Clothing may fill most of the picture and touch its edge: only the corners are nearly sure to
    # show the background.
    frame = np.zeros(pixels.shape)
    frame[0] = frame[-1] = frame[:, 0] = frame[:, -1] = 1.0
    y, x = (max(1, side // 8) for side in pixels.shape)
    for rows in (slice(y), slice(-y, None)):
        for columns in (slice(x), slice(-x, None)):
            frame[rows, columns] *= 4.0
    background = _background(grey, frame, degree=1)[:, :, 0]
    deviation = grey[:, :, 0] - background
    noise = _noise(deviation[frame == frame.max()])
    threshold = _threshold(_LEAST_LIGHT, noise)
    size = np.abs(deviation)
    shape = _significant(size, size > threshold, noise)
    if not shape.any():
        return None
    if deviation[shape].sum() < 0:
        light = -deviation / np.maximum(background, threshold)
    else:
        light = deviation / np.maximum(1 - background, threshold)
    return np.where(shape, np.clip(light, 0.0, 1.0), 0.0)


def edge(array: NDArray[np.generic]) -> NDArray[Any]:
    """The outermost pixels of an array (height, width, …), as (n, …)."""
    return np.concatenate([array[0], array[-1], array[1:-1, 0], array[1:-1, -1]])


def _background(colors: Floats, weights: Floats, degree: int) -> Floats:
    """The paper behind a picture: a smooth surface a channel, (height, width, channels).

    It is a polynomial in x and y: level where that explains the picture, bent where bending leaves
    clearly less noise. A step, such as the table next to the paper, is not worth bending for.

    Args:
        colors: (height, width, channels).
        weights: (height, width), how surely each pixel shows the paper.
        degree: of the polynomial at most; a picture of few pixels gets a level one.
    """
    height, width, _ = colors.shape
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    # A grid of pixels from edge to edge says as much about a smooth surface as all of them.
    some = np.ix_(*(np.linspace(0, n - 1, min(n, 64)).astype(np.intp) for n in (height, width)))
    known = weights[some] > 0
    values, prior = colors[some][known], weights[some][known]
    best, least_noise = np.zeros_like(colors), np.inf
    for bend in range(degree + 1 if min(height, width) >= 16 else 1):
        powers = [(i, j) for i in range(bend + 1) for j in range(bend + 1 - i)]
        basis = np.stack([x**i * y**j for i, j in powers], axis=2)
        terms = basis[some][known]
        surface = _fit(terms, values, prior)
        noise = _noise(_size(values - terms @ surface))
        if noise < 0.8 * least_noise:
            best, least_noise = basis @ surface, noise
        if noise < 1 / 255:  # no bend can be told from rounding
            break
    return best


def _fit(terms: Floats, values: Floats, prior: Floats) -> Floats:
    """Coefficients for which `terms @ coefficients` is near most of the values.

    They have the least weighted sum of absolute deviations, which less than half of the values
    hardly move (iteratively reweighted least squares), and are then fitted once more by least
    squares to the values that they agree with.

    Args:
        terms: (n, k), all of the same order of size.
        values: (n, channels).
        prior: (n,) weights.

    Returns:
        (k, channels).
    """

    def solve(weight: Floats) -> Floats:
        # By the normal equations, as k is 6 at most.
        weighted = terms.T * weight
        solution = np.linalg.lstsq(weighted @ terms, weighted @ values, rcond=None)[0]
        return solution.astype(np.float64)

    coefficients = np.zeros((terms.shape[1], values.shape[1]))
    coefficients[0] = np.median(values[prior == prior.max()], axis=0)
    for _ in range(15):
        before = coefficients
        coefficients = solve(prior / np.maximum(_size(values - terms @ coefficients), 0.01))
        if np.abs(coefficients - before).max() < 1e-3 / 255:
            break
    deviation = _size(values - terms @ coefficients)
    return solve(prior * (deviation <= max(0.02, 3 * _noise(deviation))))


def _size(colors: Floats) -> Floats:
    """The length of each colour, over the last axis."""
    size: Floats = np.sqrt((colors**2).sum(axis=-1))
    return size


def _threshold(least: float, noise: float) -> float:
    """The deviation that is none of noise's, unless what was taken for noise is the object."""
    return max(least, min(5 * noise, 0.25))


def _noise(deviations: Floats) -> float:
    """The standard deviation of normal noise, of which at most half the values are no part."""
    return float(1.4826 * np.median(np.abs(deviations)))


def _significant(strength: Floats, mask: Mask, noise: float) -> Mask:
    """The connected parts of a mask without specks.

    A part is a speck if it holds less than a fiftieth of the whole strength, or, in a noisy
    picture, fewer than 6 pixels.
    """
    parts = _connected(mask)
    count = int(parts.max()) + 1
    mass = np.bincount(parts.ravel(), strength.ravel(), count)
    pixels = np.bincount(parts.ravel(), minlength=count)
    keep = (mass >= mass[1:].sum() / 50) & (pixels >= (6 if noise > 1 / 255 else 1))
    keep[0] = False
    kept: Mask = keep[parts]
    return kept


def _intruders(mask: Mask) -> Mask:
    """The connected parts that only reach into the picture: a shadow, a finger, the table.

    That is what runs along a tenth of the picture's edge, where there is something else besides.
    """
    parts = _connected(mask)
    around = edge(parts)
    intrudes = np.bincount(around, minlength=int(parts.max()) + 1) > len(around) / 10
    intrudes[0] = False
    if intrudes[1:].all():
        return np.zeros_like(mask)
    found: Mask = intrudes[parts]
    return found


def _connected(mask: Mask) -> NDArray[np.intp]:
    """Number the 8-connected parts of a mask from 1; 0 is outside.

    Runs of pixels in a row are joined with those that they touch in the row above (union-find).
    """
    padded = np.pad(mask, ((0, 0), (1, 1))).astype(np.int8)
    rows, starts = (np.diff(padded, axis=1) == 1).nonzero()
    stops = (np.diff(padded, axis=1) == -1).nonzero()[1]
    parent = list(range(len(rows)))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = parent[parent[run]]
            run = parent[run]
        return run

    first_of_row = np.searchsorted(rows, np.arange(len(mask) + 1))
    for row in range(1, len(mask)):
        above, end = first_of_row[row - 1], first_of_row[row]
        for run in range(end, first_of_row[row + 1]):
            while above < end and stops[above] < starts[run]:
                above += 1
            touched = above
            while touched < end and starts[touched] <= stops[run]:
                parent[root(touched)] = root(run)
                touched += 1
    numbers = np.unique([root(run) for run in range(len(rows))], return_inverse=True)[1] + 1
    parts = np.zeros(mask.shape, np.intp)
    for number, row, start, stop in zip(numbers, rows, starts, stops, strict=True):
        parts[row, start:stop] = number
    return parts


def _grown(mask: Mask) -> Mask:
    """A mask with two pixels more all around, for the soft edges of what is in it."""
    return np.asarray(Image.fromarray(mask.astype(np.uint8)).filter(ImageFilter.MaxFilter(5))) > 0
