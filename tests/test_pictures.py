from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pyconv import bundled, pictures
from pyconv.data import Dataset
from pyconv.errors import InputError, PictureError
from pyconv.metadata import InputContract
from pyconv.model import load

_DIGIT = InputContract("x", 28, 28, picture="mnist")
_CLOTHING = InputContract("x", 28, 28, picture="fashion-mnist")
_PLAIN = InputContract("x", 28, 28, picture="plain")


def _file(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _image(shares: np.ndarray) -> Image.Image:
    return Image.fromarray(np.rint(np.clip(shares, 0, 1) * 255).astype(np.uint8))


def _seven(side: int = 120, pen: float = 0.07) -> np.ndarray:
    """A 7 as the share of ink in each pixel, (side, side): distance to two lines, by definition."""
    y, x = (np.mgrid[:side, :side] + 0.5) / side
    points = [((0.3, 0.25), (0.7, 0.25)), ((0.7, 0.25), (0.42, 0.8))]
    nearest = np.full((side, side), np.inf)
    for (x1, y1), (x2, y2) in points:
        along = ((x - x1) * (x2 - x1) + (y - y1) * (y2 - y1)) / ((x2 - x1) ** 2 + (y2 - y1) ** 2)
        along = np.clip(along, 0, 1)
        distance = np.hypot(x - x1 - along * (x2 - x1), y - y1 - along * (y2 - y1))
        nearest = np.minimum(nearest, distance)
    return np.clip((pen / 2 - nearest) * side + 0.5, 0, 1)


def _on_paper(ink: np.ndarray, paper: object, pen: object) -> Image.Image:
    cover = ink[:, :, np.newaxis]
    return _image(np.asarray(paper) * (1 - cover) + np.asarray(pen) * cover)


def _center(pixels: np.ndarray) -> tuple[float, float]:
    """The centre of mass by its definition."""
    y, x = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
    mass = pixels.astype(float)
    return float((y * mass).sum() / mass.sum()), float((x * mass).sum() / mass.sum())


def _likeness(a: np.ndarray, b: np.ndarray) -> float:
    """The correlation of two pictures, at the best shift of at most a pixel."""
    return max(
        float(np.corrcoef(np.roll(a, (y, x), (0, 1)).ravel(), b.ravel())[0, 1])
        for y in (-1, 0, 1)
        for x in (-1, 0, 1)
    )


def _box(pixels: np.ndarray) -> tuple[int, int]:
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    return int(rows[-1] - rows[0] + 1), int(columns[-1] - columns[0] + 1)


# Reading


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_read_knows_the_format(kind: str, tmp_path: Path) -> None:
    content = _file(Image.new("L", (7, 5), 90), kind)
    path = tmp_path / "picture.dat"
    path.write_bytes(content)
    for source in (content, path, str(path)):
        assert pictures.read(source).size == (7, 5)


def test_read_takes_an_image_of_pillows() -> None:
    assert pictures.read(Image.new("RGB", (7, 5))).size == (7, 5)


def _bits_16() -> Image.Image:
    return Image.fromarray(np.array([[0, 0x8000, 0xFFFF]], np.uint16))


def _palette() -> Image.Image:
    image = Image.new("P", (3, 1))
    image.putpalette([0, 0, 0, 128, 128, 128, 255, 255, 255])
    image.putdata([0, 1, 2])
    return image


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: Image.fromarray(np.array([[0, 128, 255]], np.uint8)), "PNG"),
        (_bits_16, "PNG"),
        (_palette, "PNG"),
        (_palette, "GIF"),
        (lambda: Image.fromarray(np.array([[0, 128, 255]], np.uint8)).convert("RGB"), "BMP"),
        (lambda: Image.fromarray(np.array([[0, 128, 255]], np.uint8)).convert("LA"), "PNG"),
        (lambda: Image.fromarray(np.array([[0, 128, 255]], np.uint8)).convert("RGBA"), "PNG"),
    ],
    ids=["grey", "16 bits", "palette", "gif", "colour", "grey+alpha", "colour+alpha"],
)
def test_read_gives_the_pixels_whatever_the_mode(
    make: Callable[[], Image.Image], kind: str
) -> None:
    image = pictures.read(_file(make(), kind))
    assert image.mode in ("L", "RGB")
    np.testing.assert_array_equal(np.asarray(image.convert("L")), [[0, 128, 255]])


