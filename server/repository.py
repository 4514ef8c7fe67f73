"""The models as they come and go: what is on disk, what is loaded, and how one becomes the other.

A newer file is loaded and warmed up beside the network that serves, and takes its place between two
requests; those that have begun are finished by the network that they began with. A file that cannot
be loaded changes nothing but what `index` says.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pyconv import bundled
from pyconv.engines.base import TensorInfo
from pyconv.errors import InputError, ModelError, PyconvError, unknown_name
from pyconv.server.errors import NotFoundError, without_path
from pyconv.server.inference import Inference
from pyconv.server.models import ServedModel, load_served
from pyconv.server.settings import ModelSpec, Settings
from pyconv.server.statistics import Statistics

_log = logging.getLogger("pyconv.server")

_Stamp = tuple[int, int, int, int]
"""A file's inode, size and times of change: other contents or another mode change it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One version of one model.

    Attributes:
        name: the model.
        version: which of its versions.
        state: `"READY"` or `"UNAVAILABLE"`.
        reason: why it is not ready, or why its newer file was not taken in.
    """

    name: str
    version: str
    state: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Description:
    """A model as the Open Inference Protocol describes it.

    Attributes:
        name: the model.
        versions: those that are loaded, the newest last.
        platform: what the protocol calls the kind of model.
        backend: the default engine.
        inputs: what every request has to give.
        outputs: what a request may ask for, the graph's own outputs first.
        max_batch_size: the most images in one request; 0 where there is no axis for a batch.
        max_wait_ms: how long a request waits for others.
    """

    name: str
    versions: Sequence[str]
    platform: str
    backend: str
    inputs: Sequence[TensorInfo]
    outputs: Sequence[TensorInfo]
    max_batch_size: int
    max_wait_ms: float


class Repository:
    """The models of a server: those that it was given by name, and those of a folder.

    Attributes:
        ready: whether requests are taken: everything is loaded, and nobody has said stop.
    """

    def __init__(self, inference: Inference, settings: Settings) -> None:
        self.ready = False
        self._inference = inference
        self._models = inference.models
        self._settings = settings
        self._given = {spec.name: spec for spec in settings.models}
        self._failures: dict[str, str] = {}
        self._stamps: dict[str, Mapping[Path, _Stamp]] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._closed_off: dict[str, str] = {}
        self._watching: asyncio.Task[None] | None = None

    # -- What is there -----------------------------------------------------------------------------

    def is_ready(self, name: str, version: str = "") -> bool:
        """Whether a request for a model would be run now."""
        try:
            self._models.select(name, None, version)
        except PyconvError:
            return False
        return self.ready

    def state(self, name: str) -> bool | None:
        """Whether a model is ready; None where there is none of that name, loaded or not."""
        if self.is_ready(name):
            return True
        known = name in self._models.names or name in self._given or name in self._failures
        return False if known or name in self._names_on_disk() else None

    def names(self) -> Sequence[str]:
        """The models' names, loaded or not."""
        known = {*self._given, *self._names_on_disk()}
        return list(dict.fromkeys([*self._models.names, *sorted(known)]))

    def index(self) -> Sequence[Entry]:
        """Every version of every model, loaded or not."""
        entries = []
        for name in self.names():
            reason = self._failures.get(name, "")
            if name in self._models.names:
                entries += [
                    Entry(name, version, "READY", reason) for version in self._models.versions(name)
                ]
            else:
                entries.append(Entry(name, "", "UNAVAILABLE", reason or "unloaded"))
        return entries

    def describe(self, name: str, version: str = "", *, layers: bool = False) -> Description:
        """A model's inputs and outputs.

        Args:
            name: the model.
            version: the newest where empty.
            layers: whether its layers are among the outputs.

        Raises:
            NotFoundError: no such model or version.
        """
        served = self._models.select(name, None, version)
        model = served.model
        outputs = [served.describe(info.name) for info in model.outputs]
        if layers:
            own = {info.name for info in outputs}
            outputs += [served.describe(layer) for layer in served.layers if layer not in own]
        batch = served.is_row_by_row(tuple(info.name for info in model.outputs))
        native = model.engine == "native"
        return Description(
            name=served.name,
            versions=self._models.versions(served.name),
            platform="onnx_pyconv" if native else "onnxruntime_onnx",
            backend=model.engine,
            inputs=model.inputs,
            outputs=outputs,
            max_batch_size=self._settings.max_images if batch else 0,
            max_wait_ms=self._settings.of_model(served.spec).max_wait_ms,
        )

    def statistics(self, name: str = "", version: str = "") -> list[tuple[str, str, Statistics]]:
        """What each version of a model has done; of all models where there is no name.

        Raises:
            NotFoundError: no such model or version.
        """
        if name:
            self._models.select(name, None, version)
        found: dict[tuple[str, str], Statistics] = {}
        for model in [name] if name else self._models.names:
            for served in self._models.all(model):
                if not version or served.version == version:
                    found[served.name, served.version] = served.statistics
        return [(*key, statistics) for key, statistics in found.items()]

    # -- Coming and going --------------------------------------------------------------------------

    async def load(self, name: str, parameters: Iterable[str] = ()) -> None:
        """Load a model, or take in its newer files, because a caller says so.

        Args:
            name: the model.
            parameters: the names of those that the caller sends along.

        Raises:
            InputError: they bring a configuration or files, where the server takes its own.
            NotFoundError: there is no such model on disk.
            ModelError: a file cannot be loaded, and what served before serves on; or several
                processes serve, of which this is only one.
        """
        for parameter in parameters:
            if parameter == "config" or parameter.startswith("file:"):
                raise InputError(
                    f"parameter {parameter!r}: models are loaded as they lie in the server's "
                    "folder, with the server's settings; neither can be sent"
                )
        self._refuse_among_several()
        specs = self._specs(name)
        try:
            await self._take_in(name)
        except ModelError as error:
            raise _without_paths(error, specs) from None

    async def unload(self, name: str) -> None:
        """Take a model out of service, because a caller says so; what is in flight is finished.

        Raises:
            NotFoundError: there is no such model.
            ModelError: several processes serve, of which this is only one.
        """
        self._refuse_among_several()
        await self._take_out(name)

    def _refuse_among_several(self) -> None:
        if self._settings.several:
            raise ModelError(
                "several processes serve here, and this request reaches one; change the files in "
                "a folder that is watched (or send SIGHUP to pyconv serve): that reaches all"
            )

    async def _take_in(self, name: str) -> None:
        async with self._locks.setdefault(name, asyncio.Lock()):
            specs = self._specs(name)
            if not specs:
                raise NotFoundError(unknown_name("model", name, [*self._given, *self._on_disk()]))
            stamps = _stamps(specs)
            try:
                served = await asyncio.to_thread(self._load, specs)
                if _stamps(specs) != stamps:
                    raise ModelError(f"{name}: its files changed while they were read; load again")
            except ModelError as error:
                self._failures[name] = str(_without_paths(error, specs))
                self._stamps[name] = stamps
                raise
            self._failures.pop(name, None)
            self._stamps[name] = stamps
            self._take_over(name, served)

    async def _take_out(self, name: str) -> None:
        async with self._locks.setdefault(name, asyncio.Lock()):
            if name not in self._models.names:
                raise NotFoundError(unknown_name("model", name, self._models.names))
            self._take_over(name, [])

    async def start(self) -> None:
        """Load what the settings name and what the folder holds, and watch that from now on.

        Raises:
            ModelError: a model that the settings name cannot be loaded, or the folder not be read.
                A model of the folder that cannot be loaded is logged and told by `index`.
        """
        for name in self._given:
            await self._take_in(name)
        for name in self._on_disk():
            await self._try_to_load(name)
        self._warn_of_names()
        self.ready = True
        if self._settings.model_dir is not None and self._settings.watch_seconds:
            self._watching = asyncio.ensure_future(self._watch(self._settings.watch_seconds))

    def _warn_of_names(self) -> None:
        """Tell of settings that go by a name which nothing has; a later model may have it."""
        models = self.names()
        for name in self._settings.model_settings:
            if name not in models:
                _log.warning("model_settings: %s", unknown_name("model", name, models))
        held = [served for name in self._models.names for served in self._models.all(name)]
        layers = dict.fromkeys(layer for served in held for layer in served.layers)
        for name in self._settings.observed_layers:
            if held and name not in layers:
                _log.warning("observed_layers: %s", unknown_name("layer", name, layers))

    async def reload(self) -> None:
        """Take in whatever has changed on disk; failures are logged and told by `index`."""
        try:
            on_disk = await asyncio.to_thread(self._on_disk)
        except ModelError as error:  # what serves serves on
            _log.error("%s", error)
            return
        for name, specs in {**on_disk, **self._sources(self._given)}.items():
            if _stamps(specs) != self._stamps.get(name):
                await self._try_to_load(name)
        for name in set(self._stamps) - set(on_disk) - set(self._given) - set(self._closed_off):
            del self._stamps[name]
            if name in self._models.names:
                await self._take_out(name)

    async def close(self) -> None:
        """Stop looking at the folder."""
        self.ready = False
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])

    async def _watch(self, seconds: float) -> None:
        """Reload what has changed, once it has stayed the same from one look to the next."""
        seen: Mapping[str, Mapping[Path, _Stamp]] = {}
        failure = ""
        while True:
            await asyncio.sleep(seconds)
            try:
                on_disk = await asyncio.to_thread(self._on_disk)
                now = {name: _stamps(specs) for name, specs in on_disk.items()}
                if now == seen:
                    await self.reload()
                seen, failure = now, ""
            except ModelError as error:  # what serves serves on
                if str(error) != failure:
                    _log.error("%s; looking again every %g s", error, seconds)
                failure = str(error)
            except Exception:
                _log.exception("looking at the folder of models failed; trying again")

    async def _try_to_load(self, name: str) -> None:
        try:
            await self._take_in(name)
        except PyconvError as error:
            _log.error("model %s: %s", name, error)

    def _take_over(self, name: str, served: Sequence[ServedModel]) -> None:
        before = self._models.all(name)
        self._models.replace(name, served)
        for old in before:
            self._inference.retire(old)
        if served:
            versions = ", ".join(dict.fromkeys(item.version for item in served))
            _log.info("model %s: serving version %s", name, versions)
        else:
            _log.info("model %s: out of service", name)

    def _load(self, specs: Sequence[ModelSpec]) -> list[ServedModel]:
        settings = self._settings
        return [
            served
            for spec in specs
            for served in load_served(
                spec, settings.of_model(spec).engines, settings.threads, settings.weights
            )
        ]

    def _specs(self, name: str) -> Sequence[ModelSpec]:
        return {**self._on_disk(), **self._sources(self._given)}.get(name, ())

    def _sources(self, given: Mapping[str, ModelSpec]) -> dict[str, Sequence[ModelSpec]]:
        return {name: [spec] for name, spec in given.items()}

    def _names_on_disk(self) -> Sequence[str]:
        """The models that the folder holds; none where it cannot be read."""
        try:
            return list(self._on_disk())
        except ModelError:
            return []

    def _on_disk(self) -> dict[str, Sequence[ModelSpec]]:
        """By name, what the folder holds, versions from the oldest to the newest.

        Raises:
            ModelError: it cannot be read.
        """
        folder = self._settings.model_dir
        if folder is None:
            return {}
        try:
            return self._found_in(folder)
        except OSError as error:
            why = error.strerror or error
            raise ModelError(f"model_dir: the folder of models cannot be read: {why}") from error

    def _found_in(self, folder: Path) -> dict[str, Sequence[ModelSpec]]:
        found: dict[str, Sequence[ModelSpec]] = {}
        closed_off: dict[str, str] = {}
        for path in sorted(folder.iterdir()):
            if path.name.startswith("."):  # Kubernetes' ..data, macOS' ._NAME.onnx, .git
                continue
            if path.is_dir():
                try:
                    specs = _versions(path)
                except OSError as error:  # as lost+found, which hinders no other
                    closed_off[path.name] = f"its folder cannot be read: {error.strerror or error}"
                    continue
                if specs:
                    found[path.name] = specs
            elif path.suffix == ".onnx" and path.is_file():
                found[path.stem] = [ModelSpec(path.stem, str(path))]
        for name in closed_off.keys() - self._closed_off.keys():
            _log.warning("model %s: %s", name, closed_off[name])
        self._closed_off = closed_off
        return found


