"""The main job in one command, on what comes with pyconv.

Starts the service with all bundled models on both engines, classifies the sample pictures through
gRPC, times the engines, and draws what the layers saw.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyconv.demo import Report

HELP = "try everything on the bundled models and pictures"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--out",
        default="pyconv-demo",
        metavar="DIR",
        help="a folder for the figures of activations (default: pyconv-demo)",
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument(
        "--open",
        action="store_true",
        help="serve the page that looks inside the models, and open it in a browser, instead; "
        "until Ctrl-C",
    )
    parser.epilog = """examples:
  pyconv demo
  pyconv demo --out /tmp/demo --json
  pyconv demo --open

exit status: 0 if both engines agree on every picture, 1 if not"""


def run(args: argparse.Namespace) -> int:
    """Demonstrate and print."""
    from pyconv import demo

    if args.open:
        return _open()
    report = demo.run(Path(args.out))
    if args.json:
        print(json.dumps(_facts(report), indent=2))
    else:
        _print(report)
    return 0 if report.agreed else 1


def _open() -> int:
    """Serve the page and show it, until Ctrl-C."""
    import threading
    import webbrowser

    from pyconv import demo

    with demo.page() as address:
        print(f"the page is {address} (Ctrl-C ends it)", flush=True)
        webbrowser.open(address)
        threading.Event().wait()
    return 0


def _facts(report: Report) -> dict[str, object]:
    return {
        "agreed": report.agreed,
        "samples": [
            {
                "model": sample.model,
                "picture": sample.picture.name,
                "expected": sample.expected,
                "predictions": {
                    engine: {
                        "label": prediction.label,
                        "probability": prediction.probability,
                        "right": sample.right[engine],
                    }
                    for engine, prediction in sample.predictions.items()
                },
                "difference": sample.difference,
            }
            for sample in report.samples
        ],
        "timings": [
            {
                "model": timing.model,
                "engine": timing.engine,
                "requests": timing.requests,
                "round_trip_ms": timing.round_trip_ms,
                "prepare_ms": timing.prepare_ms,
                "compute_ms": timing.compute_ms,
            }
            for timing in report.timings
        ],
        "figures": [str(path) for path in report.figures],
    }


def _print(report: Report) -> None:
    from rich.console import Console
    from rich.table import Table

    from pyconv.demo import ENGINES

    console = Console(highlight=False)
    console.width = max(console.width, 80)

    table = Table(
        box=None, pad_edge=False, title="Sample pictures, through gRPC", title_justify="left"
    )
    for heading in ("model", "picture", *ENGINES, "engines"):
        table.add_column(heading)
    for sample in report.samples:
        answers = [
            f"{'✓' if sample.right[engine] else '✗'} {prediction.label} "
            f"{prediction.probability:.1%}"
            for engine, prediction in sample.predictions.items()
        ]
        agreed = "agree" if sample.agreed else f"DIFFER by {sample.difference:.1e}"
        table.add_row(sample.model, sample.picture.name, *answers, agreed)
    console.print(table)
    count = len(report.samples)
    for engine in ENGINES:
        right = sum(sample.right[engine] for sample in report.samples)
        console.print(f"{engine}: {right} of {count} right")

    table = Table(
        box=None,
        pad_edge=False,
        title="\nOne picture, medians in ms (client and server share this process)",
        title_justify="left",
    )
    table.add_column("model")
    table.add_column("engine")
    for heading in ("requests", "round trip", "of it preparing", "of it computing"):
        table.add_column(heading, justify="right")
    for timing in report.timings:
        table.add_row(
            timing.model,
            timing.engine,
            str(timing.requests),
            f"{timing.round_trip_ms:.2f}",
            f"{timing.prepare_ms:.2f}",
            f"{timing.compute_ms:.3f}",
        )
    console.print(table)
    console.print()
    for path in report.figures:
        console.print(f"activations: {path}", markup=False, soft_wrap=True)
