"""What holds for every call whatever its method: its id in the logs, and its line there."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError

from pyconv.server.authentication import Authentication, refusing
from pyconv.server.logs import REQUEST_ID, begin_request, request_id

_log = logging.getLogger("pyconv.server.requests")

if TYPE_CHECKING:
    _Handler = grpc.RpcMethodHandler[Any, Any]

_LOOK_S = 0.01
_QUIET_LOOKS = 5
"""So many looks in a row at which no call has come mean that none waits to be taken up."""

_STATUS_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}


class Calls(grpc.GenericRpcHandler):
    """Takes the id that a caller gave a request, refuses what may not be asked, and writes a line.

    Servicers are added to it as to a server, and it is added to the server in their place: what
    grpc.aio does for an interceptor at every call is a tenth of what the call takes.

    Args:
        lines: whether to write the lines.
        authentication: who may ask; everybody if None.
        refused: told of the status of every call that comes to no servicer.
    """

    def __init__(
        self,
        *,
        lines: bool,
        authentication: Authentication | None = None,
        refused: Callable[[grpc.StatusCode], None] = lambda code: None,
    ) -> None:
        self._lines = lines
        self._refused = refused
        self._authentication = authentication
        self._handlers: dict[str, _Handler] = {}
        self._refusing: dict[str, _Handler] = {}
        self._taken_up = 0
        self._answering = asyncio.Event()
        self._answering.set()

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """What comes here comes by method, too."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Answer the methods of a service."""
        for name, handler in handlers.items():
            method = f"/{service}/{name}"
            checked = _checked(handler, method, self._refused, self._answering)
            self._handlers[method] = self._with_lines(checked, method)
            self._refusing[method] = self._with_lines(refusing(handler), method)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> _Handler | None:
        """See grpc.GenericRpcHandler."""
        self._taken_up += 1
        given = None
        for name, value in handler_call_details.invocation_metadata:
            if name == REQUEST_ID:
                given = str(value)
        begin_request(given)
        method = handler_call_details.method
        asking = self._authentication
        if asking is not None and not asking.lets_in(handler_call_details):
            self._refused(grpc.StatusCode.UNAUTHENTICATED)
            return self._refusing.get(method)
        return self._handlers.get(method)

    async def take_up(self, most_s: float) -> None:
        """Begin no call any more until `go_on`, and return when all that have come are taken up.

        When a server of grpc.aio stops, it drops the calls that have come and that it has not asked
        its core for. Callers that wait for answers send no more, so here they come to an end.

        Args:
            most_s: after so long it returns whatever still comes.
        """
        self._answering.clear()
        loop = asyncio.get_running_loop()
        end, quiet = loop.time() + most_s, 0
        while quiet < _QUIET_LOOKS and loop.time() < end:
            before = self._taken_up
            await asyncio.sleep(_LOOK_S)
            quiet = quiet + 1 if self._taken_up == before else 0

    def go_on(self) -> None:
        """Begin the calls that `take_up` has taken up."""
        self._answering.set()

    def _with_lines(self, handler: _Handler, method: str) -> _Handler:
        return _with_lines(handler, method) if self._lines else handler


def tell(method: str, status: str, started: float, peer: str) -> None:
    """Write the line of a request that has ended.

    Args:
        method: such as `"/inference.GRPCInferenceService/ModelInfer"` or `"POST /v2/…"`.
        status: how it ended, in the terms of its protocol.
        started: when it began, by `time.perf_counter()`.
        peer: who asked.
    """
    took_ms = round((time.perf_counter() - started) * 1e3, 3)
    request_id()  # so that the line has one
    extra = {"method": method, "status": status, "took_ms": took_ms, "peer": peer}
    _log.info("%s %s %.3f ms %s", method, status, took_ms, peer, extra=extra)


_NO_MESSAGE = object()
"""Stands for a request whose bytes are no message."""


def _checked(
    handler: _Handler,
    method: str,
    refused: Callable[[grpc.StatusCode], None],
    answering: asyncio.Event,
) -> _Handler:
    """Wait until calls are answered, and refuse bytes that are no message as INVALID_ARGUMENT.

    gRPC itself makes UNKNOWN of them, which means a fault of the server's, and logs a traceback.
    """
    decode = handler.request_deserializer
    behavior = _behavior(handler)
    if decode is None:
        return handler

    def read(data: bytes) -> object:
        try:
            return decode(data)
        except DecodeError:
            return _NO_MESSAGE

    async def refuse(context: grpc.aio.ServicerContext[Any, Any]) -> None:
        refused(grpc.StatusCode.INVALID_ARGUMENT)
        trailers = ((REQUEST_ID, request_id()),)
        why = f"{method}: the request's bytes are not a message of the kind that it takes"
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, why, trailers)

    async def each(
        requests: AsyncIterator[Any], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[Any]:
        async for request in requests:
            if request is _NO_MESSAGE:
                await refuse(context)
            yield request

    async def answer(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        if not answering.is_set():
            await answering.wait()
        if request is _NO_MESSAGE:
            await refuse(context)
        return await behavior(request, context)

    async def answer_stream(requests: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        if not answering.is_set():
            await answering.wait()
        return await behavior(each(requests, context), context)

    async def stream(
        request: Any, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[Any]:
        if request is _NO_MESSAGE:
            await refuse(context)
        if not answering.is_set():
            await answering.wait()
        async for response in behavior(request, context):
            yield response

    async def stream_stream(
        requests: Any, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[Any]:
        if not answering.is_set():
            await answering.wait()
        async for response in behavior(each(requests, context), context):
            yield response

    wrapped = {
        (False, False): answer,
        (False, True): stream,
        (True, False): answer_stream,
        (True, True): stream_stream,
    }[handler.request_streaming, handler.response_streaming]
    return _like(handler, wrapped, read)


def _with_lines(handler: _Handler, method: str) -> _Handler:
    async def answer(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        started = time.perf_counter()
        try:
            return await _behavior(handler)(request, context)
        except asyncio.CancelledError:
            context.set_code(grpc.StatusCode.CANCELLED)
            raise
        finally:
            tell(method, _status(context), started, context.peer())

    async def stream(
        request: Any, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[Any]:
        started = time.perf_counter()
        try:
            async for response in _behavior(handler)(request, context):
                yield response
        except asyncio.CancelledError:
            context.set_code(grpc.StatusCode.CANCELLED)
            raise
        finally:
            tell(method, _status(context), started, context.peer())

    wrapped = stream if handler.response_streaming else answer
    return _like(handler, wrapped, handler.request_deserializer)


def _like(handler: _Handler, behavior: Any, deserializer: Any) -> _Handler:
    """A handler of the same kind."""
    make: Callable[..., _Handler] = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[handler.request_streaming, handler.response_streaming]
    return make(behavior, deserializer, handler.response_serializer)


def _behavior(handler: _Handler) -> Callable[..., Any]:
    kinds = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
    found: Callable[..., Any] = next(
        method for kind in kinds if (method := getattr(handler, kind)) is not None
    )
    return found


def _status(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    code: Any = context.code()  # a number, until somebody has set a StatusCode
    if isinstance(code, grpc.StatusCode):
        return code.name
    return _STATUS_NAMES.get(code or 0, "UNKNOWN")
