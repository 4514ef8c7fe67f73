"""The command `pyconv train`."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import pty
import re
import struct
import termios
import threading
from pathlib import Path

import pytest

from pyconv.cli import main
from pyconv.data import Dataset
from pyconv.training import history as history_file
from pyconv.training.fit import Checkpoint

_NEEDS_TENSORFLOW = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None, reason="TensorFlow is not installed"
)
pytestmark = [pytest.mark.train, _NEEDS_TENSORFLOW]

_SMALL = ["--data", "mnist", "--filters", "3", "--hidden", "8", "--batch-size", "20"]


def test_train_prints_the_network_its_comparison_and_its_files(
    quarters: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *_SMALL, "--epochs", "2", "--out", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert "max_pooling2d (MaxPooling2D)" in out
    assert "Largest difference from Keras" in out
    assert f"{tmp_path}/model.onnx" in out.splitlines()
    assert [line.split()[:2] for line in err.splitlines() if line.startswith("epoch")] == [
        ["epoch", "1"],
        ["epoch", "2"],
    ]


def test_train_on_a_terminal_keeps_the_bar_out_of_the_table(
    quarters: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Standard output and error on one terminal: the table starts on a line of its own."""
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
    received = bytearray()
    reader = threading.Thread(target=_drain, args=(controller, received), daemon=True)
    reader.start()
    with os.fdopen(terminal, "w") as both:
        monkeypatch.setattr("sys.stdout", both)
        monkeypatch.setattr("sys.stderr", both)
        monkeypatch.setenv("TERM", "xterm")
        assert main(["train", *_SMALL, "--epochs", "1", "--out", str(tmp_path)]) == 0
    reader.join(30)
    os.close(controller)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", received.decode())
    (line,) = [line for line in re.split("[\r\n]+", text) if 'Model: "convolutional"' in line]
    assert line == 'Model: "convolutional"'
    assert "epoch 1 of 1" in text
    assert "converting it to ONNX" in text


def _drain(descriptor: int, into: bytearray) -> None:
    with contextlib.suppress(OSError):  # EIO: the other end is closed
        while data := os.read(descriptor, 1 << 16):
            into += data


def test_train_json_is_all_that_standard_output_holds(
    quarters: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--network", "dense", "--epochs", "1", "--json", "--out", str(tmp_path)]
    assert main(["train", "--data", "mnist", *flags]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["settings"]["network"] == "dense"
    assert set(result["accuracy"]["test"]) == {"native", "onnxruntime"}
    assert Path(result["files"]["onnx"]).is_file()


def test_train_left_by_ctrl_c_says_how_to_go_on_and_does(
    quarters: Dataset,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = Checkpoint.save

    def save(self: Checkpoint, model: object, history: list[history_file.Epoch]) -> None:
        original(self, model, history)  # type: ignore[arg-type]
        if len(history) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "save", save)
    assert main(["train", *_SMALL, "--epochs", "3", "--out", str(tmp_path)]) == 130
    assert f"pyconv train --out {tmp_path} --resume" in capsys.readouterr().err
    assert main(["train", "--out", str(tmp_path), "--resume"]) == 0
    err = capsys.readouterr().err
    assert "epoch  3" in err
    assert "epoch  2" not in err
    assert main(["train", "--out", str(tmp_path), "--resume", "--epochs", "4"]) == 0
    assert len(history_file.read(tmp_path / "history.csv")) == 4


def test_train_refuses_another_setting_on_resume(
    quarters: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *_SMALL, "--epochs", "1", "--out", str(tmp_path)]) == 0
    assert main(["train", "--out", str(tmp_path), "--resume", "--no-pool"]) == 1
    assert "pool: 2 and 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--data is missing"),
        (["--data", "cifar"], "no data set 'cifar'"),
        (["--data", "mnist", "--filters", "8", "8", "8", "8"], "smaller than its 3×3 kernel"),
        (["--data", "mnist", "--resume"], "there is no run to resume"),
        (["--resume"], "there is no run to resume"),
    ],
)
def test_train_refuses_before_it_writes(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *flags, "--out", str(tmp_path / "run")]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
