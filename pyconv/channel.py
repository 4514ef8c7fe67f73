"""A gRPC channel to a server, with TLS and an API token where they are wanted."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import grpc

from pyconv.credentials import Credentials, read

MOST_RETRIES = 4
"""gRPC makes five attempts at most."""


def retry_policy(retries: int) -> str:
    """gRPC's service config by which it sends calls again that ended as their connection did.

    Requests change nothing on the server, so that one may be sent twice. What was streamed is not
    sent again once an answer has come.

    Args:
        retries: how often, at most.
    """
    policy = {
        "maxAttempts": retries + 1,
        "initialBackoff": "0.1s",
        "maxBackoff": "2s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    return json.dumps({"methodConfig": [{"name": [{}], "retryPolicy": policy}]})


def open_channel(
    address: str, credentials: Credentials, options: Sequence[tuple[str, int | str]] = ()
) -> grpc.Channel:
    """A channel to `HOST:PORT`, whose every call carries the token.

    Args:
        address: the server.
        credentials: what to show it, and whom to trust.
        options: gRPC's channel arguments.

    Raises:
        InputError: a file of the credentials cannot be read.
    """
    if credentials.tls:
        trusted, key, certificate = (
            read(path) if path is not None else None
            for path in (credentials.ca, credentials.key, credentials.certificate)
        )
        secure = grpc.ssl_channel_credentials(trusted, key, certificate)
        channel = grpc.secure_channel(address, secure, options)
    else:
        channel = grpc.insecure_channel(address, options)
    if not credentials.metadata:
        return channel
    return grpc.intercept_channel(channel, _AddMetadata(tuple(credentials.metadata.items())))


class _Details(NamedTuple):
    """grpc.ClientCallDetails, which grpc gives no constructor."""

    method: str
    timeout: float | None
    metadata: Sequence[tuple[str, str | bytes]] | None
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None


class _AddMetadata(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Adds headers to calls of every kind."""

    def __init__(self, metadata: Sequence[tuple[str, str]]) -> None:
        self._metadata = metadata

    def _intercept(self, proceed: Callable[..., Any], details: Any, request: Any) -> Any:
        changed = _Details(
            details.method,
            details.timeout,
            (*(details.metadata or ()), *self._metadata),
            details.credentials,
            details.wait_for_ready,
            details.compression,
        )
        return proceed(changed, request)

    intercept_unary_unary = _intercept  # type: ignore[assignment]
    intercept_unary_stream = _intercept  # type: ignore[assignment]
    intercept_stream_unary = _intercept  # type: ignore[assignment]
    intercept_stream_stream = _intercept  # type: ignore[assignment]
