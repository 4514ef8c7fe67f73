from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pyconv
from pyconv import data, inspect, pictures
from pyconv.cli import main
from pyconv.data import Dataset

_Output = pytest.CaptureFixture[str]


@pytest.fixture
def dataset(monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """Pictures of the small network's size, which `data.load` gives for any name."""
    random = np.random.default_rng(3)
    images = random.integers(0, 256, (2, 30, 6, 8), np.uint8)
    labels = random.integers(0, 3, (2, 30)).astype(np.uint8)
    made = Dataset(images[0], labels[0], images[1], labels[1], ("left", "right", "flat"))
    monkeypatch.setattr(data, "load", lambda name, folder=None: made)
    return made


@pytest.fixture
def picture(tmp_path: Path, make_png: Callable[..., bytes]) -> str:
    path = tmp_path / "boot.png"
    path.write_bytes(make_png(12, 16))
    return str(path)


def _run(view: str, *flags: str, capsys: _Output) -> object:
    assert main(["inspect", view, *flags, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_inspect_fields_prints_a_row_a_layer(small_classifier: Path, capsys: _Output) -> None:
    rows = _run("fields", str(small_classifier), capsys=capsys)
    assert rows == [
        {"layer": "conv2d", "shape": [4, 6, 4], "sees": [3, 3], "apart": [1, 1]},
        {"layer": "flatten", "shape": [96], "sees": [3, 3], "apart": None},
        {"layer": "dense", "shape": [3], "sees": [6, 8], "apart": None},
    ]
    assert main(["inspect", "fields", str(small_classifier)]) == 0
    assert "4×6×4" in capsys.readouterr().out


@pytest.mark.parametrize("pixels", [(), (-1.0, 1.0)])
def test_inspect_takes_pictures_for_a_file_that_says_nothing(
    small_unexplained: Path,
    picture: str,
    tmp_path: Path,
    capsys: _Output,
    pixels: tuple[float, ...],
) -> None:
    model, npz = pyconv.load(small_unexplained), tmp_path / "view.npz"
    assert model.input_contract is not None
    image = pictures.prepare(picture, model.input_contract)
    low, high = pixels or (0.0, 1.0)
    floats = (low + image[np.newaxis] / 255.0 * (high - low)).astype(np.float32)
    expected = model.activations(floats)["conv"][0].transpose(1, 2, 0)
    flags = ["--pixels", *map(str, pixels)] if pixels else []
    shown = ["inspect", "maps", str(small_unexplained), picture, "--layer", "conv"]
    assert main([*shown, "--npz", str(npz), *flags]) == 0
    np.testing.assert_allclose(np.load(npz)["maps"], expected, rtol=1e-4, atol=1e-5)
    assert ("taken as 0 to 1" in capsys.readouterr().err) == (not pixels)
    folder = tmp_path / "epochs"
    folder.mkdir()
    (folder / "001.onnx").write_bytes(small_unexplained.read_bytes())
    shown = ["inspect", "epochs", str(folder), picture, "--layer", "conv", "--channel", "2"]
    assert main([*shown, "--npz", str(npz), *flags]) == 0
    values = np.load(npz)["values"][0, ..., 0]
    np.testing.assert_allclose(values, expected[..., 2], rtol=1e-4, atol=1e-5)
    capsys.readouterr()


def test_inspect_refuses_pixels_where_the_file_says_them(
    small_classifier: Path, picture: str, capsys: _Output
) -> None:
    file = str(small_classifier)
    assert main(["inspect", "grad-cam", file, picture, "--pixels", "0", "1"]) == 1
    assert "itself says how pixels become its input" in capsys.readouterr().err


def test_inspect_writes_figure_and_numbers(
    small_classifier: Path, picture: str, dataset: Dataset, tmp_path: Path, capsys: _Output
) -> None:
    model = pyconv.load(small_classifier)
    assert model.input_contract is not None
    image = pictures.prepare(picture, model.input_contract)
    file, out, npz = str(small_classifier), tmp_path / "view.png", tmp_path / "view.npz"
    cases = {
        ("maps", file, picture, "--layer", "conv2d"): {
            "maps": model.activations(image[None], ["conv2d"])["conv2d"][0]
        },
        ("filters", file, "--layer", "conv2d"): {"kernel": inspect.filters(model, "conv2d").kernel},
        ("exciting", file, "--layer", "conv2d", "--channel", "2", "--data", "mnist"): {
            "indices": inspect.exciting_images(model, "conv2d", 2, dataset.test_images).indices
        },
        ("occlusion", file, picture, "--class", "flat", "--size", "3", "--stride", "2"): {
            "drops": inspect.occlusion_map(model, image, 2, size=3, stride=2).drops
        },
        ("grad-cam", file, picture, "--class", "1"): {"map": inspect.grad_cam(model, image, 1).map},
        ("map", file, "--data", "mnist", "--limit", "12"): {
            "points": inspect.dataset_map(model, dataset.test_images[:12]).points
        },
        ("epochs", str(small_classifier.parent), picture, "--layer", "conv2d"): {},
    }
    for flags, arrays in cases.items():
        facts = _run(*flags, "--out", str(out), "--npz", str(npz), capsys=capsys)
        assert isinstance(facts, dict)
        assert (facts["figure"], facts["npz"]) == (str(out), str(npz))
        with Image.open(out) as drawn:
            assert drawn.format == "PNG"
        with np.load(npz) as saved:
            for name, array in arrays.items():
                np.testing.assert_allclose(saved[name], array, rtol=1e-5, atol=1e-6)
        out.unlink()
        npz.unlink()


def test_inspect_channels_prints_a_row_a_layer_and_draws_one(
    small_classifier: Path, dataset: Dataset, tmp_path: Path, capsys: _Output
) -> None:
    flags = ["channels", str(small_classifier), "--data", "mnist", "--split", "train"]
    rows = _run(*flags, "--npz", str(tmp_path / "all.npz"), capsys=capsys)
    expected = inspect.channel_statistics(pyconv.load(small_classifier), dataset.train_images)
    assert isinstance(rows, list)
    assert [row["layer"] for row in rows] == [each.layer for each in expected]
    assert rows[0]["zeros"] == pytest.approx(float(expected[0].zeros.mean()))
    out = tmp_path / "one.png"
    assert main(["inspect", *flags, "--layer", "conv2d", "--out", str(out)]) == 0
    assert capsys.readouterr().out.endswith(f"figure: {out}\n")
    assert main(["inspect", *flags, "--out", str(out)]) == 1
    assert "say with --layer which" in capsys.readouterr().err


def test_inspect_takes_images_of_data_sets(
    small_classifier: Path, dataset: Dataset, tmp_path: Path, capsys: _Output
) -> None:
    npz = tmp_path / "view.npz"
    flags = [str(small_classifier), "mnist:7", "--layer", "conv2d", "--npz", str(npz)]
    _run("maps", *flags, capsys=capsys)
    with np.load(npz) as saved:
        np.testing.assert_array_equal(saved["image"][..., 0], dataset.test_images[7])
    flags[1] = "mnist:30"
    assert main(["inspect", "maps", *flags]) == 1
    assert "mnist has the test images 0 to 29" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["maps", "MODEL", "PICTURE", "--layer", "conv3"], "did you mean 'conv2d'"),
        (["maps", "MODEL", "none.png", "--layer", "conv2d"], "none.png: cannot be read"),
        (["grad-cam", "MODEL", "PICTURE", "--class", "flt"], "did you mean 'flat'"),
        (["grad-cam", "MODEL", "PICTURE", "--out", "a.pdf"], "ends in .png, got 'a.pdf'"),
        (["filters", "MODEL", "--layer", "dense"], "layers that have: conv2d"),
        (["epochs", "PICTURE", "PICTURE", "--layer", "conv2d"], "expected a folder of ONNX files"),
    ],
)
def test_inspect_says_what_is_wrong(
    flags: list[str], message: str, small_classifier: Path, picture: str, capsys: _Output
) -> None:
    places = {"MODEL": str(small_classifier), "PICTURE": picture}
    assert main(["inspect", *[places.get(flag, flag) for flag in flags]]) == 1
    assert message in capsys.readouterr().err
