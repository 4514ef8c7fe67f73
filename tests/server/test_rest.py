"""HTTP, as its callers see it; test_tritonclient.py has the usual client."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

import pyconv
from pyconv.server.models import ServedModel

_IMAGES = np.random.default_rng(3).random((2, 6, 8, 1), np.float32)
_PIXELS = {"name": "pixels", "shape": [2, 6, 8, 1], "datatype": "FP32"}


def _ask(
    url: str, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=120)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(method, path, body, names)
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


def _infer(url: str, message: Any, model: str = "small") -> tuple[int, Any]:
    status, _, body = _ask(url, "POST", f"/v2/models/{model}/infer", json.dumps(message).encode())
    return status, json.loads(body)


def _message(**fields: Any) -> dict[str, Any]:
    return {"inputs": [{**_PIXELS, "data": _IMAGES.tolist()}], **fields}


def test_json_in_json_out(http: str, small_classifier: Path) -> None:
    model = pyconv.load(small_classifier)
    outputs = [{"name": "scores"}, {"name": "conv2d"}]
    status, answer = _infer(http, _message(id="7", outputs=outputs))
    assert status == 200
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("small", "1", "7")
    scores, layer = answer["outputs"]
    assert (scores["datatype"], scores["shape"], layer["shape"]) == ("FP32", [2, 3], [2, 4, 6, 4])
    np.testing.assert_array_equal(
        np.reshape(scores["data"], (2, 3)).astype("f4"), model.predict(_IMAGES)
    )
    np.testing.assert_array_equal(
        np.reshape(layer["data"], layer["shape"]).astype("f4"),
        model.activations(_IMAGES)["conv2d"],
    )


def test_elements_may_be_flat(http: str) -> None:
    flat = _message(inputs=[{**_PIXELS, "data": _IMAGES.ravel().tolist()}])
    assert _infer(http, flat) == _infer(http, _message())


def test_versions_have_paths_of_their_own(http: str) -> None:
    body = json.dumps(_message()).encode()
    assert _ask(http, "POST", "/v2/models/small/versions/1/infer", body)[0] == 200
    assert _ask(http, "POST", "/v2/models/small/versions/2/infer", body)[0] == 404
    assert _ask(http, "GET", "/v2/models/small/versions/1/ready")[0] == 200
    assert _ask(http, "GET", "/v2/models/small/versions/2/ready")[0] == 404


_BAD: dict[str, tuple[Any, int, str]] = {
    "a list": ([], 400, "the body: Input should be an object"),
    "no inputs": ({}, 400, "inputs: Field required"),
    "a shape that is none": (
        _message(inputs=[{**_PIXELS, "shape": ["2"], "data": []}]),
        400,
        "inputs.0.shape.0: Input should be a valid integer",
    ),
    "no elements": (_message(inputs=[_PIXELS]), 400, "in data or binary_data_size, got neither"),
    "elements too few": (
        _message(inputs=[{**_PIXELS, "data": [1.0]}]),
        400,
        "expected the elements of shape (2, 6, 8, 1), got 1",
    ),
    "elements of text": (
        _message(inputs=[{**_PIXELS, "data": ["1"] * 96}]),
        400,
        "expected elements of FP32, in lists that are nested alike; got something else",
    ),
    "uneven lists": (
        _message(inputs=[{**_PIXELS, "data": [[1.0], [1.0, 2.0]]}]),
        400,
        "in lists that are nested alike; got something else",
    ),
    "fractions for integers": (
        _message(inputs=[{**_PIXELS, "datatype": "INT32", "data": [0.5] * 96}]),
        400,
        "expected elements of INT32",
    ),
    "integers too large": (
        _message(inputs=[{**_PIXELS, "datatype": "INT8", "data": [1 << 70] * 96}]),
        400,
        "expected elements of INT8",
    ),
    "an input twice": (
        _message(inputs=[{**_PIXELS, "data": _IMAGES.tolist()}] * 2),
        400,
        "input 'pixels' is given twice",
    ),
    "bytes that are not there": (
        _message(inputs=[{**_PIXELS, "parameters": {"binary_data_size": 384}}]),
        400,
        "expected at most the 0 bytes that are left of the body, got 384",
    ),
    "an unknown output": (_message(outputs=[{"name": "conv2"}]), 404, "did you mean 'conv2d'"),
    "an unknown engine": (_message(parameters={"engine": 1}), 400, "parameter 'engine': expected"),
    "a parameter that is no value": (
        _message(parameters={"silence": {}}),
        400,
        "parameters.silence: expected a text, a number, true or false",
    ),
    "shared memory for an input": (
        _message(inputs=[{**_PIXELS, "parameters": {"shared_memory_region": "mine"}}]),
        400,
        "input 'pixels': parameter 'shared_memory_region': this server shares no memory",
    ),
    "shared memory for an output": (
        _message(
            outputs=[{"name": "scores", "parameters": {"shared_memory_region": "mine"}}],
        ),
        400,
        "output 'scores': parameter 'shared_memory_region': this server shares no memory",
    ),
    "a truth value for a count of classes": (
        _message(outputs=[{"name": "scores", "parameters": {"classification": True}}]),
        400,
        "parameter 'classification': expected an integer of at least 0, got True",
    ),
    "a text for a truth value": (
        _message(outputs=[{"name": "scores", "parameters": {"binary_data": "no"}}]),
        400,
        "output 'scores': parameter 'binary_data': expected true or false, got 'no'",
    ),
    "a number for a truth value": (
        _message(parameters={"binary_data_output": 1}),
        400,
        "parameter 'binary_data_output': expected true or false, got 1",
    ),
    "a truth value for a number of bytes": (
        _message(inputs=[{**_PIXELS, "parameters": {"binary_data_size": False}}]),
        400,
        "bytes that are left of the body, got False",
    ),
    "too many images": (
        _message(inputs=[{**_PIXELS, "shape": [65, 6, 8, 1], "data": [0.0] * 65 * 48}]),
        413,
        "this server takes at most 64 in one request, got 65",
    ),
    "replaced layers of different counts": (
        {
            "inputs": [
                {"name": name, "shape": [n, *sizes], "datatype": "FP32", "data": [0.0] * n * 96}
                for n, name, *sizes in ((1, "conv2d", 4, 6, 4), (2, "flatten", 96))
            ]
        },
        400,
        "expected all of as many images, got 'conv2d' of 1, 'flatten' of 2",
    ),
    "a body too large": (_message(id="x" * (1 << 16)), 413, "the body is too large"),
    "numbers that JSON cannot say": (
        _message(inputs=[{**_PIXELS, "data": [1e39] * 96}], outputs=[{"name": "relu"}]),
        400,
        "ask for it with binary_data",
    ),
}


@pytest.mark.parametrize("case", _BAD)
def test_bad_request_gets_its_status(http: str, case: str) -> None:
    message, status, text = _BAD[case]
    got, answer = _infer(http, message)
    assert (got, text in answer["error"]) == (status, True), answer
    assert _infer(http, _message())[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/nobody", 404),
        ("GET", "/v2/nothing", 404),
        ("GET", "/web/../rest.py", 404),
        ("GET", "/web/%2e%2e/rest.py", 404),
        ("POST", "/v2", 405),
        ("POST", "/v2/repository/models/nobody/load", 404),
    ],
)
def test_what_is_not_there(http: str, method: str, path: str, status: int) -> None:
    got, _, body = _ask(http, method, path)
    assert got == status
    assert json.loads(body)["error"]


@pytest.mark.parametrize("length", ["-1", "x", "99999"])
def test_senseless_length_of_the_json(http: str, length: str) -> None:
    body = json.dumps(_message()).encode()
    header = {"Inference_Header_Content_Length": length}
    status, _, answer = _ask(http, "POST", "/v2/models/small/infer", body, **header)
    assert (status, b"are JSON, got" in answer) == (400, True)


def test_bytes_that_belong_to_no_input(http: str) -> None:
    text = json.dumps(_message()).encode()
    header = {"Inference_Header_Content_Length": str(len(text))}
    status, _, answer = _ask(http, "POST", "/v2/models/small/infer", text + b"more", **header)
    assert (status, b"has 4 bytes that belong to no input" in answer) == (400, True)


def test_a_fault_of_the_servers_tells_nothing(http: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a secret path")

    monkeypatch.setattr(ServedModel, "run", broken)
    status, answer = _infer(http, _message())
    assert (status, "secret" in answer["error"]) == (500, False)


def test_deadline_of_a_parameter(http: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda real=time.monotonic: real())
    status, answer = _infer(http, _message(parameters={"timeout": 1}))
    assert (status, "the deadline passed" in answer["error"]) == (504, True)


@pytest.mark.parametrize(
    "sent", [b"GET / HTTP/1.1\r\nno header\r\n\r\n", b"GET \x80 HTTP/9.x\r\n\r\n", b"\x00\r\n\r\n"]
)
def test_what_is_no_http_is_refused_and_not_logged(
    http: str, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    address = urlsplit(http)
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        connection.sendall(sent)
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.0 400 ")
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"{", "the body: Invalid JSON"),
        (b'{"parameters": {"config": "{}"}}', "parameter 'config': models are loaded as they lie"),
        (b'{"parameters": {"file:1/model.onnx": "AA=="}}', "parameter 'file:1/model.onnx': models"),
    ],
)
def test_no_files_or_settings_come_with_a_load(http: str, body: bytes, told: str) -> None:
    status, _, answer = _ask(http, "POST", "/v2/repository/models/small/load", body)
    assert (status, json.loads(answer)["error"][: len(told)]) == (400, told)


def test_bodies_may_be_compressed(
    http: str,
    requests_by_code: Callable[[], Counter[str]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    path, body = "/v2/models/small/infer", json.dumps(_message()).encode()
    expected = json.loads(_ask(http, "POST", path, body)[2])
    for coding, packed in (("gzip", gzip.compress(body)), ("deflate", zlib.compress(body))):
        status, _, answer = _ask(http, "POST", path, packed, Content_Encoding=coding)
        assert (status, json.loads(answer)) == (200, expected)
    before = requests_by_code()
    status, _, answer = _ask(http, "POST", path, b"no gzip", Content_Encoding="gzip")
    told = {"error": "the body cannot be read: Can not decode content-encoding: gzip"}
    assert (status, json.loads(answer)) == (400, told)
    assert requests_by_code() - before == Counter(["INVALID_ARGUMENT"])
    bomb = gzip.compress(bytes(1 << 22))
    assert _ask(http, "POST", path, bomb, Content_Encoding="gzip")[0] == 413
    assert not [record for record in caplog.records if record.exc_info]


def test_metrics_count_requests_errors_and_batches(http: str) -> None:
    def value(sample: str) -> float:
        page = _ask(http, "GET", "/metrics")[2].decode()
        lines = [line for line in page.splitlines() if line.startswith(sample + " ")]
        return float(lines[0].split()[-1]) if lines else 0.0

    answered = 'pyconv_requests_total{code="OK",model="small",version="1"}'
    refused = 'pyconv_requests_total{code="NOT_FOUND",model="small",version="1"}'
    unknown = 'pyconv_requests_total{code="NOT_FOUND",model="",version=""}'
    images = 'pyconv_run_images_sum{engine="native",model="small",version="1"}'
    seconds = 'pyconv_request_seconds_count{model="small",version="1"}'
    senseless = 'pyconv_requests_total{code="INVALID_ARGUMENT",model="small",version="1"}'
    samples = (answered, refused, unknown, senseless, images, seconds)
    before = [value(sample) for sample in samples]
    _infer(http, _message())
    _infer(http, _message(outputs=[{"name": "nothing"}]))
    _infer(http, _message(), "nobody")
    _infer(http, _message(parameters={"engine": "gpu"}))
    after = [value(sample) for sample in samples]
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1, 1, 1, 2, 1]


def test_parameters_and_layers(http: str) -> None:
    asked = {"engine": "both", "profile": True}
    status, answer = _infer(http, _message(parameters=asked))
    told = {name: json.loads(text) for name, text in answer["parameters"].items()}
    assert (status, told["comparison"]["first_diverging"]) == (200, None)
    assert told["profile"]["steps"][0]["layers"] == ["conv2d"]
    silence = {"silence": json.dumps({"conv2d": [0, 1, 2, 3]})}
    layer = [{"name": "flatten"}]
    status, answer = _infer(http, _message(parameters=silence, outputs=layer))
    assert (status, set(answer["outputs"][0]["data"])) == (200, {0.0})
    status, _, body = _ask(http, "GET", "/v2/models/small/layers?engine=native")
    assert [row["name"] for row in json.loads(body)] == ["conv2d", "flatten", "dense"]
    assert _ask(http, "GET", "/v2/models/small/layers?engine=gpu")[0] == 400


def test_page(http: str) -> None:
    status, headers, body = _ask(http, "GET", "/")
    assert (status, headers["Content-Type"]) == (200, "text/html")
    assert b"pyconv" in body


# -- Against its own description -------------------------------------------------------------------


def test_answers_are_as_the_description_says(http: str) -> None:
    schema = schemathesis.openapi.from_url(f"{http}/openapi.json")
    count = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        count += 1

        examples = 10 if operation.path == "/v2/models/{model}/infer" else 3

        @given(case=operation.as_strategy())
        @settings(max_examples=examples, suppress_health_check=list(HealthCheck))
        def check(case: Any) -> None:
            # No schema says how many elements a shape needs, or what a model is called.
            case.call_and_validate(excluded_checks=[positive_data_acceptance])

        check()
    assert count == 20  # all but the description itself