MODEL_FILE = "model.onnx"
"""What a version's folder holds."""


def _versions(folder: Path) -> list[ModelSpec]:
    """The versions in a model's folder, from the oldest to the newest."""
    held = [
        item
        for item in folder.iterdir()
        if not item.name.startswith(".") and (item / MODEL_FILE).is_file()
    ]
    return [
        ModelSpec(folder.name, str(item / MODEL_FILE), item.name)
        for item in sorted(held, key=_by_number)
    ]


def _without_paths(error: PyconvError, specs: Sequence[ModelSpec]) -> PyconvError:
    """The error as callers are told of it: models by their names, not by their files."""
    for spec in specs:
        called = spec.name if len(specs) == 1 else f"{spec.name}, version {spec.version}"
        error = without_path(error, spec.source, called)
    return error


def _by_number(path: Path) -> tuple[int, str]:
    """Versions 2 and 10 in that order; what is no number comes before all numbers."""
    return (int(path.name) if path.name.isdecimal() else -1, path.name)


def _stamps(specs: Sequence[ModelSpec]) -> Mapping[Path, _Stamp]:
    stamps = {}
    for spec in specs:
        try:
            path = Path(bundled.resolve(spec.source))
            about = path.stat()
        except (ModelError, OSError):  # it has just gone
            continue
        stamps[path] = (about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
    return stamps
