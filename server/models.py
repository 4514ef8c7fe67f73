"""The models that a server holds, by name, version and engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from pyconv.engines.base import Array, EngineName, WeightStorage
from pyconv.errors import InputError, unknown_name
from pyconv.model import Model, load
from pyconv.server.errors import NotFoundError
from pyconv.server.settings import ModelSpec


class ServedModel:
    """One version of a network on one engine, under the name that requests use.

    Attributes:
        name: what requests call it.
        version: which of the versions under that name it is.
        model: the network.
        layers: the names that `model.activations` takes, read from the file once.
    """

    def __init__(self, spec: ModelSpec, model: Model) -> None:
        self.name = spec.name
        self.version = spec.version
        self.model = model
        self.layers: Sequence[str] = tuple(model.layers)
        self.is_row_by_row = lru_cache(maxsize=256)(model.is_row_by_row)
        """`Model.is_row_by_row` of a tuple of tensors, which is asked for at every request."""

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> Mapping[str, Array]:
        """Compute tensors; the scheduler's threads come here."""
        return self.model.run(inputs, outputs)

    def warm_up(self) -> None:
        """Do what the first request would wait for; nothing is run that does not take images."""
        self.is_row_by_row((self.model.main_output,))
        contract = self.model.input_contract
        if contract is not None:
            shape = (1, contract.height, contract.width, contract.channels)
            self.model.predict(np.zeros(shape, np.float32))


class Models:
    """The models that a server holds; each is loaded on every engine asked for."""

    def __init__(self, served: Sequence[ServedModel] = ()) -> None:
        self._models: dict[str, dict[str, list[ServedModel]]] = {}
        self.put(served)

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
        return cls([_load(spec, engine, threads, weights) for spec in specs for engine in engines])

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

    def put(self, served: Sequence[ServedModel]) -> None:
        """Take in models; the last one of a name is what requests without a version get."""
        for item in served:
            self._models.setdefault(item.name, {}).setdefault(item.version, []).append(item)

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

    def _versions(self, name: str) -> dict[str, list[ServedModel]]:
        if name not in self._models:
            raise NotFoundError(unknown_name("model", name, self.names))
        return self._models[name]


def _load(spec: ModelSpec, engine: EngineName, threads: int, weights: WeightStorage) -> ServedModel:
    stored: WeightStorage = weights if engine == "native" else "float32"
    served = ServedModel(spec, load(spec.source, engine=engine, threads=threads, weights=stored))
    served.warm_up()
    return served
