"""Ports, and how several listeners share one."""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

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
        host: an address, or a name of this machine.
        port: 0 takes a free one.

    Yields:
        The port.

    Raises:
        ServerError: it is taken, or the address is not this machine's.
    """
    with ExitStack() as stack:
        try:
            taken = _take(stack, host, port)
        except OSError as error:
            raise ServerError(
                f"cannot listen on {address(host, port)}: {error.strerror or error}; choose "
                "another port (0 takes a free one)"
            ) from error
        yield taken


_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""What says that an address is not this machine's, as ::1 where there is no IPv6."""


def _take(stack: ExitStack, host: str, port: int) -> int:
    """Bind all addresses of a host that are this machine's.

    Raises:
        OSError: none is, or the port is taken on one of them.
    """
    missing: OSError | None = None
    bound = False
    for family, where in _addresses(host):
        try:
            port = _bind(stack, family, where, port)
            bound = True
        except OSError as error:
            if error.errno not in _NOT_HERE:
                raise
            missing = error
    if missing is not None and not bound:
        raise missing
    return port


def _addresses(host: str) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Families and addresses, those that gRPC makes of a host."""
    names = {
        "localhost": ("127.0.0.1", "::1"),
        "0.0.0.0": ("0.0.0.0", "::"),
        "::": ("0.0.0.0", "::"),
    }
    for name in names.get(host.lower(), (host,)):
        for family, _, _, _, where in socket.getaddrinfo(name, 0, type=socket.SOCK_STREAM):
            yield family, where


def _bind(stack: ExitStack, family: int, where: tuple[Any, ...], port: int) -> int:
    # Somebody else's port must be refused, even where they share it: so it is tried alone first.
    with _socket(family) as alone:
        alone.bind((where[0], port, *where[2:]))
        taken: int = alone.getsockname()[1]
    sharing = stack.enter_context(_socket(family))
    sharing.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sharing.bind((where[0], taken, *where[2:]))
    # Once it is bound, nobody else shall take it by this option.
    sharing.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    return taken


def _socket(family: int) -> socket.socket:
    made = socket.socket(family)
    # Connections that a server before this one has closed linger on the port for a minute.
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return made
