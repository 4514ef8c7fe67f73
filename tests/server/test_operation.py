"""A server in a process of its own, as those see it who operate it: logs, traces, signals."""

from __future__ import annotations

import asyncio
import http.client
import http.server
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

from pyconv import Credentials
from pyconv.client import Client
from pyconv.errors import ServerError
from pyconv.server import logs
from pyconv.server.tracing import Tracing
from pyconv.v1 import classifier_pb2 as pb
from pyconv.v1 import classifier_pb2_grpc

_IMAGES = np.zeros((1, 6, 8, 1), np.uint8)
_FIRST, _SECOND = "the-first-token-0123456789", "the-second-token-9876543210"


@contextmanager
def _serving(
    model: Path, *flags: str, ends: int = 0, **environ: str
) -> Iterator[tuple[Any, str, list[str]]]:
    """The process, its address, and its lines on standard error, which are whole at the end.

    Told to stop, it ends with 0, or as `ends` says.
    """
    command = [sys.executable, "-m", "pyconv", "serve", "--model", f"small={model}", "--json"]
    command += ["--port", "0", *flags]
    lines: list[str] = []
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environ},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        reader = threading.Thread(target=lines.extend, args=(process.stderr,))
        reader.start()
        try:
            told = process.stdout.readline()
            assert told, lines
            facts = json.loads(told)
            process.http_address = facts["http_address"]  # type: ignore[attr-defined]
            yield process, facts["address"], lines
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == ends
        finally:
            process.kill()
            reader.join()


