"""Fixtures for tests of training."""

from __future__ import annotations

import numpy as np
import pytest

from pyconv import data
from pyconv.data import Dataset


def _pictures(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise with one bright quarter, which is the class."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 120, (count, 12, 12), np.uint8)
    labels = random.integers(0, 4, count).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(int(label), 2)
        image[6 * row : 6 * row + 6, 6 * column : 6 * column + 6] += 120
    return images, labels


@pytest.fixture
def quarters(monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """A small data set of four classes, which `data.load` gives for any name."""
    dataset = Dataset(*_pictures(96, 1), *_pictures(40, 2), ("nw", "ne", "sw", "se"))
    monkeypatch.setattr(data, "load", lambda name, folder=None: dataset)
    return dataset
