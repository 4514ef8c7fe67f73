"""A person's own picture as the network wants it: what the training set would hold in its place.

Photographs and drawings differ from the training images in everything but the object: its size and
place, dark on light or light on dark, the paper's colour and shading, transparency, the camera's
rotation. `prepare` takes all of that away. The steps, with pictures, stand in docs/data.md.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps, UnidentifiedImageError

from pyconv.errors import InputError, PictureError
from pyconv.foreground import INSIDE, Floats, Mask, Pixels, clothing, edge, ink
from pyconv.metadata import InputContract

MAX_PIXELS = 64_000_000
"""The largest picture that is decoded unless a caller says otherwise: 64 megapixels."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""What is decoded. Pillow knows many more; each would be one more decoder for hostile bytes."""

Picture = str | Path | bytes | Image.Image
"""A picture's file, the bytes of one, or a picture already decoded."""

_WORKING_SIDE = 512  # larger pictures are reduced to this before anything is looked for in them


def read(source: Picture, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode a picture: upright, opaque, 8 bits.

    Args:
        source: a PNG, JPEG, WebP, GIF or BMP file's path or bytes, or an image of Pillow's. Of an
            animation, the first frame is taken.
        max_pixels: refuse larger pictures; they are not decoded.

    Returns:
        An image of mode `"L"` (grey) or `"RGB"`, turned as its EXIF tag says. What is transparent
        becomes the colour of the picture's edge, or, where the edge is transparent too, black
        behind a light object and white behind a dark one.

    Raises:
        PictureError: there is no such file, it is not a picture in one of these formats, it is
            truncated or corrupted, or too large. The message names the file.
    """
    name = "the picture" if isinstance(source, bytes | Image.Image) else str(source)
    if isinstance(source, Image.Image):
        return _decode(source, name, max_pixels)
    try:
        content = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise PictureError(f"{name}: cannot be read: {error.strerror or error}") from None
    if not content:
        raise PictureError(f"{name}: is empty: it has no bytes")
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:
        raise PictureError(
            f"{name}: is not a picture that can be read; expected one of {', '.join(FORMATS)}"
        ) from None
    except Image.DecompressionBombError:
        raise PictureError(
            f"{name}: is too large: more pixels than {max_pixels:,}; reduce it"
        ) from None
    except Exception as error:  # what Pillow's parsers raise on broken files shares no base
        raise PictureError(f"{name}: is corrupted: {error}") from None
    with image:
        return _decode(image, name, max_pixels)


def prepare(
    source: Picture, contract: InputContract, *, max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """Bring a picture to what a network takes, in the style of its training images.

    Styles (`contract.picture`):

    - `"mnist"`: white ink on black, cropped to the ink, its longer side 20 of 28 pixels,
      antialiased, shifted by whole pixels until the centre of mass is in the middle (LeCun et al.,
      1998).
    - `"fashion-mnist"`: a light object on black, its longer side all of the 28 pixels, sharpened,
      in the middle (Xiao et al., 2017).
    - `"plain"`: the whole picture, resized to the network's height and width whatever its own
      proportions, as Keras' `load_img(target_size=…)` does; nothing is inverted.

    A picture that already is as the training set would hold it comes out unchanged, byte by byte.

    Args:
        source: as for `read`.
        contract: the network's, from its metadata.
        max_pixels: as for `read`.

    Returns:
        (height, width, channels) uint8.

    Raises:
        PictureError: as for `read`, or nothing is drawn in the picture.
        InputError: the contract asks for neither 1 nor 3 channels.
    """
    if contract.channels not in (1, 3):
        raise InputError(
            f"contract: a picture has 1 or 3 channels, the network takes {contract.channels}; "
            "pass it arrays"
        )
    image = read(source, max_pixels=max_pixels)
    height, width = contract.height, contract.width
    if contract.picture == "plain":
        mode = "L" if contract.channels == 1 else "RGB"
        resized = image.convert(mode).resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(resized).reshape(height, width, contract.channels)
    style = _mnist if contract.picture == "mnist" else _fashion_mnist
    grey = style(_without_color(_reduced(image)), height, width)
    if grey is None:
        name = str(source) if isinstance(source, str | Path) else "the picture"
        raise PictureError(
            f"{name}: nothing is drawn there: no object stands out from the background"
        )
    return np.repeat(grey[:, :, np.newaxis], contract.channels, axis=2)


def prepare_all(
    sources: Iterable[Picture], contract: InputContract, *, max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """`prepare` for several pictures: (n, height, width, channels) uint8."""
    arrays = [prepare(source, contract, max_pixels=max_pixels) for source in sources]
    shape = (0, contract.height, contract.width, contract.channels)
    return np.stack(arrays) if arrays else np.empty(shape, np.uint8)


def save(pixels: NDArray[np.uint8], path: str | Path) -> None:
    """Write what `prepare` made as a PNG file, pixel by pixel, to be looked at or read again.

    Args:
        pixels: (height, width, channels) or (height, width) uint8.
        path: the file; its folder is made if there is none.

    Raises:
        InputError: the file cannot be written.
    """
    array = pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path, "PNG")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error


def _decode(image: Image.Image, name: str, max_pixels: int) -> Image.Image:
    if image.width * image.height > max_pixels:
        raise PictureError(
            f"{name}: is too large: {image.width}×{image.height} pixels are more than "
            f"{max_pixels:,}; reduce it"
        )
    if 0 in image.size:
        raise PictureError(f"{name}: is empty: {image.width}×{image.height} pixels")
    try:
        image.load()
        image = ImageOps.exif_transpose(image)
        if image.mode in ("I", "I;16", "I;16B", "I;16L", "I;16N"):
            # 16 bits a pixel, which Pillow would clip at 255, not scale.
            image = Image.fromarray((np.asarray(image, np.uint32) >> 8).astype(np.uint8))
        if image.has_transparency_data:
            image = _opaque(image.convert("RGBA"))
        if image.mode in ("L", "1"):
            return image.convert("L")
        return image.convert("RGB")
    except OSError as error:
        state = "truncated" if "truncated" in str(error) else "corrupted"
        raise PictureError(f"{name}: is {state}: {error}") from None
    except Exception as error:  # what Pillow's decoders raise on broken files shares no base
        raise PictureError(f"{name}: is corrupted: {error}") from None


def _opaque(image: Image.Image) -> Image.Image:
    """Put something behind an RGBA image that its object stands out from."""
    around = edge(np.asarray(image))
    opaque = around[:, 3] > 127
    if opaque.mean() > 0.5:
        # A picture with holes or round corners: they get the colour of its own background.
        behind = np.median(around[opaque, :3], axis=0)
    else:
        pixels = np.asarray(_reduced(image), np.float64)
        colors, cover = pixels[:, :, :3].mean(axis=2), pixels[:, :, 3]
        light = np.average(colors, weights=cover) if cover.any() else 0.0
        behind = np.full(3, 0 if light > 127.5 else 255)
    paper = Image.new("RGBA", image.size, (*behind.astype(int).tolist(), 255))
    return Image.alpha_composite(paper, image).convert("RGB")


def _without_color(image: Image.Image) -> Image.Image:
    """The image itself, or a grey one where red, green and blue agree in every pixel."""
    if image.mode == "L":
        return image
    array = np.asarray(image)
    return image.getchannel(0) if (array == array[:, :, :1]).all() else image


def _mnist(image: Image.Image, height: int, width: int) -> Pixels | None:
    """Ink as MNIST would hold it, (height, width); None where there is none."""
    if image.mode == "L" and _is_mnist(pixels := np.asarray(image), height, width):
        return pixels
    strength = ink(np.asarray(image))
    if strength is None:
        return None
    # MNIST's box is 20 of 28 pixels.
    box = round(height * 20 / 28), round(width * 20 / 28)
    shares = _resized(strength, _crop(strength > INSIDE), *box)
    # A pen thinner than a pixel of the result leaves only traces of grey there. In MNIST a fifth of
    # a digit's pixels, at least, are as bright as can be.
    bright = np.quantile(shares[shares > shares.max() / 20], 0.8)
    digit = _as_pixels(np.clip(shares / bright, 0.0, 1.0))
    canvas = np.zeros((height, width), np.uint8)
    (y, x), (rows, columns) = _center_of_mass(digit), digit.shape
    top = min(max(round(height / 2 - y), 0), height - rows)
    left = min(max(round(width / 2 - x), 0), width - columns)
    canvas[top : top + rows, left : left + columns] = digit
    return canvas


def _is_mnist(pixels: Pixels, height: int, width: int) -> bool:
    """Whether pixels are just as MNIST would hold them; true of all its 70,000 images."""
    if pixels.shape != (height, width) or not pixels.any():
        return False
    rows, columns = _crop(pixels > 0)
    longer = max((rows.stop - rows.start) / height, (columns.stop - columns.start) / width)
    y, x = _center_of_mass(pixels)
    return bool(
        19 / 28 <= longer <= 20 / 28
        and abs(y - height / 2) <= 0.5
        and abs(x - width / 2) <= 0.5
        and (edge(pixels) == 0).mean() > 0.9
        and pixels.max() >= 250
    )


def _fashion_mnist(image: Image.Image, height: int, width: int) -> Pixels | None:
    """An object as Fashion-MNIST would hold it, (height, width); None where there is none."""
    if image.mode == "L" and _is_fashion_mnist(pixels := np.asarray(image), height, width):
        return pixels
    light = clothing(np.asarray(image.convert("L")))
    if light is None:
        return None
    light = _resized(light, _crop(light > 0), height, width)
    sharpened = Image.fromarray(_as_pixels(light)).filter(ImageFilter.UnsharpMask(1, 60, 0))
    canvas = np.zeros((height, width), np.uint8)
    rows, columns = light.shape
    top, left = (height - rows) // 2, (width - columns) // 2
    canvas[top : top + rows, left : left + columns] = np.asarray(sharpened)
    return canvas


def _is_fashion_mnist(pixels: Pixels, height: int, width: int) -> bool:
    """Whether pixels are as Fashion-MNIST would hold them; true of all its 70,000 images."""
    around = edge(pixels)
    return pixels.shape == (height, width) and bool((around == 0).sum() > (around >= 242).sum())


def _crop(mask: Mask) -> tuple[slice, slice]:
    """The rows and columns that hold all of a mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _reduced(image: Image.Image) -> Image.Image:
    """The image, or a smaller one where it has more pixels than are of use."""
    scale = _WORKING_SIDE / max(image.size)
    if scale >= 1:
        return image
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.HAMMING, reducing_gap=2.0)


def _resized(values: Floats, box: tuple[slice, slice], height: int, width: int) -> Floats:
    """A part of an array resized until it just fits a height and width, its proportions kept."""
    part = values[box]
    scale = min(height / part.shape[0], width / part.shape[1])
    size = (max(1, round(part.shape[1] * scale)), max(1, round(part.shape[0] * scale)))
    image = Image.fromarray(part.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    return np.asarray(image, np.float64)


def _center_of_mass(pixels: Pixels) -> tuple[float, float]:
    """The mean row and column, weighted by the pixels' brightness."""
    rows, columns = pixels.sum(axis=1, dtype=np.float64), pixels.sum(axis=0, dtype=np.float64)
    total = rows.sum()
    return (
        float(rows @ np.arange(len(rows)) / total),
        float(columns @ np.arange(len(columns)) / total),
    )


def _as_pixels(shares: Floats) -> Pixels:
    return np.rint(shares * 255).astype(np.uint8)
