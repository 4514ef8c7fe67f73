"""The one table from errors to the status codes of gRPC and HTTP."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc

from pyconv.errors import InputError, PyconvError
from pyconv.server.errors import (
    BusyError,
    DeadlineError,
    LimitError,
    NotFoundError,
    NotReadyError,
)
from pyconv.server.logs import REQUEST_ID, request_id

_log = logging.getLogger("pyconv.server")

# The first row that fits decides, so the special kinds stand before the general ones.
_CODES: tuple[tuple[type[Exception], grpc.StatusCode, int], ...] = (
    (NotFoundError, grpc.StatusCode.NOT_FOUND, 404),
    (LimitError, grpc.StatusCode.RESOURCE_EXHAUSTED, 413),
    (BusyError, grpc.StatusCode.RESOURCE_EXHAUSTED, 429),
    (DeadlineError, grpc.StatusCode.DEADLINE_EXCEEDED, 504),
    (NotReadyError, grpc.StatusCode.UNAVAILABLE, 503),
    (InputError, grpc.StatusCode.INVALID_ARGUMENT, 400),
    (PyconvError, grpc.StatusCode.FAILED_PRECONDITION, 422),
)

# A status travels in HTTP/2 trailers, which peers may cut off at 8 KiB; up to three bytes each.
_MAX_MESSAGE_BYTES = 2000


@dataclass(frozen=True, slots=True)
class Status:
    """What the caller is told of an error.

    Attributes:
        code: gRPC's status.
        http: the status of HTTP that means the same.
        message: a sentence for people.
        retry_after_ms: when to come again; None where coming again is of no use.
    """

    code: grpc.StatusCode
    http: int
    message: str
    retry_after_ms: int | None = None


def status_of(error: Exception) -> Status:
    """What the caller is told of an error.

    An error that nobody raised on purpose is logged with its traceback, and the caller learns
    nothing of its insides.
    """
    for kind, code, http in _CODES:
        if isinstance(error, kind):
            retry_after_ms = error.retry_after_ms if isinstance(error, BusyError) else None
            return Status(code, http, _shorten(str(error)), retry_after_ms)
    request_id()  # so that the line has one
    _log.error("a request failed", exc_info=error)
    message = "the server failed on this request; its log has the details"
    return Status(grpc.StatusCode.INTERNAL, 500, message)


def code_name(error: BaseException) -> str:
    """The name of gRPC's status for an error, such as `"NOT_FOUND"`; nothing is logged."""
    if isinstance(error, asyncio.CancelledError):
        return grpc.StatusCode.CANCELLED.name
    for kind, code, _ in _CODES:
        if isinstance(error, kind):
            return code.name
    return grpc.StatusCode.INTERNAL.name


def deadline(context: grpc.aio.ServicerContext[Any, Any]) -> float | None:
    """When the caller gives up, by `time.monotonic()`; None if never."""
    remaining = context.time_remaining()
    # Without a deadline gRPC gives None, or what is left until the end of time.
    return None if remaining is None or remaining > _FOREVER_S else time.monotonic() + remaining


_FOREVER_S = 1e9


@asynccontextmanager
async def aborting(context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[None]:
    """End the call with the right status where the body raises an error."""
    try:
        yield
    except grpc.aio.AbortError:
        raise
    except Exception as error:
        await abort(context, error)


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: Exception) -> None:
    """End the call with the status of an error.

    A hint when to come again travels as gRPC's own `grpc-retry-pushback-ms`, which its clients
    heed where they retry. The request's id goes along, to find it in the log.
    """
    status = status_of(error)
    trailers: tuple[tuple[str, str], ...] = ((REQUEST_ID, request_id()),)
    if status.retry_after_ms is not None:
        trailers += (("grpc-retry-pushback-ms", str(status.retry_after_ms)),)
    await context.abort(status.code, status.message, trailers)


def _shorten(message: str) -> str:
    data = message.encode()
    if len(data) <= _MAX_MESSAGE_BYTES:
        return message
    return data[:_MAX_MESSAGE_BYTES].decode(errors="ignore") + " …"
