"""Quantize a network to int8: a file of a quarter of the size, which both engines run.

Rounds the weights, and what goes into each layer that has weights, to small integers. How large a
step of these is has to be seen on pictures like those that the network will meet: --calibrate. Then
the file is run on both engines and compared with the float32 one: the classes, each layer's output,
and, for a data set, the accuracy over all test images. If that falls by more than --max-loss, or
the file cannot be run, that is an error and no file is written.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pyconv.errors import InputError, unknown_name

if TYPE_CHECKING:
    from rich.console import Console

    from pyconv.metadata import InputContract
    from pyconv.quantization import Images, LabelledImages, Quantized

HELP = "quantize a network to int8"

_REDRAW_SECONDS = 0.1


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a bundled model's name, or an .onnx file of float32 such as pyconv export writes",
    )
    parser.add_argument("out", type=Path, metavar="OUT.onnx", help="the file to write")
    parser.add_argument(
        "--calibrate",
        required=True,
        metavar="DATA",
        help="mnist or fashion-mnist, of which training images are taken; or a folder of pictures "
        "(PNG, JPEG, WebP, GIF, BMP), which are prepared as pyconv classify prepares them",
    )
    parser.add_argument(
        "--images",
        type=int,
        default=1000,
        metavar="N",
        help="calibrate on at most N pictures, chosen at random (default: 1000)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of that choice (default: 0)"
    )
    parser.add_argument(
        "--max-loss",
        type=float,
        default=1.0,
        metavar="POINTS",
        help="write no file if the accuracy over the test images falls by more percentage points "
        "than this (default: 1)",
    )
    parser.add_argument(
        "--data-dir", type=Path, metavar="DIR", help="where the files of the data set are"
    )
    parser.add_argument(
        "--json", action="store_true", help="print the results as JSON and nothing else"
    )
    parser.epilog = """examples:
  pyconv quantize fashion fashion-int8.onnx --calibrate fashion-mnist
  pyconv quantize own.onnx own-int8.onnx --calibrate photographs/ --images 300
  pyconv bench fashion-int8.onnx --tolerance 0.1
  pyconv serve --model fashion-int8.onnx

exit status: 0 when the file was written, 1 if it was not"""


def run(args: argparse.Namespace) -> int:
    """Quantize, and print the comparison."""
    from pyconv import load
    from pyconv.quantization import quantize

    if args.images < 1:
        raise InputError(f"--images: expected at least 1, got {args.images}")
    if not 0 <= args.max_loss <= 100:
        raise InputError(f"--max-loss: expected 0 to 100 points, got {args.max_loss}")
    contract = load(args.model, engine="onnxruntime").input_contract
    calibration, test = _pictures(args, contract)
    with _progress() as progress:
        result = quantize(
            args.model,
            args.out,
            calibration,
            source=args.calibrate if test is not None else "pictures",
            test=test,
            most_lost=args.max_loss / 100,
            progress=progress,
        )
    if args.json:
        print(json.dumps(result.to_dict(), indent=2))
        return 0
    from pyconv.cli.export import wide_console

    _print_comparison(wide_console(), result)
    print(result.path)
    return 0


def _pictures(
    args: argparse.Namespace, contract: InputContract | None
) -> tuple[Images, LabelledImages | None]:
    """The pictures to calibrate on, and those to measure the accuracy on."""
    import numpy as np

    from pyconv import data, pictures
    from pyconv.quantization import LabelledImages

    random = np.random.default_rng(args.seed)
    if args.calibrate in data.names():
        dataset = data.load(args.calibrate, args.data_dir)
        chosen = np.sort(random.permutation(len(dataset.train_images))[: args.images])
        test = LabelledImages(dataset.test_images, dataset.test_labels)
        return dataset.train_images[chosen], test
    folder = Path(args.calibrate)
    if not folder.is_dir():
        raise InputError(
            f"--calibrate: expected a data set or a folder of pictures; "
            f"{unknown_name('data set', args.calibrate, data.names())}, and no such folder"
        )
    if contract is None:
        raise InputError(
            f"--calibrate: {args.model} does not take pictures; "
            "pyconv.quantization.quantize takes arrays"
        )
    suffixes = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"}
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes)
    if not files:
        raise InputError(f"--calibrate: expected pictures in {folder}, found none")
    places = np.sort(random.permutation(len(files))[: args.images])
    return pictures.prepare_all([files[place] for place in places], contract), None


def _print_comparison(console: Console, result: Quantized) -> None:
    from rich import box
    from rich.table import Table

    engines = list(result.layers[0].errors) if result.layers else []
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(f"on {result.compared_images:,} images")
    table.add_column("float32", justify="right")
    for engine in engines:
        table.add_column(f"int8, {engine}", justify="right")
    sizes = [f"{result.bytes_after / 1e6:.2f} MB"] * len(engines)
    table.add_row("file", f"{result.bytes_before / 1e6:.2f} MB", *sizes)
    if result.accuracy_before is not None:
        after = [f"{result.accuracy_after[engine]:.2%}" for engine in engines]
        table.add_row("accuracy", f"{result.accuracy_before:.2%}", *after)
    if result.agreement:
        table.add_row("same class", "", *(f"{result.agreement[e]:.2%}" for e in engines))
    table.add_section()
    for layer in result.layers:
        errors = [f"{layer.errors[engine]:.2%}" for engine in engines]
        table.add_row(f"error of {layer.name}", "", *errors)
    console.print(table)
    print("an error is the root mean square of the differences by that of the layer in float32")
    if result.engines_agree is not None:
        print(f"both engines give the same class for {result.engines_agree:.2%} of the images")
    for warning in result.warnings:
        print(f"warning: {warning}", file=sys.stderr)


@contextmanager
def _progress() -> Iterator[Callable[[str, float], None]]:
    """A bar on standard error while this lasts; nothing where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<28}"), BarColumn())
    bar = Progress(*columns, console=console, transient=True, auto_refresh=False)
    task = bar.add_task("", total=1.0)
    drawn = 0.0

    def tell(text: str, share: float) -> None:
        nonlocal drawn
        if console.is_terminal and time.monotonic() - drawn > _REDRAW_SECONDS:
            bar.update(task, description=text, completed=share, refresh=True)
            drawn = time.monotonic()

    with bar:
        yield tell
