"""Serve models over gRPC.

Speaks pyconv.v1.Classifier, the standard health service and server reflection. Prints the address
once it answers. SIGTERM or Ctrl-C stops it when the requests in flight are finished.
"""

from __future__ import annotations

import argparse
import json

from pyconv.errors import InputError

HELP = "serve models over gRPC"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--model",
        action="append",
        metavar="MODEL",
        help="a bundled model's name, an .onnx file, or NAME=FILE to choose its name; may be "
        "given several times (default: every bundled model)",
    )
    parser.add_argument(
        "--engine",
        choices=("native", "onnxruntime", "both"),
        default="native",
        help="what runs the models; with both, a request may choose, and gets native if it does "
        "not (default: native)",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="the address to listen on; 0.0.0.0 lets other machines in, without any "
        "authentication (default: 127.0.0.1)",
    )
    parser.add_argument(
        "--port",
        type=int,
        default=50051,
        metavar="N",
        help="the port; 0 takes a free one (default: 50051)",
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        metavar="N",
        help="threads that the engine may use for one call (default: 1)",
    )
    parser.add_argument(
        "--weights",
        choices=("float32", "bfloat16", "int8"),
        default="float32",
        help="how the native engine keeps the weights of dense layers: bfloat16 and int8 take a "
        "half and a quarter of the memory and answer sooner, a little less exactly "
        "(default: float32)",
    )
    parser.add_argument(
        "--concurrency",
        type=int,
        metavar="N",
        help="requests computed at the same time (default: one a core)",
    )
    parser.add_argument(
        "--max-message",
        type=float,
        default=16,
        metavar="MIB",
        help="the largest request, and the largest answer with activations, in MiB (default: 16)",
    )
    parser.add_argument(
        "--max-images",
        type=int,
        default=256,
        metavar="N",
        help="the most images in one request (default: 256)",
    )
    parser.add_argument(
        "--grace",
        type=float,
        default=10,
        metavar="S",
        help="seconds that a stopping server waits for the requests in flight (default: 10)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print the address and the models as one line of JSON"
    )
    parser.epilog = """examples:
  pyconv serve
  pyconv serve --model fashion --engine both --port 0
  pyconv serve --model shoes=runs/7/model.onnx --engine onnxruntime
  grpcurl -plaintext 127.0.0.1:50051 pyconv.v1.Classifier/ListModels

exit status: 0 after SIGTERM or Ctrl-C, 1 if the server cannot start"""


def run(args: argparse.Namespace) -> int:
    """Serve until told to stop."""
    import asyncio
    import logging
    import os

    from pyconv import bundled
    from pyconv.server.app import Server, serve
    from pyconv.server.settings import MIB, ModelSpec, Settings

    if not 0 < args.max_message < float("inf"):
        raise InputError(f"--max-message: expected more than 0 MiB, got {args.max_message}")
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = Settings(
        models=[ModelSpec.parse(model) for model in args.model or bundled.names()],
        engines=["native", "onnxruntime"] if args.engine == "both" else [args.engine],
        host=args.host,
        port=args.port,
        threads=args.threads,
        weights=args.weights,
        concurrency=args.concurrency if args.concurrency is not None else os.cpu_count() or 1,
        max_message_bytes=int(args.max_message * MIB),
        max_images=args.max_images,
        grace_seconds=args.grace,
    )

    def tell(server: Server) -> None:
        names = [spec.name for spec in settings.models]
        if args.json:
            facts = {"address": server.address, "models": names, "engines": settings.engines}
            print(json.dumps(facts), flush=True)
        else:
            print(
                f"serving {', '.join(names)} ({' and '.join(settings.engines)}) "
                f"on {server.address}",
                flush=True,
            )

    asyncio.run(serve(settings, tell))
    return 0
