"""Say what pictures show.

Any picture file will do: PNG, JPEG, any size, grey or colour. The server makes of it what the
model was trained on; --save-input keeps that, to see where it goes wrong. A picture that cannot be
read is named on standard error, and the others are classified all the same.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pyconv.cli import connection
from pyconv.errors import InputError, PyconvError

if TYPE_CHECKING:
    from pyconv.client import Classification

HELP = "say what pictures show, through a server"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="picture files")
    connection.add_arguments(parser)
    parser.add_argument(
        "--top",
        type=int,
        default=1,
        metavar="K",
        help="how many classes to name for each picture, the likeliest first (default: 1)",
    )
    parser.add_argument(
        "--save-input",
        metavar="DIR",
        help="save each picture as the network saw it, as a PNG file in this folder",
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.epilog = """examples:
  pyconv classify boot.jpg
  pyconv classify scans/*.png --model digits --top 3 --save-input seen/
  pyconv classify boot.jpg --server 127.0.0.1:50051 --engine onnxruntime
  pyconv classify boot.jpg --json | jq -r '.results[0].predictions[0].label'

exit status: 0 if every picture was classified, 1 if one was not"""


def run(args: argparse.Namespace) -> int:
    """Classify and print."""
    if args.top < 1:
        raise InputError(f"--top: expected at least 1, got {args.top}")
    with connection.connect(args) as (client, model):
        # A wrong model or engine is one error, not one a picture.
        description = client.describe(model, engine=args.engine)
        answers = list(
            client.classify_stream(
                args.images,
                model=model,
                engine=args.engine,
                top=args.top,
                return_inputs=args.save_input is not None,
            )
        )
        results = list(zip(args.images, answers, strict=True))
        saved = _save_inputs(results, Path(args.save_input)) if args.save_input else {}
        if args.json:
            print(json.dumps(_facts(description.name, client.address, results, saved), indent=2))
        else:
            _print_table(description.name, results)
    for name, answer in results:
        if isinstance(answer, PyconvError):
            print(f"pyconv classify: {_error_text(name, answer)}", file=sys.stderr)
    return 1 if any(isinstance(answer, PyconvError) for answer in answers) else 0


_Results = Sequence[tuple[str, "Classification | PyconvError"]]


def _error_text(name: str, error: PyconvError) -> str:
    text = str(error)
    return text if name in text else f"{name}: {text}"


def _save_inputs(results: _Results, folder: Path) -> dict[int, str]:
    """Save what the network saw; returns the files by place of the picture."""
    from pyconv import pictures

    saved: dict[int, str] = {}
    for place, (name, answer) in enumerate(results):
        if isinstance(answer, PyconvError) or answer.inputs is None:
            continue
        # Pictures of one name from two folders shall not overwrite each other.
        path, number = folder / f"{Path(name).stem}.png", 2
        while str(path) in saved.values():
            path, number = folder / f"{Path(name).stem}-{number}.png", number + 1
        pictures.save(answer.inputs[0], path)
        saved[place] = str(path)
    return saved


def _facts(model: str, address: str, results: _Results, saved: dict[int, str]) -> dict[str, object]:
    answered = [answer for _, answer in results if not isinstance(answer, PyconvError)]
    return {
        "model": model,
        "engine": answered[0].engine if answered else None,
        "server": address,
        "results": [
            {"picture": name, "error": str(answer)}
            if isinstance(answer, PyconvError)
            else {
                "picture": name,
                "predictions": [
                    {
                        "label": prediction.label,
                        "index": prediction.index,
                        "probability": prediction.probability,
                    }
                    for prediction in answer.predictions[0]
                ],
                "prepare_ms": answer.prepare_ms,
                "compute_ms": answer.compute_ms,
                **({"input": saved[place]} if place in saved else {}),
            }
            for place, (name, answer) in enumerate(results)
        ],
    }


def _print_table(model: str, results: _Results) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    answered = [(name, item) for name, item in results if not isinstance(item, PyconvError)]
    if not answered:
        return
    table = Table("picture", "label", box=None, pad_edge=False)
    table.add_column("probability", justify="right")
    for name, answer in answered:
        for rank, prediction in enumerate(answer.predictions[0]):
            table.add_row(
                escape(name) if rank == 0 else "",
                escape(prediction.label),
                f"{prediction.probability:.4f}",
            )
    console = Console()
    # Piped, nothing is to be folded or cut.
    if not console.is_terminal:
        console.width = max(console.width, 1000)
    console.print(table)
    compute_ms = statistics.median(answer.compute_ms for _, answer in answered)
    console.print(
        f"\n{model} on {answered[0][1].engine}: {compute_ms:.3f} ms to compute a picture (median)",
        markup=False,
        highlight=False,
    )
