"""The OpenAPI description of what is served over HTTP, made from the messages' own classes."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from pyconv.server.rest_messages import (
    Failure,
    IndexEntry,
    IndexRequest,
    InferRequest,
    InferResponse,
    LayerEntry,
    Live,
    ModelMetadata,
    Ready,
    ServerMetadata,
)

_MESSAGES: tuple[type[BaseModel], ...] = (
    Failure,
    IndexEntry,
    IndexRequest,
    InferRequest,
    InferResponse,
    LayerEntry,
    Live,
    ModelMetadata,
    Ready,
    ServerMetadata,
)


def description() -> dict[str, Any]:
    """The whole document."""
    _, definitions = models_json_schema(
        [(message, "validation") for message in _MESSAGES],
        ref_template="#/components/schemas/{model}",
    )
    paths: dict[str, Any] = {
        "/v2": _get("The server's name and what it speaks.", ServerMetadata),
        "/v2/health/live": _get("Whether the process answers.", Live),
        "/v2/health/ready": _get("Whether every model is loaded and warm.", Ready, unready="503"),
        "/v2/models/stats": _get("What every model has done.", None),
        "/v2/repository/index": _post("The models that are here.", IndexRequest, [IndexEntry]),
        "/metrics": {"get": _operation("Prometheus' page.", _content("text/plain", None))},
        "/openapi.json": _get("This document.", None),
    }
    for root, given in (
        ("/v2/models/{model}", ["model"]),
        ("/v2/models/{model}/versions/{version}", ["model", "version"]),
    ):
        of_model: dict[str, Any] = {
            "": _get("A model's inputs and outputs.", ModelMetadata, "404"),
            "/ready": _get("Whether it takes requests.", Ready, unready="404"),
            "/config": _get("How it is batched, in Triton's terms.", None, "404"),
            "/stats": _get("What it has done.", None, "404"),
            "/layers": _get("Its layers.", [LayerEntry], "400", "404"),
            "/infer": _post("Run it on arrays.", InferRequest, InferResponse, *_REFUSALS),
        }
        for path, operations in of_model.items():
            paths[root + path] = {"parameters": [_in_path(name) for name in given], **operations}
    name = {"parameters": [_in_path("model")]}
    for verb, does in (("load", "Take in a model's files."), ("unload", "Take a model out.")):
        operation = _operation(does, {"200": {"description": "Done."}}, "400", "404", "422")
        paths[f"/v2/repository/models/{{model}}/{verb}"] = {**name, "post": operation}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "pyconv",
            "version": version("pyconv"),
            "description": "The Open Inference Protocol (KServe V2) over HTTP.",
        },
        "paths": paths,
        "components": {"schemas": definitions["$defs"]},
    }


_REFUSALS = ("400", "404", "413", "422", "429", "504")

_REASONS = {
    "400": "Something in the request does not fit.",
    "404": "A name that is not here.",
    "413": "More than the server is set to take or to give.",
    "422": "The model cannot do it.",
    "429": "The queue is full; Retry-After says when to come again.",
    "504": "The deadline passed.",
}


def _get(
    does: str,
    answer: type[BaseModel] | list[type[BaseModel]] | None,
    *refusals: str,
    unready: str = "",
) -> dict[str, Any]:
    answers = _content("application/json", answer)
    if unready:  # the same message, with a status that probes understand
        answers[unready] = answers["200"]
    return {"get": _operation(does, answers, *refusals)}


def _post(
    does: str,
    asks: type[BaseModel],
    answer: type[BaseModel] | list[type[BaseModel]],
    *refusals: str,
) -> dict[str, Any]:
    operation = _operation(does, _content("application/json", answer), "400", *refusals)
    operation["requestBody"] = {"content": {"application/json": {"schema": _reference(asks)}}}
    return {"post": operation}


def _operation(does: str, answers: dict[str, Any], *refusals: str) -> dict[str, Any]:
    failure = _reference(Failure)
    responses = dict(answers)
    for code in refusals:
        responses[code] = {
            "description": _REASONS[code],
            "content": {"application/json": {"schema": failure}},
        }
    return {"summary": does, "responses": responses}


def _content(kind: str, answer: type[BaseModel] | list[type[BaseModel]] | None) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    if isinstance(answer, list):
        schema = {"type": "array", "items": _reference(answer[0])}
    elif answer is not None:
        schema = _reference(answer)
    return {"200": {"description": "The answer.", "content": {kind: {"schema": schema}}}}


def _reference(message: type[BaseModel]) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{message.__name__}"}


def _in_path(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "schema": {"type": "string", "minLength": 1},
    }
