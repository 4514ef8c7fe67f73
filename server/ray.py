"""The service on a Ray cluster: copies that Ray Serve starts, watches, replaces and adds to.

A copy is an actor that holds all the models, with the same servicers as `pyconv serve` has; Ray
Serve's gRPC proxies, one on every node with a copy, share the requests out. docs/ray.md says what
differs from a server of one's own.

`serve` is what `pyconv serve --ray` does; `app` is for Ray Serve's own configuration files.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import grpc
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2

from pyconv import bundled
from pyconv.cluster import join
from pyconv.errors import InputError, MissingExtraError, ServerError, unknown_name
from pyconv.server import status
from pyconv.server.authentication import REFUSAL
from pyconv.server.classifier import Classifier
from pyconv.server.configuration import gather, setting_names
from pyconv.server.errors import LimitError
from pyconv.server.health import Health
from pyconv.server.inference import Inference
from pyconv.server.logs import REQUEST_ID, begin_request, configure, request_id
from pyconv.server.models import Models
from pyconv.server.open_inference import OpenInference
from pyconv.server.repository import Repository
from pyconv.server.security import Security, exposure
from pyconv.server.settings import MIB, Settings
from pyconv.server.supervisor import Serving
from pyconv.v1 import classifier_pb2
from pyconv.v2 import open_inference_pb2

try:
    import ray
    from ray import serve as ray_serve
    from ray.serve.config import AutoscalingConfig, gRPCOptions
    from ray.serve.grpc_util import RayServegRPCContext
except ImportError:
    raise MissingExtraError("ray", "ray", "serving on a Ray cluster") from None

_log = logging.getLogger("pyconv.server")

NAME = "pyconv"
"""Of the application, as Ray's dashboard and `serve status` show it."""

SERVICERS = ["pyconv.server.ray_proxy.add_servicers"]
"""For `grpc_servicer_functions`, by which Ray's proxies know the methods that they carry."""

_CLASSIFIER = classifier_pb2.DESCRIPTOR.services_by_name["Classifier"]
_OPEN_INFERENCE = open_inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"]
_READY = f"/{_OPEN_INFERENCE.full_name}/ServerReady"

# A copy batches what waits for it, so more than one run's worth of requests shall be there; what is
# above waits in the proxies, where any copy that is free can take it.
_MOST_ONGOING = 4

_PATIENCE_SECONDS = 120  # for a proxy to start on a busy machine


class Copy:
    """One copy of the service: an actor on some node. Ray calls the methods by their gRPC names.

    Args:
        settings: as for `pyconv serve`; files that they name are read on the copy's own node.
    """

    async def __init__(self, settings: Settings) -> None:  # type: ignore[misc]  # Ray awaits it
        configure(settings.log_format, settings.log_level, requests=False)
        self._settings = settings
        self._tokens = Security.of(settings).tokens
        self._inference = Inference(Models(), settings)
        self._repository = Repository(self._inference, settings)
        await self._repository.start()
        self._health = Health([_CLASSIFIER.full_name, _OPEN_INFERENCE.full_name], self._repository)
        self._servicers = {
            _HEALTH.name: self._health,
            _CLASSIFIER.name: Classifier(self._inference),
            _OPEN_INFERENCE.name: OpenInference(self._inference, self._repository),
        }

    async def __del__(self) -> None:
        if hasattr(self, "_servicers"):  # else it never came up
            self._health.stop()
            await self._repository.close()
            self._inference.close()

    async def models(self) -> Sequence[str]:
        """The names of the models that are loaded."""
        return self._inference.models.names

    def check_health(self) -> None:
        """Ray asks now and then, and replaces a copy that raises."""
        if not self._repository.ready:
            raise ServerError("the models are not loaded")

    async def _admit(self, service: str, context: Any) -> Any:
        """The servicer of a call whose caller may ask."""
        begin_request(context.header(REQUEST_ID))
        given = context.header("authorization")
        if service != _HEALTH.name and self._tokens is not None and not self._tokens.accept(given):
            trailers = ((REQUEST_ID, request_id()),)
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, REFUSAL, trailers)
        return self._servicers[service]

    def _check_size(self, request: Any) -> None:
        # Ray's proxies let through whatever gRPC can carry.
        size, most = request.ByteSize(), self._settings.max_message_bytes
        if size > most:
            raise LimitError(
                f"expected a message of at most {most / MIB:g} MiB, got {size / MIB:.1f} MiB"
            )


