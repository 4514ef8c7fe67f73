"""What the native engine offers beyond the protocol."""

from __future__ import annotations

import numpy as np

import pyconv


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
