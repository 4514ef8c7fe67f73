"""The one table from errors to gRPC's status codes."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from pyconv.errors import InputError, PyconvError
from pyconv.server.errors import LimitError, NotFoundError

_log = logging.getLogger("pyconv.server")

# The first row that fits decides, so the special kinds stand before the general ones.
_CODES: tuple[tuple[type[Exception], grpc.StatusCode], ...] = (
    (NotFoundError, grpc.StatusCode.NOT_FOUND),
    (LimitError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (InputError, grpc.StatusCode.INVALID_ARGUMENT),
    (PyconvError, grpc.StatusCode.FAILED_PRECONDITION),
)

# A status travels in HTTP/2 trailers, which peers may cut off at 8 KiB; up to three bytes each.
_MAX_MESSAGE_BYTES = 2000


def status_of(error: Exception) -> tuple[grpc.StatusCode, str]:
    """The status code and the message that the caller gets for an error.

    An error that nobody raised on purpose is logged with its traceback, and the caller learns
    nothing of its insides.
    """
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code, _shorten(str(error))
    _log.error("a request failed", exc_info=error)
    return grpc.StatusCode.INTERNAL, "the server failed on this request; its log has the details"


@asynccontextmanager
async def aborting(context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[None]:
    """End the call with the right status where the body raises an error."""
    try:
        yield
    except grpc.aio.AbortError:
        raise
    except Exception as error:
        code, message = status_of(error)
        await context.abort(code, message)


def _shorten(message: str) -> str:
    data = message.encode()
    if len(data) <= _MAX_MESSAGE_BYTES:
        return message
    return data[:_MAX_MESSAGE_BYTES].decode(errors="ignore") + " …"
