"""Export a Keras image model to an ONNX file that explains itself.

The file is compared with Keras on both engines, on random and on real pictures: the outputs and
every layer's activation. If anything is off by more than 1e-4 of its scale, that is an error and no
file is written. Needs the extra 'train'.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from pyconv.errors import InputError
from pyconv.metadata import OutputKind, PictureStyle

if TYPE_CHECKING:
    from rich.console import Console

    from pyconv.training import Explanation, Exported

HELP = "export a Keras model to ONNX"

_COMPARED_IMAGES = 64
_WIDTH = 160


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("model", type=Path, metavar="MODEL.keras", help="the Keras model")
    parser.add_argument("out", type=Path, metavar="OUT.onnx", help="the file to write")
    parser.add_argument(
        "--data",
        metavar="NAME",
        help="the data set that the model was trained on, mnist or fashion-mnist: gives the "
        "labels, how a picture is prepared, and real pictures to compare on",
    )
    parser.add_argument(
        "--labels",
        nargs="+",
        metavar="LABEL",
        help="the class names in the order of the output, or one file with a name a line",
    )
    parser.add_argument(
        "--scale",
        type=_factor,
        metavar="X",
        help="the model's input is pixel × scale + offset, pixels from 0 to 255; a number or a "
        "fraction (default: 1/255, or 1 if the model rescales by itself)",
    )
    parser.add_argument(
        "--offset", type=float, default=0.0, metavar="X", help="see --scale (default: 0)"
    )
    parser.add_argument(
        "--picture",
        choices=get_args(PictureStyle),
        help="how a person's own picture is prepared: as MNIST's or Fashion-MNIST's pictures were, "
        "or only resized (default: as --data says, else plain)",
    )
    parser.add_argument(
        "--output",
        choices=get_args(OutputKind),
        help="what the output's numbers are (default: probabilities after a softmax or sigmoid, "
        "logits where there is one for each label, else values)",
    )
    parser.add_argument(
        "--size",
        nargs=2,
        type=int,
        metavar=("HEIGHT", "WIDTH"),
        help="size of an image, for a model that takes any",
    )
    parser.add_argument(
        "--data-dir", type=Path, metavar="DIR", help="where the files of --data are"
    )
    parser.add_argument(
        "--json", action="store_true", help="print the results as JSON and nothing else"
    )
    parser.epilog = """examples:
  pyconv export runs/two/model.keras fashion.onnx --data fashion-mnist
  pyconv export own.keras own.onnx --labels cat dog bird --scale 1/127.5 --offset -1
  pyconv export own.keras own.onnx --labels labels.txt --size 224 224

exit status: 0 when the file was written, 1 if it was not"""


def run(args: argparse.Namespace) -> int:
    """Export, and print the comparison."""
    from rich.console import Console

    from pyconv import data
    from pyconv.training import export

    images = None
    if args.data:
        dataset = data.load(args.data, args.data_dir)
        images = {args.data: dataset.test_images[:_COMPARED_IMAGES]}
    # Shown where standard error is a terminal: a large model takes minutes.
    with Console(stderr=True).status("importing TensorFlow") as status:
        exported = export(
            args.model,
            args.out,
            _explanation(args),
            size=tuple(args.size) if args.size else None,
            images=images,
            on_stage=status.update,
        )
    if args.json:
        print(json.dumps(exported.to_dict(), indent=2))
    else:
        print_comparison(wide_console(), exported)
        print(exported.path)
    return 0


def wide_console() -> Console:
    """Standard output, as wide as a table of layers needs where it is no terminal."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else _WIDTH)


def print_comparison(console: Console, exported: Exported) -> None:
    """Print a table of the largest differences from Keras, and what there is to know besides.

    Args:
        console: where to.
        exported: an exported file.
    """
    from rich.table import Table

    from pyconv.engines.base import shape_text

    verification = exported.verification
    images = dict.fromkeys(item.images for item in verification.differences)
    table = Table(
        title=f"Largest difference from Keras, by the layer's scale ({', '.join(images)} images)",
        title_justify="left",
    )
    table.add_column("layer")
    table.add_column("kind")
    table.add_column("shape")
    table.add_column("ONNX tensor")
    for engine in verification.engines:
        table.add_column(engine, justify="right")

    def worst(name: str, kind: str) -> list[str]:
        return [f"{verification.worst(name, kind, e).relative:.1e}" for e in verification.engines]

    for layer in exported.metadata.layers:
        shape = shape_text((None, *layer.shape))
        table.add_row(layer.name, layer.operator, shape, layer.tensor, *worst(layer.name, "layer"))
    table.add_section()
    outputs = dict.fromkeys(i.name for i in verification.differences if i.kind == "output")
    for name in outputs:
        table.add_row(name, "output", "", name, *worst(name, "output"))
    console.print(table)
    if exported.untraced:
        console.print(
            f"without a tensor of their own, so not to be looked at: {', '.join(exported.untraced)}"
        )
    for warning in verification.warnings:
        print(f"warning: {warning}", file=sys.stderr)


def _explanation(args: argparse.Namespace) -> Explanation:
    from pyconv import data
    from pyconv.training import Explanation
    from pyconv.training.exporter import PICTURES

    labels = _labels(args.labels) if args.labels else ()
    picture: PictureStyle = "plain"
    if args.data:
        labels = labels or data.labels(args.data)
        picture = PICTURES.get(args.data, picture)
    return Explanation(
        labels=labels,
        scale=args.scale,
        offset=args.offset,
        picture=args.picture or picture,
        output=args.output,
        provenance={"exported_from": args.model.name, **({"data": args.data} if args.data else {})},
    )


def _labels(words: list[str]) -> tuple[str, ...]:
    if len(words) > 1:
        return tuple(words)
    path = Path(words[0])
    if not path.is_file():
        raise InputError(
            f"--labels: expected at least two names or a file with a name a line, got {words[0]!r}"
        )
    return tuple(line.strip() for line in path.read_text("utf-8").splitlines() if line.strip())


def _factor(text: str) -> float:
    """A number, or a fraction such as 1/255."""
    numerator, _, denominator = text.partition("/")
    try:
        return float(numerator) / float(denominator or 1)
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(
            f"expected a number such as 0.5 or 1/255, got {text!r}"
        ) from None
