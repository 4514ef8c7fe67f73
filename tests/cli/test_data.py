from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pyconv import data
from pyconv.cli import main


def _write_small(folder: Path) -> tuple[data._File, ...]:
    """Four IDX files of 28×28 images in ten classes, and what was published of them."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    files = []
    for name, shape in (
        ("train-images-idx3-ubyte", (40, 28, 28)),
        ("train-labels-idx1-ubyte", (40,)),
        ("t10k-images-idx3-ubyte", (20, 28, 28)),
        ("t10k-labels-idx1-ubyte", (20,)),
    ):
        values = random.integers(0, 256, shape, np.uint8)
        if len(shape) == 1:
            values = (np.arange(shape[0]) % 10).astype(np.uint8)
        sizes = b"".join(size.to_bytes(4, "big") for size in shape)
        content = bytes([0, 0, 8, len(shape)]) + sizes + values.tobytes()
        (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        files.append(data._File(name, shape, hashlib.sha256(content).hexdigest()))
    return tuple(files)


@pytest.fixture(autouse=True)
def small_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with a small `mnist` in PYCONV_DATA_DIR and no `fashion-mnist`; its folder."""
    folder = tmp_path / "sets" / "mnist"
    files = _write_small(folder)
    published = data._Published(data.DIGITS, ("http://127.0.0.1:9/",), files)
    monkeypatch.setitem(data._PUBLISHED, "mnist", published)
    monkeypatch.setenv(data.FOLDER_VARIABLE, str(tmp_path / "sets"))
    monkeypatch.setattr(data, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(data, "_SYSTEM_FOLDER", tmp_path / "system")
    return folder


def test_list_says_where_each_set_is_or_is_not(
    small_mnist: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "list", "--json"]) == 0
    here, absent = json.loads(capsys.readouterr().out)
    size = sum(path.stat().st_size for path in small_mnist.iterdir())
    assert here == {
        "name": "mnist",
        "found": True,
        "origin": "PYCONV_DATA_DIR",
        "folder": str(small_mnist),
        "size_bytes": size,
    }
    assert (absent["name"], absent["found"], absent["folder"]) == ("fashion-mnist", False, None)


def test_list_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "list"]) == 0
    text = capsys.readouterr().out
    assert "PYCONV_DATA_DIR" in text
    assert "not here" in text


def test_fetch_of_what_is_here_says_so(
    small_mnist: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "fetch", "mnist"]) == 0
    assert f"mnist is already here, checked: {small_mnist}" in capsys.readouterr().out


def test_fetch_of_a_broken_file_names_it(
    small_mnist: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (small_mnist / "t10k-labels-idx1-ubyte.gz").write_bytes(b"")
    assert main(["data", "fetch", "mnist"]) == 1
    assert "t10k-labels-idx1-ubyte.gz: it is " in capsys.readouterr().err


def test_fetch_where_no_mirror_answers_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(data.FOLDER_VARIABLE)
    assert main(["data", "fetch", "mnist"]) == 1
    error = capsys.readouterr().err
    assert "could not be downloaded" in error
    assert "http://127.0.0.1:9/" in error


def test_fetch_downloads_what_is_not_here(
    small_mnist: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fetched = data.Location("fashion-mnist", "cache", tuple(sorted(small_mnist.iterdir())))
    monkeypatch.setattr(data, "fetch", {"fashion-mnist": fetched}.__getitem__)
    assert main(["data", "fetch"]) == 0
    mnist, fashion = capsys.readouterr().out.splitlines()
    assert "already here" in mnist
    assert f"fashion-mnist is in the cache, checked: {small_mnist}" in fashion


def test_show_draws_the_images_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sheet.png"
    options = ["--split", "train", "--label", "7", "--count", "3", "--json", "--out", str(out)]
    assert main(["data", "show", "mnist", *options]) == 0
    drawn = json.loads(capsys.readouterr().out)
    assert drawn["images"] == [{"index": place, "label": "7"} for place in (7, 17, 27)]
    sheet = np.asarray(Image.open(out))
    first = data.load("mnist").train_images[7]
    # 28 pixels drawn as squares of 3, from the sheet's margin on.
    np.testing.assert_array_equal(sheet[21 : 21 + 84 : 3, 21 : 21 + 84 : 3, 0], first)


def test_show_names_its_file_after_the_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", "show", "mnist"]) == 0
    assert "20 test images of mnist: mnist-test.png" in capsys.readouterr().out
    assert (tmp_path / "mnist-test.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["minst"], "there is no data set 'minst'; did you mean 'mnist'?"),
        (["mnist", "--label", "eleven"], "there is no label 'eleven'"),
        (["mnist", "--count", "0"], "count: expected at least 1, got 0"),
        (["mnist", "--seed", "-1"], "seed: expected at least 0, got -1"),
        (["mnist", "--folder", "/nowhere"], "/nowhere: mnist is not there"),
        (["mnist", "--out", "a.jpg"], "--out: expected a file that ends in .png, got 'a.jpg'"),
        (["mnist", "--out", "/nowhere/a.png"], "/nowhere/a.png: cannot be written"),
    ],
)
def test_show_refuses_what_it_cannot_do(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "show", *options]) == 1
    assert message in capsys.readouterr().err


def test_data_without_an_action_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["data"])
    assert stop.value.code == 2
    assert "ACTION" in capsys.readouterr().err