def test_read_of_one_bit_is_black_and_white() -> None:
    image = pictures.read(_file(Image.fromarray(np.array([[True, False]]))))
    np.testing.assert_array_equal(np.asarray(image), [[255, 0]])


def test_read_of_cmyk_is_its_colour() -> None:
    red = Image.new("RGB", (16, 16), (200, 30, 40)).convert("CMYK")
    image = pictures.read(_file(red, "JPEG", quality=95))
    np.testing.assert_allclose(np.asarray(image)[8, 8], (200, 30, 40), atol=4)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_read_turns_as_the_exif_tag_says(orientation: int) -> None:
    upright = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    # How the camera stored it, by the EXIF standard's table of orientations.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    image = Image.fromarray(np.ascontiguousarray(stored))
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(np.asarray(pictures.read(_file(image, exif=exif))), upright)


@pytest.mark.parametrize(("object_", "behind"), [(0, 255), (255, 0), (60, 255), (200, 0)])
def test_read_puts_contrast_behind_a_cut_out_object(object_: int, behind: int) -> None:
    array = np.zeros((9, 9, 4), np.uint8)
    array[3:6, 3:6] = (object_, object_, object_, 255)
    image = np.asarray(pictures.read(Image.fromarray(array)))
    assert (image[0, 0] == behind).all()
    assert (image[4, 4] == object_).all()


def test_read_fills_round_corners_with_the_paper() -> None:
    array = np.full((20, 20, 4), (240, 235, 220, 255), np.uint8)
    array[:3, :3] = array[-3:, -3:] = 0
    array[8:12, 8:12, :3] = 10
    image = np.asarray(pictures.read(Image.fromarray(array)))
    assert (image[0, 0] == (240, 235, 220)).all()


