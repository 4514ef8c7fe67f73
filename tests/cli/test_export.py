"""The command `pyconv export`."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

import pyconv
from pyconv.cli import main

_NEEDS_TENSORFLOW = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None, reason="TensorFlow is not installed"
)
pytestmark = [pytest.mark.train, _NEEDS_TENSORFLOW]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A person's own model, of colour pictures, in a .keras file."""
    from pyconv.training.backend import import_keras

    keras = import_keras("these tests")
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((10, 12, 3)),
            layers.Conv2D(4, 3, activation="relu", name="edges"),
            layers.GlobalAveragePooling2D(name="mean"),
            layers.Dense(3, name="scores"),
        ]
    )
    path = tmp_path / "own.keras"
    model.save(path)
    return path


def test_export_prints_every_layer_and_engine(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "own.onnx"
    assert main(["export", str(own), str(out)]) == 0
    text = capsys.readouterr().out
    for word in ("edges", "mean", "scores", "onnxruntime", "native", "(n, 8, 10, 4)", "sample"):
        assert word in text
    assert out.is_file()


def test_export_takes_the_explanation_from_its_flags(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels, out = tmp_path / "labels.txt", tmp_path / "own.onnx"
    labels.write_text("cat\ndog\n\nguinea pig\n", encoding="utf-8")
    flags = ["--labels", str(labels), "--scale", "1/127.5", "--offset", "-1", "--json"]
    assert main(["export", str(own), str(out), *flags]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["path"] == str(out)
    assert max(item["relative"] for item in result["differences"]) < 1e-5
    facts = pyconv.load(out).metadata
    assert facts.labels == ("cat", "dog", "guinea pig")
    assert facts.input is not None
    assert (facts.input.scale, facts.input.offset) == (1 / 127.5, -1.0)
    assert facts.output is not None
    assert facts.output.kind == "logits"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--labels", "cat", "dog"], "labels: expected one for each of the output's 3 numbers"),
        (["--labels", "nowhere.txt"], "expected at least two names or a file"),
        (["--size", "20", "20"], "the model takes images of (n, 10, 12, 3), got (20, 20)"),
        (["--data", "cifar"], "no data set 'cifar'"),
    ],
)
def test_export_that_fails_leaves_no_file(
    flags: list[str],
    message: str,
    own: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["export", str(own), str(tmp_path / "own.onnx"), *flags]) == 1
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [own]


def test_export_of_a_missing_file_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(tmp_path / "none.keras"), str(tmp_path / "own.onnx")]) == 1
    assert "there is no file" in capsys.readouterr().err


def test_export_refuses_a_scale_that_is_no_number(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["export", str(own), str(tmp_path / "own.onnx"), "--scale", "1/0"])
    assert caught.value.code == 2
    assert "such as 0.5 or 1/255, got '1/0'" in capsys.readouterr().err
