"""Starts the server, and stops it without losing a request that is in flight."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from pyconv.errors import InputError, ServerError
from pyconv.server import ports
from pyconv.server.authentication import Authentication
from pyconv.server.calls import Calls
from pyconv.server.classifier import Classifier
from pyconv.server.health import Health
from pyconv.server.inference import Inference
from pyconv.server.models import Models
from pyconv.server.open_inference import OpenInference
from pyconv.server.repository import Repository
from pyconv.server.security import Security, exposure
from pyconv.server.settings import Settings
from pyconv.server.tracing import Tracing
from pyconv.v1 import classifier_pb2, classifier_pb2_grpc
from pyconv.v2 import open_inference_pb2, open_inference_pb2_grpc

if TYPE_CHECKING:
    from pyconv.server.http import Http

_log = logging.getLogger("pyconv.server")

CLASSIFIER = classifier_pb2.DESCRIPTOR.services_by_name["Classifier"].full_name
OPEN_INFERENCE = open_inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

_LISTENERS = 16
"""Servers of grpc.aio on the one port: docs/decisions/0020-listeners.md."""

_MOST_TO_TAKE_UP_S = 0.25
"""What a stopping server waits at most until all calls that have come are taken up."""

_LEAST_FOR_SPANS_S = 1.0
"""What a stopping server waits for the last spans to be sent where nothing of the grace is left."""


class Server:
    """Made by `start`; answers until it is told to `stop`.

    Attributes:
        address: `HOST:PORT` of gRPC, with the port that was taken where the settings say 0.
        http_address: the same of HTTP; empty where there is none.
    """

    def __init__(
        self,
        settings: Settings,
        inference: Inference,
        repository: Repository,
        security: Security,
        tracing: Tracing | None,
    ) -> None:
        self._tracing = tracing
        self._settings = settings
        self._security = security
        self._inference = inference
        self._repository = repository
        self._health = Health([CLASSIFIER, OPEN_INFERENCE], repository)
        self._calls = Calls(
            lines=settings.log_requests,
            authentication=Authentication(security.tokens) if security.tokens else None,
            refused=lambda code: inference.metrics.refused("", "", code.name),
        )
        classifier_pb2_grpc.add_ClassifierServicer_to_server(Classifier(inference), self._calls)
        open_inference = OpenInference(inference, repository)
        open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(
            open_inference, self._calls
        )
        self._calls.add_registered_method_handlers(OPEN_INFERENCE, open_inference.handlers())
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._calls)  # type: ignore[arg-type]
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
            reflection.aio.ReflectionServicer(
                [CLASSIFIER, OPEN_INFERENCE, HEALTH, reflection.SERVICE_NAME]
            ),
            self._calls,
        )
        self._servers: list[grpc.aio.Server] = []
        self.address = ""
        self.http_address = ""
        self._http: Http | None = None
        self._sharing: asyncio.Future[None] | None = None

    @classmethod
    async def start(cls, settings: Settings) -> Server:
        """Load the models, then listen.

        Raises:
            ModelError: a model cannot be loaded.
            InputError: a certificate, key or token file is not what it must be.
            MissingExtraError: traces are wanted, and OpenTelemetry is not installed.
            ServerError: the address cannot be listened on.
        """
        security = Security.of(settings)
        tracing = Tracing() if settings.trace else None
        inference = Inference(Models(), settings)
        repository = Repository(inference, settings)
        server = cls(settings, inference, repository, security, tracing)
        try:
            await repository.start()
            # First the one that can be taken back: gRPC keeps its ports where it does not start.
            if settings.http_port >= 0:
                await server._listen_http()
            server.address = ports.address(settings.host, server._listen())
            await asyncio.gather(*(each.start() for each in server._servers))
        except BaseException:
            if server._http is not None:
                await server._http.stop()
            await repository.close()
            inference.close()
            raise
        return server

    def share_metrics(self, folder: Path) -> None:
        """From now on, count together with other processes that use the same folder."""
        self._sharing = asyncio.ensure_future(self._inference.metrics.share(folder))

    @property
    def models(self) -> Sequence[str]:
        """The names of the models that are loaded."""
        return self._inference.models.names

    async def reload(self) -> None:
        """Take in the models and the tokens that have changed; failures are logged."""
        _log.info("reloading")
        if self._security.tokens is not None:
            try:
                self._security.tokens.reload()
            except InputError as error:
                _log.error("the tokens stay as they were: %s", error)
        await self._repository.reload()

    async def stop(self) -> None:
        """Refuse new requests, finish those in flight within the grace period, and end.

        Where the settings say so, requests are still taken for a while after health has said that
        the server is stopping.
        """
        self._health.stop()
        if self._http is not None:
            self._http.leave()
        await self._repository.close()
        await asyncio.sleep(self._settings.drain_seconds)
        loop = asyncio.get_running_loop()
        grace = self._settings.grace_seconds
        end = loop.time() + grace
        if self._http is not None:
            await self._http.close()
        await self._calls.take_up(min(_MOST_TO_TAKE_UP_S, grace / 2))
        left = max(0, end - loop.time())
        stopping = [asyncio.ensure_future(server.stop(left)) for server in self._servers]
        if self._http is not None:
            stopping.append(asyncio.ensure_future(self._http.stop()))
        await asyncio.sleep(0)  # they take up no more
        self._calls.go_on()
        await asyncio.gather(*stopping)
        if self._sharing is not None:
            self._sharing.cancel()
        self._inference.close()
        if self._tracing is not None:
            await self._tracing.close(max(_LEAST_FOR_SPANS_S, end - loop.time()))

    async def _listen_http(self) -> None:
        # Whoever has no use for HTTP does not wait for aiohttp to be imported.
        from pyconv.server.http import Http

        self._http = Http(
            self._inference, self._repository, self._settings, self._security, self._tracing
        )
        port = await self._http.start()
        self.http_address = ports.address(self._settings.host, port)

    def _listen(self) -> int:
        host, port = self._settings.host, self._settings.port
        if not ports.CAN_BE_SHARED:
            return self._add_listener(host, port)
        # Where processes share the port, it is held for all of them already.
        several = self._settings.workers > 1
        with nullcontext(port) if several else ports.held(host, port) as taken:
            for _ in range(_LISTENERS):
                self._add_listener(host, taken)
        return taken

    def _add_listener(self, host: str, port: int) -> int:
        server = grpc.aio.server(
            interceptors=[] if self._tracing is None else [self._tracing.interceptor],
            options=[
                # Where it is, `ports.held` has seen to it that nobody else has the port.
                ("grpc.so_reuseport", int(ports.CAN_BE_SHARED or self._settings.workers > 1)),
                ("grpc.max_receive_message_length", self._settings.max_message_bytes),
                ("grpc.max_send_message_length", -1),
            ],
        )
        server.add_generic_rpc_handlers([self._calls])
        address, tls = ports.address(host, port), self._security.tls
        try:
            if tls is None:
                taken: int = server.add_insecure_port(address)
            else:
                taken = server.add_secure_port(address, tls.grpc_credentials())
        except RuntimeError as error:
            raise ServerError(
                f"cannot listen on {address}: the port is taken, or the address is not this "
                "machine's; choose another port (0 takes a free one)"
            ) from error
        self._servers.append(server)
        return taken


async def serve(
    settings: Settings,
    ready: Callable[[Server], None],
    signals: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGINT),
) -> None:
    """Serve until SIGTERM or SIGINT; a second signal ends the process at once; SIGHUP reloads.

    Args:
        settings: what to serve, and where.
        ready: called once, when requests are answered.
        signals: those that stop it.

    Raises:
        ModelError: a model cannot be loaded.
        ServerError: the address cannot be listened on.
    """
    # What the modules hold stays to the end; the collector need not look through it all the time.
    gc.freeze()
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    server = await Server.start(settings)
    if warning := exposure(settings):
        _log.warning(warning)
    reloads: set[asyncio.Task[None]] = set()

    def reload() -> None:
        task = loop.create_task(server.reload())
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    loop.add_signal_handler(signal.SIGHUP, reload)
    for number in signals:
        loop.add_signal_handler(number, told.set)
    ready(server)
    await told.wait()
    _log.info("stopping; requests in flight have %g s", settings.grace_seconds)
    for number in signals:
        loop.remove_signal_handler(number)
    await server.stop()
