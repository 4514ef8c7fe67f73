"""What `calls` does for gRPC, for HTTP: a request's id in the logs, and its line there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from pyconv.server import calls
from pyconv.server.logs import REQUEST_ID, begin_request, request_id


def middleware(*, lines: bool) -> Any:
    """Takes the id that a caller gave a request, and gives it back.

    Args:
        lines: whether to write a line for every request.
    """

    @web.middleware
    async def call(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        given = request.headers.get(REQUEST_ID)
        begin_request(given)
        started = time.perf_counter()
        status = "500"
        try:
            response = await handler(request)
            status = str(response.status)
            # Headers that are on their way cannot be changed any more.
            if (given or response.status >= 400) and not response.prepared:
                response.headers[REQUEST_ID] = request_id()
            return response
        except asyncio.CancelledError:
            status = "cancelled"
            raise
        finally:
            if lines:
                calls.tell(
                    f"{request.method} {request.path}", status, started, request.remote or ""
                )

    return call
