"""The Open Inference Protocol over HTTP, metrics and web page: convert, await, convert back."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from aiohttp import web
from google.protobuf.json_format import MessageToDict
from pydantic import ValidationError

from pyconv.engines.base import Array, TensorInfo
from pyconv.errors import InputError, PyconvError
from pyconv.server import datatypes, open_inference, page, parameters
from pyconv.server.authentication import REFUSAL
from pyconv.server.inference import Inference
from pyconv.server.metrics import CONTENT_TYPE, Metrics
from pyconv.server.models import OutputChoice
from pyconv.server.openapi import description
from pyconv.server.repository import Repository
from pyconv.server.requests import Inferred, Selection, TensorRequest
from pyconv.server.rest_messages import IndexRequest, InferRequest, InputTensor, LoadRequest
from pyconv.server.security import Tokens
from pyconv.server.settings import Settings
from pyconv.server.status import code_name, status_of

_log = logging.getLogger("pyconv.server")

WEB = Path(__file__).parent / "web"
"""What `/` and `/web/…` serve: index.html and whatever belongs to it."""

_JSON_LENGTH = "Inference-Header-Content-Length"
"""The header that says how many bytes of a body are JSON; binary contents follow."""

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_app(
    inference: Inference,
    repository: Repository,
    settings: Settings,
    tokens: Tokens | None = None,
) -> web.Application:
    """The application; docs/service.md lists its routes.

    Args:
        inference: answers requests.
        repository: the models.
        settings: limits.
        tokens: those that are let in; None: everybody is. Health and the page need none.
    """
    rest = _Rest(inference, repository)
    middlewares = [_refusing(inference)]
    if tokens is not None:
        middlewares.append(_authenticating(tokens, inference.metrics))
    app = web.Application(client_max_size=settings.max_message_bytes, middlewares=middlewares)
    get, post = app.router.add_get, app.router.add_post
    get("/v2", rest.server)
    get("/v2/health/live", rest.live)
    get("/v2/health/ready", rest.ready)
    get("/v2/models/stats", rest.statistics)
    for root in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        get(root, rest.model)
        get(f"{root}/ready", rest.model_ready)
        get(f"{root}/config", rest.config)
        get(f"{root}/stats", rest.statistics)
        get(f"{root}/layers", rest.layers)
        post(f"{root}/infer", rest.infer)
    post("/v2/repository/index", rest.index)
    post("/v2/repository/models/{model}/load", rest.load)
    post("/v2/repository/models/{model}/unload", rest.unload)
    get("/metrics", rest.metrics)
    get("/openapi.json", rest.openapi)
    page.add_routes(app, inference, settings)
    get("/", _page)
    app.router.add_static("/web", WEB)
    return app


async def _page(request: web.Request) -> web.StreamResponse:
    return web.FileResponse(WEB / "index.html")


def _authenticating(tokens: Tokens, metrics: Metrics) -> Any:
    @web.middleware
    async def authenticate(request: web.Request, handler: _Handler) -> web.StreamResponse:
        path = request.path
        open_to_all = path == "/" or path.startswith(("/v2/health/", "/web/"))
        if open_to_all or tokens.accept(request.headers.get("Authorization")):
            return await handler(request)
        metrics.refused("", "", grpc.StatusCode.UNAUTHENTICATED.name)
        challenge = {"WWW-Authenticate": "Bearer"}
        return web.json_response({"error": REFUSAL}, status=401, headers=challenge)

    return authenticate


def _refusing(inference: Inference) -> Any:
    """Answers an error with its status and a sentence in JSON."""

    @web.middleware
    async def refuse(request: web.Request, handler: _Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            told = error.reason if error.status != 413 else f"the body is too large: {error.text}"
            return web.json_response({"error": told}, status=error.status, headers=_allowed(error))
        except Exception as error:
            if isinstance(error, web.RequestPayloadError):  # it came so, or came not whole
                why = getattr(error.__cause__, "message", "it did not come whole")
                error = InputError(f"the body cannot be read: {why}")
                inference.metrics.refused("", "", code_name(error))
            if isinstance(error, PyconvError):
                error = inference.models.without_paths(error)
            status = status_of(error)
            headers = {}
            if status.retry_after_ms is not None:
                headers["Retry-After"] = str(math.ceil(status.retry_after_ms / 1e3))
            return web.json_response({"error": status.message}, status=status.http, headers=headers)

    return refuse


def _allowed(error: web.HTTPException) -> dict[str, str]:
    return {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}


class _Rest:
    def __init__(self, inference: Inference, repository: Repository) -> None:
        self._inference = inference
        self._repository = repository
        self._openapi = json.dumps(description())

    async def server(self, request: web.Request) -> web.Response:
        extensions = [*open_inference.EXTENSIONS, "binary_tensor_data"]
        return web.json_response(
            {"name": "pyconv", "version": version("pyconv"), "extensions": extensions}
        )

    async def live(self, request: web.Request) -> web.Response:
        return web.json_response({"live": True})

    async def ready(self, request: web.Request) -> web.Response:
        ready = self._repository.ready
        return web.json_response({"ready": ready}, status=200 if ready else 503)

    async def model_ready(self, request: web.Request) -> web.Response:
        ready = self._repository.is_ready(*_named(request))
        return web.json_response({"ready": ready}, status=200 if ready else 404)

    async def model(self, request: web.Request) -> web.Response:
        layers = request.headers.get("pyconv-layers") == "true"
        about = self._repository.describe(*_named(request), layers=layers)
        return web.json_response(
            {
                "name": about.name,
                "versions": about.versions,
                "platform": about.platform,
                "inputs": [_metadata(info) for info in about.inputs],
                "outputs": [_metadata(info) for info in about.outputs],
            }
        )

    async def config(self, request: web.Request) -> web.Response:
        config = open_inference.config(self._repository.describe(*_named(request)))
        return web.json_response(_plain(config))

    async def statistics(self, request: web.Request) -> web.Response:
        found = open_inference.statistics(self._repository.statistics(*_named(request)))
        return web.json_response(_plain(found))

    async def layers(self, request: web.Request) -> web.Response:
        name, model_version = _named(request)
        chosen = request.query.get("engine")
        asked = parameters.engine({} if chosen is None else {"engine": chosen})
        rows = await self._inference.catalogue(Selection(name, asked, model_version))
        return web.json_response(rows)

    async def index(self, request: web.Request) -> web.Response:
        body = await request.read()
        asked = _parsed(IndexRequest, body or b"{}")
        return web.json_response(
            [
                {"name": e.name, "version": e.version, "state": e.state, "reason": e.reason}
                for e in self._repository.index()
                if e.state == "READY" or not asked.ready
            ]
        )

    async def load(self, request: web.Request) -> web.Response:
        asked = _parsed(LoadRequest, await request.read() or b"{}")
        await self._repository.load(request.match_info["model"], asked.parameters)
        return web.json_response({})

    async def unload(self, request: web.Request) -> web.Response:
        await self._repository.unload(request.match_info["model"])
        return web.json_response({})

    async def metrics(self, request: web.Request) -> web.Response:
        page = self._inference.metrics.page()
        return web.Response(body=page, headers={"Content-Type": CONTENT_TYPE})

    async def openapi(self, request: web.Request) -> web.Response:
        return web.json_response(text=self._openapi)

    async def infer(self, request: web.Request) -> web.StreamResponse:
        arrived = time.monotonic()
        body = await request.read()
        length = request.headers.get(_JSON_LENGTH)
        name, model_version = _named(request)
        with self._inference.reading(name, model_version):
            asked, inputs = await self._inference.work(len(body), lambda: _read(body, length))
            outputs = [
                OutputChoice(output.name, parameters.classes(output.name, output.parameters))
                for output in asked.outputs
            ]
            wanted = TensorRequest(
                Selection(name, parameters.engine(asked.parameters), model_version),
                inputs,
                outputs,
                parameters.examination(asked.parameters),
            )
            deadline = parameters.deadline(asked.parameters, None, arrived)
            every = parameters.truth("", "binary_data_output", asked.parameters, default=False)
            binary = [
                parameters.truth(
                    f"output {output.name!r}: ", "binary_data", output.parameters, default=every
                )
                for output in asked.outputs
            ]
        inferred = await self._inference.infer(wanted, deadline=deadline)
        binary = binary or [every] * len(inferred.outputs)
        size_bytes = sum(array.nbytes for _, array in inferred.outputs)
        return await self._inference.work(size_bytes, lambda: _answer(asked.id, inferred, binary))


def _named(request: web.Request) -> tuple[str, str]:
    return request.match_info.get("model", ""), request.match_info.get("version", "")


def _metadata(info: TensorInfo) -> dict[str, Any]:
    sizes = (None,) if info.shape is None else info.shape
    return {
        "name": info.name,
        "datatype": datatypes.datatype(info.dtype),
        "shape": [-1 if size is None else size for size in sizes],
    }


def _plain(message: Any) -> Any:
    """A message of gRPC's as JSON: numbers stay numbers, names keep their form."""
    return _numbers(
        MessageToDict(
            message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
    )


def _numbers(value: Any, key: str = "") -> Any:
    """protobuf writes integers of 64 bits as text, which HTTP's clients do not expect."""
    if isinstance(value, dict):
        return {name: _numbers(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item, key) for item in value]
    if isinstance(value, str) and key not in ("name", "version") and value.lstrip("-").isdecimal():
        return int(value)
    return value


# -- From JSON -------------------------------------------------------------------------------------


def _parsed(kind: type[Any], data: bytes) -> Any:
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        told, where = first["msg"], first["loc"]
        if (
            "parameters" in where and where[-1] == "bool"
        ):  # the first of what it may be, and not all
            told, where = "expected a text, a number, true or false", where[:-1]
        place = ".".join(str(part) for part in where) or "the body"
        raise InputError(f"{place}: {told}") from None


def _read(body: bytes, length: str | None) -> tuple[InferRequest, dict[str, Array]]:
    """A body of JSON, after which the contents of inputs may follow."""
    json_bytes = len(body)
    if length is not None:
        if not length.isdecimal() or int(length) > len(body):
            raise InputError(
                f"{_JSON_LENGTH}: expected how many of the body's {len(body)} bytes are JSON, "
                f"got {length!r}"
            )
        json_bytes = int(length)
    asked: InferRequest = _parsed(InferRequest, body[:json_bytes])
    inputs: dict[str, Array] = {}
    place = json_bytes
    for tensor in asked.inputs:
        if tensor.name in inputs:
            raise InputError(f"input {tensor.name!r} is given twice")
        size_bytes = tensor.parameters.get("binary_data_size")
        if size_bytes is None:
            parameters.refuse_shared_memory(f"input {tensor.name!r}", tensor.parameters)
            inputs[tensor.name] = _from_json(tensor)
            continue
        if type(size_bytes) is not int or size_bytes < 0 or place + size_bytes > len(body):
            raise InputError(
                f"input {tensor.name!r}: binary_data_size: expected at most the "
                f"{len(body) - place} bytes that are left of the body, got {size_bytes!r}"
            )
        data = body[place : place + size_bytes]
        inputs[tensor.name] = datatypes.from_bytes(tensor.name, tensor.datatype, tensor.shape, data)
        place += size_bytes
    if place != len(body):
        raise InputError(f"the body has {len(body) - place} bytes that belong to no input")
    return asked, inputs


def _from_json(tensor: InputTensor) -> Array:
    if tensor.data is None:
        raise InputError(
            f"input {tensor.name!r}: expected its elements in data or binary_data_size, got neither"
        )
    dtype = datatypes.datatype_of(tensor.name, tensor.datatype)
    if dtype.hasobject:
        items = _flat(tensor.data)
        if not all(isinstance(item, str) for item in items):
            raise InputError(f"input {tensor.name!r}: expected texts, got something else")
        elements = np.empty(len(items), object)
        elements[:] = items
        return datatypes.shaped(tensor.name, elements, tensor.shape)
    wide = np.asarray(tensor.data, object).ravel()
    kinds = _KINDS[dtype.kind]
    try:
        if not all(type(item) in kinds for item in wide):
            raise TypeError
        with np.errstate(over="ignore"):
            elements = wide.astype(dtype)
    except (OverflowError, TypeError, ValueError):
        raise InputError(
            f"input {tensor.name!r}: expected elements of {tensor.datatype}, in lists that are "
            "nested alike; got something else"
        ) from None
    return datatypes.shaped(tensor.name, elements, tensor.shape)


_KINDS: dict[str, tuple[type, ...]] = {
    "b": (bool,),
    "i": (int,),
    "u": (int,),
    "f": (int, float),
}
"""What an element may be in JSON, by the kind of dtype."""


def _flat(items: list[Any]) -> list[Any]:
    flat: list[Any] = []
    waiting = [iter(items)]
    while waiting:
        for item in waiting[-1]:
            if isinstance(item, list):
                waiting.append(iter(item))
                break
            flat.append(item)
        else:
            waiting.pop()
    return flat


# -- To JSON ---------------------------------------------------------------------------------------


def _answer(given_id: str, inferred: Inferred, binary: list[bool]) -> web.Response:
    outputs: list[dict[str, Any]] = []
    contents: list[bytes] = []
    for (name, array), raw in zip(inferred.outputs, binary, strict=True):
        datatype = datatypes.datatype_in(array.dtype)
        output: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(array.shape)}
        if raw:
            data = datatypes.to_bytes(array)
            output["parameters"] = {"binary_data_size": len(data)}
            contents.append(data)
        else:
            output["data"] = _to_json(name, array)
        outputs.append(output)
    answer: dict[str, Any] = {
        "model_name": inferred.served.name,
        "model_version": inferred.served.version,
        "outputs": outputs,
    }
    if given_id:
        answer["id"] = given_id
    if inferred.facts:
        answer["parameters"] = dict(inferred.facts)
    text = json.dumps(answer).encode()
    if not contents:
        return web.Response(body=text, content_type="application/json")
    return web.Response(
        body=b"".join([text, *contents]),
        content_type="application/octet-stream",
        headers={_JSON_LENGTH: str(len(text))},
    )


def _to_json(name: str, array: Array) -> list[Any]:
    if array.dtype.hasobject:
        return [item.decode(errors="replace") for item in datatypes.encoded(array)]
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(
            f"output {name!r} holds infinities or what is no number, which JSON cannot say; "
            "ask for it with binary_data"
        )
    elements: list[Any] = array.ravel().tolist()
    return elements
