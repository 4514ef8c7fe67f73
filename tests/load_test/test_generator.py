"""The generator against servers that behave badly in known ways."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import pytest

from pyconv.credentials import Credentials
from pyconv.errors import InputError, ServerError
from pyconv.load_test import Load, Measured, Target, generate
from pyconv.load_test.target import open_inference
from pyconv.v2 import open_inference_pb2 as pb
from pyconv.v2 import open_inference_pb2_grpc

_Answer = Callable[[bytes, grpc.ServicerContext], bytes]


@contextmanager
def _serving(answer: _Answer, threads: int = 8) -> Iterator[str]:
    handler = grpc.unary_unary_rpc_method_handler(answer)
    service = grpc.method_handlers_generic_handler("test.Service", {"Call": handler})
    server = grpc.server(ThreadPoolExecutor(threads), handlers=[service])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


def _target(message: bytes = b"ping", expected: bytes = b"ping") -> Target:
    def check(answer: bytes) -> str:
        return "" if answer == expected else f"expected {expected!r}, got {answer[:20]!r}"

    return Target("echo", "/test.Service/Call", message, 1, check)


def _echo(request: bytes, context: grpc.ServicerContext) -> bytes:
    return request


def _generate(address: str, load: Load, target: Target | None = None) -> Measured:
    return generate(address, Credentials(), target or _target(), load)


def test_closed_loop_keeps_so_many_in_flight() -> None:
    flying, most, lock = 0, 0, threading.Lock()

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        nonlocal flying, most
        with lock:
            flying += 1
            most = max(most, flying)
        time.sleep(0.02)
        with lock:
            flying -= 1
        return request

    with _serving(answer) as address:
        measured = _generate(address, Load(concurrency=4, seconds=0.4, warmup_seconds=0.1))
    assert most == 4
    assert not measured.failures
    assert 4 <= len(measured.latencies) <= 4 * 0.4 / 0.02 + 4
    assert min(measured.latencies) >= 0.02


def test_connections_share_the_requests() -> None:
    peers = set()

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        peers.add(context.peer())
        time.sleep(0.02)
        return request

    with _serving(answer) as address:
        load = Load(concurrency=6, connections=3, seconds=0.3, warmup_seconds=0.1)
        assert not _generate(address, load).failures
    assert len(peers) == 3


def test_open_loop_charges_a_stall_to_all_that_was_due() -> None:
    """A second's stall at 100 a second: 100 requests wait half a second in the mean."""
    started = time.monotonic()
    stall = threading.Lock()
    calls = 0

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        nonlocal calls
        with stall:  # one at a time, so that nobody passes the one that stalls
            calls += 1
            if calls == 60:
                time.sleep(1)
        return request

    with _serving(answer) as address:
        load = Load(
            rate=100, concurrency=2, connections=1, seconds=2, warmup_seconds=0.1, timeout=120
        )
        measured = _generate(address, load)
    assert time.monotonic() - started < 120
    assert len(measured.latencies) == 200
    assert measured.unsent == 0
    late = [latency for latency in measured.latencies if latency > 0.1]
    # 90 were due in the stall's first 0.9 s; sent by two callers in turn, only 2 would be late.
    assert len(late) >= 80
    assert max(measured.latencies) >= 1


def test_open_loop_gives_up_on_what_cannot_be_sent() -> None:
    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        time.sleep(0.1)
        return request

    with _serving(answer) as address:
        load = Load(rate=200, concurrency=1, seconds=0.5, timeout=0.5, warmup_seconds=0.1)
        measured = _generate(address, load)
    done = len(measured.latencies) + measured.failures.total()
    assert done + measured.unsent == 100
    assert measured.unsent > 50


def test_every_failure_is_counted_by_its_status() -> None:
    calls = 0

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        nonlocal calls
        calls += 1
        if calls % 4 == 1:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full: ä")
        if calls % 4 == 2:
            return b"pong"
        if calls % 4 == 3:
            time.sleep(1)
        return request

    with _serving(answer) as address:
        measured = _generate(address, Load(seconds=2, timeout=0.3, warmup_seconds=0.5))
    assert set(measured.failures) == {"RESOURCE_EXHAUSTED", "WRONG_ANSWER", "DEADLINE_EXCEEDED"}
    assert measured.messages["RESOURCE_EXHAUSTED"] == "the queue is full: ä"
    assert measured.messages["WRONG_ANSWER"] == "expected b'ping', got b'pong'"
    assert measured.latencies


