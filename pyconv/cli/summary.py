"""Describe a network: its layers, their output shapes, weights, operations and algorithms.

A layer's operations are those for one image, a multiply and an add counting as two. For the native
engine the last column tells which kernel computes a layer and what has been fused into it; "view"
is a layer that only gives the same numbers another shape.
"""

from __future__ import annotations

import argparse
import json

HELP = "show a network's layers, shapes, weights and algorithms"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "model", metavar="MODEL", help="a bundled model's name (fashion, digits) or an .onnx file"
    )
    parser.add_argument(
        "--engine",
        choices=["native", "onnxruntime"],
        default="native",
        help="the engine to load it with (default: native)",
    )
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    parser.epilog = (
        "examples:\n"
        "  pyconv summary fashion\n"
        "  pyconv summary my-network.onnx --engine onnxruntime\n"
        "  pyconv summary digits --json"
    )


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    from pyconv.model import load

    summary = load(args.model, engine=args.engine).summary()
    print(json.dumps(summary.to_json(), indent=2) if args.json else summary)
    return 0
