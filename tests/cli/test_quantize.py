"""The command `pyconv quantize`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import pyconv
from pyconv import data
from pyconv.cli import main
from pyconv.data import Dataset


@pytest.fixture
def folder(tmp_path: Path, make_png: Callable[..., bytes]) -> Path:
    """Pictures, one of them in a folder of its own, and a file that is none."""
    pictures = tmp_path / "pictures"
    (pictures / "more").mkdir(parents=True)
    for seed in range(5):
        (pictures / f"{seed}.png").write_bytes(make_png(seed=seed))
    (pictures / "more" / "5.PNG").write_bytes(make_png(seed=5))
    (pictures / "notes.txt").write_text("not a picture")
    return pictures


def test_quantize_on_a_folder_of_pictures(
    small_classifier: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.onnx"
    flags = ["--calibrate", str(folder)]
    assert main(["quantize", str(small_classifier), str(out), *flags]) == 0
    text = capsys.readouterr().out
    for word in ("int8, onnxruntime", "int8, native", "file", "same class", "error of conv2d"):
        assert word in text
    assert "accuracy" not in text
    assert text.rstrip().endswith(str(out))
    assert pyconv.load(out).labels == pyconv.load(small_classifier).labels


def test_quantize_in_json(
    small_classifier: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.onnx"
    flags = ["--calibrate", str(folder), "--images", "4", "--json"]
    assert main(["quantize", str(small_classifier), str(out), *flags]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["path"] == str(out)
    assert result["calibration_images"] == 4
    assert result["bytes_after"] == out.stat().st_size
    assert set(result["agreement"]) == {"native", "onnxruntime"}
    assert [layer["name"] for layer in result["layers"]] == ["conv2d", "flatten", "dense"]


def test_quantize_on_a_data_set_measures_the_accuracy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (80, 28, 28), np.uint8)
    labels = pyconv.load("digits").predict(images).argmax(axis=1).astype(np.uint8)
    few = Dataset(images[:40], labels[:40], images[40:], labels[40:], data.DIGITS)
    monkeypatch.setattr("pyconv.data.load", lambda *_: few)
    out = tmp_path / "out.onnx"
    flags = ["--calibrate", "mnist", "--max-loss", "10", "--json"]
    assert main(["quantize", "digits", str(out), *flags]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["accuracy_before"] == 1
    assert min(result["accuracy_after"].values()) >= 0.9
    assert (result["calibration_images"], result["compared_images"]) == (40, 40)
    assert pyconv.load(out).metadata.provenance["quantized"]["source"] == "mnist"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--calibrate", "fashon-mnist"], "did you mean 'fashion-mnist'"),
        (["--calibrate", "."], "expected pictures in"),
        (["--calibrate", "mnist", "--images", "0"], "--images: expected at least 1, got 0"),
        (["--calibrate", "mnist", "--max-loss", "-1"], "--max-loss: expected 0 to 100 points"),
    ],
)
def test_quantize_that_fails_leaves_no_file(
    flags: list[str],
    message: str,
    small_classifier: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["quantize", str(small_classifier), "out.onnx", *flags]) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_quantize_names_a_picture_that_cannot_be_read(
    small_classifier: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "broken.png").write_bytes(b"no picture")
    flags = ["--calibrate", str(folder)]
    assert main(["quantize", str(small_classifier), str(tmp_path / "out.onnx"), *flags]) == 1
    assert "broken.png" in capsys.readouterr().err


def test_quantize_needs_to_be_told_what_to_calibrate_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["quantize", "digits", "out.onnx"])
    assert caught.value.code == 2
    assert "--calibrate" in capsys.readouterr().err