@contextmanager
def _collector() -> Iterator[tuple[str, list[Any]]]:
    """Takes in spans as an OpenTelemetry collector does; its address, and the spans."""
    spans: list[Any] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            export = ExportTraceServiceRequest.FromString(body)
            for resource in export.resource_spans:
                for scope in resource.scope_spans:
                    spans.extend(scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", spans
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_requests_are_logged_with_their_ids_and_traced(small_classifier: Path) -> None:
    trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    metadata = [("x-request-id", "of-the-caller"), ("traceparent", f"00-{trace}-{parent}-01")]
    flags = ["--log-format", "json", "--log-requests", "--trace"]
    with _collector() as (endpoint, spans):
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_TRACES_SAMPLER": "always_on"}
        with (
            _serving(small_classifier, *flags, **environ) as (_, address, lines),
            grpc.insecure_channel(address) as channel,
        ):
            stub = classifier_pb2_grpc.ClassifierStub(channel)
            stub.ListModels(pb.ListModelsRequest(), metadata=metadata, timeout=30)
            nowhere = pb.DescribeModelRequest(model=pb.ModelSelector(name="nowhere"))
            with pytest.raises(grpc.RpcError) as refused:
                stub.DescribeModel(nowhere, metadata=[("x-request-id", "x" * 129)], timeout=30)
            trailers = dict(refused.value.trailing_metadata())
            with Client(address) as client:
                client.wait_ready()
    records = [json.loads(line) for line in lines]
    by_method = {record.get("method", "").rpartition("/")[2]: record for record in records}
    listed, described = by_method["ListModels"], by_method["DescribeModel"]
    assert (listed["request_id"], listed["status"]) == ("of-the-caller", "OK")
    assert listed["trace_id"] == trace
    assert listed["took_ms"] > 0
    assert described["status"] == "NOT_FOUND"
    assert described["request_id"] == trailers["x-request-id"]
    assert re.fullmatch(r"[0-9a-f]{16}", described["request_id"])
    by_name = {span.name.rpartition("/")[2]: span for span in spans}
    assert by_name["ListModels"].trace_id.hex() == trace
    assert by_name["ListModels"].parent_span_id.hex() == parent
    assert by_name["DescribeModel"].trace_id.hex() == described["trace_id"] != trace
    assert "Check" not in by_name


async def test_a_collector_that_hangs_does_not_hold_up_the_stop(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answered = threading.Event()

    class Hanging(SpanProcessor):
        def shutdown(self) -> None:
            answered.wait()

    monkeypatch.setattr(logs, "_trace_id", str)
    provider = TracerProvider(shutdown_on_exit=False)
    tracing = Tracing(provider)
    provider.add_span_processor(Hanging())
    try:
        await asyncio.wait_for(tracing.close(0.05), 30)
    finally:
        answered.set()
    assert "the last spans were not sent within 0.05 s" in caplog.text
    caplog.clear()
    await asyncio.wait_for(Tracing(provider).close(30), 30)
    assert not caplog.text


def test_hangup_reloads_tokens_and_models(small_classifier: Path, tmp_path: Path) -> None:
    tokens, folder = tmp_path / "tokens", tmp_path / "models"
    tokens.write_text(_FIRST, encoding="utf-8")
    folder.mkdir()
    flags = ["--token-file", str(tokens), "--model-dir", str(folder), "--watch", "0"]
    with _serving(small_classifier, *flags) as (process, address, lines):
        with Client(address, credentials=Credentials(token=_FIRST)) as client:
            assert set(client.models()) == {"small"}
        tokens.write_text(_SECOND, encoding="utf-8")
        (folder / "other.onnx").write_bytes(small_classifier.read_bytes())
        process.send_signal(signal.SIGHUP)
        with Client(address, credentials=Credentials(token=_SECOND)) as client:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                try:
                    if set(client.models()) == {"small", "other"}:
                        break
                except ServerError as error:
                    assert error.code == "UNAUTHENTICATED"  # noqa: PT017
                time.sleep(0.05)
            assert set(client.models()) == {"small", "other"}
        tokens.write_text("short", encoding="utf-8")
        process.send_signal(signal.SIGHUP)
        while not any("the tokens stay as they were" in line for line in lines):
            assert time.monotonic() < deadline + 60
            time.sleep(0.05)
        with Client(address, credentials=Credentials(token=_SECOND)) as client:
            assert client.models()


def test_drain_says_not_ready_before_it_refuses(small_classifier: Path) -> None:
    with (
        # The second signal, at the block's end, ends it at once.
        _serving(small_classifier, "--drain", "300", ends=-signal.SIGTERM) as (process, address, _),
        grpc.insecure_channel(address) as channel,
        Client(address) as client,
    ):
        health: Any = health_pb2_grpc.HealthStub(channel)
        stream = health.Watch(health_pb2.HealthCheckRequest(), timeout=60)
        heard = (answer.status for answer in stream)
        assert next(heard) == health_pb2.HealthCheckResponse.SERVING
        process.send_signal(signal.SIGTERM)
        assert next(heard) == health_pb2.HealthCheckResponse.NOT_SERVING
        assert len(client.classify(_IMAGES).predictions) == 1
        assert process.poll() is None


def test_connections_of_http_end_with_the_next_answer_once_it_drains(
    small_classifier: Path,
) -> None:
    """Or a client would send its next request into a connection that is just being closed."""

    def ask(connection: http.client.HTTPConnection, path: str) -> http.client.HTTPResponse:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        return answer

    flags = ("--http-port", "0", "--drain", "300")
    with (
        _serving(small_classifier, *flags, ends=-signal.SIGTERM) as (process, _, _),
        closing(http.client.HTTPConnection(process.http_address, timeout=30)) as connection,
    ):
        answer = ask(connection, "/v2/health/ready")
        assert (answer.status, answer.will_close) == (200, False)
        process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 30
        while answer.status == 200:
            assert time.monotonic() < deadline
            time.sleep(0.01)
            answer = ask(connection, "/v2/health/ready")
        assert (answer.status, answer.will_close) == (503, True)
        assert ask(connection, "/nowhere").will_close


def test_drain_ends_by_itself(small_classifier: Path) -> None:
    with _serving(small_classifier, "--drain", "0.5"):
        told = time.monotonic()
    assert time.monotonic() - told >= 0.5


def test_warning_where_it_listens_wider(small_classifier: Path) -> None:
    with _serving(small_classifier, "--host", "0.0.0.0") as (_, _, lines):
        pass
    assert len(lines) == 1
    assert "with neither TLS nor API tokens" in lines[0]


@pytest.mark.parametrize("given", [None, "", "x" * 129, "a\nb", "ä", "\x1b[31m"])
def test_id_that_cannot_stand_in_a_log_is_replaced(given: str | None) -> None:
    logs.begin_request(given)
    try:
        assert re.fullmatch(r"[0-9a-f]{16}", logs.request_id())
        assert logs.request_id() == logs.request_id()
    finally:
        logs.begin_request(None)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_failure_is_logged_with_its_id_and_traceback(
    log_format: logs.LogFormat, capsys: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        for handler in before:
            root.removeHandler(handler)
        logs.configure(log_format, "warning", requests=False)
        logs.begin_request("seven")
        try:
            raise RuntimeError("a fault\nin two lines")
        except RuntimeError:
            logging.getLogger("pyconv.server").exception("failed")
        logging.getLogger("pyconv.server").info("not shown")
        logging.getLogger("pyconv.server.requests").info("not shown")
        text = capsys.readouterr().err
    finally:
        logs.begin_request(None)
        root.handlers[:] = before
        root.setLevel(level)
    assert "not shown" not in text
    if log_format == "json":
        record = json.loads(text)  # one line, whatever is in it
        assert record["request_id"] == "seven"
        assert "in two lines" in record["exception"]
    else:
        assert "[request seven]" in text
        assert "RuntimeError: a fault" in text


def test_http_requests_are_logged_with_their_ids_and_traced(small_classifier: Path) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"x-request-id": "of-the-caller", "traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    flags = ["--log-format", "json", "--log-requests", "--trace"]
    with _collector() as (endpoint, spans):
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_TRACES_SAMPLER": "always_on"}
        with _serving(small_classifier, *flags, **environ) as (process, _, lines):
            root = f"http://{process.http_address}/v2"
            request = urllib.request.Request(root, headers=headers)
            with urllib.request.urlopen(request, timeout=30) as answer:
                assert answer.headers["x-request-id"] == "of-the-caller"
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(f"{root}/models/nowhere", timeout=30)
            given = refused.value.headers["x-request-id"]
    by_method = {record["method"]: record for record in map(json.loads, lines)}
    assert by_method["GET /v2"]["request_id"] == "of-the-caller"
    assert by_method["GET /v2"]["trace_id"] == trace
    assert by_method["GET /v2/models/nowhere"]["status"] == "404"
    assert by_method["GET /v2/models/nowhere"]["request_id"] == given
    assert trace in {span.trace_id.hex() for span in spans}
