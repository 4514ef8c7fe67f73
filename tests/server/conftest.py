"""A server that lives as long as the tests do, and ways to talk to it."""

from __future__ import annotations

import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from pyconv.client import Client
from pyconv.server.background import BackgroundServer
from pyconv.server.settings import ModelSpec, Settings
from pyconv.v1 import classifier_pb2_grpc


@pytest.fixture(scope="session")
def settings(small_classifier: Path, small_unexplained: Path, small_maps: Path) -> Settings:
    """The models small, plain and maps on both engines; limits that tests can reach."""
    return Settings(
        models=[
            ModelSpec(path.stem, str(path))
            for path in (small_classifier, small_unexplained, small_maps)
        ],
        engines=["native", "onnxruntime"],
        port=0,
        http_port=0,
        max_images=64,
        max_message_bytes=1 << 16,
        max_heat_maps=50,
        grace_seconds=60,
    )


@pytest.fixture(scope="session")
def server(settings: Settings) -> Iterator[BackgroundServer]:
    server = BackgroundServer(settings)
    with server:
        yield server


@pytest.fixture(scope="session")
def address(server: BackgroundServer) -> str:
    return server.address


@pytest.fixture(scope="session")
def http(server: BackgroundServer) -> str:
    """The address of HTTP, as a URL begins."""
    return f"http://{server.http_address}"


@pytest.fixture
def requests_by_code(http: str) -> Callable[[], Counter[str]]:
    """How many requests ended with each status so far, as the metrics tell."""

    def read() -> Counter[str]:
        with urllib.request.urlopen(f"{http}/metrics", timeout=30) as page:
            lines = page.read().decode().splitlines()
        found: Counter[str] = Counter()
        for line in lines:
            if line.startswith("pyconv_requests_total{"):
                found[line.partition('code="')[2].partition('"')[0]] += int(float(line.split()[-1]))
        return found

    return read


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(address) as client:
        yield client


@pytest.fixture
def channel(address: str) -> Iterator[grpc.Channel]:
    """A bare channel, for requests that `Client` would not send."""
    options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(address, options) as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.Channel) -> classifier_pb2_grpc.ClassifierStub:
    return classifier_pb2_grpc.ClassifierStub(channel)
