"""What Ray Serve's gRPC proxies load: the methods that they carry, and what they do if a copy dies.

Ray ends a request whose copy dies as INTERNAL, in a form that gRPC's clients cannot send again by
their retry policy. Requests change nothing on a copy, so the proxy gives them to another one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from pyconv.server.logs import REQUEST_ID
from pyconv.v1.classifier_pb2_grpc import add_ClassifierServicer_to_server
from pyconv.v2.open_inference_pb2_grpc import add_GRPCInferenceServiceServicer_to_server

_log = logging.getLogger("ray.serve")

_ATTEMPTS = 5
_FIRST_WAIT_SECONDS = 0.05

_Handler = Callable[[Any, Any], Awaitable[bytes]]


def add_servicers(servicer: Any, server: Any) -> None:
    """For `grpc_servicer_functions`: teach a proxy pyconv's methods.

    Args:
        servicer: Ray's stand-in; the proxy's own handlers take its place.
        server: the proxy's server, which makes a handler for each method.
    """
    make = getattr(server, "service_handler_factory", None)
    if make is None:
        _log.warning("this Ray is not known to pyconv: requests are lost where a copy dies")
    else:
        server.service_handler_factory = _retrying(make)
    try:
        add_ClassifierServicer_to_server(servicer, server)
        add_GRPCInferenceServiceServicer_to_server(servicer, server)
        add_HealthServicer_to_server(servicer, server)
    finally:
        if make is not None:
            server.service_handler_factory = make


def _retrying(make: Callable[..., Any]) -> Callable[..., Any]:
    def make_retrying(service_method: str, streaming_type: Any) -> Any:
        handler = make(service_method=service_method, streaming_type=streaming_type)
        # A stream may have had answers, which nobody can take back.
        return again(handler) if streaming_type.name == "UNARY_UNARY" else handler

    return make_retrying


def again(handler: _Handler) -> _Handler:
    """A handler that asks again where it was not pyconv that failed."""

    async def call(request: Any, context: Any) -> bytes:
        for attempt in range(1, _ATTEMPTS):
            answer = await handler(request, context)
            if not _copy_died(context):
                return answer
            context.set_code(grpc.StatusCode.OK)
            context.set_details("")
            await asyncio.sleep(_FIRST_WAIT_SECONDS * 2 ** (attempt - 1))
        return await handler(request, context)

    return call


def _copy_died(context: Any) -> bool:
    # A number where Ray set it, by grpc.aio. What pyconv itself says bears the request's id.
    if context.code() not in (grpc.StatusCode.INTERNAL, grpc.StatusCode.INTERNAL.value[0]):
        return False
    return REQUEST_ID not in dict(context.trailing_metadata() or ())
