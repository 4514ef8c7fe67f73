"""How a server starts, and how it stops."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest

from pyconv.client import Client
from pyconv.errors import ModelError, PyconvError, ServerError
from pyconv.server import ports
from pyconv.server.app import Server
from pyconv.server.background import BackgroundServer
from pyconv.server.models import ServedModel
from pyconv.server.scheduler import Tensors
from pyconv.server.settings import ModelSpec, Settings
from pyconv.v1 import classifier_pb2 as pb
from pyconv.v1 import classifier_pb2_grpc

_IMAGES = np.zeros((1, 6, 8), np.uint8)


@pytest.fixture
def one(settings: Settings) -> Settings:
    """A server of a single model on a single engine."""
    return replace(settings, models=settings.models[:1], engines=["onnxruntime"])


def test_server_listens_on_loopback_alone(one: Settings) -> None:
    with BackgroundServer(one) as address:
        assert address.startswith("127.0.0.1:")
        assert not address.endswith(":0")


def test_server_on_ipv6(one: Settings) -> None:
    with BackgroundServer(replace(one, host="::1")) as address, Client(address) as client:
        assert address.startswith("[::1]:")
        client.classify(_IMAGES)


def test_port_that_is_taken_is_an_error(one: Settings) -> None:
    with BackgroundServer(one) as address, Client(address) as client:
        port = int(address.rpartition(":")[2])
        with (
            pytest.raises(
                ServerError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use; "
            ),
            BackgroundServer(replace(one, port=port)),
        ):
            pass
        client.classify(_IMAGES)


def test_server_that_cannot_start_leaves_no_port_taken(one: Settings) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        other = taken.getsockname()[1]
        for wanted in ({"port": port, "http_port": other}, {"port": other, "http_port": port}):
            with (
                pytest.raises(ServerError, match=f"cannot listen on 127.0.0.1:{other}"),
                BackgroundServer(replace(one, **wanted)),
            ):
                pass
    with BackgroundServer(replace(one, port=port, http_port=other)) as address:
        assert address == f"127.0.0.1:{port}"


async def test_processes_share_a_port_where_listeners_of_one_do_not(
    one: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on macOS."""
    monkeypatch.setattr(ports, "CAN_BE_SHARED", False)
    with ports.held(one.host, 0) as port:
        server = await Server.start(replace(one, port=port, http_port=-1, workers=2))
        await server.stop()
    assert server.address == f"{one.host}:{port}"


