"""Draw what the layers of a network put out for some pictures.

One row a picture, one column a layer, in the inferno colour map: dark is low, bright is high. Every
map has a scale of its own, from its lowest value to its highest; --npz keeps the numbers.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pyconv.cli import connection, edits
from pyconv.errors import InputError

if TYPE_CHECKING:
    from pyconv.layer_figure import LayerFigure

HELP = "draw what layers put out, through a server"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="picture files, one row each")
    connection.add_arguments(parser)
    parser.add_argument(
        "--layer",
        nargs="+",
        metavar="NAME",
        help="layers, one column each, as `pyconv summary` names them (default: the first four "
        "that put out maps)",
    )
    parser.add_argument(
        "--channel",
        nargs="+",
        metavar="N",
        help="channels of each layer, from 0, or all (default: 32, or a layer's last where it has "
        "fewer)",
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="the figure, a PNG file (default: activations.png, unless --npz is given)",
    )
    parser.add_argument(
        "--npz",
        metavar="FILE",
        help="the numbers: a NumPy archive with an array a layer, float32, "
        "(pictures, height, width, channels)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print what was computed and where it is, as JSON"
    )
    edits.add_arguments(parser)
    parser.epilog = """examples:
  pyconv activations boot.png shirt.png bag.png --out grid.png
  pyconv activations boot.png --layer conv2d conv2d_1 --channel 0 16 32
  pyconv activations boot.png --layer max_pooling2d conv2d_1 --silence conv2d:0,3,8-15
  pyconv activations seven.png --model digits --layer conv2d --channel all --npz seven.npz
  pyconv activations seven.png --model digits --replace conv2d=seven.npz

A picture that cannot be read is named, and nothing is written: a figure that lacks a row would
mislead. exit status: 0 if everything was written, 1 if not"""


def run(args: argparse.Namespace) -> int:
    """Compute, draw, save and say where."""
    import numpy as np

    from pyconv import layer_figure

    out = args.out or (None if args.npz else "activations.png")
    for flag, path, ending in (("--out", out, ".png"), ("--npz", args.npz, ".npz")):
        if path is not None and not path.endswith(ending):
            raise InputError(f"{flag}: expected a file that ends in {ending}, got {path!r}")
    examination = edits.examination(args)
    with connection.connect(args) as (client, model):
        figure = layer_figure.compute(
            client,
            args.images,
            captions=[Path(image).stem for image in args.images],
            model=model,
            engine=args.engine,
            layers=args.layer,
            channels=_channels(args.channel),
            examination=examination,
        )
    try:
        if out is not None:
            figure.draw().save(out)
        if args.npz is not None:
            np.savez(args.npz, allow_pickle=False, **figure.activations.layers)
    except OSError as error:
        raise InputError(f"the result cannot be written: {error}") from error
    if args.json:
        print(json.dumps(_facts(figure, args.images, out, args.npz), indent=2))
    else:
        for kind, path in (("figure", out), ("numbers", args.npz)):
            if path is not None:
                print(f"{kind}: {path}")
    return 0


def _channels(given: Sequence[str] | None) -> list[int] | None:
    """The channels wanted of each layer; none of them are all."""
    if given is None or given == ["all"]:
        return None if given is None else []
    for text in given:
        if not text.isdecimal():
            raise InputError(f"--channel: expected numbers from 0, or all, got {text!r}")
    return [int(text) for text in given]


def _facts(
    figure: LayerFigure, images: Sequence[str], out: str | None, npz: str | None
) -> dict[str, object]:
    answer = figure.activations
    return {
        "model": answer.model,
        "engine": answer.engine,
        "pictures": [
            {
                "picture": image,
                "label": prediction.label if prediction else None,
                "probability": prediction.probability if prediction else None,
            }
            for image, prediction in zip(images, figure.predictions, strict=True)
        ],
        "layers": [
            {
                "name": name,
                "channels": list(figure.channels[name]) or "all",
                "shape": list(array.shape),
                "low": float(array.min()),
                "high": float(array.max()),
            }
            for name, array in answer.layers.items()
        ],
        "compute_ms": answer.compute_ms,
        "figure": out,
        "npz": npz,
    }
