"""Show how the native engine's compiler turns a network into a program.

First what each pass of the compiler did: how many nodes of which operator there were before and
after, and the nodes that went (-) and came (+). Nodes are native operators, all of them channels
last; a transpose stands wherever the file's layout is another, until the passes have taken it
out. Then the program that is left, step by step: how it is computed and what was fused into it,
the shape of what it puts out, where that lies in the memory that the steps share, and its
floating-point operations for one image (a multiply and an add count as two). What the compiler is
and why: docs/compiler.md.
"""

from __future__ import annotations

import argparse
import json
from typing import get_args

from pyconv.engines.base import WeightStorage

HELP = "show what the compiler does to a network, pass by pass, and the program it ends in"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "model", metavar="MODEL", help="a bundled model's name (fashion, digits) or an .onnx file"
    )
    parser.add_argument(
        "--outputs",
        nargs="+",
        metavar="TENSOR",
        help="compile for these ONNX tensors, as for activations (default: the file's outputs)",
    )
    parser.add_argument(
        "--threads", type=int, default=1, metavar="N", help="threads of a run (default: 1)"
    )
    parser.add_argument(
        "--exact", action="store_true", help="direct products alone, without Winograd's algorithm"
    )
    parser.add_argument(
        "--weights",
        choices=get_args(WeightStorage),
        default="float32",
        help="how dense layers keep their weights (default: float32)",
    )
    parser.add_argument(
        "--brief", action="store_true", help="leave out the nodes that each pass changed"
    )
    parser.add_argument("--json", action="store_true", help="print all of it as JSON")
    parser.epilog = (
        "examples:\n"
        "  pyconv explain digits\n"
        "  pyconv explain my-network.onnx --brief\n"
        "  pyconv explain fashion --exact --json"
    )


def run(args: argparse.Namespace) -> int:
    """Print the explanation."""
    from pyconv import bundled
    from pyconv.graph.explanation import explain

    explanation = explain(
        bundled.resolve(args.model), args.outputs, args.threads, args.exact, args.weights
    )
    if args.json:
        print(json.dumps(explanation.to_json(), indent=2, ensure_ascii=False))
    else:
        print(explanation.text(lines=not args.brief))
    return 0