def test_read_of_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match=r"nowhere\.png: cannot be read: No such file"):
        pictures.read(tmp_path / "nowhere.png")
    with pytest.raises(PictureError, match=r"cannot be read: Is a directory"):
        pictures.read(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty: it has no bytes"),
        (b"hello", "is not a picture that can be read; expected one of PNG, JPEG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not a picture"),
        (_file(_image(_seven()))[:-400], "is truncated|is corrupted"),
        (_file(_image(_seven()), "JPEG")[:-400], "is truncated"),
    ],
    ids=["empty", "text", "postscript", "half a PNG", "half a JPEG"],
)
def test_read_of_what_is_no_picture_says_why(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "mine.png"
    path.write_bytes(content)
    with pytest.raises(PictureError, match=message) as caught:
        pictures.read(path)
    assert str(path) in str(caught.value)
    with pytest.raises(PictureError, match=f"the picture: ({message})"):
        pictures.read(content)


def test_read_refuses_too_many_pixels_before_decoding() -> None:
    with pytest.raises(PictureError, match=r"is too large: 40×30 pixels are more than 1,000"):
        pictures.read(_file(Image.new("L", (40, 30))), max_pixels=1000)
    assert pictures.read(_file(Image.new("L", (40, 25))), max_pixels=1000).size == (40, 25)


def test_read_refuses_a_bomb() -> None:
    # 900 megapixels in a few bytes: a PNG's header with nothing behind it.
    header = bytearray(_file(Image.new("L", (1, 1))))
    header[16:24] = (30000).to_bytes(4, "big") * 2
    import zlib

    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    with pytest.raises(PictureError, match="is too large: more pixels than 64,000,000; reduce it"):
        pictures.read(bytes(header))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_read_of_broken_bytes_raises_nothing_else(data: st.DataObject) -> None:
    good = data.draw(st.sampled_from(_GOOD_FILES))
    content = bytearray(good[: data.draw(st.integers(0, len(good)))])
    for _ in range(data.draw(st.integers(0, 4))):
        if content:
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        image = pictures.read(bytes(content), max_pixels=1_000_000)
    except PictureError:
        return
    assert image.mode in ("L", "RGB")


_GOOD_FILES = [
    _file(_image(_seven(24)), kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP")
] + [_file(_palette()), _file(_bits_16()), _file(Image.new("RGBA", (9, 9), (0, 0, 0, 90)))]


# Digits

_REFERENCE = pictures.prepare(_image(1 - _seven()), _DIGIT)[:, :, 0]


def test_digit_is_centred_by_mass_in_its_box() -> None:
    y, x = _center(_REFERENCE)
    assert abs(y - 14) <= 0.5
    assert abs(x - 14) <= 0.5
    assert max(_box(_REFERENCE)) == 20
    assert _REFERENCE.max() == 255
    assert (_REFERENCE == 0).mean() > 0.5


@settings(max_examples=60, deadline=None)
@given(
    side=st.integers(60, 500),
    left=st.integers(0, 200),
    top=st.integers(0, 200),
    pen=st.floats(0.04, 0.12),
    height=st.floats(0.2, 1),
    width=st.floats(0.2, 1),
)
def test_digit_is_centred_wherever_it_is_drawn(
    side: int, left: int, top: int, pen: float, height: float, width: float
) -> None:
    seven = _image(1 - _seven(side, pen))
    seven = seven.resize((max(20, round(side * width)), max(20, round(side * height))))
    sheet = Image.new("L", (seven.width + 200, seven.height + 200), 255)
    sheet.paste(seven, (left, top))
    digit = pictures.prepare(sheet, _DIGIT)[:, :, 0]
    y, x = _center(digit)
    assert abs(y - 14) <= 0.5
    assert abs(x - 14) <= 0.5
    assert max(_box(digit)) in (19, 20)  # a faint outermost row may round to nothing


def _shaded(random: np.random.Generator) -> Image.Image:
    y, x = np.mgrid[:120, :120] / 120
    light = 0.85 - 0.3 * x - 0.15 * y**2 + random.normal(0, 0.02, x.shape)
    return _image(light * (1 - 0.7 * _seven()))


def _dusty(random: np.random.Generator) -> Image.Image:
    paper = 1 - _seven()
    paper[random.random(paper.shape) < 0.002] = 0
    return _image(paper)


def _before_a_table() -> Image.Image:
    paper = 1 - _seven()
    paper[:, :14] = 0.3
    return _image(paper)


def _cut_out(color: int) -> Image.Image:
    array = np.full((120, 120, 4), color, np.uint8)
    array[:, :, 3] = np.rint(_seven() * 255)
    return Image.fromarray(array)


def _turned() -> Image.Image:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = _image(np.rot90(1 - _seven()))
    return Image.open(io.BytesIO(_file(image, "JPEG", exif=exif)))


_SAME_SEVEN: dict[str, Callable[[], Image.Image]] = {
    "black on white": lambda: _image(1 - _seven()),
    "white on black": lambda: _image(_seven()),
    "blue on cream": lambda: _on_paper(_seven(), (0.95, 0.93, 0.85), (0.1, 0.2, 0.6)),
    "yellow on white": lambda: _on_paper(_seven(), (1, 1, 1), (1, 0.9, 0.1)),
    "red on green as bright": lambda: _on_paper(_seven(), (0, 0.39, 0), (0.77, 0, 0)),
    "chalk on a board": lambda: _on_paper(_seven(), (0.15, 0.3, 0.2), (0.9, 0.9, 0.85)),
    "pencil": lambda: _image(0.9 - 0.3 * _seven()),
    "black on nothing": lambda: _cut_out(0),
    "white on nothing": lambda: _cut_out(255),
    "turned by EXIF": _turned,
    "shaded and noisy": lambda: _shaded(np.random.default_rng(1)),
    "dust": lambda: _dusty(np.random.default_rng(2)),
    "table at the edge": _before_a_table,
    "JPEG of quality 15": lambda: Image.open(
        io.BytesIO(_file(_image(1 - _seven()), "JPEG", quality=15))
    ),
    "40 pixels": lambda: _image(1 - _seven(40)),
    "3000 pixels": lambda: _image(1 - _seven(3000)),
}


@pytest.mark.parametrize("way", _SAME_SEVEN)
def test_digit_comes_out_the_same_however_it_is_drawn(way: str) -> None:
    digit = pictures.prepare(_SAME_SEVEN[way](), _DIGIT)[:, :, 0]
    np.testing.assert_allclose(_center(digit), (14, 14), atol=0.5, rtol=0)
    # Drawn with few pixels, it is not quite the same seven.
    assert _likeness(digit, _REFERENCE) > (0.9 if way == "40 pixels" else 0.95)


def test_digit_of_five_pixels_is_enlarged() -> None:
    seven = np.array(["#####", "...##", "...#.", "..##.", "..#.."])
    ink = np.array([[sign == "#" for sign in row] for row in seven.tolist()], float)
    digit = pictures.prepare(_image(np.pad(1 - ink, 1, constant_values=1)), _DIGIT)[:, :, 0]
    assert _likeness(digit, _REFERENCE) > 0.65


@pytest.mark.parametrize("pen", [0.004, 0.01, 0.02, 0.05])
def test_thin_pen_is_as_bright_as_a_thick_one(pen: float) -> None:
    digit = pictures.prepare(_image(1 - _seven(600, pen)), _DIGIT)[:, :, 0]
    assert (digit == 255).sum() >= 0.15 * (digit > 0).sum()


@pytest.mark.parametrize("contract", [_DIGIT, _CLOTHING], ids=["digit", "clothing"])
@pytest.mark.parametrize(
    "blank",
    [
        Image.new("L", (50, 40), 255),
        Image.new("L", (50, 40), 0),
        Image.new("RGB", (50, 40), (90, 120, 30)),
        Image.new("RGBA", (50, 40), (0, 0, 0, 0)),
        Image.new("L", (1, 1), 9),
        _image(0.8 + np.random.default_rng(0).normal(0, 0.02, (200, 200))),
        _image(np.broadcast_to(np.linspace(0.6, 0.9, 100), (100, 100))),
    ],
    ids=["white", "black", "coloured", "transparent", "one pixel", "noise", "shaded"],
)
def test_blank_picture_is_an_error(contract: InputContract, blank: Image.Image) -> None:
    with pytest.raises(PictureError, match="the picture: nothing is drawn there"):
        pictures.prepare(blank, contract)


def test_blank_file_is_named(tmp_path: Path) -> None:
    Image.new("L", (50, 40), 255).save(tmp_path / "blank.png")
    with pytest.raises(PictureError, match=r"blank\.png: nothing is drawn there"):
        pictures.prepare(tmp_path / "blank.png", _DIGIT)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 60), st.booleans())
