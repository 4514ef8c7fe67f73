"""Compare the speed of the engines on the bundled models and on any ONNX file.

Both engines must compute the same outputs first; then they are timed in turn in one run. The table
gives the median time of a call with its quartiles, images and floating-point operations a second,
the share of this machine's measured peak, and how many times native is faster. How it is measured,
and the form of the JSON, stand in docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from pyconv.errors import InputError

if TYPE_CHECKING:
    from pyconv.bench import Report

HELP = "compare the engines' speed"

WORKLOADS = ("lesson", "conv3x3", "conv1x1", "depthwise")
PEERS = ("openvino", "torch", "xla", "litert")
_PICTURES = (".png", ".svg", ".pdf")
_REDRAW_SECONDS = 0.25


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        help="a bundled model's name, an .onnx file, or a set of networks with random weights: "
        f"{', '.join(WORKLOADS)} (default: every bundled model)",
    )
    parser.add_argument(
        "--batch",
        nargs="+",
        type=int,
        default=[1, 16, 256],
        metavar="N",
        help="images a call; one or several sizes (default: 1 16 256)",
    )
    parser.add_argument(
        "--threads",
        nargs="+",
        type=int,
        default=[1, 2] if (os.cpu_count() or 1) > 1 else [1],
        metavar="N",
        help="threads a call; one or several (default: 1, and 2 where there are two cores)",
    )
    parser.add_argument(
        "--peers",
        nargs="*",
        choices=PEERS,
        metavar="NAME",
        help="take other runtimes in: openvino, torch, xla (TensorFlow's), litert; without names, "
        "all that are installed",
    )
    parser.add_argument(
        "--layers",
        action="store_true",
        help="time native step by step, too: where its time goes, and how near each is to the peak",
    )
    parser.add_argument(
        "--memory",
        action="store_true",
        help="measure the memory that a call takes, too, each engine in a process of its own",
    )
    parser.add_argument(
        "--isa",
        metavar="LEVEL",
        help="run native at this instruction set: baseline, avx2 or avx512 (default: the best of "
        "this CPU)",
    )
    parser.add_argument(
        "--exact", action="store_true", help="keep native's convolutions to direct products"
    )
    parser.add_argument(
        "--weights",
        choices=("float32", "bfloat16", "int8"),
        default="float32",
        help="how native keeps the weights of dense layers; bfloat16 and int8 are compared with "
        "float32, too (default: float32)",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="X",
        help="time engines whose outputs differ by at most X of their scale (default: 1e-4, and "
        "0.1 with --weights bfloat16 or int8); a quantized file needs about 0.1",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=1.0,
        metavar="S",
        help="measure each cell of the table for at least S seconds (default: 1)",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=20,
        metavar="N",
        help="and in at least N rounds, in each of which every engine takes its turn (default: 20)",
    )
    parser.add_argument(
        "--json",
        nargs="?",
        const="-",
        type=_json_target,
        metavar="FILE",
        help="write the figures as JSON; without FILE or with -, to standard output, which then "
        "holds nothing else",
    )
    parser.add_argument(
        "--compare",
        type=Path,
        metavar="FILE",
        help="show what changed since FILE, which --json wrote",
    )
    parser.add_argument(
        "--plot",
        type=_picture,
        metavar="FILE",
        help="draw the figures (.png, .svg or .pdf); needs the extra 'plot'",
    )
    parser.epilog = """examples:
  pyconv bench
  pyconv bench fashion --batch 1 256 --threads 1 --seconds 5
  pyconv bench fashion --layers --batch 256 --threads 1
  pyconv bench lesson --threads 1
  pyconv bench conv3x3 depthwise --batch 1 --threads 1
  pyconv bench fashion --peers openvino litert --threads 1
  pyconv bench fashion --weights int8 --batch 1 --threads 1
  pyconv bench my-network.onnx --json bench.json --plot bench.png
  pyconv bench my-network.onnx --compare bench.json
  pyconv bench digits --json | jq '.cells[].ratios.onnxruntime.median'

exit status: 0 if everything was timed, 1 if a cell was refused, because the engines' outputs
differ or one of them cannot run the model"""


def run(args: argparse.Namespace) -> int:
    """Measure, print, and write what was asked for."""
    from rich.console import Console

    from pyconv import bundled
    from pyconv.bench import Budget, compare, contestants, earlier, plot, table

    if args.plot is not None:
        plot.require_matplotlib()
    before = earlier.read(args.compare) if args.compare is not None else None
    if args.isa is not None:
        os.environ["PYCONV_ISA"] = args.isa  # read when the extension module first computes
    with _files(args.models or bundled.names()) as models, _progress() as progress:
        report = compare(
            models,
            args.batch,
            args.threads,
            Budget(args.seconds, args.rounds),
            contestants=contestants.chosen(args.peers, exact=args.exact, weights=args.weights),
            layers=args.layers,
            memory=args.memory,
            tolerance=_tolerance(args),
            progress=progress,
        )
    if before is not None:
        report = earlier.compare_with(report, before)
    if args.json is not None:
        _write_json(report, args.json)
    if args.json != "-":
        console = Console()
        console.width = max(console.width, table.WIDTH)  # narrower, the figures would be cut
        for part in table.render(report):
            console.print(part)
    if args.plot is not None:
        plot.save(report, args.plot)
        print(f"chart: {args.plot}", file=sys.stderr)
    return 1 if report.refusals else 0


def _tolerance(args: argparse.Namespace) -> float:
    if args.tolerance is None:
        return 1e-4 if args.weights == "float32" else 0.1
    if not args.tolerance > 0:
        raise InputError(f"--tolerance: expected a number above 0, got {args.tolerance}")
    tolerance: float = args.tolerance
    return tolerance


@contextmanager
def _files(names: Sequence[str]) -> Iterator[list[str | Path]]:
    """The models by these names, while this lasts: those of a workload are written first."""
    from pyconv.bench import workloads

    with TemporaryDirectory(prefix="pyconv-bench-") as folder:
        models: list[str | Path] = []
        for name in names:
            written = name in WORKLOADS
            models += workloads.write(name, Path(folder)) if written else [name]
        yield models


@contextmanager
def _progress() -> Iterator[Callable[[str, float], None]]:
    """A bar on standard error while this lasts; nothing where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    # Redrawn only when told of progress: a thread that draws would disturb what is timed.
    bar = Progress(
        *columns,
        console=console,
        transient=True,
        auto_refresh=False,
        disable=not console.is_terminal,
    )
    task = bar.add_task("", total=1.0)
    drawn = 0.0

    def tell(text: str, share: float) -> None:
        nonlocal drawn
        if time.monotonic() - drawn > _REDRAW_SECONDS:
            bar.update(task, description=text, completed=share, refresh=True)
            drawn = time.monotonic()

    with bar:
        yield tell


def _write_json(report: Report, target: str) -> None:
    text = json.dumps(report.to_dict(), indent=2)
    if target == "-":
        print(text)
        return
    try:
        Path(target).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write the figures: {error}") from error


def _json_target(text: str) -> str:
    # `--json MODEL` would otherwise take the model's name for that of a file to write.
    if text != "-" and not text.endswith(".json"):
        raise argparse.ArgumentTypeError(f"expected - or a file that ends in .json, got {text!r}")
    return text


def _picture(text: str) -> Path:
    if not text.endswith(_PICTURES):
        raise argparse.ArgumentTypeError(
            f"expected a file that ends in {', '.join(_PICTURES)}, got {text!r}"
        )
    return Path(text)
