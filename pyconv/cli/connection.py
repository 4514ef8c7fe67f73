"""What the commands that ask a server share: their flags, and the server itself."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyconv.client import Client
    from pyconv.credentials import Credentials


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --server, --model, --engine and --timeout, and those of `add_credentials`."""
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
    add_credentials(parser)


def add_credentials(parser: argparse.ArgumentParser) -> None:
    """Add --tls, --tls-ca, --tls-certificate, --tls-key and --token-file."""
    group = parser.add_argument_group("TLS and API token")
    group.add_argument(
        "--tls", action="store_true", help="talk TLS, and trust whom this system trusts"
    )
    group.add_argument(
        "--tls-ca", type=Path, metavar="FILE", help="talk TLS, and trust these certificates (PEM)"
    )
    group.add_argument(
        "--tls-certificate",
        type=Path,
        metavar="FILE",
        help="show this certificate (PEM), where the server wants to know its clients",
    )
    group.add_argument(
        "--tls-key", type=Path, metavar="FILE", help="the private key of --tls-certificate (PEM)"
    )
    group.add_argument(
        "--token-file", type=Path, metavar="FILE", help="send the API token in this file"
    )


def credentials(args: argparse.Namespace) -> Credentials:
    """What the flags of `add_credentials` say.

    Raises:
        InputError: flags that do not go together, or a file without a token.
    """
    from pyconv.credentials import Credentials, read_token

    return Credentials(
        tls=args.tls,
        ca=args.tls_ca,
        certificate=args.tls_certificate,
        key=args.tls_key,
        token=read_token(args.token_file) if args.token_file else "",
    )


@contextmanager
def connect(
    args: argparse.Namespace, *, both_engines: bool = False
) -> Iterator[tuple[Client, str]]:
    """A client of the server that the flags name, or of one that lives as long as the block.

    Args:
        args: the command's.
        both_engines: whether the latter is to hold the model on both.

    Yields:
        The client, and the model's name on its server.

    Raises:
        ModelError: the model cannot be loaded.
        ServerError: nobody answers at the address given.
    """
    from pyconv.client import Client

    if args.server is not None:
        with Client(args.server, timeout=args.timeout, credentials=credentials(args)) as client:
            yield client, args.model or ""
        return

    from pyconv.server.background import BackgroundServer
    from pyconv.server.settings import MIB, ModelSpec, Settings

    spec = ModelSpec.parse(args.model or "fashion")
    settings = Settings(
        models=[spec],
        engines=["native", "onnxruntime"] if both_engines else [args.engine or "native"],
        port=0,
        # It serves its own process alone: the process's memory is the limit.
        max_message_bytes=1024 * MIB,
        max_images=1 << 20,
        grace_seconds=0,
    )
    with BackgroundServer(settings) as address, Client(address, timeout=args.timeout) as client:
        yield client, spec.name
