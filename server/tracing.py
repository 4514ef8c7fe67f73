"""OpenTelemetry traces: a span a request, in the trace that its caller is in.

What exports them, and where to, is set by OpenTelemetry's own variables, such as
`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_SERVICE_NAME` and `OTEL_TRACES_SAMPLER`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from typing import Any

import grpc

from pyconv.errors import MissingExtraError
from pyconv.server import logs

_log = logging.getLogger("pyconv.server")

_HEALTH = "grpc.health.v1.Health"
_UNTRACED_PATHS = ("/v2/health/", "/metrics")


class Tracing:
    """The tracer of one server.

    Args:
        provider: where spans go; OTLP by the environment's settings if None.

    Raises:
        MissingExtraError: OpenTelemetry, of the extra `tracing`, is not installed.
    """

    def __init__(self, provider: Any = None) -> None:
        try:
            from opentelemetry import trace
            from opentelemetry.instrumentation.grpc import aio_server_interceptor, filters
        except ImportError:
            raise MissingExtraError("opentelemetry", "tracing", "tracing requests") from None
        self._provider = provider or _otlp_provider()
        health = filters.service_name(_HEALTH)
        self.interceptor: grpc.aio.ServerInterceptor = aio_server_interceptor(
            self._provider, filter_=filters.negate(health)
        )

        def trace_id() -> str:
            context = trace.get_current_span().get_span_context()
            return format(context.trace_id, "032x") if context.is_valid else ""

        logs.show_traces(trace_id)

    def http_middleware(self) -> Any:
        """The same for aiohttp, by OpenTelemetry's conventions for HTTP."""
        from aiohttp import web
        from opentelemetry.propagate import extract
        from opentelemetry.trace import SpanKind, Status, StatusCode

        tracer = self._provider.get_tracer("pyconv.server")

        @web.middleware
        async def trace(request: web.Request, handler: Any) -> web.StreamResponse:
            if request.path.startswith(_UNTRACED_PATHS):
                return await handler(request)  # type: ignore[no-any-return]
            resource = request.match_info.route.resource
            route = resource.canonical if resource is not None else ""
            with tracer.start_as_current_span(
                f"{request.method} {route}".strip(),
                context=extract(request.headers),
                kind=SpanKind.SERVER,
                attributes={
                    "http.request.method": request.method,
                    "http.route": route,
                    "url.path": request.path,
                },
            ) as span:
                response: web.StreamResponse = await handler(request)
                span.set_attribute("http.response.status_code", response.status)
                if response.status >= 500:
                    span.set_status(Status(StatusCode.ERROR))
                return response

        return trace

    async def close(self, within_s: float) -> None:
        """Send what has not been sent yet, for so long at most: a collector may hang."""
        loop = asyncio.get_running_loop()
        sent = asyncio.Event()

        def send() -> None:
            self._provider.shutdown()
            with contextlib.suppress(RuntimeError):  # nobody waits any more
                loop.call_soon_threadsafe(sent.set)

        # A thread that does not keep the process from ending.
        threading.Thread(target=send, daemon=True).start()
        try:
            await asyncio.wait_for(sent.wait(), within_s)
        except TimeoutError:
            _log.error("the last spans were not sent within %.3g s; they are lost", within_s)


def _otlp_provider() -> Any:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise MissingExtraError("opentelemetry", "tracing", "tracing requests") from None
    name = os.environ.get("OTEL_SERVICE_NAME", "pyconv")
    resource = Resource.create({SERVICE_NAME: name})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)  # `close` does it
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
