"""Pictures by the million: classified on the nodes of a Ray cluster, the results as Parquet files.

The work is cut into parts: so many files of a folder, or a row group of a Parquet file. A part's
results are one file, whose name follows from what is in the part, and which is there as a whole or
not at all. So a part that is done twice, because a node died amid it, makes the same file twice;
and a second run does what has no file yet.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pyconv import bundled, pictures
from pyconv.cluster import join
from pyconv.engines.base import Array, EngineName
from pyconv.errors import InputError, MissingExtraError, PictureError, PyconvError, unknown_name
from pyconv.model import Model, Prediction, load

try:
    import pyarrow as pa
    import ray
    from pyarrow import dataset, fs, parquet
except ImportError:
    raise MissingExtraError("ray", "ray", "classifying on a Ray cluster") from None

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"}
"""Of the files in a folder that are taken for pictures."""

_FACTS = b"pyconv"
"""The key in a result file's metadata under which stands what made it."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is wanted.

    Attributes:
        source: a folder of picture files, a Parquet file, or a folder of those; a path that every
            node sees, or a URI that pyarrow knows.
        out: the folder for the results, likewise.
        model: a bundled model's name, or an ONNX file, which only this machine need have.
        engine: what runs it.
        top: how many classes to name for each picture.
        layers: whose activations to write.
        column: the column of the Parquet files that holds the picture files' bytes.
        part: how many files of a folder make a part.
        batch: how many pictures run together.
    """

    source: str
    out: str
    model: str = "fashion"
    engine: EngineName = "native"
    top: int = 1
    layers: Sequence[str] = ()
    column: str = "image"
    part: int = 1024
    batch: int = 64


@dataclass(slots=True)
class Tally:
    """What has been done.

    Attributes:
        parts: parts that are to be done in this run.
        done: parts that have been.
        before: pictures whose results were there already.
        pictures: pictures that this run has classified.
        failed: those among them that are none; their rows say why.
        first: the first reason.
    """

    parts: int = 0
    done: int = 0
    before: int = 0
    pictures: int = 0
    failed: int = 0
    first: str = ""


@dataclass(frozen=True, slots=True)
class _Part:
    """A piece of work: files of the source folder, or a row group of one of its Parquet files."""

    files: Sequence[str]
    row_group: int | None = None

    @property
    def name(self) -> str:
        told = json.dumps([self.files, self.row_group]).encode()
        return hashlib.sha256(told).hexdigest()[:24] + ".parquet"


def classify(job: Job, *, address: str | None, progress: Callable[[Tally], None]) -> Tally:
    """Classify every picture that has no result yet.

    Args:
        job: what is wanted.
        address: the Ray cluster; that of `RAY_ADDRESS` or of this machine if None, or else a new
            one on this machine.
        progress: called as parts are done.

    Raises:
        InputError: source, folder, layer or column are not what they must be, or the folder holds
            results of something else.
        ModelError: the model cannot be loaded, or is no classifier.
        ServerError: no cluster answers.
        PyconvError: a part cannot be read or written.
    """
    path = bundled.resolve(job.model)
    model = load(path, engine=job.engine)
    if model.input_contract is None:
        raise InputError(f"{job.model}: this network does not take pictures")
    for name in job.layers:
        if name not in model.layers:
            raise InputError(unknown_name("layer", name, model.layers))
    model.classify(_nothing(model, 1), job.top)
    contents = path.read_bytes()
    facts = json.dumps(
        {
            "model": hashlib.sha256(contents).hexdigest(),
            "engine": job.engine,
            "top": job.top,
            "layers": list(job.layers),
            # Rows are known by names below the source, which elsewhere stand for other pictures.
            "source": _folder_of(job.source)[1],
            "column": job.column,
        }
    )
    tally = Tally()
    parts = list(_missing(job, facts, tally))
    tally.parts = len(parts)
    progress(tally)
    if not parts:
        return tally
    join(address)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    items = [{"files": list(part.files), "row_group": part.row_group} for part in parts]
    done = ray.data.from_items(items, override_num_blocks=min(len(items), 10_000)).map_batches(
        _Worker,
        fn_constructor_args=(job, ray.put(contents), facts),
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=1,
        compute=ray.data.ActorPoolStrategy(min_size=1),
    )
    try:
        for row in done.iter_rows():
            tally.done += row["parts"]
            tally.pictures += row["pictures"]
            tally.failed += row["failed"]
            tally.first = tally.first or row["first"]
            if row["broken"]:
                raise PyconvError(f"a part failed: {row['broken']}")
            progress(tally)
    except ray.exceptions.RayError as error:
        raise PyconvError(f"a part failed: {_cause(error)}") from error
    return tally


def _cause(error: BaseException) -> str:
    """The last line of what a worker said, without the traceback before it."""
    lines = [line for line in str(getattr(error, "cause", None) or error).splitlines() if line]
    return lines[-1] if lines else type(error).__name__


# -- What there is to do ---------------------------------------------------------------------------


def _open(path: str) -> tuple[fs.FileSystem, str]:
    """A path's file system, and the path there."""
    if "://" not in path:
        path = str(Path(path).absolute())
    with _naming(path):
        found: tuple[fs.FileSystem, str] = fs.FileSystem.from_uri(path)
    return found


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Say which file or folder it was that could not be used."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be used: {why}") from error


