from __future__ import annotations

import json
import threading
import urllib.request
import webbrowser
from pathlib import Path

import pytest
from PIL import Image

from pyconv import bundled
from pyconv.cli import main

_Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyconv.demo._ROUNDS", 2)
    monkeypatch.setattr("pyconv.demo._WARM_UP_ROUNDS", 1)


def test_demo_is_right_on_both_engines(tmp_path: Path, capsys: _Output) -> None:
    assert main(["demo", "--out", str(tmp_path / "out"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["agreed"]
    pictures = [path.name for name in bundled.names() for path in bundled.samples(name)]
    assert [sample["picture"] for sample in facts["samples"]] == pictures
    for sample in facts["samples"]:
        for engine in ("native", "onnxruntime"):
            assert sample["predictions"][engine]["label"] == sample["expected"]
            assert sample["predictions"][engine]["right"]
    assert {(timing["model"], timing["engine"]) for timing in facts["timings"]} == {
        (model, engine) for model in bundled.names() for engine in ("native", "onnxruntime")
    }
    for timing in facts["timings"]:
        assert 0 < timing["compute_ms"] < timing["round_trip_ms"]
        assert timing["requests"] == 2 * len(bundled.samples(timing["model"]))
    for path in facts["figures"]:
        with Image.open(path) as figure:
            assert figure.width > 400


def test_demo_for_people(tmp_path: Path, capsys: _Output) -> None:
    assert main(["demo", "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    count = sum(len(bundled.samples(name)) for name in bundled.names())
    assert f"native: {count} of {count} right" in text
    assert f"onnxruntime: {count} of {count} right" in text
    assert f"activations: {tmp_path / 'activations-fashion.png'}" in text


def test_demo_fails_where_the_engines_differ(
    tmp_path: Path, capsys: _Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyconv.demo.TOLERANCE", -1.0)
    assert main(["demo", "--out", str(tmp_path), "--json"]) == 1
    assert not json.loads(capsys.readouterr().out)["agreed"]


def test_demo_that_cannot_write(tmp_path: Path, capsys: _Output) -> None:
    (tmp_path / "file").touch()
    assert main(["demo", "--out", str(tmp_path / "file" / "out")]) == 1
    assert "the figure cannot be written" in capsys.readouterr().err


def test_demo_open_serves_the_page_until_interrupted(
    monkeypatch: pytest.MonkeyPatch, capsys: _Output
) -> None:
    opened: list[str] = []
    pages: list[bytes] = []

    def interrupt(event: threading.Event, timeout: float | None = None) -> bool:
        if threading.current_thread() is not threading.main_thread() or not opened:
            return wait(event, timeout)
        monkeypatch.setattr(threading.Event, "wait", wait)
        for part in ("", "page/models"):
            with urllib.request.urlopen(opened[0] + part, timeout=60) as answer:
                pages.append(answer.read())
        raise KeyboardInterrupt

    wait = threading.Event.wait
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setattr(threading.Event, "wait", interrupt)
    assert main(["demo", "--open"]) == 130
    assert opened[0] in capsys.readouterr().out
    assert b"What every layer sees" in pages[0]
    assert [model["name"] for model in json.loads(pages[1])["models"]] == bundled.names()