def test_prepare_of_any_pixels_is_a_picture_or_an_error(
    seed: int, height: int, width: int, smooth: bool
) -> None:
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (height, width, 3), np.uint8)
    image = Image.fromarray(pixels)
    if smooth:
        image = image.resize((width * 5, height * 3))
    for contract in (_DIGIT, _CLOTHING):
        try:
            result = pictures.prepare(image, contract)
        except PictureError:
            continue
        assert result.dtype == np.uint8
        assert result.shape == (28, 28, 1)
        assert result.any()


# Clothing


def _shirt() -> np.ndarray:
    """How far a shirt's pixels are from the background, (90, 120)."""
    shirt = np.zeros((90, 120))
    shirt[10:80, 40:80] = 0.7
    shirt[10:30, 20:100] = 0.5
    shirt[40:50, 50:70] = 0.9
    return shirt


@pytest.mark.parametrize(
    "image",
    [
        _image(1 - _shirt()),
        _image(_shirt()),
        _image(0.85 * (1 - _shirt())),
        _image(np.pad(1 - _shirt(), ((50, 9), (0, 130)), constant_values=1)),
        _image(np.kron(1 - _shirt(), np.ones((9, 9)))),
    ],
    ids=["dark on light", "light on dark", "grey wall", "offset", "large"],
)
def test_clothing_fills_the_picture_light_on_dark(image: Image.Image) -> None:
    result = pictures.prepare(image, _CLOTHING)[:, :, 0]
    height, width = _box(result)
    assert height in (24, 25)  # 28 · 70 / 80
    assert width == 28
    lit = np.flatnonzero(result.any(axis=1))
    assert lit[0] + lit[-1] in (26, 27, 28)  # in the middle
    assert result[0, 0] == 0
    sleeve, body, print_ = result[7, 2], result[20, 10], result[14, 14]
    np.testing.assert_allclose([sleeve, body, print_], np.array([0.5, 0.7, 0.9]) * 255, atol=14)


