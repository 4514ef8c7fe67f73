"""The accuracy of a model on all images of its data set, on an engine: the figures of the cards.

    python -m pyconv.training.measure fashion digits

measures ONNX files that `pyconv train` wrote, on both engines, and compares the figures with those
that the files state.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pyconv import data
from pyconv.data import Dataset, Split
from pyconv.engines.base import EngineName
from pyconv.errors import ModelError, PyconvError
from pyconv.model import Model, load

Accuracies = dict[str, dict[str, float]]
"""By split (`"train"`, `"test"`) and engine: the share of images classified right."""

_BATCH = 250


def accuracy(model: Model, images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> float:
    """The share of images whose likeliest class is their label.

    Args:
        model: a classifier.
        images: (n, height, width) uint8.
        labels: (n,) the classes' places on the output's last axis.
    """
    right = 0
    for start in range(0, len(images), _BATCH):
        scores = model.predict(images[start : start + _BATCH])
        right += int(np.sum(scores.argmax(axis=1) == labels[start : start + _BATCH]))
    return right / len(images)


def accuracies(
    path: str | Path,
    dataset: Dataset,
    engines: Sequence[EngineName],
    splits: Sequence[Split] = ("train", "test"),
) -> Accuracies:
    """Measure a model on all images of the training and the test set, on each engine."""
    models = {engine: load(path, engine=engine) for engine in engines}
    return {
        split: {engine: accuracy(model, *dataset.split(split)) for engine, model in models.items()}
        for split in splits
    }


def main(models: Sequence[str]) -> int:
    """Measure, print, compare; returns 1 if a figure is not what the file states.

    Args:
        models: names of bundled models, or paths of files that `pyconv train` wrote.

    Raises:
        ModelError: a file is missing or broken, or states no accuracy.
        DataError: its data set is broken or cannot be had.
    """
    status = 0
    for name in models:
        stated = load(name, engine="onnxruntime").metadata.provenance
        if "accuracy" not in stated or "settings" not in stated:
            raise ModelError(f"{name} does not state its accuracy; only pyconv train writes it")
        dataset = data.load(stated["settings"]["data"])
        splits: list[Split] = [split for split in ("train", "test") if split in stated["accuracy"]]
        measured = accuracies(name, dataset, ("onnxruntime", "native"), splits)
        for split, by_engine in measured.items():
            for engine, value in by_engine.items():
                states = stated["accuracy"][split].get(engine)
                print(f"{name} {split} {engine}: {value:.4f} (the file states {states})")
                if states is None or round(states, 4) != round(value, 4):
                    status = 1
    return status


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except PyconvError as error:
        sys.exit(str(error))
