"""The models that a server holds, by name and engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pyconv.engines.base import EngineName, WeightStorage
from pyconv.errors import InputError, unknown_name
from pyconv.model import Model, load
from pyconv.server.errors import NotFoundError
from pyconv.server.settings import ModelSpec


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One network on one engine, under the name that requests use.

    Attributes:
        name: what requests call it.
        model: the network.
        layers: the names that `model.activations` takes, read from the file once.
    """

    name: str
    model: Model
    layers: Sequence[str]


class Models:
    """The models that a server holds; each is loaded on every engine asked for."""

    def __init__(self, models: Mapping[str, Sequence[ServedModel]]) -> None:
        self._models = models

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
        return cls(
            {
                spec.name: [_load(spec, engine, threads, weights) for engine in engines]
                for spec in specs
            }
        )

    @property
    def names(self) -> Sequence[str]:
        """The models' names, in the order in which they were given."""
        return list(self._models)

    def engines(self, name: str) -> Sequence[EngineName]:
        """The engines that hold a model, the default first."""
        return [served.model.engine for served in self._models[name]]

    def select(self, name: str, engine: EngineName | None) -> ServedModel:
        """The model of that name on that engine.

        Args:
            name: may be empty where a single model is held.
            engine: the default one if None.

        Raises:
            NotFoundError: no model has that name, or that engine does not hold it.
            InputError: the name is empty and there are several models.
        """
        if not name:
            if len(self._models) > 1:
                raise InputError(f"model: say which one; this server has {', '.join(self.names)}")
            name = self.names[0]
        if name not in self._models:
            raise NotFoundError(unknown_name("model", name, self.names))
        if engine is None:
            return self._models[name][0]
        for served in self._models[name]:
            if served.model.engine == engine:
                return served
        raise NotFoundError(
            f"model {name!r} is not loaded on the engine {engine!r} here; "
            f"it is on {', '.join(self.engines(name))}"
        )


def _load(spec: ModelSpec, engine: EngineName, threads: int, weights: WeightStorage) -> ServedModel:
    stored: WeightStorage = weights if engine == "native" else "float32"
    model = load(spec.source, engine=engine, threads=threads, weights=stored)
    contract = model.input_contract
    if contract is not None:
        shape = (1, contract.height, contract.width, contract.channels)
        model.predict(np.zeros(shape, np.float32))
    return ServedModel(spec.name, model, tuple(model.layers))
