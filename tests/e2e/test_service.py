"""A person's way through the service: processes, ports, bundled models and pictures."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pyconv
from pyconv import bundled, pictures

_PYCONV = [sys.executable, "-m", "pyconv"]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Both bundled models on both engines, in a process of their own; it must end with 0."""
    command = [*_PYCONV, "serve", "--engine", "both", "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        facts = json.loads(process.stdout.readline())
        assert facts["models"] == bundled.names()
        yield facts["address"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def _run(*arguments: str) -> str:
    done = subprocess.run(
        [*_PYCONV, *arguments], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("model", ["digits", "fashion"])
@pytest.mark.parametrize("engine", ["native", "onnxruntime"])
def test_classify_knows_the_samples(address: str, model: str, engine: str) -> None:
    samples = [str(path) for path in bundled.samples(model)]
    flags = ["--server", address, "--model", model, "--engine", engine, "--json"]
    facts = json.loads(_run("classify", *samples, *flags))
    assert (facts["model"], facts["engine"]) == (model, engine)
    said = [result["predictions"][0]["label"] for result in facts["results"]]
    assert [label.partition("/")[0].lower().replace(" ", "-") for label in said] == [
        Path(sample).stem for sample in samples
    ]


def test_classify_without_a_server_says_the_same(address: str) -> None:
    samples = [str(path) for path in bundled.samples("digits")]
    own = json.loads(_run("classify", *samples, "--model", "digits", "--top", "10", "--json"))
    flags = ["--server", address, "--model", "digits", "--top", "10", "--json"]
    asked = json.loads(_run("classify", *samples, *flags))
    assert [result["predictions"] for result in own["results"]] == [
        result["predictions"] for result in asked["results"]
    ]


def test_activations_through_the_service_are_the_networks(address: str, tmp_path: Path) -> None:
    samples = [str(path) for path in bundled.samples("fashion")[:3]]
    grid, npz = tmp_path / "grid.png", tmp_path / "values.npz"
    flags = ["--server", address, "--model", "fashion", "--out", str(grid), "--npz", str(npz)]
    _run("activations", *samples, *flags)
    model = pyconv.load("fashion")
    assert model.input_contract is not None
    expected = model.activations(pictures.prepare_all(samples, model.input_contract))
    with np.load(npz) as values:
        assert len(values) == 4
        for name in values:
            np.testing.assert_array_equal(values[name], expected[name][..., [32]])
    with Image.open(grid) as image:
        assert image.width > 5 * 100
        assert image.height > 3 * 100


def test_interrupted_classify_ends_at_once_and_alone(tmp_path: Path) -> None:
    late = tmp_path / "late.png"  # a picture that never comes: a pipe that nobody writes to
    os.mkfifo(late)
    command = [*_PYCONV, "classify", str(bundled.samples("fashion")[0]), str(late)]
    # A shell starts what runs behind it with SIGINT ignored, and that would be inherited.
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        writer = _open_when_read(late, process)
        process.send_signal(signal.SIGINT)
        try:
            _, stderr = process.communicate(timeout=30)
        finally:
            process.kill()
            os.close(writer)
    assert process.returncode == 130
    assert stderr == "pyconv classify: interrupted\n"


def _open_when_read(pipe: Path, reader: subprocess.Popen[str]) -> int:
    """Wait until the reader has opened the pipe."""
    while True:
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            assert reader.poll() is None, "the command ended before it read the picture"
            time.sleep(0.05)