class _Context:
    """Of grpc.aio.ServicerContext what the servicers use, on Ray's.

    Ray tells no deadline; a call whose caller is gone is cancelled.
    """

    def __init__(self, context: RayServegRPCContext) -> None:
        self._context = context

    def invocation_metadata(self) -> Sequence[tuple[str, str]]:
        found: Sequence[tuple[str, str]] = self._context.invocation_metadata()
        return found

    def header(self, name: str) -> str | None:
        return dict(self.invocation_metadata()).get(name)

    def time_remaining(self) -> None:
        return None

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailers: Sequence[tuple[str, str]] = ()
    ) -> None:
        self._context.set_code(code)
        self._context.set_details(details)
        self._context.set_trailing_metadata(list(trailers))
        raise grpc.aio.AbortError


def _single(service: str, method: str, answer: Callable[[], Any]) -> Callable[..., Any]:
    """A method of `Copy` that answers once."""

    async def call(self: Copy, request: Any, grpc_context: RayServegRPCContext) -> Any:
        context: Any = _Context(grpc_context)
        try:
            async with status.aborting(context):
                servicer = await self._admit(service, context)
                self._check_size(request)
                return await getattr(servicer, method)(request, context)
        except grpc.aio.AbortError:
            # What is raised would be logged by Ray with its traceback, and lose the trailers: the
            # context carries the status.
            return answer()

    return call


def _streaming(service: str, method: str) -> Callable[..., Any]:
    """A method of `Copy` that answers any number of times, to a request or a stream of them."""

    async def call(
        self: Copy, request: Any, grpc_context: RayServegRPCContext
    ) -> AsyncIterator[Any]:
        async def checked() -> AsyncIterator[Any]:
            async for each in request:
                self._check_size(each)
                yield each

        context = _Context(grpc_context)
        servicer = await self._admit(service, context)
        asked = checked() if hasattr(request, "__aiter__") else request
        async for answer in getattr(servicer, method)(asked, context):
            yield answer

    return call


for _service in (_CLASSIFIER, _OPEN_INFERENCE, _HEALTH):
    for _method in _service.methods:
        if _method.server_streaming:
            _made = _streaming(_service.name, _method.name)
        else:
            _made = _single(_service.name, _method.name, GetMessageClass(_method.output_type))  # type: ignore[arg-type]
        setattr(Copy, _method.name, _made)


def application(settings: Settings) -> ray_serve.Application:
    """The service as an application of Ray Serve."""
    settings = replace(settings, concurrency=max(1, math.ceil(settings.replica_cpus)))
    target = settings.replica_requests
    deployment = ray_serve.deployment(
        Copy,
        name="Copy",
        ray_actor_options={"num_cpus": settings.replica_cpus},
        autoscaling_config=AutoscalingConfig(
            min_replicas=settings.min_replicas,
            initial_replicas=settings.min_replicas,
            max_replicas=settings.max_replicas,
            target_ongoing_requests=target,
            upscale_delay_s=settings.replica_delay_seconds,
        ),
        max_ongoing_requests=_MOST_ONGOING * target,
        max_queued_requests=settings.max_queue,
        graceful_shutdown_timeout_s=settings.grace_seconds,
        health_check_period_s=2,
    )
    return deployment.bind(settings)


