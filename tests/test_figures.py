from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from pyconv import figures
from pyconv.colormap import INFERNO
from pyconv.errors import InputError


def test_inferno_is_that_of_matplotlib() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    expected = matplotlib.colormaps["inferno"](np.arange(256), bytes=True)[:, :3]
    np.testing.assert_array_equal(INFERNO, expected)


def _centers(image: Image.Image, cell: int) -> np.ndarray:
    return np.asarray(image)[cell // 2 :: cell, cell // 2 :: cell]


@pytest.mark.parametrize("cell", [1, 2, 7])
def test_heat_map_draws_each_value_as_a_square(cell: int) -> None:
    values = np.array([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]], np.float32)
    image = figures.heat_map(values, cell=cell)
    assert (image.mode, image.size) == ("RGB", (3 * cell, 2 * cell))
    expected = INFERNO[[[0, 51, 102], [153, 204, 255]]]
    np.testing.assert_array_equal(_centers(image, cell), expected)
    squares = np.asarray(image).reshape(2, cell, 3, cell, 3)
    assert (squares == squares[:, :1, :, :1]).all()


def test_heat_map_follows_the_range_given() -> None:
    values = np.array([[-9.0, 0.0, 0.5, 1.0, 9.0]])
    colors = np.asarray(figures.heat_map(values, cell=1, value_range=(0, 1)))[0]
    np.testing.assert_array_equal(colors, INFERNO[[0, 0, 128, 255, 255]])


@pytest.mark.parametrize("value", [0.0, -3.0, 7.5, 1e308])
def test_heat_map_of_a_constant_is_all_the_first_colour(value: float) -> None:
    colors = np.asarray(figures.heat_map(np.full((3, 4), value), cell=1))
    assert (colors == INFERNO[0]).all()


def test_heat_map_marks_what_is_no_number() -> None:
    values = np.array([[np.nan, -np.inf, 0.0, 1.0, np.inf]])
    colors = np.asarray(figures.heat_map(values, cell=1))[0]
    assert not (colors[0] == INFERNO).all(axis=1).any()
    np.testing.assert_array_equal(colors[1:], INFERNO[[0, 0, 255, 255]])
    assert figures.heat_map(np.full((2, 2), np.nan)).size == (16, 16)


@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.float64, np.int8, np.uint8]),
        hnp.array_shapes(min_dims=1, max_dims=2, max_side=40),
    )
)
def test_heat_map_draws_any_array(values: np.ndarray) -> None:
    colors = np.asarray(figures.heat_map(values, cell=1)).reshape(-1, 3)
    assert len(colors) >= values.size
    finite = values[np.isfinite(values)]
    if finite.size and finite.min() < finite.max():
        assert (colors == INFERNO[0]).all(axis=1).any()
        assert (colors == INFERNO[255]).all(axis=1).any()


@pytest.mark.parametrize(
    ("units", "size"),
    [(1, (1, 1)), (10, (5, 2)), (64, (8, 8)), (128, (16, 8)), (7, (7, 1)), (101, (11, 10))],
)
def test_heat_map_lays_units_out_in_rows(units: int, size: tuple[int, int]) -> None:
    image = figures.heat_map(np.arange(units), cell=1)
    assert image.size == size
    colors = np.asarray(image).reshape(-1, 3)[:units]
    expected = np.rint(np.arange(units) / max(units - 1, 1) * 255).astype(int)
    np.testing.assert_array_equal(colors, INFERNO[expected])


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (2, 2, 2)])
def test_heat_map_refuses_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"expected shape \(height, width\) or \(units,\), got"):
        figures.heat_map(np.zeros(shape))


def test_heat_map_refuses_wrong_options() -> None:
    with pytest.raises(InputError, match="cell: expected at least 1, got 0"):
        figures.heat_map(np.zeros((2, 2)), cell=0)
    for wrong in ((1.0, 0.0), (0.0, np.inf), (np.nan, 1.0)):
        with pytest.raises(InputError, match="value_range: expected"):
            figures.heat_map(np.zeros((2, 2)), value_range=wrong)


def _noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3)])
def test_enlarged_keeps_every_pixel(shape: tuple[int, ...]) -> None:
    pixels = _noise(*shape)
    image = figures.enlarged(pixels, cell=4)
    assert image.size == (28, 20)
    np.testing.assert_array_equal(_centers(image, 4).reshape(shape), pixels)


@pytest.mark.parametrize(
    "pixels", [np.zeros((5, 5)), np.zeros((5, 5, 2), np.uint8), np.zeros((0, 5), np.uint8)]
)
def test_enlarged_refuses_what_is_no_picture(pixels: np.ndarray) -> None:
    with pytest.raises(InputError, match="pixels: expected uint8 of shape"):
        figures.enlarged(pixels)


def _find(sheet: Image.Image, part: np.ndarray) -> list[tuple[int, int]]:
    """Every (left, top) at which an RGB array stands in a sheet, pixel by pixel."""
    array = np.asarray(sheet)
    windows = np.lib.stride_tricks.sliding_window_view(array, part.shape)[:, :, 0]
    tops, lefts = (windows == part).all(axis=(2, 3, 4)).nonzero()
    return list(zip(lefts.tolist(), tops.tolist(), strict=True))


def _cell(pixels: np.ndarray, times: int) -> np.ndarray:
    return np.asarray(figures.enlarged(pixels, cell=times).convert("RGB"))


