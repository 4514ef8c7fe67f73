from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pyconv
from pyconv import pictures
from pyconv.cli import main

_Output = pytest.CaptureFixture[str]


@pytest.fixture
def paths(tmp_path: Path, make_png: Callable[..., bytes]) -> list[str]:
    """Two pictures."""
    made = [tmp_path / "boot.png", tmp_path / "shirt.png"]
    for seed, path in enumerate(made):
        path.write_bytes(make_png(30, 40, seed))
    return [str(path) for path in made]


@pytest.fixture
def flags(small_classifier: Path) -> list[str]:
    return ["--model", str(small_classifier), "--engine", "onnxruntime"]


def test_activations_saves_the_numbers(
    paths: list[str], flags: list[str], small_classifier: Path, tmp_path: Path, capsys: _Output
) -> None:
    npz = tmp_path / "values.npz"
    chosen = ["--layer", "conv2d", "dense", "--channel", "2", "0", "--npz", str(npz)]
    assert main(["activations", *paths, *flags, *chosen]) == 0
    assert capsys.readouterr().out == f"numbers: {npz}\n"
    model = pyconv.load(small_classifier, engine="onnxruntime")
    assert model.input_contract is not None
    expected = model.activations(pictures.prepare_all(paths, model.input_contract))
    with np.load(npz) as saved:
        assert sorted(saved) == ["conv2d", "dense"]
        np.testing.assert_array_equal(saved["conv2d"], expected["conv2d"][..., [2, 0]])
        np.testing.assert_array_equal(saved["dense"], expected["dense"][:, [2, 0]])


def test_activations_of_a_whole_layer_are_what_replaces_it(
    paths: list[str], flags: list[str], tmp_path: Path, capsys: _Output
) -> None:
    npz, after = tmp_path / "values.npz", tmp_path / "after.npz"
    whole = ["--layer", "conv2d", "dense", "--channel", "all", "--npz", str(npz)]
    assert main(["activations", *paths, *flags, *whole]) == 0
    with np.load(npz) as saved:
        maps, dense = saved["conv2d"], saved["dense"]
    assert maps.shape == (2, 4, 6, 4)
    maps[..., [0, 2]] = 0
    np.savez(npz, conv2d=maps)
    edits = [["--replace", f"conv2d={npz}"], ["--silence", "conv2d:0,2"]]
    found = []
    for edit in edits:
        asked = ["--layer", "dense", "--channel", "all", "--npz", str(after), *edit]
        assert main(["activations", *paths, *flags, *asked]) == 0
        with np.load(after) as saved:
            found.append(saved["dense"])
    np.testing.assert_array_equal(*found)
    assert (found[0] != dense).all()


def test_activations_of_more_pictures_do_not_replace_those_of_one(
    paths: list[str], flags: list[str], tmp_path: Path, capsys: _Output
) -> None:
    npz = tmp_path / "both.npz"
    whole = ["--layer", "conv2d", "--channel", "all", "--npz", str(npz)]
    assert main(["activations", *paths, *flags, *whole]) == 0
    out = str(tmp_path / "one.png")
    asked = ["activations", paths[0], *flags, "--replace", f"conv2d={npz}", "--out", out]
    assert main(asked) == 1
    expected = "expected float32 of shape (1, 4, 6, 4) for 1 image, got float32 of shape (2, 4, 6"
    assert expected in capsys.readouterr().err


def test_activations_draws_a_row_a_picture_and_a_column_a_map(
    paths: list[str], flags: list[str], tmp_path: Path, capsys: _Output
) -> None:
    sizes = {}
    for rows, columns in ((1, 1), (1, 3), (2, 1)):
        out = tmp_path / f"{rows}-{columns}.png"
        channels = [str(channel) for channel in range(columns)]
        chosen = ["--layer", "conv2d", "--channel", *channels, "--out", str(out)]
        assert main(["activations", *paths[:rows], *flags, *chosen]) == 0
        assert capsys.readouterr().out == f"figure: {out}\n"
        with Image.open(out) as image:
            assert image.format == "PNG"
            sizes[rows, columns] = image.size
    assert sizes[1, 3][0] >= sizes[1, 1][0] + 2 * 100
    assert sizes[1, 3][1] == sizes[1, 1][1]
    assert sizes[2, 1][1] >= sizes[1, 1][1] + 100


def test_activations_chooses_the_layers_with_maps_and_the_lessons_channel(
    paths: list[str], flags: list[str], tmp_path: Path, capsys: _Output
) -> None:
    out = tmp_path / "grid.png"
    assert main(["activations", *paths, *flags, "--out", str(out), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    # Channel 32 is asked for; the network has four, so it is the last.
    (layer,) = facts["layers"]
    assert (layer["name"], layer["channels"], layer["shape"]) == ("conv2d", [3], [2, 4, 6, 1])
    assert 0 <= layer["low"] < layer["high"]
    assert [picture["picture"] for picture in facts["pictures"]] == paths
    assert all(picture["label"] in ("left", "right", "flat") for picture in facts["pictures"])
    assert (facts["figure"], facts["npz"]) == (str(out), None)
    assert out.is_file()


def test_activations_of_a_network_that_is_no_classifier(
    paths: list[str], small_maps: Path, tmp_path: Path, capsys: _Output
) -> None:
    flags = ["--model", str(small_maps), "--engine", "onnxruntime"]
    out = tmp_path / "grid.png"
    assert main(["activations", *paths, *flags, "--out", str(out), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [picture["label"] for picture in facts["pictures"]] == [None, None]
    assert out.is_file()


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (["--layer", "conv"], "there is no layer 'conv'; did you mean 'conv2d'"),
        (["--layer", "conv2d", "--channel", "4"], "'conv2d' has 4 channels, 0 to 3; got 4"),
        (
            ["--layer", "conv2d", "--channel", "-1"],
            "expected numbers from 0, or all, got '-1'",
        ),
        (["--out", "grid.jpg"], "--out: expected a file that ends in .png"),
        (["--npz", "values.npy"], "--npz: expected a file that ends in .npz"),
        (["--out", "no/such/folder/grid.png"], "the result cannot be written"),
    ],
)
def test_activations_of_what_is_not_there(
    paths: list[str], flags: list[str], chosen: list[str], message: str, capsys: _Output
) -> None:
    assert main(["activations", *paths, *flags, *chosen]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert message in output.err


def test_activations_writes_nothing_where_a_picture_cannot_be_read(
    paths: list[str], flags: list[str], tmp_path: Path, capsys: _Output
) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no picture")
    out = tmp_path / "grid.png"
    assert main(["activations", *paths, str(text), *flags, "--out", str(out)]) == 1
    assert f"{text}: is not a picture" in capsys.readouterr().err
    assert not out.exists()
