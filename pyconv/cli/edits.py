"""What the commands that edit layers share: their flags, and what these ask for."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pyconv.errors import InputError, unknown_name

if TYPE_CHECKING:
    from pyconv.client import Examination, LayerDescription
    from pyconv.engines.base import Array


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --silence and --replace."""
    group = parser.add_argument_group(
        "editing layers", "The layers behind an edit are computed from what it leaves."
    )
    group.add_argument(
        "--silence",
        action="append",
        default=[],
        metavar="LAYER:CHANNELS",
        help="set these channels of a layer to 0: conv2d:3 or conv2d:0,3,8-15; may be given "
        "several times",
    )
    group.add_argument(
        "--replace",
        action="append",
        default=[],
        metavar="LAYER=FILE",
        help="put an array in place of what a layer puts out: that of this name in a file that "
        "pyconv activations --channel all --npz has written, or a .npy file; may be given "
        "several times",
    )


def examination(
    args: argparse.Namespace, *, compare: bool = False, profile: bool = False
) -> Examination | None:
    """What the flags ask for, together with other closer looks; None if for nothing.

    Raises:
        InputError: a flag is not of its form, names a layer twice, or its file is no array.
    """
    from pyconv.client import Examination

    silenced: dict[str, list[int]] = {}
    for text in args.silence:
        layer, colon, channels = text.rpartition(":")
        if not colon or not layer:
            raise InputError(
                f"--silence: expected LAYER:CHANNELS, such as conv2d:0,3, got {text!r}"
            )
        silenced.setdefault(layer, []).extend(_channels(text, channels))
    replaced: dict[str, Array] = {}
    for text in args.replace:
        layer, sign, file = text.partition("=")
        if not sign or not layer or not file:
            raise InputError(f"--replace: expected LAYER=FILE, got {text!r}")
        if layer in replaced:
            raise InputError(f"--replace: layer {layer!r} is given twice")
        replaced[layer] = _array(layer, file)
    asked = Examination(compare=compare, profile=profile, silenced=silenced, replaced=replaced)
    return asked if compare or profile or silenced or replaced else None


def check_one_image(asked: Examination | None, layers: Sequence[LayerDescription]) -> None:
    """Refuse replacements that are of several pictures, where each picture is asked for alone.

    Args:
        asked: what the flags ask for.
        layers: those of the model.

    Raises:
        InputError: there is one.
    """
    shapes = {layer.name: layer.shape for layer in layers}
    for name, array in asked.replaced.items() if asked else ():
        if array.ndim and array.shape[1:] == shapes.get(name) and len(array) != 1:
            raise InputError(
                f"--replace: layer {name!r}: each picture is classified by itself: expected an "
                f"array of 1 image, got {len(array)}; pyconv activations takes an array of several"
            )


def _channels(text: str, channels: str) -> list[int]:
    """`0,3,8-15` as numbers."""
    found: list[int] = []
    for part in channels.split(","):
        first, dash, last = part.strip().partition("-")
        last = last if dash else first
        if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last) < 1 << 20):
            raise InputError(
                f"--silence: expected channels such as 0,3 or 8-15 behind the colon, got {text!r}"
            )
        found.extend(range(int(first), int(last) + 1))
    return found


def _array(layer: str, file: str) -> Array:
    import numpy as np

    where = f"--replace: layer {layer!r}: {file}"
    try:
        loaded = np.load(Path(file), allow_pickle=False)
        array = loaded if isinstance(loaded, np.ndarray) else loaded[layer]
    except OSError as error:
        raise InputError(f"{where}: cannot be read: {error.strerror or error}") from error
    except KeyError as error:
        raise InputError(f"{where}: {unknown_name('array', layer, loaded)}") from error
    # What is damaged raises a ValueError, or whatever else zipfile, zlib or tokenize has for it.
    except Exception as error:
        raise InputError(f"{where}: expected arrays as NumPy writes them") from error
    # A member of a zip file that is no array comes as bytes.
    if not isinstance(array, np.ndarray):
        raise InputError(f"{where}: expected an array as NumPy writes it, got other bytes")
    if array.dtype.kind not in "biufc":
        raise InputError(f"{where}: expected an array of numbers, got {array.dtype}")
    return array
