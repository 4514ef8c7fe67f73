"""The standard gRPC health service (grpc.health.v1).

grpcio-health-checking has an asyncio servicer too. This one ends every Watch when the server stops,
so that a watching balancer does not hold up the stop, and still informs the others when one of
several watchers of a service leaves.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
from grpc_health.v1 import health_pb2 as pb
from grpc_health.v1 import health_pb2_grpc


class Health(health_pb2_grpc.HealthServicer):
    """SERVING for the server as a whole and for each service, until `stop`."""

    def __init__(self, services: Sequence[str]) -> None:
        # The empty name is the whole server, by the protocol.
        self._services = frozenset(["", *services])
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """From now on everything is NOT_SERVING; watchers hear it and their streams end."""
        self._stopping.set()

    async def Check(
        self, request: pb.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.HealthCheckResponse:
        """The status of a service now; NOT_FOUND for one that is not here."""
        if request.service not in self._services:
            await context.abort(
                grpc.StatusCode.NOT_FOUND, f"there is no service {request.service!r} here"
            )
        return self._status()

    async def Watch(
        self, request: pb.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.HealthCheckResponse]:
        """The status of a service now, and again when it changes."""
        if request.service in self._services:
            yield self._status()
            await self._stopping.wait()
            yield self._status()
        else:
            # By the protocol an unknown service is no error here: it might come later.
            yield pb.HealthCheckResponse(status=pb.HealthCheckResponse.SERVICE_UNKNOWN)
            await self._stopping.wait()

    def _status(self) -> pb.HealthCheckResponse:
        stopping = self._stopping.is_set()
        return pb.HealthCheckResponse(
            status=pb.HealthCheckResponse.NOT_SERVING
            if stopping
            else pb.HealthCheckResponse.SERVING
        )