def test_white_clothing_before_a_grey_wall_is_light() -> None:
    result = pictures.prepare(_image(0.7 + 0.3 * (_shirt() > 0)), _CLOTHING)[:, :, 0]
    assert result[20, 14] > 240


def test_clothing_may_touch_the_edge() -> None:
    trousers = np.zeros((80, 60))
    trousers[:, 15:45] = 0.8
    trousers[30:, 27:33] = 0
    result = pictures.prepare(_image(1 - trousers), _CLOTHING)[:, :, 0]
    assert _box(result)[0] == 28
    assert result[20, 10] > 180
    assert result[20, 2] == 0


# As the data sets are

_SETS = {"mnist": _DIGIT, "fashion_mnist": _CLOTHING}


@pytest.mark.data
@pytest.mark.parametrize("name", _SETS)
def test_image_of_the_data_set_is_left_as_it_is(name: str, request: pytest.FixtureRequest) -> None:
    dataset: Dataset = request.getfixturevalue(name)
    for pixels in dataset.test_images:
        result = pictures.prepare(Image.fromarray(pixels), _SETS[name])
        assert result.tobytes() == pixels.tobytes()


@pytest.mark.data
def test_enlarged_digit_comes_back(mnist: Dataset) -> None:
    likeness = []
    for pixels in mnist.test_images[:200]:
        large = Image.fromarray(255 - pixels).resize((280, 280), Image.Resampling.BICUBIC)
        likeness.append(_likeness(pictures.prepare(large, _DIGIT)[:, :, 0], pixels))
    assert np.mean(likeness) > 0.97
    assert min(likeness) > 0.8


@pytest.mark.data
def test_enlarged_clothing_comes_back(fashion_mnist: Dataset) -> None:
    likeness = []
    for pixels in fashion_mnist.test_images[:200]:
        large = Image.fromarray(255 - pixels).resize((280, 280), Image.Resampling.BICUBIC)
        likeness.append(_likeness(pictures.prepare(large, _CLOTHING)[:, :, 0], pixels))
    assert np.mean(likeness) > 0.93
    assert min(likeness) > 0.75


@pytest.mark.parametrize("path", bundled.samples("fashion"), ids=lambda path: path.stem)
def test_sample_clothing_is_left_as_it_is(path: Path) -> None:
    result = pictures.prepare(path, _CLOTHING)[:, :, 0]
    np.testing.assert_array_equal(result, np.asarray(Image.open(path)))


def test_prepared_digit_is_left_as_it_is() -> None:
    again = pictures.prepare(Image.fromarray(_REFERENCE), _DIGIT)[:, :, 0]
    np.testing.assert_array_equal(again, _REFERENCE)


