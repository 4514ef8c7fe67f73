"""Find, fetch and look at MNIST and Fashion-MNIST.

A data set is looked for in the folder that PYCONV_DATA_DIR names, in the user's cache folder and
in Debian's /usr/share/datasets. Where it is in none of them, it is downloaded into the cache when
it is first needed. Every file's content is checked by its SHA-256.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from pyconv.errors import InputError

if TYPE_CHECKING:
    from pyconv.data import Location

HELP = "find, fetch and look at the data sets"

_NAME = "mnist or fashion-mnist"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    listing = actions.add_parser(
        "list", help="where each data set is on this machine, or that it is not"
    )
    listing.add_argument("--json", action="store_true", help="print JSON instead of a table")

    fetch = actions.add_parser(
        "fetch",
        help="have data sets in the cache: download what is missing or broken",
        description="Download what the cache lacks, unless the data set is elsewhere already.",
    )
    fetch.add_argument(
        "names", nargs="*", metavar="NAME", help=f"{_NAME}; several or none for all (default: all)"
    )
    fetch.add_argument("--json", action="store_true", help="print JSON instead of sentences")

    show = actions.add_parser(
        "show",
        help="draw some images with their labels",
        description="Draw some images with their labels on one sheet, a PNG file.",
    )
    show.add_argument("name", metavar="NAME", help=_NAME)
    show.add_argument(
        "--out", type=Path, metavar="FILE.png", help="the file to write (default: NAME-SPLIT.png)"
    )
    show.add_argument(
        "--split", choices=("train", "test"), default="test", help="which images (default: test)"
    )
    show.add_argument(
        "--count", type=int, default=50, metavar="N", help="images at most (default: 50)"
    )
    show.add_argument(
        "--label", metavar="LABEL", help="of this class only, such as 7 or 'Ankle boot'"
    )
    show.add_argument(
        "--seed", type=int, metavar="N", help="choose at random (default: the first of the split)"
    )
    show.add_argument(
        "--folder", type=Path, metavar="DIR", help="read the data set from here and nowhere else"
    )
    show.add_argument("--json", action="store_true", help="print what was drawn as JSON")
    parser.epilog = """examples:
  pyconv data list
  pyconv data fetch fashion-mnist
  pyconv data show fashion-mnist --out clothing.png
  pyconv data show mnist --split train --label 7 --count 100 --seed 1"""


def run(args: argparse.Namespace) -> int:
    """Do what the action says."""
    action = {"list": _list, "fetch": _fetch, "show": _show}[args.action]
    return action(args)


def _list(args: argparse.Namespace) -> int:
    from pyconv import data

    found = {name: data.locate(name) for name in data.names()}
    if args.json:
        print(json.dumps([_facts(name, location) for name, location in found.items()], indent=2))
        return 0
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("data set")
    table.add_column("size", justify="right")
    table.add_column("found through")
    table.add_column("folder", overflow="fold")
    for name, location in found.items():
        if location is None:
            table.add_row(name, "", "not here", f"get it with: pyconv data fetch {name}")
        else:
            megabytes = f"{location.size_bytes / 1e6:.1f} MB"
            table.add_row(name, megabytes, location.origin, str(location.folder))
    Console().print(table)
    return 0


def _fetch(args: argparse.Namespace) -> int:
    from pyconv import data

    facts = []
    for name in args.names or data.names():
        location = data.locate(name)
        here = location is not None and location.origin != "cache"
        if here:
            data.load(name)  # says so if what is here is broken
        else:
            location = data.fetch(name)
        facts.append(_facts(name, location))
        if not args.json and location is not None:
            state = "is already here" if here else "is in the cache"
            print(f"{name} {state}, checked: {location.folder}")
    if args.json:
        print(json.dumps(facts, indent=2))
    return 0


def _show(args: argparse.Namespace) -> int:
    from pyconv import data, figures

    out = args.out or Path(f"{args.name}-{args.split}.png")
    if out.suffix != ".png":
        raise InputError(f"--out: expected a file that ends in .png, got {str(out)!r}")
    dataset = data.load(args.name, args.folder)
    images, labels = dataset.split(args.split)
    places = dataset.sample(args.split, args.count, label=args.label, seed=args.seed)
    captions = [dataset.labels[labels[place]] for place in places]
    sheet = figures.contact_sheet([images[place] for place in places], captions)
    try:
        out.write_bytes(figures.png_bytes(sheet))
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror}") from error
    if args.json:
        drawn = [
            {"index": int(place), "label": caption}
            for place, caption in zip(places, captions, strict=True)
        ]
        print(json.dumps({"file": str(out), "split": args.split, "images": drawn}, indent=2))
    else:
        print(f"{len(places)} {args.split} images of {args.name}: {out}")
    return 0


def _facts(name: str, location: Location | None) -> dict[str, object]:
    return {
        "name": name,
        "found": location is not None,
        "origin": location and location.origin,
        "folder": location and str(location.folder),
        "size_bytes": location and location.size_bytes,
    }
