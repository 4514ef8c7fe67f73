"""Say what pictures show.

Any picture file will do: PNG, JPEG, any size, grey or colour. The server makes of it what the
model was trained on; --save-input keeps that, to see where it goes wrong. A picture that cannot be
read is named on standard error, and the others are classified all the same.

With --ray, IMAGE is one folder of picture files, or a Parquet file or a folder of those with a
column of picture files' bytes. The nodes of a Ray cluster classify them, however many there are,
and write Parquet files into the folder --out: a row for each picture, with what it shows, or the
error. What has a row there is not classified again, so a run that was broken off goes on where it
was, and one over a folder that has grown classifies what is new.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pyconv.cli import connection, edits
from pyconv.errors import InputError, PyconvError

if TYPE_CHECKING:
    from pyconv import bulk
    from pyconv.client import Classification

HELP = "say what pictures show, through a server or on a Ray cluster"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="picture files; with --ray, where they are"
    )
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
    parser.add_argument(
        "--compare",
        action="store_true",
        help="run both engines, and say how far they are apart layer by layer",
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="say what each step of the native engine takes: time, FLOPs, bytes",
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    edits.add_arguments(parser)
    cluster = parser.add_argument_group("on a Ray cluster (pip install 'pyconv[ray]')")
    cluster.add_argument(
        "--ray", action="store_true", help="classify there, and write Parquet files to --out"
    )
    cluster.add_argument(
        "--out", metavar="DIR", help="the folder for the results, which every node sees"
    )
    cluster.add_argument(
        "--layer",
        action="append",
        default=[],
        metavar="LAYER",
        help="write this layer's activations too, as a column of tensors; may be given several "
        "times",
    )
    cluster.add_argument(
        "--column",
        default="image",
        metavar="NAME",
        help="the column of the Parquet files that holds the pictures (default: image)",
    )
    cluster.add_argument(
        "--part",
        type=int,
        default=1024,
        metavar="N",
        help="how many picture files make one file of results (default: 1024); of Parquet files, a "
        "row group does",
    )
    cluster.add_argument(
        "--ray-address",
        metavar="HOST:PORT",
        help="the cluster (default: that of RAY_ADDRESS or of this machine; where there is none, a "
        "new one on this machine for as long as it takes)",
    )
    parser.epilog = """examples:
  pyconv classify boot.jpg
  pyconv classify scans/*.png --model digits --top 3 --save-input seen/
  pyconv classify boot.jpg --server 127.0.0.1:50051 --engine onnxruntime
  pyconv classify boot.jpg --compare --profile
  pyconv classify boot.jpg --silence conv2d:0,3,8-15
  pyconv classify --ray photos/ --out results/ --model fashion --layer dense
  pyconv classify --ray photos.parquet --out results/ --ray-address head:6379
  pyconv classify boot.jpg --json | jq -r '.results[0].predictions[0].label'

exit status: 0 if every picture was classified, 1 if one was not"""


def run(args: argparse.Namespace) -> int:
    """Classify and print."""
    if args.top < 1:
        raise InputError(f"--top: expected at least 1, got {args.top}")
    if args.ray:
        return _run_on_ray(args)
    if args.out is not None or args.layer:
        raise InputError(
            "--out and --layer go with --ray; for activations of a few pictures there "
            "is pyconv activations"
        )
    examination = edits.examination(args, compare=args.compare, profile=args.profile)
    with connection.connect(args, both_engines=args.compare) as (client, model):
        # A wrong model or engine is one error, not one a picture.
        description = client.describe(model, engine=args.engine)
        edits.check_one_image(examination, description.layers)
        answers = list(
            client.classify_stream(
                args.images,
                model=model,
                engine=args.engine,
                top=args.top,
                return_inputs=args.save_input is not None,
                examination=examination,
            )
        )
        results = list(zip(args.images, answers, strict=True))
        saved = _save_inputs(results, Path(args.save_input)) if args.save_input else {}
        if args.json:
            print(json.dumps(_facts(description.name, client.address, results, saved), indent=2))
        else:
            _print_table(description.name, results)
            _print_findings(results)
    for name, answer in results:
        if isinstance(answer, PyconvError):
            print(f"pyconv classify: {_error_text(name, answer)}", file=sys.stderr)
    return 1 if any(isinstance(answer, PyconvError) for answer in answers) else 0


def _run_on_ray(args: argparse.Namespace) -> int:
    """Classify on a cluster."""
    if len(args.images) != 1:
        raise InputError(
            f"--ray: expected one folder or Parquet file, got {len(args.images)} paths"
        )
    if args.out is None:
        raise InputError("--ray: expected a folder for the results, --out DIR")
    if args.part < 1:
        raise InputError(f"--part: expected at least 1, got {args.part}")
    of_servers = {
        "--server": args.server is not None,
        "--save-input": args.save_input is not None,
        "--compare": args.compare,
        "--profile": args.profile,
        "--silence": bool(args.silence),
        "--replace": bool(args.replace),
    }
    for flag, given in of_servers.items():
        if given:
            raise InputError(f"{flag} does not go with --ray, where no server is asked")
    from pyconv import bulk

    job = bulk.Job(
        source=args.images[0],
        out=args.out,
        model=args.model or "fashion",
        engine=args.engine or "native",
        top=args.top,
        layers=args.layer,
        column=args.column,
        part=args.part,
    )
    started = time.monotonic()
    with _progress() as show:
        tally = bulk.classify(job, address=args.ray_address, progress=show)
    seconds = time.monotonic() - started
    if args.json:
        print(json.dumps({**dataclasses.asdict(tally), "seconds": seconds, "out": args.out}))
    else:
        print(
            f"{tally.pictures:,} pictures in {seconds:.1f} s, {tally.failed:,} that are none; "
            f"{tally.before:,} had their rows in {args.out} before"
        )
    if tally.failed:
        print(f"pyconv classify: {tally.first}; see the column error", file=sys.stderr)
    return 1 if tally.failed else 0


@contextmanager
def _progress() -> Iterator[Callable[[bulk.Tally], None]]:
    """A bar on a terminal, which advances as parts are done."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("parts"),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=console, disable=not console.is_terminal, transient=True
    ) as bar:
        task = bar.add_task("looking for pictures", total=None)

        def show(tally: bulk.Tally) -> None:
            bar.update(
                task,
                description=f"{tally.pictures:,} pictures",
                completed=tally.done,
                total=tally.parts,
            )

        yield show


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
                **(
                    {"comparison": dataclasses.asdict(answer.comparison)}
                    if answer.comparison
                    else {}
                ),
                **(
                    {"steps": [dataclasses.asdict(step) for step in answer.steps]}
                    if answer.steps
                    else {}
                ),
            }
            for place, (name, answer) in enumerate(results)
        ],
    }


def _print_findings(results: _Results) -> None:
    """What was asked besides the classes, picture by picture."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    if not console.is_terminal:  # piped, nothing is to be folded or cut
        console.width = max(console.width, 1000)
    for name, answer in results:
        if isinstance(answer, PyconvError):
            continue
        if (told := answer.comparison) is not None:
            layers = Table("layer", "largest difference", "largest value", box=box.SIMPLE_HEAD)
            for row in told.layers:
                cells = f"{row.largest_difference:.3g}", f"{row.largest_value:.3g}"
                layers.add_row(escape(row.name), *cells)
            first = told.first_diverging
            verdict = f"first diverging: {first}" if first else "no layer diverges"
            console.print(f"\n{name}, native beside onnxruntime: {verdict}", markup=False)
            console.print(layers)
        if answer.steps:
            steps = Table("layers", "algorithm", "ms", "FLOPs", "bytes", box=box.SIMPLE_HEAD)
            for step in answer.steps:
                label = ", ".join(step.layers) or step.operator
                numbers = f"{step.ms:.4f}", f"{step.flops:,}", f"{step.bytes:,}"
                steps.add_row(escape(label), escape(step.algorithm), *numbers)
            console.print(f"\n{name}, what each step takes", markup=False)
            console.print(steps)


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
