"""Runs that studies share: left, resumed, taken over, trained on."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import pytest

import pyconv
from pyconv.data import Dataset
from pyconv.errors import InputError
from pyconv.training import Epoch, Progress, Settings
from pyconv.training.study import runs

pytestmark = [
    pytest.mark.train,
    pytest.mark.skipif(
        importlib.util.find_spec("tensorflow") is None, reason="TensorFlow is not installed"
    ),
]

SMALL = Settings("mnist", filters=(3,), hidden=8, epochs=3, batch_size=20, learning_rate=0.01)


def _nothing(now: Progress) -> None:
    raise AssertionError(f"trained: {now}")


def test_run_left_within_an_epoch_goes_on_and_is_shared(quarters: Dataset, tmp_path: Path) -> None:
    def interrupt(now: Progress) -> None:
        if (now.epoch, now.batch) == (2, 3):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runs.train(SMALL, tmp_path, quarters, on_batch=interrupt)
    seen: list[Epoch] = []
    run = runs.train(SMALL, tmp_path, quarters, on_epoch=seen.append)
    assert [epoch.epoch for epoch in seen] == [2, 3]
    assert [epoch.epoch for epoch in run.history] == [1, 2, 3]
    assert all(epoch.cpu_seconds > 0 for epoch in run.history)

    # The network that the run keeps of an epoch has that epoch's accuracy, on both engines.
    shorter = runs.train(
        dataclasses.replace(SMALL, epochs=2), tmp_path, quarters, on_batch=_nothing
    )
    assert shorter.folder == run.folder
    for trained in (shorter, run):
        for engine in ("native", "onnxruntime"):
            scores = pyconv.load(trained.onnx_path, engine=engine).predict(quarters.test_images)
            share = float(np.mean(scores.argmax(axis=1) == quarters.test_labels))
            assert share == pytest.approx(trained.history[-1].test_accuracy)
    assert shorter.onnx_path.read_bytes() != run.onnx_path.read_bytes()

    # A study that stops at an accuracy takes the first epoch that reaches it.
    stop = run.history[1].accuracy
    assert stop > run.history[0].accuracy
    stopping = dataclasses.replace(SMALL, epochs=40, stop_at_accuracy=stop)
    stopped = runs.train(stopping, tmp_path, quarters)
    assert [epoch.epoch for epoch in stopped.history] == [1, 2]

    with pytest.raises(InputError, match="hidden: 8 and 9; give another folder"):
        runs.train(dataclasses.replace(SMALL, hidden=9), tmp_path, quarters)
