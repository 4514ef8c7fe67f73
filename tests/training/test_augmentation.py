"""Changes of training images, against slow and plain ways to do the same."""

from __future__ import annotations

import numpy as np
import pytest

from pyconv.training.augmentation import Augmentation, augmented, erased, shifted, turned


def test_shifted_images_are_moved_by_whole_pixels() -> None:
    random = np.random.default_rng(0)
    images = random.integers(1, 256, (300, 5, 7), np.uint8)
    steps = set()
    for before, after in zip(images, shifted(images, 2, random), strict=True):
        found = [
            (row, column)
            for row in range(-2, 3)
            for column in range(-2, 3)
            if np.array_equal(after, _moved(before, row, column))
        ]
        assert len(found) == 1
        steps.update(found)
    assert len(steps) == 25


def _moved(image: np.ndarray, rows: int, columns: int) -> np.ndarray:
    result = np.zeros_like(image)
    height, width = image.shape
    for row in range(height):
        for column in range(width):
            if 0 <= row - rows < height and 0 <= column - columns < width:
                result[row, column] = image[row - rows, column - columns]
    return result


class _Fixed(np.random.Generator):
    """Draws the values that it is given."""

    def __init__(self, *values: float) -> None:
        super().__init__(np.random.PCG64(0))
        self._values = list(values)

    def uniform(self, low: float = 0, high: float = 1, size: object = None) -> float:  # type: ignore[override]
        value = self._values.pop(0)
        assert low <= value <= high
        return value


@pytest.mark.parametrize(("angle", "quarter_turns"), [(0, 0), (90, 1), (180, 2), (-90, 3)])
def test_turned_by_quarters_moves_every_pixel(angle: float, quarter_turns: int) -> None:
    image = np.random.default_rng(1).integers(0, 256, (1, 9, 9), np.uint8)
    result = turned(image, 180, 0.5, _Fixed(angle, 0.0))
    np.testing.assert_array_equal(result[0], np.rot90(image[0], quarter_turns))


def test_zoomed_image_is_interpolated_about_the_centre() -> None:
    rows = np.arange(0, 90, 10, np.uint8)
    image = np.broadcast_to(rows[:, None], (9, 9))[None].astype(np.uint8)
    result = turned(image, 1, 1 / 2, _Fixed(0.0, 0.25))
    expected = [np.interp(4 + (row - 4) / 1.25, np.arange(9), rows) for row in range(9)]
    np.testing.assert_array_equal(result[0, :, 4], np.rint(expected))
    smaller = turned(np.full((1, 9, 9), 200, np.uint8), 1, 1 / 2, _Fixed(0.0, -0.5))
    assert smaller[0, 4, 4] == 200
    assert smaller[0, 0].max() == 0  # black from beyond the image


def test_erased_square_is_all_that_changes() -> None:
    images = np.zeros((400, 10, 12), np.uint8)
    result = erased(images, 4, np.random.default_rng(2))
    changed = 0
    for image in result:
        rows, columns = np.nonzero(image)
        if len(rows):
            changed += 1
            assert np.ptp(rows) <= 3
            assert np.ptp(columns) <= 3
    assert 150 < changed < 250
    places = result.any(axis=0)
    assert places.all()  # anywhere, corners too
    assert not images.any()


def test_augmented_depends_on_the_generator_alone_and_keeps_the_input() -> None:
    images = np.random.default_rng(3).integers(0, 256, (40, 8, 8), np.uint8)
    before = images.copy()
    how = Augmentation(rotate=10, zoom=0.1, shift=1, flip=True, erase=2)
    one, again, other = (augmented(images, how, np.random.default_rng(n)) for n in (4, 4, 5))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
    np.testing.assert_array_equal(images, before)
    assert augmented(images, Augmentation(), np.random.default_rng(4)) is images


def test_flipped_images_are_about_half() -> None:
    images = np.random.default_rng(6).integers(0, 256, (400, 4, 5), np.uint8)
    result = augmented(images, Augmentation(flip=True), np.random.default_rng(7))
    mirrored = sum(
        bool(np.array_equal(after, before[:, ::-1]))
        for before, after in zip(images, result, strict=True)
    )
    kept = sum(
        bool(np.array_equal(after, before)) for before, after in zip(images, result, strict=True)
    )
    assert mirrored + kept == 400
    assert 150 < mirrored < 250