@pytest.mark.parametrize("move", [(3, 0), (0, -3)])
def test_digit_of_28_pixels_off_centre_is_centred(move: tuple[int, int]) -> None:
    moved = np.roll(_REFERENCE, move, (0, 1))
    again = pictures.prepare(Image.fromarray(moved), _DIGIT)[:, :, 0]
    np.testing.assert_allclose(_center(again), (14, 14), atol=0.5, rtol=0)


# The rest of the contract


def test_plain_picture_is_resized_and_nothing_else() -> None:
    gradient = np.broadcast_to(np.arange(0, 240, 2, dtype=np.uint8), (50, 120))
    result = pictures.prepare(Image.fromarray(gradient), _PLAIN)
    assert result.shape == (28, 28, 1)
    assert (np.diff(result[5, :, 0].astype(int)) > 0).all()  # not inverted, the whole width
    color = dataclasses.replace(_PLAIN, height=8, width=5, channels=3)
    red = pictures.prepare(Image.new("RGB", (40, 40), (200, 10, 20)), color)
    assert red.shape == (8, 5, 3)
    assert (red == (200, 10, 20)).all()
    grey = pictures.prepare(Image.new("L", (40, 40), 77), color)
    assert (grey == 77).all()


def test_plain_picture_of_the_networks_size_is_left_as_it_is() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
    np.testing.assert_array_equal(
        pictures.prepare(Image.fromarray(pixels), _PLAIN)[:, :, 0], pixels
    )


def test_digit_for_a_network_of_another_size() -> None:
    contract = dataclasses.replace(_DIGIT, height=56, width=56, channels=3)
    digit = pictures.prepare(_image(1 - _seven()), contract)
    assert digit.shape == (56, 56, 3)
    assert (digit == digit[:, :, :1]).all()
    assert max(_box(digit[:, :, 0])) == 40
    np.testing.assert_allclose(_center(digit[:, :, 0]), (28, 28), atol=0.5, rtol=0)


def test_other_counts_of_channels_are_refused() -> None:
    with pytest.raises(InputError, match="a picture has 1 or 3 channels, the network takes 4"):
        pictures.prepare(_image(_seven()), dataclasses.replace(_PLAIN, channels=4))


def test_prepare_all_stacks() -> None:
    sources: list[pictures.Picture] = [_file(_image(1 - _seven())), _image(_seven())]
    batch = pictures.prepare_all(sources, _DIGIT)
    assert batch.shape == (2, 28, 28, 1)
    np.testing.assert_array_equal(batch[0, :, :, 0], _REFERENCE)
    assert pictures.prepare_all([], _DIGIT).shape == (0, 28, 28, 1)


@pytest.mark.parametrize("shape", [(28, 28), (28, 28, 1), (9, 5, 3)])
def test_saved_picture_reads_back(tmp_path: Path, shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    pictures.save(pixels, tmp_path / "new" / "input.png")
    read = np.asarray(pictures.read(tmp_path / "new" / "input.png"))
    np.testing.assert_array_equal(read.reshape(shape), pixels)


def test_save_where_nothing_can_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"input\.png: cannot be written: "):
        pictures.save(np.zeros((28, 28), np.uint8), tmp_path / "file" / "input.png")


@pytest.mark.parametrize("name", ["digits", "fashion"])
def test_samples_are_recognised(name: str) -> None:
    model = load(name, engine="onnxruntime")
    contract = model.metadata.input
    assert contract is not None
    paths = bundled.samples(name)
    best = [row[0] for row in model.classify(pictures.prepare_all(paths, contract))]
    named = [label.partition("/")[0].lower().replace(" ", "-") for label in model.labels]
    assert sorted(path.stem for path in paths) == sorted(named)
    assert [named[prediction.index] for prediction in best] == [path.stem for path in paths]
