"""The standard gRPC health service (grpc.health.v1).

grpcio-health-checking has an asyncio servicer too. This one ends every Watch when the server stops,
so that a watching balancer does not hold up the stop, and still informs the others when one of
several watchers of a service leaves.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
from grpc_health.v1 import health_pb2 as pb
from grpc_health.v1 import health_pb2_grpc

from pyconv.server.repository import Repository

_LOOK_SECONDS = 0.5
"""How often a watched model is looked at."""


class Health(health_pb2_grpc.HealthServicer):
    """SERVING for the server as a whole, for each service and for each model that is ready.

    Args:
        services: the full names of the services; a model goes by its own name.
        repository: the models.
    """

    def __init__(self, services: Sequence[str], repository: Repository) -> None:
        # The empty name is the whole server, by the protocol.
        self._services = frozenset(["", *services])
        self._repository = repository
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """From now on everything is NOT_SERVING; watchers hear it and their streams end."""
        self._stopping.set()

    async def Check(
        self, request: pb.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.HealthCheckResponse:
        """The status of a service or model now; NOT_FOUND for one that is not here."""
        status = self._status(request.service)
        if status == pb.HealthCheckResponse.SERVICE_UNKNOWN:
            await context.abort(
                grpc.StatusCode.NOT_FOUND, f"there is no service or model {request.service!r} here"
            )
        return pb.HealthCheckResponse(status=status)

    async def List(self, request: object, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        """A HealthListResponse: the status of every service and model now."""
        names = sorted({*self._services, *self._repository.names()})
        return pb.HealthListResponse(  # type: ignore[attr-defined]  # newer than the stubs
            statuses={name: pb.HealthCheckResponse(status=self._status(name)) for name in names}
        )

    async def Watch(
        self, request: pb.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.HealthCheckResponse]:
        """The status of a service or model now, and again whenever it changes."""
        # By the protocol an unknown one is no error here: it might come later, as models do.
        told = None
        while True:
            stopping = self._stopping.is_set()
            status = self._status(request.service)
            if status != told:
                told = status
                yield pb.HealthCheckResponse(status=status)
            if stopping:
                return
            seconds = None if request.service in self._services else _LOOK_SECONDS
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), seconds)

    def _status(self, name: str) -> Any:
        ready: bool | None = True
        if name not in self._services:
            ready = self._repository.state(name)
        if ready is None:
            return pb.HealthCheckResponse.SERVICE_UNKNOWN
        if ready and not self._stopping.is_set():
            return pb.HealthCheckResponse.SERVING
        return pb.HealthCheckResponse.NOT_SERVING
