from __future__ import annotations

import gzip
import hashlib
import http.server
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pyconv import data
from pyconv.errors import DataError, InputError

_NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def _idx(array: np.ndarray) -> bytes:
    """An IDX file as its specification says: magic, sizes, values; big-endian."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def _arrays(seed: int) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    shapes = ((12, 28, 28), (12,), (5, 28, 28), (5,))
    return [random.integers(0, 10, shape, np.uint8) for shape in shapes]


def _publish(monkeypatch: pytest.MonkeyPatch, name: str, seed: int, *mirrors: str) -> None:
    files = tuple(
        data._File(file, array.shape, hashlib.sha256(_idx(array)).hexdigest())
        for file, array in zip(_NAMES, _arrays(seed), strict=True)
    )
    published = data._Published(("even", "odd"), mirrors or ("https://mirror.example/",), files)
    monkeypatch.setitem(data._PUBLISHED, name, published)


def _write(folder: Path, seed: int = 0, *, packed: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in zip(_NAMES, _arrays(seed), strict=True):
        content = _idx(array)
        path = folder / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(content) if packed else content)
    return folder


@pytest.fixture(autouse=True)
def nothing_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without data sets, and two small ones, `tiny` and `other`, that are published."""
    monkeypatch.delenv(data.FOLDER_VARIABLE, raising=False)
    monkeypatch.setattr(data, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(data, "_SYSTEM_FOLDER", tmp_path / "system")
    _publish(monkeypatch, "tiny", seed=0)
    _publish(monkeypatch, "other", seed=1)


class _Mirror:
    """A web server on this machine: `files` by path, `asked` the paths that were asked for."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        mirror = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                mirror.asked.append(self.path)
                content = mirror.files.get(self.path)
                if content is None:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def serve(self, folder: str, seed: int) -> None:
        for name, array in zip(_NAMES, _arrays(seed), strict=True):
            self.files[f"/{folder}/{name}.gz"] = gzip.compress(_idx(array))


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Mirror]:
    """A mirror with the folders /first/ and /second/, where `tiny` is published."""
    server = _Mirror()
    thread = threading.Thread(target=server.server.serve_forever, args=(0.01,))
    thread.start()
    _publish(monkeypatch, "tiny", 0, f"{server.url}/first/", f"{server.url}/second/")
    yield server
    server.server.shutdown()
    thread.join()
    server.server.server_close()


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("subfolder", ["", "tiny"])
def test_load_reads_a_folder(tmp_path: Path, packed: bool, subfolder: str) -> None:
    _write(tmp_path / "here" / subfolder, packed=packed)
    dataset = data.load("tiny", tmp_path / "here")
    parts = (
        dataset.train_images,
        dataset.train_labels,
        dataset.test_images,
        dataset.test_labels,
    )
    for part, array in zip(parts, _arrays(0), strict=True):
        assert part.dtype == np.uint8
        np.testing.assert_array_equal(part, array)
    assert dataset.labels == ("even", "odd")


def test_load_searches_the_places_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, variable = _write(tmp_path / "given"), _write(tmp_path / "variable" / "tiny")
    places = {
        "folder": given,
        data.FOLDER_VARIABLE: variable,
        "cache": _write(tmp_path / "cache" / "tiny", packed=False),
        "system": _write(tmp_path / "system" / "tiny"),
    }
    monkeypatch.setenv(data.FOLDER_VARIABLE, str(tmp_path / "variable"))
    folder: Path | None = given
    for origin, place in places.items():
        location = data.locate("tiny", folder)
        assert location is not None
        assert (location.origin, location.folder) == (origin, place)
        for path in place.iterdir():
            path.unlink()
        folder = None
    assert data.locate("tiny") is None


def test_load_of_an_unknown_name_gives_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"^there is no data set 'cifar' \(known: mnist, fashion"):
        data.load("cifar")
    with pytest.raises(InputError, match=r"no data set 'minst'; did you mean 'mnist'"):
        data.load("minst")


def test_folder_without_the_data_set_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"tiny is not there; expected the files train-images-idx3"):
        data.load("tiny", tmp_path)


def test_folder_with_some_of_the_files_names_the_missing(tmp_path: Path) -> None:
    _write(tmp_path / "here")
    (tmp_path / "here" / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"incomplete there: t10k-labels-idx1-ubyte not found"):
        data.load("tiny", tmp_path / "here")


def test_variable_that_names_no_folder_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(data.FOLDER_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"PYCONV_DATA_DIR is '.*nowhere', which is not a folder"):
        data.load("tiny")


_IMAGES = _idx(_arrays(0)[0])
_BROKEN = {
    "not gzip": (b"<html>404</html>", r"it is corrupted: Not a gzipped file"),
    "half a gzip": (gzip.compress(_IMAGES)[:-20], r"it is truncated: the gzip stream has no end"),
    "flipped bit": (
        gzip.compress(_IMAGES)[:-6] + bytes([255]) + gzip.compress(_IMAGES)[-5:],
        r"it is corrupted: CRC check failed",
    ),
    "empty": (gzip.compress(b""), r"it is truncated: 0 bytes are less than an IDX header"),
    "not IDX": (gzip.compress(b"P5 28 28 255 " * 9), r"not an IDX file of uint8: .* 0x50352032"),
    "int32 values": (
        gzip.compress(b"\0\0\x0c\x03" + _IMAGES[4:]),
        r"not an IDX file of uint8: it begins with 0x00000c03",
    ),
    "labels": (gzip.compress(_idx(_arrays(0)[1])), r"expected images, got a file of labels"),
    "test images": (
        gzip.compress(_idx(_arrays(0)[2])),
        r"mislabelled: expected 12×28×28 images, got 5×28×28",
    ),
    "truncated": (
        gzip.compress(_IMAGES[:-1]),
        r"it is truncated: expected 9408 bytes after the header, got 9407",
    ),
    "too long": (
        gzip.compress(_IMAGES + b"\0"),
        r"it is corrupted: expected 9408 bytes after the header, got more",
    ),
    "another set": (
        gzip.compress(_idx(_arrays(1)[0])),
        r"it is mislabelled: it is train-images-idx3-ubyte of other",
    ),
    "another pixel": (
        gzip.compress(_IMAGES[:-1] + b"\xff"),
        r"it is corrupted: its content has the SHA-256 \w{64}, expected \w{64}",
    ),
}


@pytest.mark.parametrize("kind", _BROKEN)
def test_broken_file_is_named_with_what_is_wrong(tmp_path: Path, kind: str) -> None:
    content, problem = _BROKEN[kind]
    path = _write(tmp_path / "here") / "train-images-idx3-ubyte.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=problem) as caught:
        data.load("tiny", tmp_path / "here")
    assert str(path) in str(caught.value)
    assert "get it again from https://mirror.example/train-images-idx3-ubyte.gz" in str(
        caught.value
    )


@pytest.mark.parametrize("packed", [True, False])
def test_file_that_unpacks_to_far_more_is_read_no_further(tmp_path: Path, packed: bool) -> None:
    folder = _write(tmp_path / "here", packed=packed)
    path = folder / ("train-images-idx3-ubyte" + ".gz" * packed)
    if packed:
        path.write_bytes(gzip.compress(_IMAGES + bytes(1 << 28), 1))
    else:
        with path.open("r+b") as file:
            file.truncate(1 << 28)
    tracemalloc.start()
    with pytest.raises(DataError, match=r"it is corrupted: expected 9408 bytes .* got more"):
        data.load("tiny", folder)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1 << 22


def test_broken_file_in_the_cache_is_mended_by_fetch(tmp_path: Path, mirror: _Mirror) -> None:
    mirror.serve("first", seed=0)
    broken = _write(tmp_path / "cache" / "tiny", packed=False) / _NAMES[2]
    broken.write_bytes(b"")
    with pytest.raises(DataError, match="replace it by running: pyconv data fetch tiny"):
        data.load("tiny")
    data.fetch("tiny")
    np.testing.assert_array_equal(data.load("tiny").test_images, _arrays(0)[2])
    assert mirror.asked == [f"/first/{_NAMES[2]}.gz"]


def test_load_downloads_into_the_cache_once(tmp_path: Path, mirror: _Mirror) -> None:
    mirror.serve("first", seed=0)
    np.testing.assert_array_equal(data.load("tiny").train_images, _arrays(0)[0])
    data.load("tiny")
    assert mirror.asked == [f"/first/{name}.gz" for name in _NAMES]
    cached = sorted(path.name for path in (tmp_path / "cache").rglob("*") if path.is_file())
    assert cached == sorted(_NAMES)


@pytest.mark.parametrize("fault", ["missing", "other content", "not gzip", "half"])
def test_bad_mirror_is_passed_over(tmp_path: Path, mirror: _Mirror, fault: str) -> None:
    mirror.serve("first", seed=1 if fault == "other content" else 0)
    mirror.serve("second", seed=0)
    for path in [path for path in mirror.files if path.startswith("/first/")]:
        if fault == "missing":
            del mirror.files[path]
        elif fault == "not gzip":
            mirror.files[path] = b"<html>moved</html>"
        elif fault == "half":
            mirror.files[path] = mirror.files[path][:-9]
    np.testing.assert_array_equal(data.load("tiny").test_labels, _arrays(0)[3])
    assert len(mirror.asked) == 8


def test_failed_download_tells_each_mirrors_reason_and_leaves_nothing(
    tmp_path: Path, mirror: _Mirror
) -> None:
    mirror.serve("second", seed=1)
    with pytest.raises(DataError, match=r"could not be downloaded") as caught:
        data.load("tiny")
    first, second = str(caught.value).splitlines()[1:]
    assert "/first/" in first
    assert "404" in first
    assert "/second/" in second
    assert "hash" in second
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_interrupted_download_is_resumed(tmp_path: Path, mirror: _Mirror) -> None:
    mirror.serve("first", seed=0)
    folder = _write(tmp_path / "cache" / "tiny", packed=False)
    for name in _NAMES[2:]:
        (folder / name).unlink()
    data.load("tiny")
    assert mirror.asked == [f"/first/{name}.gz" for name in _NAMES[2:]]


def _dataset() -> data.Dataset:
    images = np.zeros((8, 2, 2), np.uint8)
    labels = np.array([0, 1, 1, 0, 1, 0, 1, 1], np.uint8)
    return data.Dataset(images, labels, images[:3], labels[:3], ("even", "odd"))


def test_sample_takes_the_first_of_a_class() -> None:
    assert _dataset().sample("train", 3, label="odd").tolist() == [1, 2, 4]
    assert _dataset().sample("train", 99, label="even").tolist() == [0, 3, 5]


def test_sample_with_a_seed_is_random_and_repeatable() -> None:
    draws = {tuple(_dataset().sample("train", 3, seed=seed).tolist()) for seed in range(20)}
    assert len(draws) > 5
    assert all(sorted(set(draw)) == list(draw) for draw in draws)
    again = _dataset().sample("train", 3, seed=5)
    np.testing.assert_array_equal(again, _dataset().sample("train", 3, seed=5))


def test_sample_refuses_what_does_not_exist() -> None:
    with pytest.raises(InputError, match="no split 'validation'"):
        _dataset().sample("validation", 3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no label 'old'; did you mean 'odd'"):
        _dataset().sample("train", 3, label="old")
    with pytest.raises(InputError, match="count: expected at least 1, got 0"):
        _dataset().sample("train", 0)
    with pytest.raises(InputError, match="seed: expected at least 0, got -3"):
        _dataset().sample("train", 3, seed=-3)


@pytest.mark.data
def test_mnist_is_what_its_authors_say(mnist: data.Dataset) -> None:
    assert mnist.train_images.shape == (60000, 28, 28)
    assert mnist.test_images.shape == (10000, 28, 28)
    assert mnist.train_labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert mnist.test_labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert mnist.labels[7] == "7"


@pytest.mark.data
def test_fashion_mnist_is_what_its_authors_say(fashion_mnist: data.Dataset) -> None:
    assert fashion_mnist.train_images.shape == (60000, 28, 28)
    assert fashion_mnist.test_images.shape == (10000, 28, 28)
    assert np.bincount(fashion_mnist.train_labels).tolist() == [6000] * 10
    assert np.bincount(fashion_mnist.test_labels).tolist() == [1000] * 10
    assert fashion_mnist.labels[fashion_mnist.test_labels[0]] == "Ankle boot"
