"""Joins a Ray cluster."""

from __future__ import annotations

import logging
import os
import socket

from pyconv.errors import MissingExtraError, ServerError

try:
    import ray
except ImportError:
    raise MissingExtraError("ray", "ray", "work on a Ray cluster") from None

_PATIENCE_SECONDS = 5


def join(address: str | None) -> None:
    """Join a Ray cluster, where this process is in none yet.

    Args:
        address: `HOST:PORT`; that of `RAY_ADDRESS` or of this machine if None, or else a new
            cluster on this machine, which ends with the process.

    Raises:
        ServerError: nobody answers there.
    """
    if ray.is_initialized():
        return
    host, colon, port = (address or os.environ.get("RAY_ADDRESS", "")).rpartition(":")
    try:
        # Ray itself would try for minutes.
        if colon and port.isdecimal() and "//" not in host:
            socket.create_connection((host.strip("[]"), int(port)), _PATIENCE_SECONDS).close()
        ray.init(address, log_to_driver=False, logging_level=logging.WARNING)
    except Exception as error:  # which Ray itself raises where a node takes too long to start
        raise ServerError(
            f"no Ray cluster answers at {address or os.environ.get('RAY_ADDRESS', 'this machine')} "
            f"({error}); start one with: ray start --head. Where it asks for a token, set "
            "RAY_AUTH_MODE=token, with the token in ~/.ray/auth_token"
        ) from error
