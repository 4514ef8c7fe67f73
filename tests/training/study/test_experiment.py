"""Studies from the training to their tables, on a small data set."""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pyconv
from pyconv.cli import main
from pyconv.data import Dataset
from pyconv.errors import InputError
from pyconv.training import Settings
from pyconv.training import history as history_file
from pyconv.training.fit import Checkpoint
from pyconv.training.study import best, contests, experiment
from pyconv.training.study.plan import STUDIES, Lesson, Study, Variant

pytestmark = [
    pytest.mark.train,
    pytest.mark.skipif(
        importlib.util.find_spec("tensorflow") is None, reason="TensorFlow is not installed"
    ),
]

SMALL = Settings("mnist", filters=(3,), hidden=8, epochs=1, batch_size=20, learning_rate=0.01)
STUDY = Study(
    "few",
    "Two small networks",
    "Which is better?",
    (
        Variant("3", SMALL, (Lesson(0.5, 0.25, 10), Lesson(test=0.75))),
        Variant("dense", dataclasses.replace(SMALL, network="dense")),
    ),
)


def _share(path: Path, dataset: Dataset, engine: pyconv.EngineName) -> float:
    scores = pyconv.load(path, engine=engine).predict(dataset.test_images)
    return float(np.mean(scores.argmax(axis=1) == dataset.test_labels))


def test_study_writes_what_it_measured(quarters: Dataset, tmp_path: Path) -> None:
    found = experiment.conduct(STUDY, tmp_path, seeds=2, timing_seconds=0.01)
    assert [(result.variant.name, result.settings.seed) for result in found] == [
        *(("3", 0), ("3", 1), ("dense", 0), ("dense", 1))
    ]
    for result in found:
        assert set(result.speeds) == {1, 256}
        for engine, share in result.accuracy.items():
            assert share == _share(result.onnx_path, quarters, engine)
            assert share == pytest.approx(result.history[-1].test_accuracy)
            assert result.speeds[1][engine] > 0
    # 3×3×1×3 + 3 weights in the convolution, 5×5×3 maps to 8 units, these to 4 classes.
    assert found[0].parameters == 30 + (75 * 8 + 8) + (8 * 4 + 4)

    lines = (tmp_path / "few" / "table.md").read_text(encoding="utf-8").splitlines()
    head = next(line for line in lines if line.startswith("| network"))
    row = next(line for line in lines if line.startswith("| 3 "))
    cells = dict(zip(head.split(" | "), row.split(" | "), strict=True))
    tests = [result.history[-1].test_accuracy or 0.0 for result in found[:2]]
    assert cells["lesson: train"] == "0.5 and –"
    assert cells["lesson: test"] == "0.25 and 0.75"
    assert cells["test"].startswith(f"{sum(tests) / 2:.4f}")
    with (tmp_path / "few" / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    for line, result in zip(rows, found, strict=True):
        assert tmp_path / line["onnx"] == result.onnx_path
        assert float(line["test_accuracy_native"]) == pytest.approx(result.accuracy["native"])
        assert float(line["cpu_seconds"]) > 0
    with Image.open(tmp_path / "few" / "curves.png") as curves:
        assert curves.width > 900

    def nothing(_: object) -> None:
        raise AssertionError("trained again")

    again = experiment.conduct(
        STUDY, tmp_path, seeds=2, timing_seconds=0, listener=experiment.Listener(on_batch=nothing)
    )
    assert [result.history for result in again] == [result.history for result in found]
    with pytest.raises(InputError, match="seeds: expected at least 1, got 0"):
        experiment.conduct(STUDY, tmp_path, seeds=0)


def test_command_draws_activations(
    quarters: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(experiment, "ACTIVATIONS", {"few": (3, 5)})
    command = ["study", "activations", "--epochs", "1", "--out", str(tmp_path)]
    assert main(command) == 0
    (figure,) = (tmp_path / "activations").iterdir()
    assert capsys.readouterr().out == f"{figure}\n"
    with Image.open(figure) as picture:
        assert picture.height > 2 * 112
    monkeypatch.setattr(experiment, "ACTIVATIONS", {"few": (3, 55)})
    assert main(command) == 1
    assert "more than 55" in capsys.readouterr().err


def test_contest_is_won_on_the_images_held_out(quarters: Dataset, tmp_path: Path) -> None:
    contest = best.Contest("mnist", 25_000, 1.1)
    (outcome,) = contests.conduct(tmp_path, [contest], epochs=1, images=96, timing_seconds=0)
    assert outcome.parameters <= 25_000
    assert not outcome.reached
    held_out = {name: rows[-1].validation_accuracy for name, rows in outcome.histories.items()}
    assert list(held_out) == ["mild", "strong"]
    assert held_out[outcome.winner.augmentation] == max(held_out.values())
    for engine, share in outcome.accuracy.items():
        assert share == _share(outcome.onnx_path, quarters, engine)
    for rows in outcome.histories.values():
        assert [row.test_accuracy for row in rows] == [None]  # not looked at
    table = (tmp_path / "best" / "table.md").read_text(encoding="utf-8")
    assert f"{outcome.accuracy['native']:.4f}" in table
    assert "1.100 not reached" in table

    # Left alone, runs that are there are taken for what they are, however long they were trained;
    # the better one on the images held out is chosen, whichever it is.
    for name, accuracy in (("mild", 0.25), ("strong", 0.75)):
        (candidate,) = (
            each for each in best.candidates(contest, images=96) if each.augmentation == name
        )
        checkpoint = Checkpoint(candidate.folder(tmp_path))
        rows = history_file.read(checkpoint.history)
        rows = [dataclasses.replace(row, validation_accuracy=accuracy) for row in rows]
        history_file.write(checkpoint.history, rows)
    (again,) = contests.conduct(tmp_path, [contest], images=96, timing_seconds=0)
    assert again.winner.augmentation == "strong"
    assert again.winner.settings.epochs == 1
    provenance = pyconv.load(again.onnx_path).metadata.provenance
    assert provenance["settings"] == again.winner.settings.to_dict()


def test_networks_keep_to_their_budgets() -> None:
    from pyconv.training import networks

    for contest in best.CONTESTS[:3]:
        for candidate in best.candidates(contest):
            model = networks.build(candidate.settings, (28, 28, 1), 10)
            assert 0.9 * contest.parameters < model.count_params() <= contest.parameters


def test_lesson_is_as_deep_as_it_says() -> None:
    from pyconv.training import networks

    deepest = STUDIES["depth"].variants[-1]
    model = networks.build(deepest.settings, (28, 28, 1), 10)
    assert model.count_params() == deepest.lesson[0].parameters


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["best", "--epochs", "0"], "epochs: expected at least 1, got 0"),
        (["best", "--seeds", "2"], "--seeds: the study best has one seed"),
        (["activations"], "images: expected more than 55, which is shown, got 40"),
        (["depth", "--timing-seconds", "-1"], "--timing-seconds: expected 0 or more, got -1"),
        (["depth", "--timing-seconds", "nan"], "--timing-seconds: expected 0 or more, got nan"),
    ],
)
def test_command_refuses_before_it_trains(
    quarters: Dataset,
    flags: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "studies"
    assert main(["study", *flags, "--out", str(out)]) == 1
    assert message in capsys.readouterr().err
    assert not out.exists()