def _folder_of(source: str) -> tuple[fs.FileSystem, str]:
    """The folder in which the files are: the source, or what the source is in."""
    where, path = _open(source)
    about = where.get_file_info(path)
    if about.type == fs.FileType.NotFound:
        raise InputError(f"{source}: there is no such file or folder")
    return where, path.rstrip("/") if not about.is_file else path.rpartition("/")[0]


def _missing(job: Job, facts: str, tally: Tally) -> Iterator[_Part]:
    """The parts that have no file in the folder of results."""
    where, root = _folder_of(job.source)
    path = _open(job.source)[1].rstrip("/")
    if path == root:
        with _naming(job.source):
            found = where.get_file_info(fs.FileSelector(root, recursive=True))
        names = sorted(info.path[len(root) :].lstrip("/") for info in found if info.is_file)
    else:
        names = [path[len(root) :].lstrip("/")]
    tables = [name for name in names if _is_table(name)]
    files = [name for name in names if Path(name).suffix.lower() in SUFFIXES]
    if not tables and (not files or path != root):
        raise InputError(
            f"{job.source}: expected a folder with picture files ({' '.join(sorted(SUFFIXES))}), a "
            "Parquet file, or a folder with some"
        )
    results, folder = _open(job.out)
    with _naming(job.out):
        results.create_dir(folder, recursive=True)
        listed = results.get_file_info(fs.FileSelector(folder))
    present = {Path(info.path).name: info.path for info in listed if _is_table(info.path)}
    if present:
        any_of_them = next(iter(present.values()))
        with _naming(any_of_them):
            schema = parquet.read_schema(any_of_them, filesystem=results)
        told = (schema.metadata or {}).get(_FACTS)
        if told != facts.encode():
            raise InputError(
                f"{job.out}: holds results of another source, model, engine, --top, --layer or "
                "--column; choose another folder"
            )
    if not tables:
        seen: set[str] = set()
        if present:
            with _naming(job.out):
                known = dataset.dataset(
                    list(present.values()), filesystem=results, format="parquet"
                )
                for each in known.to_batches(columns=["file"]):
                    seen.update(each.column("file").to_pylist())
        tally.before = sum(name in seen for name in files)
        new = [name for name in files if name not in seen]
        for start in range(0, len(new), job.part):
            yield _Part(new[start : start + job.part])
        return
    for name in tables:
        with _naming(name):
            opened = parquet.ParquetFile(f"{root}/{name}", filesystem=where)
        if job.column not in opened.schema_arrow.names:
            raise InputError(
                f"{name}: {unknown_name('column', job.column, opened.schema_arrow.names)}; see "
                "--column"
            )
        kind = opened.schema_arrow.field(job.column).type
        if not _holds_bytes(kind):
            raise InputError(
                f"{name}: expected picture files' bytes in column {job.column!r} (binary, or a "
                f"struct with binary bytes), got {kind}; see --column"
            )
        for group in range(opened.num_row_groups):
            part = _Part([name], group)
            if part.name in present:
                tally.before += opened.metadata.row_group(group).num_rows
            else:
                yield part


