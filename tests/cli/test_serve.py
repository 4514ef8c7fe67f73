from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from pyconv import bundled
from pyconv.cli import main
from pyconv.client import Client


def test_serve_tells_where_and_stops_cleanly(small_classifier: Path) -> None:
    command = [sys.executable, "-m", "pyconv", "serve", "--model", f"shoes={small_classifier}"]
    command += ["--engine", "both", "--port", "0", "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        facts = json.loads(process.stdout.readline())
        assert facts["models"] == ["shoes"]
        assert facts["engines"] == ["native", "onnxruntime"]
        with Client(facts["address"]) as client:
            client.wait_ready()
            assert client.models() == {"shoes": ("native", "onnxruntime")}
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert process.stdout.read() == ""
        assert process.stderr.read() == ""


@pytest.mark.parametrize("tls", [False, True])
def test_serve_tells_of_https_where_it_talks_tls(
    tls: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def serve(settings: object, ready: Callable[[object], None]) -> None:
        ready(SimpleNamespace(address="h:1", http_address="h:2", models=["shoes"]))

    monkeypatch.setattr("pyconv.server.app.serve", serve)
    flags = ["--tls-certificate", "c.pem", "--tls-key", "k.pem"] if tls else []
    assert main(["serve", "--model", "shoes=x.onnx", *flags]) == 0
    scheme = "https" if tls else "http"
    assert capsys.readouterr().out == f"serving shoes (native) on h:1 and {scheme}://h:2\n"


def test_serve_on_a_port_that_is_taken(
    small_classifier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        model = ["--model", str(small_classifier), "--engine", "onnxruntime"]
        assert main(["serve", *model, "--port", str(port)]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert f"pyconv serve: cannot listen on 127.0.0.1:{port}: Address already in use" in output.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "nowhere.onnx"], "there is no model 'nowhere.onnx'"),
        (["--model", "=x"], "expected NAME=PATH"),
        (["--model", "x=a.onnx", "--model", "x=b.onnx"], "the name 'x' is given twice"),
        (["--model", "a.onnx", "--port", "70000"], "port: expected 0 to 65535"),
        (["--model", "a.onnx", "--concurrency", "0"], "concurrency: expected at least 1"),
    ],
)
def test_serve_that_cannot_start(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", *flags]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max-message", "0"], "--max-message: expected more than 0 MiB, got 0"),
        (["--max-message", "nan"], "--max-message: expected more than 0 MiB, got nan"),
        (["--max-message", "inf"], "--max-message: expected more than 0 MiB, got inf"),
        (["--max-message", "big"], "--max-message: expected more than 0 MiB, got big"),
        (["--engine", "tensorrt"], "--engine: expected native, onnxruntime or both"),
    ],
)
def test_serve_with_a_flag_that_makes_no_sense(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["serve", *flags])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_print_config_says_what_came_from_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "serve.toml"
    file.write_text("max_batch = 8", encoding="utf-8")
    monkeypatch.setenv("PYCONV_SERVE_MAX_QUEUE", "9")
    flags = ["--config", str(file), "--port", "0", "--max-message", "1.5", "--engine", "both"]
    assert main(["serve", *flags, "--print-config"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert f"max_batch = 8 # {file}" in lines
    assert "max_queue = 9 # PYCONV_SERVE_MAX_QUEUE" in lines
    assert "port = 0 # flag" in lines
    assert "max_message_bytes = 1572864 # flag" in lines
    assert 'engines = ["native", "onnxruntime"] # flag' in lines
    assert f"models = {json.dumps(bundled.names())} # default" in lines
