"""The models that a server holds, by name, version and engine."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pyconv.engines.base import Array, EngineName, TensorInfo, WeightStorage, check_inputs
from pyconv.errors import InputError, ModelError, PyconvError, unknown_name
from pyconv.graph.batch import Batch
from pyconv.metadata import Layer
from pyconv.model import Model, load
from pyconv.server.errors import NotFoundError, without_path
from pyconv.server.settings import ModelSpec
from pyconv.server.statistics import Statistics

if TYPE_CHECKING:
    from pyconv.server.examination import Edits

_WARM_UPS = 3
"""Runs before a model takes requests: the first one allocates, the others tell what it takes."""

_MOST_KINDS = 1024
"""Shapes of inputs that are remembered as fitting."""


class OutputChoice(NamedTuple):
    """An output wanted.

    Attributes:
        name: an output of the graph, a layer, or any other tensor of the graph.
        classes: how many of the likeliest classes to name in place of the numbers; 0: the numbers.
    """

    name: str
    classes: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What outputs take.

    Attributes:
        choices: the outputs.
        layers: each one's layer.
        tensors: what is computed for them.
        row_by_row: whether every image of a batch makes its own row of the tensors.
        plain: the tensor of each output, by the output's name, where all are handed out as they
            come; otherwise None.
    """

    choices: Sequence[OutputChoice]
    layers: Sequence[Layer]
    tensors: tuple[str, ...]
    row_by_row: bool
    plain: Sequence[tuple[str, str]] | None


