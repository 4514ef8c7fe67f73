"""Ports, and how several listeners share one."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pyconv.errors import ServerError

CAN_BE_SHARED = sys.platform == "linux"
"""Whether the system deals out a port's connections among all that listen on it (SO_REUSEPORT)."""


def address(host: str, port: int) -> str:
    """`HOST:PORT`, or `[HOST]:PORT` where the host is a number of IPv6."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@contextmanager
def held(host: str, port: int) -> Iterator[int]:
    """Take a port for listeners that will share it, without listening on it.

    Args:
        host: as `listen` takes it.
        port: 0 takes a free one.

    Yields:
        The port.

    Raises:
        ServerError: it is taken, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Somebody else's port must be refused, even where they share it: so it is tried alone first.
    with socket.socket(family) as alone:
        try:
            alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            alone.bind((host, port))
            taken: int = alone.getsockname()[1]
        except OSError as error:
            raise ServerError(
                f"cannot listen on {address(host, port)}: {error.strerror or error}; choose "
                "another port (0 takes a free one)"
            ) from error
    with socket.socket(family) as sharing:
        sharing.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        # Connections that a server before this one has closed linger on the port for a minute. Once
        # it is bound, nobody else shall take it by the same option.
        sharing.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sharing.bind((host, taken))
        sharing.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        yield taken
