"""Several processes behind one port, as they are started from the command line."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from pyconv.cli import main
from pyconv.client import Client
from pyconv.errors import ServerError
from pyconv.server import ports
from pyconv.server.settings import Settings
from pyconv.server.supervisor import _Supervisor, _Worker

_IMAGES = np.zeros((1, 6, 8, 1), np.uint8)


@pytest.fixture(scope="module")
def serving(small_classifier: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    command = [sys.executable, "-m", "pyconv", "serve", "--model", str(small_classifier)]
    command += ["--workers", "2", "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                assert process.wait(120) == 0
            finally:
                process.kill()


def _children(process: subprocess.Popen[str]) -> list[int]:
    """The processes that serve; multiprocessing has one more, which tracks resources."""
    found = []
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii")
    for pid in listed.split():
        if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
            found.append(int(pid))
    return found


def _answered(address: str) -> float:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as page:
        lines = page.read().decode().splitlines()
    counted = [line for line in lines if line.startswith('pyconv_requests_total{code="OK"')]
    return float(counted[0].split()[-1]) if counted else 0.0


def _wait_for_answer(client: Client, deadline: float) -> None:
    """A connection that was refused is tried again after a second or so, and not before."""
    while True:
        try:
            client.classify(_IMAGES)
            return
        except ServerError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def test_one_that_dies_is_replaced_and_the_others_never_notice(
    serving: tuple[subprocess.Popen[str], dict[str, Any]],
) -> None:
    process, facts = serving
    before = _children(process)
    assert len(before) == 2
    # Each connection goes to one of them; twelve do not all go to the same, but once in 2,000 runs.
    clients = [Client(facts["address"], timeout=120) for _ in range(12)]
    try:
        for client in clients:
            client.classify(_IMAGES)
        os.kill(before[0], signal.SIGKILL)
        lost = 0
        for _ in range(3):
            for client in clients:
                try:
                    client.classify(_IMAGES)
                except ServerError:  # its connection was to the one that is gone
                    lost += 1
        assert lost <= 12  # and each of those connected anew
        deadline = time.monotonic() + 180
        while len(set(_children(process)) - set(before)) < 1:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert before[1] in _children(process)
        for client in clients:
            _wait_for_answer(client, deadline)
    finally:
        for client in clients:
            client.close()


def test_metrics_are_of_all_of_them(
    serving: tuple[subprocess.Popen[str], dict[str, Any]],
) -> None:
    _, facts = serving
    before = _answered(facts["http_address"])
    for _ in range(8):
        with Client(facts["address"], timeout=120) as client:
            client.classify(_IMAGES)
    deadline = time.monotonic() + 180
    while _answered(facts["http_address"]) < before + 8:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_port_that_is_taken_is_an_error(
    small_classifier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert main(["serve", "--model", str(small_classifier), "--workers", "2", "--port", port])
    assert f"cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err


def test_a_file_system_that_cannot_be_written_is_an_error(
    small_classifier: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    assert main(["serve", "--model", str(small_classifier), "--workers", "2", "--port", "0"]) == 1
    told = "pyconv serve: workers: several processes share their metrics in a folder for temporary"
    assert told in capsys.readouterr().err


def test_a_model_that_cannot_be_loaded_ends_all_of_them(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no network")
    model = str(tmp_path / "broken.onnx")
    assert main(["serve", "--model", model, "--workers", "2", "--port", "0"]) == 1
    assert "broken.onnx" in capfd.readouterr().err


def test_a_port_is_held_where_connections_linger_on_it() -> None:
    """As after a server that has just been stopped, and is started again."""
    with socket.socket() as before:
        before.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        before.bind(("127.0.0.1", 0))
        before.listen()
        host, port = before.getsockname()
        with socket.create_connection((host, port)) as client:
            before.accept()[0].close()
            assert client.recv(1) == b""
    with ports.held(host, port) as held:
        assert held == port
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with pytest.raises(OSError, match="in use"):
                other.bind((host, port))
        with socket.socket() as worker:
            worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            worker.bind((host, port))
            worker.listen()


@pytest.mark.parametrize(
    ("host", "taken"),
    [("localhost", "::1"), ("LocalHost", "::1"), ("0.0.0.0", "::"), ("::", "0.0.0.0")],
)
def test_a_port_is_refused_where_any_of_the_addresses_is_taken(host: str, taken: str) -> None:
    """gRPC listens on every address of a name, and on both families where it is for all."""
    with socket.socket(socket.AF_INET6 if ":" in taken else socket.AF_INET) as other:
        if other.family == socket.AF_INET6:
            other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind((taken, 0))
        other.listen()
        port = other.getsockname()[1]
        refused = pytest.raises(ServerError, match=f":{port}: Address already in use")
        with refused, ports.held(host, port):
            pass
    with ports.held(host, port) as held:
        assert held == port


def test_a_port_of_a_name_that_has_an_address_of_another_machine_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As `localhost` where a container has no IPv6: gRPC listens on what there is."""

    def found(host: str, port: int, *_: object, **__: object) -> list[Any]:
        kind = (socket.SOCK_STREAM, 0, "")
        return [(socket.AF_INET, *kind, (each, port)) for each in ("192.0.2.1", "127.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", found)
    with ports.held("somebody", 0) as port:
        assert port
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(ServerError, match="in use"), ports.held("somebody", port):
            pass


def test_a_stop_while_processes_start_is_no_fault(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told_to_stop() -> None:
        signal.raise_signal(signal.SIGTERM)
        raise EOFError

    supervisor = _Supervisor(settings, tmp_path)
    worker = _Worker(Mock(pid=None), Mock(recv=told_to_stop))
    monkeypatch.setattr(supervisor, "_start", lambda: worker)
    ready = Mock()
    supervisor.run(ready)
    ready.assert_not_called()


def test_processes_have_the_time_to_drain(settings: Settings, tmp_path: Path) -> None:
    process, pipe = Mock(pid=None), Mock()
    supervisor = _Supervisor(replace(settings, drain_seconds=100, grace_seconds=20), tmp_path)
    supervisor._workers = [_Worker(process, pipe)]
    supervisor._end()
    (waited,) = process.join.call_args_list[0].args
    assert waited > 120