class ServedModel:
    """One version of a network on one engine, under the name that requests use.

    Attributes:
        spec: what it was loaded from.
        name: what requests call it.
        version: which of the versions under that name it is.
        model: the network.
        image_s: what one image takes, alone, to its outputs; infinite where it was not tried.
        statistics: what this version has done, on all its engines together.
        layers: the names that `model.activations` takes, read from the file once.
    """

    def __init__(self, spec: ModelSpec, model: Model, statistics: Statistics) -> None:
        self.spec = spec
        self.name = spec.name
        self.version = spec.version
        self.model = model
        self.statistics = statistics
        self.image_s = float("inf")
        self.layers: Sequence[str] = tuple(model.layers)
        self.is_row_by_row = lru_cache(maxsize=256)(model.is_row_by_row)
        """`Model.is_row_by_row` of a tuple of tensors, which is asked for at every request."""
        # An output goes by its own name even where a layer is called the same.
        self._own = {info.name: Layer(info.name, "", info.name, (), ()) for info in model.outputs}
        self._tensors = frozenset(model.tensors)
        self._own_names = tuple(self._own)
        self.plan = lru_cache(maxsize=256)(self._plan)
        """What a tuple of outputs takes, as `_plan` tells."""
        self._stamp = _stamp(model.path)
        self._input_names = frozenset(info.name for info in model.inputs)
        self._fitting: dict[tuple[tuple[str, object, tuple[int, ...]], ...], tuple[int, bool]] = {}

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> Mapping[str, Array]:
        """Compute tensors; the scheduler's threads come here."""
        # Without names the native engine has its program at hand.
        return self.model.run(inputs, None if outputs == self._own_names else outputs)

    def _plan(self, outputs: tuple[OutputChoice, ...]) -> Plan:
        """What outputs take; the graph's own where none is named.

        Raises:
            NotFoundError: nothing in the graph is called so.
        """
        choices = outputs or tuple(OutputChoice(name) for name in self._own)
        layers = [self.output(choice.name) for choice in choices]
        tensors = tuple(dict.fromkeys(layer.tensor for layer in layers))
        plain = None
        if not any(choice.classes for choice in choices) and not any(la.axes for la in layers):
            plain = [(choice.name, la.tensor) for choice, la in zip(choices, layers, strict=True)]
        return Plan(choices, layers, tensors, self.is_row_by_row(tensors), plain)

    def replaced(self, inputs: Mapping[str, Array]) -> list[str]:
        """Those of the names that are a layer's, whose output the array takes the place of."""
        if inputs.keys() <= self._input_names:
            return []
        return [n for n in inputs if n not in self._input_names and n in self.layers]

    @cached_property
    def edits(self) -> Edits:
        """The network with layers edited."""
        from pyconv.server.examination import Edits

        return Edits(self)

    @cached_property
    def catalogue(self) -> list[dict[str, Any]]:
        """The network's layers; making it takes a while."""
        from pyconv.server import examination

        return examination.catalogue(self)

    def check(self, inputs: Mapping[str, Array]) -> tuple[int, bool]:
        """Refuse arrays that do not fit the network's inputs, and count images as `images`.

        Raises:
            InputError: as `pyconv.engines.base.check_inputs`.
        """
        kinds = tuple([(name, array.dtype, array.shape) for name, array in inputs.items()])
        known = self._fitting.get(kinds)
        if known is not None:  # as nearly always: what comes again and again
            return known
        check_inputs(self.model.inputs, inputs)
        found = self.images(inputs)
        if len(self._fitting) < _MOST_KINDS:
            self._fitting[kinds] = found
        return found

    def images(self, inputs: Mapping[str, Array]) -> tuple[int, bool]:
        """How many images inputs are, the most of any, and whether each is of as many.

        Args:
            inputs: by name; some may be missing.
        """
        counts = {
            len(inputs[info.name])
            for info in self.model.inputs
            if info.shape and info.shape[0] is None
            if info.name in inputs and inputs[info.name].ndim  # a number is refused by the engine
        }
        return max(counts, default=1), len(counts) == 1

    def output(self, name: str) -> Layer:
        """What a request may call by this name: an output of the graph, a layer, or any tensor.

        Raises:
            NotFoundError: nothing in the graph is called so.
        """
        if name in self._own:
            return self._own[name]
        layer = self.model.layer(name)
        if layer.operator or name in self._tensors:
            return layer
        known = dict.fromkeys([*self._own, *self.layers])
        raise NotFoundError(unknown_name(f"output of model {self.name!r}", name, known))

    def describe(self, name: str) -> TensorInfo:
        """An output's dtype and shape, as far as they are known before anything has run."""
        for info in self.model.outputs:
            if info.name == name:
                return info
        layer = self.output(name)
        network = self.model.network
        if network is None or network.shape(layer.tensor) is None:
            shape = (None, *layer.shape) if layer.shape else None
            return TensorInfo(name, "float32", shape)
        sizes = network.shape(layer.tensor) or ()
        shape = tuple(None if isinstance(size, Batch) else size for size in sizes)
        if layer.axes:
            shape = tuple(shape[axis] for axis in layer.axes)
        return TensorInfo(name, network.dtype(layer.tensor), shape)

    @property
    def has_changed(self) -> bool:
        """Whether the file on disk is another one than was loaded."""
        return _stamp(self.model.path) != self._stamp

    def warm_up(self) -> None:
        """Do what the first request would wait for; nothing is run that does not take images.

        Raises:
            ModelError: the network cannot be run, or what comes of it are no numbers.
        """
        self.is_row_by_row((self.model.main_output,))
        contract = self.model.input_contract
        if contract is not None:
            shape = (1, contract.height, contract.width, contract.channels)
            for _ in range(_WARM_UPS):
                started = time.perf_counter()
                output = self.model.predict(np.zeros(shape, np.float32))
                self.image_s = min(self.image_s, time.perf_counter() - started)
            if not np.isfinite(output).all():
                raise ModelError(
                    f"{self.model.path}: for an image of zeros, the network's output is not finite"
                )


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        about = path.stat()
    except OSError:
        return None
    return (about.st_ino, about.st_size, about.st_mtime_ns)


