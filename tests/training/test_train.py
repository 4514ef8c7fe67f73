"""A training run on a small data set: what it writes, and that leaving and resuming is exact."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pyconv
from pyconv.data import Dataset
from pyconv.errors import InputError, ModelError
from pyconv.training import Epoch, Progress, Run, Settings, train
from pyconv.training import history as history_file

pytestmark = [
    pytest.mark.train,
    pytest.mark.skipif(
        importlib.util.find_spec("tensorflow") is None, reason="TensorFlow is not installed"
    ),
]

SMALL = Settings("mnist", filters=(3,), hidden=8, epochs=4, batch_size=20, learning_rate=0.01)


def _weights(run: Run) -> list[np.ndarray]:
    return [np.asarray(weight) for weight in run.model.get_weights()]


def _figures(run: Run) -> list[Epoch]:
    return [dataclasses.replace(row, seconds=0.0, cpu_seconds=0.0) for row in run.history]


def test_run_writes_its_files(quarters: Dataset, tmp_path: Path) -> None:
    seen: list[Progress] = []
    run = train(SMALL, tmp_path / "run", on_batch=seen.append)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "settings.json",
        "model.keras",
        "history.csv",
        "curves.png",
        "model.onnx",
    }
    assert history_file.read(run.history_path) == run.history
    assert [row.epoch for row in run.history] == [1, 2, 3, 4]
    assert Settings.read(tmp_path / "run" / "settings.json") == SMALL
    with Image.open(run.curves_path) as curves:
        assert curves.width > 1000
    assert [(now.epoch, now.batch, now.batches) for now in seen][-2:] == [(4, 4, 5), (4, 5, 5)]
    json.dumps(run.to_dict())


def test_run_learns_and_its_export_says_so(quarters: Dataset, tmp_path: Path) -> None:
    run = train(dataclasses.replace(SMALL, epochs=8), tmp_path)
    assert run.history[-1].test_accuracy > 0.9  # four classes: chance is 0.25
    for engine in ("native", "onnxruntime"):
        model = pyconv.load(run.onnx_path, engine=engine)
        assert model.labels == ("nw", "ne", "sw", "se")
        right = model.predict(quarters.test_images).argmax(axis=1) == quarters.test_labels
        assert right.mean() == run.accuracy["test"][engine]
        assert run.accuracy["test"][engine] == pytest.approx(run.history[-1].test_accuracy)
        assert model.metadata.provenance["accuracy"] == run.accuracy
        assert model.metadata.provenance["epochs"] == 8
        assert model.metadata.input is not None
        assert model.metadata.input.picture == "mnist"


@pytest.mark.parametrize(
    "settings",
    [SMALL, dataclasses.replace(SMALL, schedule="cosine", shift=2)],
    ids=["plain", "all"],
)
def test_interrupted_and_resumed_run_equals_the_uninterrupted(
    settings: Settings, quarters: Dataset, tmp_path: Path
) -> None:
    whole = train(settings, tmp_path / "whole")

    def interrupt(now: Progress) -> None:
        if (now.epoch, now.batch) == (3, 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(settings, tmp_path / "parts", on_batch=interrupt)
    assert len(history_file.read(tmp_path / "parts" / "history.csv")) == 2
    resumed = train(settings, tmp_path / "parts", resume=True)
    assert _figures(resumed) == _figures(whole)
    for got, expected in zip(_weights(resumed), _weights(whole), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_run_killed_between_its_two_files_resumes_from_the_model(
    quarters: Dataset, tmp_path: Path
) -> None:
    whole = train(SMALL, tmp_path / "whole")
    run = train(dataclasses.replace(SMALL, epochs=3), tmp_path / "parts")
    # The history is written first: a kill in between leaves a row that the model has not seen.
    history_file.write(
        run.history_path, [*run.history, dataclasses.replace(run.history[0], epoch=4)]
    )
    resumed = train(SMALL, tmp_path / "parts", resume=True)
    assert _figures(resumed) == _figures(whole)


def test_learning_rate_falls_to_nothing_along_a_cosine(quarters: Dataset, tmp_path: Path) -> None:
    run = train(dataclasses.replace(SMALL, schedule="cosine", epochs=2), tmp_path)
    rate = run.model.optimizer.learning_rate
    # After the last of 2 epochs of 5 batches; Keras gives the rate of the step to come.
    assert float(rate) == pytest.approx(0.0, abs=1e-9)
    halfway = float(run.model.optimizer._learning_rate(5))
    assert halfway == pytest.approx(SMALL.learning_rate / 2)


def test_another_seed_gives_another_run(quarters: Dataset, tmp_path: Path) -> None:
    one = train(SMALL, tmp_path / "one")
    other = train(dataclasses.replace(SMALL, seed=1), tmp_path / "other")
    assert _figures(one) != _figures(other)


def test_run_stops_at_an_accuracy(quarters: Dataset, tmp_path: Path) -> None:
    settings = dataclasses.replace(SMALL, epochs=40, stop_at_accuracy=0.6)
    run = train(settings, tmp_path)
    assert 1 <= len(run.history) < 40
    assert run.history[-1].accuracy >= 0.6
    assert all(row.accuracy < 0.6 for row in run.history[:-1])
    assert len(train(settings, tmp_path, resume=True).history) == len(run.history)


def test_held_out_images_are_not_trained_on(quarters: Dataset, tmp_path: Path) -> None:
    seen: list[Progress] = []
    settings = dataclasses.replace(SMALL, epochs=1, validation=36)
    run = train(settings, tmp_path, on_batch=seen.append)
    assert len(seen) == 3  # 96 - 36 images, 20 a batch
    assert run.history[0].validation_accuracy is not None
    with pytest.raises(InputError, match="fewer than the 96 training images, got 96"):
        train(dataclasses.replace(SMALL, validation=96), tmp_path / "none")


def test_dense_network_is_the_baseline(quarters: Dataset, tmp_path: Path) -> None:
    run = train(dataclasses.replace(SMALL, network="dense", epochs=1), tmp_path)
    assert [layer.name for layer in run.exported.metadata.layers] == ["flatten", "dense", "dense_1"]


def test_layers_are_named_as_in_the_lesson(quarters: Dataset, tmp_path: Path) -> None:
    run = train(dataclasses.replace(SMALL, filters=(2, 3), epochs=1), tmp_path)
    assert [layer.name for layer in run.exported.metadata.layers] == [
        *("conv2d", "max_pooling2d", "conv2d_1", "max_pooling2d_1"),
        *("flatten", "dense", "dense_1"),
    ]


def test_folder_with_a_run_is_not_overwritten(quarters: Dataset, tmp_path: Path) -> None:
    first = train(dataclasses.replace(SMALL, epochs=1), tmp_path)
    before = first.keras_path.read_bytes()
    with pytest.raises(InputError, match=r"there is a run already .* --resume, .* --force"):
        train(SMALL, tmp_path)
    with pytest.raises(InputError, match=r"other settings \(there and now\): seed: 0 and 5"):
        train(dataclasses.replace(SMALL, seed=5), tmp_path, resume=True)
    assert first.keras_path.read_bytes() == before
    replaced = train(dataclasses.replace(SMALL, seed=5, epochs=1), tmp_path, force=True)
    assert len(replaced.history) == 1
    assert Settings.read(tmp_path / "settings.json").seed == 5


def test_nothing_to_resume_is_said(quarters: Dataset, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no run to resume"):
        train(SMALL, tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()


def test_maps_that_shrink_away_stop_before_anything_is_written(
    quarters: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="smaller than its 3×3 kernel"):
        train(dataclasses.replace(SMALL, filters=(2, 2, 2)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_broken_checkpoint_is_said(quarters: Dataset, tmp_path: Path) -> None:
    run = train(dataclasses.replace(SMALL, epochs=1), tmp_path)
    run.keras_path.write_bytes(b"nonsense")
    with pytest.raises(ModelError, match=r"model\.keras: not a Keras model"):
        train(SMALL, tmp_path, resume=True)


def test_folder_that_is_a_file_is_said(quarters: Dataset, tmp_path: Path) -> None:
    file = tmp_path / "run"
    file.write_text("mine")
    for force in (False, True):
        with pytest.raises(InputError, match=r"cannot write the run's folder .*run"):
            train(SMALL, file, force=force)
    assert file.read_text() == "mine"


def test_run_that_diverges_is_said_and_not_kept(quarters: Dataset, tmp_path: Path) -> None:
    diverging = dataclasses.replace(SMALL, learning_rate=1e30)
    with pytest.raises(InputError, match=r"diverged in epoch 1.* learning_rate, got 1e\+30"):
        train(diverging, tmp_path)
    assert not (tmp_path / "model.keras").exists()
