"""What the commands that ask a server share: their flags, and the server itself."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyconv.client import Client


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --server, --model, --engine and --timeout."""
    parser.add_argument(
        "--server",
        metavar="HOST:PORT",
        help="ask this server (default: start one on a free port, for as long as it is needed)",
    )
    parser.add_argument(
        "--model",
        metavar="MODEL",
        help="a bundled model's name (fashion, digits) or an .onnx file; with --server, the name "
        "of a model there (default: fashion; with --server, its only model)",
    )
    parser.add_argument(
        "--engine",
        choices=("native", "onnxruntime"),
        help="what runs the model (default: native; with --server, the server's first)",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=60,
        metavar="S",
        help="seconds to wait for the server's answer (default: 60)",
    )


@contextmanager
def connect(args: argparse.Namespace) -> Iterator[tuple[Client, str]]:
    """A client of the server that the flags name, or of one that lives as long as the block.

    Yields:
        The client, and the model's name on its server.

    Raises:
        ModelError: the model cannot be loaded.
        ServerError: nobody answers at the address given.
    """
    from pyconv.client import Client

    if args.server is not None:
        with Client(args.server, timeout=args.timeout) as client:
            yield client, args.model or ""
        return

    from pyconv.server.background import BackgroundServer
    from pyconv.server.settings import MIB, ModelSpec, Settings

    spec = ModelSpec.parse(args.model or "fashion")
    settings = Settings(
        models=[spec],
        engines=[args.engine or "native"],
        port=0,
        # It serves its own process alone: the process's memory is the limit.
        max_message_bytes=1024 * MIB,
        max_images=1 << 20,
        grace_seconds=0,
    )
    with BackgroundServer(settings) as address, Client(address, timeout=args.timeout) as client:
        yield client, spec.name