class Models:
    """The models that a server holds; each is loaded on every engine asked for."""

    def __init__(self, served: Sequence[ServedModel] = ()) -> None:
        self._models: dict[str, dict[str, list[ServedModel]]] = {}
        for name in dict.fromkeys(item.name for item in served):
            self.replace(name, [item for item in served if item.name == name])

    @classmethod
    def load(
        cls,
        specs: Sequence[ModelSpec],
        engines: Sequence[EngineName],
        threads: int,
        weights: WeightStorage = "float32",
    ) -> Models:
        """Load every model on every engine, and run each once so that no request is the first.

        Args:
            specs: what to load, under which name.
            engines: the engines, the default first.
            threads: how many of them one call may use.
            weights: how the native engine keeps the weights of dense layers.

        Raises:
            ModelError: a file is missing or broken, or an engine lacks one of its operators.
        """
        loaded = [load_served(spec, engines, threads, weights) for spec in specs]
        return cls([served for of_spec in loaded for served in of_spec])

    @property
    def names(self) -> Sequence[str]:
        """The models' names, in the order in which they were given."""
        return list(self._models)

    def versions(self, name: str) -> Sequence[str]:
        """The versions of a model, the one that answers requests without a version last.

        Raises:
            NotFoundError: no model has that name.
        """
        return list(self._versions(name))

    def engines(self, name: str) -> Sequence[EngineName]:
        """The engines that hold a model, the default first."""
        *_, latest = self._versions(name).values()
        return [served.model.engine for served in latest]

    def all(self, name: str) -> Sequence[ServedModel]:
        """Every version of a model on every engine; none where there is no such model."""
        return [item for of_version in self._models.get(name, {}).values() for item in of_version]

    def replace(self, name: str, served: Sequence[ServedModel]) -> None:
        """Put models in the place of all of a name; requests that have begun are not disturbed.

        Args:
            name: the name.
            served: its versions from the oldest to the newest, each on the default engine first.
                None of them: the name is taken out.
        """
        versions: dict[str, list[ServedModel]] = {}
        for item in served:
            versions.setdefault(item.version, []).append(item)
        if versions:
            self._models[name] = versions
        else:
            self._models.pop(name, None)

    def select(self, name: str, engine: EngineName | None, version: str = "") -> ServedModel:
        """The model of that name on that engine.

        Args:
            name: may be empty where a single model is held.
            engine: the default one if None.
            version: the newest one if empty.

        Raises:
            NotFoundError: no model has that name or version, or that engine does not hold it.
            InputError: the name is empty and there are several models.
        """
        if not name:
            if len(self._models) > 1:
                raise InputError(f"model: say which one; this server has {', '.join(self.names)}")
            name = next(iter(self._models), "")
        versions = self._versions(name)
        if not version:
            version = next(reversed(versions))
        elif version not in versions:
            raise NotFoundError(unknown_name(f"version of model {name!r}", version, versions))
        if engine is None:
            return versions[version][0]
        for served in versions[version]:
            if served.model.engine == engine:
                return served
        raise NotFoundError(
            f"model {name!r} is not loaded on the engine {engine!r} here; "
            f"it is on {', '.join(self.engines(name))}"
        )

    def without_paths(self, error: PyconvError) -> PyconvError:
        """The error as callers are told of it: models by their names, not by their files."""
        for versions in self._models.values():
            for held in versions.values():
                error = without_path(error, str(held[0].model.path), held[0].name)
        return error

    def _versions(self, name: str) -> dict[str, list[ServedModel]]:
        if name not in self._models:
            raise NotFoundError(unknown_name("model", name, self.names))
        return self._models[name]


def load_served(
    spec: ModelSpec, engines: Sequence[EngineName], threads: int, weights: WeightStorage
) -> list[ServedModel]:
    """Load a model on every engine and warm it up.

    Raises:
        ModelError: as for `Models.load`.
    """
    statistics = Statistics()
    loaded = []
    for engine in engines:
        stored: WeightStorage = weights if engine == "native" else "float32"
        model = load(spec.source, engine=engine, threads=threads, weights=stored)
        served = ServedModel(spec, model, statistics)
        served.warm_up()
        loaded.append(served)
    return loaded
