"""Lets no gRPC call through to a servicer that shows no API token."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc

from pyconv.server.logs import REQUEST_ID, request_id
from pyconv.server.security import Tokens

REFUSAL = "expected the header authorization: Bearer TOKEN with one of this server's API tokens"

# What balancers and orchestrators ask, who hold no token. It tells nothing but a status.
_OPEN = ("/grpc.health.v1.Health/",)


class Authentication:
    """Tells calls that show a valid token from others; health may be asked without.

    Args:
        tokens: those that are let in.
    """

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    def lets_in(self, call: grpc.HandlerCallDetails) -> bool:
        """Whether a call may be answered."""
        if call.method.startswith(_OPEN):
            return True
        for name, value in call.invocation_metadata:
            if name == "authorization":
                given = value if isinstance(value, str) else value.decode("latin-1")
                return self._tokens.accept(given)
        return False


def refusing(handler: grpc.RpcMethodHandler[Any, Any]) -> grpc.RpcMethodHandler[Any, Any]:
    """A handler of the same kind that refuses: the kind decides how a call is answered."""

    async def refuse(_: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, REFUSAL, _trailers())

    async def refuse_stream(
        _: object, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[None]:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, REFUSAL, _trailers())
        yield

    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[handler.request_streaming, handler.response_streaming]
    return make(refuse_stream if handler.response_streaming else refuse)


def _trailers() -> tuple[tuple[str, str], ...]:
    return ((REQUEST_ID, request_id()),)