def app(arguments: Mapping[str, Any]) -> ray_serve.Application:
    """For `import_path: pyconv.server.ray:app` in a configuration file of Ray Serve's.

    Args:
        arguments: settings by name, as in the file of `pyconv serve --config`.

    Raises:
        InputError: a name that is no setting, or a value that does not fit.
    """
    for name in arguments:
        if name not in setting_names():
            raise InputError(f"args: {unknown_name('setting', name, setting_names())}")
    return application(gather({"ray": True, "host": "0.0.0.0", **arguments}).settings)


def serve(
    settings: Settings,
    ready: Callable[[Serving], None],
    signals: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGINT),
) -> None:
    """Serve on a Ray cluster until SIGTERM or SIGINT.

    The cluster is the one at `settings.ray_address`, or that of `RAY_ADDRESS` or of this machine;
    where there is none, one on this machine for as long as this runs.

    Args:
        settings: what to serve, and where.
        ready: called once, when requests are answered.
        signals: those that stop it.

    Raises:
        ModelError: a model is not there.
        InputError: the token file is not what it must be.
        ServerError: no cluster answers, the copies do not come up, or Ray Serve runs there already
            and does not carry pyconv's methods.
    """
    for spec in settings.models:
        bundled.resolve(spec.source)
    Security.of(settings)
    if settings.port == 0:
        settings = replace(settings, port=_free_port())
    join(settings.ray_address)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    told = threading.Event()
    for number in signals:
        signal.signal(number, lambda *_: told.set())
    _log.warning(exposure(settings))
    free, wanted = ray.available_resources().get("CPU", 0), settings.min_replicas
    if free < wanted * settings.replica_cpus:
        _log.warning(
            "%d copies of %g cores are wanted, and %g cores are free: some wait for more nodes",
            *(wanted, settings.replica_cpus, free),
        )
    try:
        try:
            ray_serve.start(
                proxy_location="EveryNode",
                http_options={"port": _free_port() if _behind_haproxy() else 0},
                grpc_options=gRPCOptions(port=settings.port, grpc_servicer_functions=SERVICERS),
            )
            handle = ray_serve.run(application(settings), name=NAME, route_prefix=f"/{NAME}")
        except (RuntimeError, TimeoutError, ray.exceptions.RayError) as error:
            raise ServerError(f"the copies do not come up: {error}") from error
        address = f"{_head()}:{settings.port}"
        _check_proxy(address)
        # Where RAY_SERVE_THROUGHPUT_OPTIMIZED is set, Ray listens on the loop of whoever asks, and
        # complains of one that ends.
        loop = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, daemon=True).start()
        names = asyncio.run_coroutine_threadsafe(_models(handle), loop).result()
        ready(Serving(address, "", names))
        told.wait()
        _log.info("stopping; requests in flight have %g s", settings.grace_seconds)
    finally:
        ray_serve.delete(NAME)
        ray.shutdown()


async def _models(handle: Any) -> Sequence[str]:
    """The names of the models that a copy has."""
    names: Sequence[str] = await handle.models.remote()
    return names


def _behind_haproxy() -> bool:
    """Whether Ray is told to use HAProxy for its proxies, which takes no port 0."""
    return os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1"


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("", 0))
        port: int = taken.getsockname()[1]
    return port


def _head() -> str:
    """The address of the node that every cluster has, and that always has a proxy."""
    for node in ray.nodes():
        if "node:__internal_head__" in node["Resources"]:
            return str(node["NodeManagerAddress"])
    raise ServerError("the Ray cluster has no head node")


def _check_proxy(address: str) -> None:
    """See that the proxy carries our methods: one that ran before has those of its own start."""
    with grpc.insecure_channel(address) as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_READY)
        try:
            to = (("application", NAME),)
            call(b"", timeout=_PATIENCE_SECONDS, wait_for_ready=True, metadata=to)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAUTHENTICATED:
                raise ServerError(
                    f"Ray Serve does not answer on {address} ({error.code().name}); if it ran on "
                    "this cluster before, it keeps the port and the methods it was started with: "
                    "end it with serve shutdown, or name pyconv's servicers in its own "
                    "configuration (docs/ray.md)"
                ) from error