def test_model_that_cannot_be_loaded_is_an_error(one: Settings, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no network")
    before = threading.active_count()
    with (
        pytest.raises(ModelError, match=r"broken\.onnx"),
        BackgroundServer(replace(one, models=[ModelSpec("broken", str(broken))])),
    ):
        pass
    assert threading.active_count() == before


def test_nothing_of_a_background_server_remains(one: Settings) -> None:
    before = set(threading.enumerate())
    addresses: list[str] = []

    def interrupted() -> None:
        with BackgroundServer(one) as address, Client(address) as client:
            addresses.append(address)
            client.classify(_IMAGES)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    left = set(threading.enumerate()) - before
    assert not [thread.name for thread in left if "pyconv" in thread.name]
    host, _, port = addresses[0].rpartition(":")
    with socket.socket() as probe:
        assert probe.connect_ex((host, int(port))) == errno.ECONNREFUSED


class _Gate:
    """Holds every run until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()
        real = ServedModel.run

        def gated(served: ServedModel, inputs: Tensors, outputs: Sequence[str]) -> Tensors:
            self.entered.set()
            assert self.open.wait(30)
            return real(served, inputs, outputs)

        monkeypatch.setattr(ServedModel, "run", gated)
        monkeypatch.setattr("pyconv.server.scheduler.QUICK_S", 0)  # it would hold the event loop


def _outcome(client: Client, outcomes: list[object]) -> None:
    try:
        outcomes.append(client.classify(_IMAGES))
    except PyconvError as error:
        outcomes.append(error)


def test_stop_finishes_what_is_in_flight(one: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = _Gate(monkeypatch)
    outcomes: list[object] = []
    server = BackgroundServer(one)
    with Client(server.__enter__()) as client:
        asking = threading.Thread(target=_outcome, args=(client, outcomes))
        asking.start()
        assert gate.entered.wait(30)
        stopping = threading.Thread(target=server.__exit__, args=(None, None, None))
        stopping.start()
        _wait_until_refused(client)
        assert outcomes == []
        gate.open.set()
        stopping.join(30)
        asking.join(30)
    assert not stopping.is_alive()
    (outcome,) = outcomes
    assert not isinstance(outcome, PyconvError)


def test_stop_gives_up_when_the_grace_is_over(
    one: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = _Gate(monkeypatch)
    outcomes: list[object] = []
    server = BackgroundServer(replace(one, grace_seconds=0.1))
    with Client(server.__enter__()) as client:
        asking = threading.Thread(target=_outcome, args=(client, outcomes))
        asking.start()
        assert gate.entered.wait(30)
        stopping = threading.Thread(target=server.__exit__, args=(None, None, None))
        stopping.start()
        asking.join(30)
        (outcome,) = outcomes
        assert isinstance(outcome, ServerError)
        gate.open.set()
        stopping.join(30)


def _wait_until_refused(client: Client) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            client.models()
        except ServerError:
            return
        time.sleep(0.01)
    raise AssertionError("a stopping server still takes requests")


# -- The process -----------------------------------------------------------------------------------

# `pyconv serve`, whose every run takes as many seconds as the first argument says.
_SLOW_SERVER = """
import argparse, sys, time
from pyconv.cli import serve
from pyconv.server import scheduler
from pyconv.server.models import ServedModel
real = ServedModel.run
seconds = float(sys.argv.pop(1))
def slow(served, inputs, outputs):
    print("computing", flush=True)
    time.sleep(seconds)
    return real(served, inputs, outputs)
ServedModel.run = slow
scheduler.QUICK_S = 0
parser = argparse.ArgumentParser()
serve.configure(parser)
sys.exit(serve.run(parser.parse_args(sys.argv[1:])))
"""


@contextmanager
def _serving(
    model: Path, *flags: str, seconds: float = 1
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-c", _SLOW_SERVER, str(seconds), "--model", str(model)]
    command += ["--engine", "onnxruntime", "--port", "0", "--http-port", "-1", *flags]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("serving small (onnxruntime) on 127.0.0.1:"), line
            yield process, line.split()[-1]
        finally:
            process.kill()


def test_a_server_that_is_well_says_nothing_on_standard_error(small_classifier: Path) -> None:
    """gRPC neither, which would tell of settings that it does not know."""
    command = [sys.executable, "-m", "pyconv", "serve", "--model", str(small_classifier)]
    command += ["--port", "0", "--http-port", "-1"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        with Client(process.stdout.readline().split()[-1]) as client:
            assert client.models()
        process.terminate()
        _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (0, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_finishes_what_is_in_flight_and_exits_with_0(
    small_classifier: Path, number: signal.Signals
) -> None:
    outcomes: list[object] = []
    with _serving(small_classifier) as (process, address), Client(address) as client:
        asking = threading.Thread(target=_outcome, args=(client, outcomes))
        asking.start()
        assert process.stdout is not None
        assert process.stdout.readline() == "computing\n"
        process.send_signal(number)
        asking.join(30)
        assert process.wait(30) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""
    (outcome,) = outcomes
    assert not isinstance(outcome, PyconvError)


async def test_calls_that_nobody_has_taken_up_yet_are_finished(one: Settings) -> None:
    """gRPC drops those that it has received when its server stops before Python asks for them."""
    server = await Server.start(one)
    stopping = asyncio.Event()
    outcomes: Counter[grpc.StatusCode] = Counter()
    answered = 0

    async def ask(channel: grpc.aio.Channel) -> None:
        nonlocal answered
        stub = classifier_pb2_grpc.ClassifierStub(channel)
        while not stopping.is_set():
            try:
                await stub.ListModels(pb.ListModelsRequest(), timeout=60)
            except grpc.aio.AioRpcError as error:
                outcomes[error.code()] += 1
            else:
                outcomes[grpc.StatusCode.OK] += 1
                answered += 1

    async with AsyncExitStack() as stack:
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [grpc.aio.insecure_channel(server.address, options) for _ in range(4)]
        for channel in channels:
            await stack.enter_async_context(channel)
        asking = [asyncio.ensure_future(ask(channel)) for channel in channels for _ in range(50)]
        while answered < len(asking):
            await asyncio.sleep(0.01)
        stopping.set()
        await server.stop()
        await asyncio.gather(*asking)
    assert set(outcomes) == {grpc.StatusCode.OK}, outcomes


def test_second_signal_does_not_wait(small_classifier: Path) -> None:
    outcomes: list[object] = []
    # Far longer than the test: the answer may not be ready before the second signal, however busy
    # the machine is.
    serving = _serving(small_classifier, seconds=60)
    with serving as (process, address), Client(address, timeout=60) as client:
        asking = threading.Thread(target=_outcome, args=(client, outcomes))
        asking.start()
        assert process.stdout is not None
        assert process.stdout.readline() == "computing\n"
        process.send_signal(signal.SIGTERM)
        _wait_until_refused(client)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == -signal.SIGTERM
        asking.join(30)
    (outcome,) = outcomes
    assert isinstance(outcome, ServerError)


def test_client_that_vanishes_leaves_the_server_well(small_classifier: Path) -> None:
    with _serving(small_classifier) as (process, address):
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(address, options) as channel:
            stub = classifier_pb2_grpc.ClassifierStub(channel)
            assert stub.ListModels(pb.ListModelsRequest(), timeout=30).models
            stub.ListModels.future(pb.ListModelsRequest())
        with Client(address) as client:
            client.classify(_IMAGES)
        assert process.poll() is None


def test_server_imports_no_tensorflow(small_classifier: Path) -> None:
    program = """
import sys
import pyconv.server.app, pyconv.server.background, pyconv.client
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=os.environ
    )
    loaded = set(done.stdout.split())
    assert {"grpc", "pyconv"} <= loaded
    assert not loaded & {"tensorflow", "keras", "tf2onnx", "matplotlib"}