@pytest.mark.parametrize("size", [0, 1, 16384, 65536, 3_000_000])
def test_messages_of_any_size_come_back_whole(size: int) -> None:
    message = bytes(range(256)) * (size // 256 + 1)
    message = message[:size]
    with _serving(_echo) as address:
        measured = _generate(
            address, Load(concurrency=2, seconds=0.1, warmup_seconds=0), _target(message, message)
        )
    assert not measured.failures
    assert measured.latencies


def test_nobody_there_is_one_error() -> None:
    with pytest.raises(ServerError, match=r"no request to 127\.0\.0\.1:1 was answered"):
        _generate("127.0.0.1:1", Load(seconds=0.1, warmup_seconds=0.1))


def test_server_that_is_no_grpc_server_is_one_error() -> None:
    import http.server

    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        with pytest.raises(ServerError, match="was answered"):
            _generate(f"127.0.0.1:{server.server_port}", Load(seconds=0.1, timeout=1))
    finally:
        server.shutdown()
        server.server_close()


def test_server_that_dies_leaves_failures_and_no_hang() -> None:
    def cut(elapsed: float, answered: int, failed: int) -> None:
        if answered:
            proxy.cut()

    with _serving(_echo) as address:
        proxy = _Proxy(address)
        load = Load(concurrency=4, seconds=2, warmup_seconds=0.2, timeout=30)
        measured = generate(proxy.address, Credentials(), _target(), load, cut)
    assert measured.latencies
    assert set(measured.failures) == {"UNAVAILABLE"}


class _Proxy:
    """Passes connections on, until it is cut."""

    def __init__(self, address: str) -> None:
        host, _, port = address.partition(":")
        self._to = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._open = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._to)
                self._open += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    @staticmethod
    def _copy(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"concurrency": 0}, "concurrency: expected 1 to 10000, got 0"),
        ({"rate": 0}, "rate: expected"),
        ({"rate": float("nan")}, "rate: expected"),
        ({"seconds": float("inf")}, "duration: expected"),
        ({"connections": 501}, "connections: expected 1 to 500"),
        ({"timeout": 0}, "timeout: expected"),
    ],
)
def test_load_that_makes_no_sense(values: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Load(**values)  # type: ignore[arg-type]


def test_answer_with_other_outputs_than_were_asked_for_is_wrong() -> None:
    """As MLServer's, whose models may not heed what is asked for."""
    answer = pb.ModelInferResponse(model_name="net")
    answer.outputs.add(name="scores", datatype="FP32", shape=[1, 3])

    class Servicer(open_inference_pb2_grpc.GRPCInferenceServiceServicer):
        def ModelMetadata(  # noqa: N802
            self, request: object, context: object
        ) -> pb.ModelMetadataResponse:
            told = pb.ModelMetadataResponse(name="net")
            told.inputs.add(name="x", datatype="FP32", shape=[-1, 2])
            told.outputs.add(name="scores", datatype="FP32", shape=[-1, 3])
            return told

    with _serving_models(Servicer()) as address:
        for outputs, wrong in (((), ""), (("scores",), ""), (("conv",), "expected conv, got sco")):
            target = open_inference(address, Credentials(), model="net", outputs=outputs)
            assert target.check(answer.SerializeToString()).startswith(wrong)
            assert bool(target.check(answer.SerializeToString())) == bool(wrong)


@contextmanager
def _serving_models(
    servicer: open_inference_pb2_grpc.GRPCInferenceServiceServicer,
) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(1))
    open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None)


@pytest.mark.parametrize("code", [grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAVAILABLE])
def test_server_that_does_not_list_its_models(code: grpc.StatusCode) -> None:
    """As KServe's own, and Triton's where it keeps the list to itself: it is an extension."""

    class Servicer(open_inference_pb2_grpc.GRPCInferenceServiceServicer):
        def ServerLive(self, request: object, context: object) -> pb.ServerLiveResponse:  # noqa: N802
            return pb.ServerLiveResponse(live=True)

        def RepositoryIndex(self, request: object, context: grpc.ServicerContext) -> None:  # noqa: N802
            context.abort(code, "not here")

    with (
        _serving_models(Servicer()) as address,
        pytest.raises(InputError, match="say which one; this server does not list its models"),
    ):
        open_inference(address, Credentials())
