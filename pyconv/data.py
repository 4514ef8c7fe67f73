"""MNIST and Fashion-MNIST as arrays, from wherever they are on this machine, or else downloaded.

>>> from pyconv import data
>>> fashion = data.load("fashion-mnist")                   # doctest: +SKIP
>>> fashion.train_images.shape, fashion.labels[9]          # doctest: +SKIP
((60000, 28, 28), 'Ankle boot')

The places that are searched, and what is checked, stand in docs/data.md.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from pyconv.errors import DataError, InputError, unknown_name

DIGITS = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
"""The class names of MNIST, in the order of its labels."""

CLOTHING = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
"""The class names of Fashion-MNIST, in the order of its labels."""

FOLDER_VARIABLE = "PYCONV_DATA_DIR"
"""The environment variable that names a folder with data sets."""

Split = Literal["train", "test"]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """A data set of small grey pictures in classes.

    Attributes:
        train_images: (n, height, width) uint8, light on dark.
        train_labels: (n,) uint8, the classes as indices into `labels`.
        test_images: as `train_images`.
        test_labels: as `train_labels`.
        labels: the class names.
    """

    train_images: Pixels
    train_labels: Pixels
    test_images: Pixels
    test_labels: Pixels
    labels: tuple[str, ...]

    def split(self, name: Split) -> tuple[Pixels, Pixels]:
        """The images and labels of `"train"` or `"test"`.

        Raises:
            InputError: another name.
        """
        if name == "train":
            return self.train_images, self.train_labels
        if name == "test":
            return self.test_images, self.test_labels
        raise InputError(unknown_name("split", name, ("train", "test")))

    def first(self, count: int) -> Dataset:
        """The first images of both splits, at most so many of each."""
        return Dataset(
            self.train_images[:count],
            self.train_labels[:count],
            self.test_images[:count],
            self.test_labels[:count],
            self.labels,
        )

    def sample(
        self, name: Split, count: int, *, label: str | None = None, seed: int | None = None
    ) -> NDArray[np.intp]:
        """The places of a few images in a split.

        Args:
            name: `"train"` or `"test"`.
            count: how many at most, at least 1.
            label: of this class only.
            seed: of a random choice, at least 0; without one, the first of the split.

        Returns:
            (count,) indices into the split's images, ascending; fewer where there are no more.

        Raises:
            InputError: no such split or class, a count below 1, or a seed below 0.
        """
        if count < 1:
            raise InputError(f"count: expected at least 1, got {count}")
        if seed is not None and seed < 0:
            raise InputError(f"seed: expected at least 0, got {seed}")
        _, labels = self.split(name)
        places = np.arange(len(labels))
        if label is not None:
            if label not in self.labels:
                raise InputError(unknown_name("label", label, self.labels))
            places = places[labels == self.labels.index(label)]
        if seed is not None:
            places = np.random.default_rng(seed).permutation(places)
        return np.sort(places[:count])


@dataclass(frozen=True, slots=True)
class Location:
    """Where a data set's files are on this machine.

    Attributes:
        name: the data set's.
        origin: why this place was searched: `"folder"` (the one given), `"PYCONV_DATA_DIR"`,
            `"cache"` or `"system"` (Debian's package).
        files: the four IDX files, gzipped or not: training images and labels, test images and
            labels.
    """

    name: str
    origin: str
    files: tuple[Path, ...]

    @property
    def folder(self) -> Path:
        """The folder that holds the files."""
        return self.files[0].parent

    @property
    def size_bytes(self) -> int:
        """What the files take on the disk."""
        return sum(path.stat().st_size for path in self.files)


@dataclass(frozen=True, slots=True)
class _File:
    """One published file.

    Attributes:
        name: without `.gz`.
        shape: of the array in it.
        sha256: of its content unpacked. Gzipped anew, a `.gz` has another hash and the same
            content, so hashes of `.gz` files say too little.
    """

    name: str
    shape: tuple[int, ...]
    sha256: str

    @property
    def size_bytes(self) -> int:
        """What it takes unpacked: an IDX header (`_parse`) and a byte an element."""
        return 4 + 4 * len(self.shape) + math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class _Published:
    """A data set as its authors published it: `mirrors` are URLs of folders with `.gz` files."""

    labels: tuple[str, ...]
    mirrors: tuple[str, ...]
    files: tuple[_File, ...]


def _files(*hashes: str) -> tuple[_File, ...]:
    train_images, train_labels, test_images, test_labels = hashes
    return (
        _File("train-images-idx3-ubyte", (60000, 28, 28), train_images),
        _File("train-labels-idx1-ubyte", (60000,), train_labels),
        _File("t10k-images-idx3-ubyte", (10000, 28, 28), test_images),
        _File("t10k-labels-idx1-ubyte", (10000,), test_labels),
    )


_PUBLISHED = {
    "mnist": _Published(
        labels=DIGITS,
        mirrors=(
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
        ),
        files=_files(
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
    "fashion-mnist": _Published(
        labels=CLOTHING,
        # Plain http is all that the authors' server speaks; the hashes below are the safeguard.
        mirrors=(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        ),
        files=_files(
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    ),
}

_SYSTEM_FOLDER = Path("/usr/share/datasets")


def names() -> list[str]:
    """The data sets that `load` knows."""
    return list(_PUBLISHED)


def labels(name: str) -> tuple[str, ...]:
    """The class names of a data set, in the order of its labels; no file is read.

    Raises:
        InputError: no such data set.
    """
    return _published(name).labels


def image_size(name: str) -> tuple[int, int]:
    """Height and width of a data set's images; no file is read.

    Raises:
        InputError: no such data set.
    """
    _, height, width = _published(name).files[0].shape
    return height, width


def load(name: str, folder: str | Path | None = None) -> Dataset:
    """Load a data set, downloading it into the cache where this machine does not have it.

    Args:
        name: `"mnist"` or `"fashion-mnist"`.
        folder: holds the four IDX files, gzipped or not, or a folder of the data set's name with
            them. Given, nothing else is searched and nothing is downloaded.

    Returns:
        60,000 images of 28×28 to train with and 10,000 to test with.

    Raises:
        InputError: no such data set.
        DataError: a file is missing, truncated, mislabelled or corrupted, or it could not be
            downloaded. The message names the file and what is wrong with it.
    """
    location = locate(name, folder) or fetch(name)
    published = _published(name)
    train_images, train_labels, test_images, test_labels = (
        _read(path, file, location)
        for path, file in zip(location.files, published.files, strict=True)
    )
    return Dataset(train_images, train_labels, test_images, test_labels, published.labels)


def locate(name: str, folder: str | Path | None = None) -> Location | None:
    """Find a data set on this machine; reads no file and downloads nothing.

    Args:
        name: `"mnist"` or `"fashion-mnist"`.
        folder: as for `load`.

    Returns:
        The place that `load` reads, or None where it would download.

    Raises:
        InputError: no such data set.
        DataError: the folder given lacks the data set, the folder in `PYCONV_DATA_DIR` does not
            exist, or one of the two has only some of the files.
    """
    published = _published(name)
    if folder is not None:
        location = _search(name, published, "folder", Path(folder))
        if location is None:
            wanted = ", ".join(file.name for file in published.files)
            raise DataError(
                f"{folder}: {name} is not there; expected the files {wanted}, gzipped or not, in "
                f"that folder or in its subfolder {name}"
            )
        return location
    places = [("cache", cache_folder()), ("system", _SYSTEM_FOLDER)]
    if variable := os.environ.get(FOLDER_VARIABLE):
        if not Path(variable).is_dir():
            raise DataError(
                f"{FOLDER_VARIABLE} is {variable!r}, which is not a folder; set it to one that "
                "holds data sets, or unset it"
            )
        places.insert(0, (FOLDER_VARIABLE, Path(variable)))
    found = (_search(name, published, origin, place) for origin, place in places)
    return next((location for location in found if location), None)


def fetch(name: str) -> Location:
    """Have a data set in the cache: download what is not there, or is not what was published.

    A progress bar is drawn on standard error. The first mirror that delivers the right content is
    used; anything else never reaches the cache.

    Args:
        name: `"mnist"` or `"fashion-mnist"`.

    Raises:
        InputError: no such data set.
        DataError: no mirror delivered a file; the message has each mirror's reason.
    """
    published = _published(name)
    folder = cache_folder() / name
    paths = [_download(file, published.mirrors, folder) for file in published.files]
    return Location(name, "cache", tuple(paths))


def cache_folder() -> Path:
    """The user's cache folder for data sets, such as `~/.cache/pyconv`; it may not exist yet."""
    import pooch

    return Path(pooch.os_cache("pyconv"))


def _published(name: str) -> _Published:
    if name not in _PUBLISHED:
        raise InputError(unknown_name("data set", name, _PUBLISHED))
    return _PUBLISHED[name]


def _search(name: str, published: _Published, origin: str, folder: Path) -> Location | None:
    for place in (folder / name, folder):
        found = {file.name: _find(place, file.name) for file in published.files}
        paths = [path for path in found.values() if path is not None]
        if len(paths) == len(found):
            return Location(name, origin, tuple(paths))
        # In the cache, files are missing where a download was interrupted: it is just resumed.
        if paths and origin != "cache":
            missing = ", ".join(file for file, path in found.items() if path is None)
            raise DataError(
                f"{place}: {name} is incomplete there: {missing} not found, gzipped or not; "
                f"get what is missing from {published.mirrors[0]}"
            )
    return None


def _find(folder: Path, name: str) -> Path | None:
    paths = (folder / name, folder / f"{name}.gz")
    return next((path for path in paths if path.is_file()), None)


def _read(path: Path, file: _File, location: Location) -> Pixels:
    """The array in a file, once everything about the file has proved right."""
    remedy = (
        f"replace it by running: pyconv data fetch {location.name}"
        if location.origin == "cache"
        else f"get it again from {_published(location.name).mirrors[0]}{file.name}.gz"
    )
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            # A byte more than it may have shows that there is more, which may be no end of zeros.
            content = stream.read(file.size_bytes + 1)
        return _parse(content, file)
    except EOFError:
        problem = "it is truncated: the gzip stream has no end"
    except (gzip.BadGzipFile, zlib.error) as error:
        problem = f"it is corrupted: {error}"
    except OSError as error:
        problem = f"it cannot be read: {error.strerror or error}"
    except DataError as error:
        problem = str(error)
    raise DataError(f"{path}: {problem}; {remedy}")


def _parse(content: bytes, file: _File) -> Pixels:
    """The array in an IDX file: big-endian, a magic number 0x000008NN with NN axes of uint8, the
    sizes of the axes in 4 bytes each, the values (http://yann.lecun.com/exdb/mnist/).

    Args:
        content: of the file, cut off one byte behind its right size at the latest.
        file: what it should hold.

    Raises:
        DataError: with what is wrong, but not the file's name.
    """
    rank = len(file.shape)
    start = 4 + 4 * rank
    kinds = {1: "labels", 3: "images"}
    magic = int.from_bytes(content[:4])
    if len(content) < start:
        raise DataError(f"it is truncated: {len(content)} bytes are less than an IDX header")
    if magic >> 8 != 0x08 or magic & 0xFF not in kinds:
        raise DataError(f"it is not an IDX file of uint8: it begins with 0x{magic:08x}")
    if magic & 0xFF != rank:
        raise DataError(
            f"it is mislabelled: expected {kinds[rank]}, got a file of {kinds[magic & 0xFF]}"
        )
    shape = tuple(int.from_bytes(content[i : i + 4]) for i in range(4, start, 4))
    if shape != file.shape:
        raise DataError(
            f"it is mislabelled: expected {_sizes(file.shape)} {kinds[rank]}, got {_sizes(shape)}"
        )
    expected, got = file.size_bytes - start, len(content) - start
    if got != expected:
        state, amount = ("truncated", got) if got < expected else ("corrupted", "more")
        raise DataError(f"it is {state}: expected {expected} bytes after the header, got {amount}")
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != file.sha256:
        for name, published in _PUBLISHED.items():
            for other in published.files:
                if sha256 == other.sha256:
                    raise DataError(f"it is mislabelled: it is {other.name} of {name}")
        raise DataError(
            f"it is corrupted: its content has the SHA-256 {sha256}, expected {file.sha256}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _sizes(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def _download(file: _File, mirrors: tuple[str, ...], folder: Path) -> Path:
    """The path of a file in the cache, unpacked; downloaded where it is missing or wrong."""
    import pooch

    def download_unpacked(url: str, output: str, pool: Any) -> None:
        packed = Path(f"{output}.gz")
        try:
            with _Bar() as bar:
                pooch.HTTPDownloader(progressbar=bar)(url, str(packed), pool)
            with gzip.open(packed) as source, Path(output).open("wb") as target:
                shutil.copyfileobj(source, target)
        finally:
            packed.unlink(missing_ok=True)

    reasons = []
    for mirror in mirrors:
        try:
            # pooch compares the hash with what lies in the cache before it downloads, and with
            # what was unpacked into a temporary file before it moves that into the cache.
            path = pooch.retrieve(
                f"{mirror}{file.name}.gz",
                known_hash=file.sha256,
                fname=file.name,
                path=folder,
                downloader=download_unpacked,
            )
            return Path(path)
        # Requests' and gzip's errors are OSErrors, pooch's for a wrong hash is a ValueError.
        except (OSError, ValueError, EOFError, zlib.error) as error:
            reasons.append(f"\n  {mirror}{file.name}.gz: {error}")
    raise DataError(
        f"{file.name} could not be downloaded into {folder}; get it from somewhere else and set "
        f"{FOLDER_VARIABLE} to its folder. What the mirrors answered:{''.join(reasons)}"
    )


class _Bar:
    """A bar of rich's on standard error, with the methods that pooch calls on tqdm's."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

        columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn())
        console = Console(stderr=True)
        self._progress = Progress(
            *columns, console=console, transient=True, disable=not console.is_terminal
        )
        self._task = self._progress.add_task("", total=None)
        self.total = 0  # pooch sets it once the mirror has told

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, count: int) -> None:
        """More bytes have come."""
        self._progress.update(self._task, advance=count, total=self.total or None)

    def reset(self) -> None:
        """Count from nought again."""
        self._progress.reset(self._task)

    def close(self) -> None:
        """All has come."""
        self._progress.stop()