def test_contact_sheet_holds_every_image_in_reading_order() -> None:
    images = [np.random.default_rng(seed).integers(0, 256, (4, 4), np.uint8) for seed in range(5)]
    sheet = figures.contact_sheet(images, list("abcde"), columns=3, cell=12)
    places = [_find(sheet, _cell(image, 3)) for image in images]
    assert all(len(place) == 1 for place in places)
    assert places == sorted(places, key=lambda place: (place[0][1], place[0][0]))
    assert len({left for ((left, _),) in places}) == 3
    assert len({top for ((_, top),) in places}) == 2


def test_contact_sheet_writes_the_captions() -> None:
    image = np.zeros((4, 4), np.uint8)
    bare = np.asarray(figures.contact_sheet([image], [""], cell=80))
    captioned = np.asarray(figures.contact_sheet([image], ["boot"], cell=80))
    rows, columns = (bare != captioned).any(axis=2).nonzero()
    assert rows.min() >= 20 + 80  # below the picture
    assert 20 <= columns.min() <= columns.max() < 20 + 80


def test_contact_sheet_cuts_a_long_caption_at_its_cell() -> None:
    images = [np.zeros((4, 4), np.uint8)] * 2
    short = np.asarray(figures.contact_sheet(images, ["", ""], cell=80))
    long = np.asarray(figures.contact_sheet(images, ["m" * 200, ""], cell=80))
    assert (short != long).any(axis=2).nonzero()[1].max() < 20 + 80


def test_captions_show_signs_that_the_font_lacks_as_others() -> None:
    def sheet(caption: str) -> bytes:
        return figures.contact_sheet([np.zeros((4, 4), np.uint8)], [caption]).tobytes()

    assert sheet("26×26") == sheet("26x26")
    assert sheet("Café") == sheet("Cafe")
    assert sheet("靴") == sheet("?")
    assert sheet("x") != sheet("?")


def test_contact_sheet_refuses_lists_that_do_not_match() -> None:
    with pytest.raises(InputError, match="images: expected at least one"):
        figures.contact_sheet([], [])
    with pytest.raises(
        InputError, match=r"captions: expected 1, one for each of the images; got 2"
    ):
        figures.contact_sheet([np.zeros((4, 4), np.uint8)], ["a", "b"])


def test_activation_grid_has_a_row_a_picture_and_a_column_a_layer() -> None:
    random = np.random.default_rng(3)
    pictures = [random.integers(0, 256, (6, 6), np.uint8) for _ in range(2)]
    maps = [random.normal(size=(4, 4)) for _ in range(2)]
    units = [random.normal(size=9) for _ in range(2)]
    columns = [("conv\n4×4", maps), ("dense", units)]
    grid = figures.activation_grid(pictures, ["boot\n0.99", "bag"], columns, cell=12)
    expected = [
        [
            _cell(pictures[row], 2),
            np.asarray(figures.heat_map(maps[row], cell=3)),
            np.asarray(figures.heat_map(units[row], cell=4)),
        ]
        for row in range(2)
    ]
    places = [[_find(grid, part) for part in row] for row in expected]
    assert all(len(place) == 1 for row in places for place in row)
    for row in places:
        lefts, tops = zip(*(place[0] for place in row), strict=True)
        assert len(set(tops)) == 1
        assert list(lefts) == sorted(set(lefts))
    for column in zip(*places, strict=True):
        assert len({left for ((left, _),) in column}) == 1


@pytest.mark.parametrize(
    "shape", [(26, 26), (5, 13), (13, 5), (1, 1), (128,), (10,), (300, 300), (90, 1)]
)
def test_activation_grid_fits_any_map_into_its_cell(shape: tuple[int, ...]) -> None:
    picture = np.full((30, 30, 3), 7, np.uint8)
    maps = [np.arange(np.prod(shape)).reshape(shape) + 1.0] * 2
    empty = [np.zeros((1, 1))] * 2
    grids = [
        figures.activation_grid([picture] * 2, ["a", "b"], [("x", column)], cell=60)
        for column in (maps, empty)
    ]
    assert grids[0].size == grids[1].size
    ((left, top), (_, below)) = _find(grids[0], _cell(picture, 2))
    rows, columns = (np.asarray(grids[0]) != np.asarray(grids[1])).any(axis=2).nonzero()
    margin = 1  # the hairline around a map
    assert columns.min(initial=9999) >= left + 60 + margin
    assert columns.max(initial=0) <= left + 60 + (below - top) + margin
    assert not ((rows > top + 60 + margin) & (rows < below - margin)).any()


def test_activation_grid_refuses_lists_that_do_not_match() -> None:
    picture, column = np.zeros((4, 4), np.uint8), ("conv2d", [np.zeros((2, 2))])
    with pytest.raises(InputError, match=r"maps of column 'conv2d': expected 2, .* got 1"):
        figures.activation_grid([picture] * 2, ["a", "b"], [column])
    with pytest.raises(InputError, match=r"captions: expected 1"):
        figures.activation_grid([picture], [], [column])
    with pytest.raises(InputError, match="pictures: expected at least one"):
        figures.activation_grid([], [], [])


def test_png_bytes_are_the_image() -> None:
    image = figures.heat_map(np.arange(12).reshape(3, 4))
    read = Image.open(io.BytesIO(figures.png_bytes(image)))
    assert read.format == "PNG"
    np.testing.assert_array_equal(np.asarray(read), np.asarray(image))
