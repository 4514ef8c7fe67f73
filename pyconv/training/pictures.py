"""Real pictures of the size that a model takes, to compare an exported file on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pyconv import bundled

Pixels = NDArray[np.uint8]


def samples(shape: Sequence[int]) -> Pixels:
    """The bundled sample pictures at another size.

    Args:
        shape: (height, width, channels) or (height, width).

    Returns:
        (n, *shape) uint8.
    """
    pictures = []
    for path in (*bundled.samples("fashion"), *bundled.samples("digits")):
        with Image.open(path) as picture:
            pictures.append(resize(np.asarray(picture.convert("L")), shape))
    return np.stack(pictures)


def resize(picture: Pixels, shape: Sequence[int]) -> Pixels:
    """A grey picture at another size, the same in every channel.

    Args:
        picture: (height, width) uint8.
        shape: (height, width, channels) or (height, width).

    Returns:
        (*shape,) uint8.
    """
    height, width, *channels = shape
    resized = np.asarray(Image.fromarray(picture).resize((width, height)))
    return np.broadcast_to(resized[..., None], shape) if channels else resized
