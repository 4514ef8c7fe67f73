"""The figures that the bundled models state of themselves are those that they reach."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import pyconv
from pyconv import bundled, data
from pyconv.errors import PyconvError
from pyconv.training.measure import accuracies, accuracy, main

_FLOOR = {"fashion": 0.91, "digits": 0.987, "fashion-best": 0.93, "digits-best": 0.995}


def test_accuracy_counts_every_image(small_classifier: Path) -> None:
    model = pyconv.load(small_classifier)
    images = np.random.default_rng(0).integers(0, 256, (601, 6, 8), np.uint8)
    labels = model.predict(images).argmax(axis=1).astype(np.uint8)
    assert accuracy(model, images, labels) == 1.0
    labels[[0, 300, 600]] = (labels[[0, 300, 600]] + 1) % 3
    assert accuracy(model, images, labels) == pytest.approx(598 / 601)


@pytest.mark.parametrize("name", bundled.names())
def test_bundled_model_states_the_lessons_figures(name: str) -> None:
    stated = pyconv.load(name).metadata.provenance["accuracy"]
    assert set(stated["test"]) == {"native", "onnxruntime"}
    assert min(stated["test"].values()) >= _FLOOR[name]
    for split in stated:
        assert f"{stated[split]['native']:.4f}" in bundled.card(name)


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("name", bundled.names())
def test_bundled_model_reaches_what_it_states(name: str) -> None:
    facts = pyconv.load(name).metadata.provenance
    try:
        if data.locate(facts["settings"]["data"]) is None:
            pytest.skip("the data set is not on this machine: pyconv data fetch")
    except PyconvError as error:
        pytest.skip(str(error))
    dataset = data.load(facts["settings"]["data"])
    splits = list(facts["accuracy"])
    assert accuracies(name, dataset, ("onnxruntime", "native"), splits) == facts["accuracy"]


def test_measure_of_a_file_without_provenance_is_an_error(small_classifier: Path) -> None:
    with pytest.raises(PyconvError, match="does not state"):
        main([str(small_classifier)])