def _holds_bytes(kind: pa.DataType) -> bool:
    """Whether a column may hold picture files."""
    if pa.types.is_struct(kind):
        place = kind.get_field_index("bytes")
        return place >= 0 and _holds_bytes(kind.field(place).type)
    return bool(
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_null(kind)
    )


def _is_table(name: str) -> bool:
    return name.lower().endswith(".parquet")


# -- What a worker does ----------------------------------------------------------------------------


class _Worker:
    """Lives in an actor of its own, which holds the model."""

    def __init__(self, job: Job, contents: Any, facts: str) -> None:
        self._job = job
        # As long as the actor: an engine may compile again from the file.
        self._files = tempfile.TemporaryDirectory()
        path = Path(self._files.name) / "model.onnx"
        path.write_bytes(ray.get(contents))
        self._model = load(path, engine=job.engine)
        self._layers = [self._model.layer(name) for name in job.layers]
        self._source, self._root = _folder_of(job.source)
        self._results, self._folder = _open(job.out)
        _, none = self._compute(_nothing(self._model, 1))
        self._shapes = {name: array.shape[1:] for name, array in none.items()}
        self._schema = self._make_schema(facts)

    def __call__(self, units: pa.Table) -> pa.Table:
        parts = [_Part(unit["files"], unit["row_group"]) for unit in units.to_pylist()]
        return pa.Table.from_pylist([self._do(part) for part in parts])

    def _do(self, part: _Part) -> dict[str, Any]:
        """Make a part's file, or say why it cannot be."""
        said: dict[str, Any] = {"parts": 1, "pictures": 0, "failed": 0, "first": "", "broken": ""}
        path = f"{self._folder}/{part.name}"
        half = f"{self._folder}/.{part.name}.{uuid.uuid4().hex}"
        try:
            with parquet.ParquetWriter(half, self._schema, filesystem=self._results) as writer:
                for keys, data in self._read(part):
                    results, errors = self._classify([key[0] for key in keys], data)
                    writer.write_table(self._table(keys, results, errors))
                    said["pictures"] += len(keys)
                    said["failed"] += sum(error is not None for error in errors)
                    said["first"] = said["first"] or next(filter(None, errors), "")
            self._results.move(half, path)
        except BaseException as error:
            with suppress(OSError):
                self._results.delete_file(half)
            if not isinstance(error, OSError | pa.ArrowException):
                raise
            # Raised, it would come through with a traceback, and after some more tries.
            said["broken"] = f"{path} from {part.files[0]} and on: {error}"
        return said

    def _read(self, part: _Part) -> Iterator[tuple[list[tuple[str, int]], list[Any]]]:
        """A part's pictures in batches: the file and row of each, and its bytes or an error."""
        if part.row_group is None:
            for start in range(0, len(part.files), self._job.batch):
                names = part.files[start : start + self._job.batch]
                yield [(name, 0) for name in names], [self._bytes(name) for name in names]
            return
        (name,) = part.files
        opened = parquet.ParquetFile(f"{self._root}/{name}", filesystem=self._source)
        column = self._job.column
        row = sum(opened.metadata.row_group(group).num_rows for group in range(part.row_group))
        for some in opened.iter_batches(self._job.batch, [part.row_group], [column]):
            values = some.column(0).to_pylist()
            # As the datasets library writes pictures: {"bytes": …, "path": …}.
            values = [each.get("bytes") if isinstance(each, dict) else each for each in values]
            yield [(name, row + place) for place in range(len(values))], values
            row += len(values)

    def _bytes(self, name: str) -> bytes | PictureError:
        try:
            with self._source.open_input_file(f"{self._root}/{name}") as file:
                data: bytes = file.read()
        except OSError as error:
            return PictureError(f"{name}: cannot be read: {error}")
        return data

    def _classify(
        self, names: Sequence[str], data: Sequence[Any]
    ) -> tuple[dict[int, tuple[list[Prediction], dict[str, Array]]], list[str | None]]:
        """What each picture shows, by place; and for each why not, or None."""
        contract = self._model.input_contract
        assert contract is not None  # or there would be no job
        good: list[int] = []
        arrays = []
        errors: list[str | None] = [None] * len(data)
        for place, (name, each) in enumerate(zip(names, data, strict=True)):
            try:
                if isinstance(each, PictureError):
                    raise each
                if not isinstance(each, bytes):
                    kind = type(each).__name__
                    raise PictureError(f"the picture: expected a file's bytes, got {kind}")
                arrays.append(pictures.prepare(each, contract))
                good.append(place)
            except PictureError as error:
                errors[place] = str(error).replace("the picture", name, 1)
        if not good:
            return {}, errors
        scores, activations = self._compute(np.stack(arrays))
        predictions = self._model.likeliest(scores, self._job.top)
        return {
            place: (predictions[row], {name: array[row] for name, array in activations.items()})
            for row, place in enumerate(good)
        }, errors

    def _compute(self, images: Array) -> tuple[Array, dict[str, Array]]:
        model = self._model
        tensors = dict.fromkeys([model.main_output, *(layer.tensor for layer in self._layers)])
        found = model.run(model.preprocess(images), list(tensors))
        activations = {
            layer.name: model.keras_layout(layer, found[layer.tensor]) for layer in self._layers
        }
        return model.scores(found[model.main_output]), activations

    # -- Rows --------------------------------------------------------------------------------------

    def _make_schema(self, facts: str) -> pa.Schema:
        fields = [("file", pa.string()), ("row", pa.int64())]
        fields += [("label", pa.string()), ("index", pa.int32()), ("probability", pa.float32())]
        if self._job.top > 1:
            fields.append(("top", pa.list_(_PREDICTION)))
        fields += [
            (name, pa.fixed_shape_tensor(pa.float32(), shape))
            for name, shape in self._shapes.items()
        ]
        fields.append(("error", pa.string()))
        return pa.schema(fields, metadata={_FACTS: facts})

    def _table(
        self,
        keys: Sequence[tuple[str, int]],
        results: Mapping[int, tuple[list[Prediction], dict[str, Array]]],
        errors: Sequence[str | None],
    ) -> pa.Table:
        rows = [results.get(place) for place in range(len(keys))]
        best = [row[0][0] if row else None for row in rows]
        columns: dict[str, Any] = {
            "file": [name for name, _ in keys],
            "row": [number for _, number in keys],
            "label": [each and each.label for each in best],
            "index": [each and each.index for each in best],
            "probability": [each and each.probability for each in best],
            "top": [row and [asdict(each) for each in row[0]] for row in rows],
            "error": errors,
        }
        for name, shape in self._shapes.items():
            size = math.prod(shape)
            zeros = np.zeros(shape, np.float32)
            flat = np.stack([row[1][name] if row else zeros for row in rows]).ravel()
            missing = pa.array([row is None for row in rows])
            storage = pa.FixedSizeListArray.from_arrays(
                pa.array(flat.astype(np.float32, copy=False)), size, mask=missing
            )
            columns[name] = pa.ExtensionArray.from_storage(self._schema.field(name).type, storage)
        return pa.table([columns[name] for name in self._schema.names], schema=self._schema)


_PREDICTION = pa.struct(
    [("label", pa.string()), ("index", pa.int32()), ("probability", pa.float32())]
)


def _nothing(model: Model, count: int) -> Array:
    contract = model.input_contract
    assert contract is not None  # whoever calls has seen to it
    return np.zeros((count, contract.height, contract.width, contract.channels), np.float32)
