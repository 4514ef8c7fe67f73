"""What the native engine offers beyond the protocol."""

from __future__ import annotations

import numpy as np
import pytest

import pyconv
from pyconv.data import Dataset
from pyconv.engines.base import WeightStorage
from pyconv.errors import InputError
from pyconv.training.measure import accuracy


def test_exact_keeps_to_direct_products() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8)
    fast, exact = pyconv.load("fashion"), pyconv.load("fashion", exact=True)
    assert "Winograd" in str(fast.summary())
    assert "Winograd" not in str(exact.summary())
    ours, theirs = fast.predict(images), exact.predict(images)
    assert not np.array_equal(ours, theirs)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_exact_operator_is_nearer_to_the_definition() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(3, 12, 12, 64)).astype(np.float32)
    kernel = random.normal(size=(3, 3, 64, 64)).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(x.astype(np.float64), (3, 3), (1, 2))
    expected = np.einsum("nijcuv,uvcf->nijf", windows, kernel.astype(np.float64))
    off = {
        exact: np.abs(pyconv.conv2d(x, kernel, exact=exact) - expected).max()
        for exact in (False, True)
    }
    assert off[True] < off[False] < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
def test_weights_of_dense_layers_may_be_stored_in_fewer_bits(weights: WeightStorage) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8)
    plain, narrow = pyconv.load("digits"), pyconv.load("digits", weights=weights)
    found = [step.algorithm for step in narrow.steps() if step.operator == "dense"]
    assert len(found) == 2
    assert all(f"{weights} weights" in algorithm for algorithm in found)
    ours, theirs = narrow.predict(images), plain.predict(images)
    assert not np.array_equal(ours, theirs)
    np.testing.assert_allclose(ours, theirs, atol=0.05)
    # What is not behind a dense layer is what it was.
    np.testing.assert_array_equal(
        narrow.activations(images)["max_pooling2d"], plain.activations(images)["max_pooling2d"]
    )


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
def test_stored_weights_cost_no_more_accuracy_than_the_docs_say(
    weights: WeightStorage, fashion_mnist: Dataset, mnist: Dataset
) -> None:
    for name, dataset in (("fashion", fashion_mnist), ("digits", mnist)):
        images, labels = dataset.split("test")
        plain = accuracy(pyconv.load(name), images, labels)
        stored = accuracy(pyconv.load(name, weights=weights), images, labels)
        assert abs(plain - stored) <= 0.001


def test_weights_of_another_kind_are_refused() -> None:
    with pytest.raises(InputError, match="expected one of float32, bfloat16, int8, got 'int4'"):
        pyconv.load("digits", weights="int4")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"for engine='native' alone.*pyconv quantize"):
        pyconv.load("digits", engine="onnxruntime", weights="int8")
