"""Send load to a server and say how fast it answers.

Sends the same request of random images over and over: as many at a time as --concurrency says (a
closed loop: what can the server do?), or at the pace that --rate gives (an open loop: how long do
callers wait at that load?). An open loop measures from the moment at which a request was due, so a
server that stalls cannot hide what came in meanwhile. Every answer is checked.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from pyconv.cli import connection
from pyconv.errors import InputError

if TYPE_CHECKING:
    from pyconv.load_test import Cell, Load, Report, Target

HELP = "measure a server under load"

PROTOCOLS = ("open-inference", "classifier")
_STREAMS_A_CONNECTION = 4
_REDRAW_SECONDS = 0.25

_N = TypeVar("_N", int, float)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("address", metavar="HOST:PORT", help="the server's gRPC port")
    parser.add_argument(
        "--model",
        default="",
        metavar="NAME",
        help="the model to ask (default: the server's only one)",
    )
    parser.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        default=PROTOCOLS[0],
        help="how to ask: by the Open Inference Protocol, which KServe, Triton and others speak "
        f"too, or by pyconv.v1.Classifier (default: {PROTOCOLS[0]})",
    )
    parser.add_argument(
        "--output",
        action="append",
        default=[],
        metavar="NAME",
        help="ask for this output, such as a layer of pyconv's; may be given several times "
        "(default: the model's own outputs)",
    )
    parser.add_argument(
        "--concurrency",
        type=_integers,
        metavar="N,…",
        help="requests in flight, one or several numbers; with --rate, the most of them "
        "(default: 1,8,32; with --rate, 256)",
    )
    parser.add_argument(
        "--rate",
        type=_numbers,
        default=[],
        metavar="R,…",
        help="requests a second, one or several numbers, evenly spaced whatever the server does",
    )
    parser.add_argument(
        "--images-per-request",
        type=int,
        default=1,
        metavar="N",
        help="images in each request (default: 1)",
    )
    parser.add_argument(
        "--duration", type=float, default=10, metavar="S", help="seconds a load (default: 10)"
    )
    parser.add_argument(
        "--warmup",
        type=float,
        default=1,
        metavar="S",
        help="seconds of the same load before anything is measured (default: 1)",
    )
    parser.add_argument(
        "--connections",
        type=int,
        metavar="N",
        help="connections that share the requests (default: one for every "
        f"{_STREAMS_A_CONNECTION} in flight)",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=10,
        metavar="S",
        help="seconds after which a request counts as failed (default: 10)",
    )
    parser.add_argument("--histogram", action="store_true", help="draw the latencies of each load")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    connection.add_credentials(parser)
    parser.epilog = """examples:
  pyconv load-test 127.0.0.1:50051 --model fashion
  pyconv load-test 127.0.0.1:50051 --model fashion --rate 500,1000 --histogram
  pyconv load-test 127.0.0.1:50051 --model fashion --images-per-request 64 --concurrency 1,4
  pyconv load-test 127.0.0.1:50051 --model fashion --output conv2d --concurrency 8
  pyconv load-test 127.0.0.1:50051 --model fashion --json | jq '.cells[].latency_ms.p99'

exit status: 0 if every request was answered well, 1 if one was not"""


def run(args: argparse.Namespace) -> int:
    """Send, measure, print."""
    from pyconv.load_test import Cell, Report, generate

    credentials = connection.credentials(args)
    loads = _loads(args)
    target = _target(args)
    cells: list[Cell] = []
    with _progress(sum(load.seconds for load in loads)) as show:
        for load in loads:
            tell = show(_name(load))
            measured = generate(args.address, credentials, target, load, tell)
            cells.append(Cell(load, target.images, measured))
    report = Report(args.address, target.model, args.protocol, cells)
    if args.json:
        print(json.dumps(report.to_dict(), indent=2))
    else:
        _print(report, histogram=args.histogram)
    return 1 if any(cell.failed or cell.measured.unsent for cell in cells) else 0


def _loads(args: argparse.Namespace) -> list[Load]:
    from pyconv.load_test import Load

    concurrencies = args.concurrency or ([256] if args.rate else [1, 8, 32])
    return [
        Load(
            concurrency=concurrency,
            seconds=args.duration,
            rate=rate,
            connections=args.connections or max(1, math.ceil(concurrency / _STREAMS_A_CONNECTION)),
            timeout=args.timeout,
            warmup_seconds=args.warmup,
        )
        for rate in args.rate or [None]
        for concurrency in concurrencies
    ]


def _target(args: argparse.Namespace) -> Target:
    from pyconv.load_test import target

    credentials = connection.credentials(args)
    what = {"model": args.model, "images": args.images_per_request, "timeout": args.timeout}
    if args.protocol == "open-inference":
        return target.open_inference(args.address, credentials, outputs=args.output, **what)
    if args.output:
        raise InputError("--output: only the Open Inference Protocol knows outputs by name")
    return target.classifier(args.address, credentials, **what)


def _name(load: Load) -> str:
    return f"{load.rate:g} a second" if load.rate else f"{load.concurrency} in flight"


@contextmanager
def _progress(seconds: float) -> Iterator[Callable[[str], Callable[[float, int, int], None]]]:
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
    task = bar.add_task("warming up", total=seconds)
    done_before, drawn = 0.0, 0.0

    def show(name: str) -> Callable[[float, int, int], None]:
        before = done_before

        def tell(elapsed: float, answered: int, failed: int) -> None:
            nonlocal done_before, drawn
            done_before = before + elapsed
            if time.monotonic() - drawn > _REDRAW_SECONDS:
                drawn = time.monotonic()
                text = f"{name}: {answered / elapsed:,.0f}/s"
                text += f", {failed:,} failed" if failed else ""
                bar.update(task, description=text, completed=done_before, refresh=True)

        return tell

    with bar:
        yield show


def _print(report: Report, *, histogram: bool) -> None:
    from rich.console import Console

    console = Console()
    if not console.is_terminal:  # piped, nothing is to be folded or cut
        console.width = max(console.width, 1000)
    for part in report.render(histogram=histogram):
        console.print(part)


def _integers(text: str) -> list[int]:
    return [_number(part, int) for part in _parts(text)]


def _numbers(text: str) -> list[float]:
    return [_number(part, float) for part in _parts(text)]


def _parts(text: str) -> Sequence[str]:
    return [part.strip() for part in text.split(",")]


def _number(text: str, kind: Callable[[str], _N]) -> _N:
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected numbers with commas between them, such as 1,8,32, got {text!r}"
        ) from None
