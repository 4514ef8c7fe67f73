"""A share of the traffic is looked at more closely, when its answers are out already.

Shadow mode runs the other engine too and counts where the two disagree. Observed layers are
measured, so that drift in what a layer sees shows on a dashboard. One request is looked at at a
time; what comes meanwhile is let pass.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeAlias

import numpy as np

from pyconv.errors import PyconvError
from pyconv.server.examination import compare_outputs, layer_seconds
from pyconv.server.metrics import Metrics
from pyconv.server.models import Models, ServedModel
from pyconv.server.requests import TOLERANCE
from pyconv.server.scheduler import Tensors
from pyconv.server.settings import Settings

_log = logging.getLogger("pyconv.server")

_Look: TypeAlias = Callable[[], None]


class Sampling:
    """Looks at a share of the requests.

    Args:
        models: where the other engine's network is found.
        settings: the shares, and which layers.
        metrics: what is told.
        threads: where it is done.
    """

    def __init__(
        self, models: Models, settings: Settings, metrics: Metrics, threads: Executor
    ) -> None:
        self._models = models
        self._settings = settings
        self._metrics = metrics
        self._threads = threads
        self._busy = False
        self.is_on = bool(
            settings.shadow_share or (settings.observed_layers and settings.observed_share)
        )

    def look(self, served: ServedModel, inputs: Tensors) -> None:
        """Perhaps look at a request that has been answered."""
        if self._busy:
            return
        looks: list[_Look] = []
        settings = self._settings
        if random.random() < settings.shadow_share:
            looks += self._shadow(served, inputs)
        if random.random() < settings.observed_share:
            looks += self._observe(served, inputs)
        if looks:
            self._busy = True
            loop = asyncio.get_running_loop()
            done = loop.run_in_executor(self._threads, lambda: [look() for look in looks])
            done.add_done_callback(self._finish)

    def _finish(self, done: asyncio.Future[list[None]]) -> None:
        self._busy = False
        if not done.cancelled() and done.exception() is not None:
            _log.error("looking closer at a request failed", exc_info=done.exception())

    def _shadow(self, served: ServedModel, inputs: Tensors) -> list[_Look]:
        others = [
            item
            for item in self._models.all(served.name)
            if item.version == served.version and item is not served
        ]
        if not others:
            return []
        loop = asyncio.get_running_loop()

        def work() -> None:
            try:
                agrees = compare_outputs(served, others[0], inputs, TOLERANCE)
            except PyconvError as error:  # such as a division by zero, which only one refuses
                _log.warning("shadow: only one engine answered: %s", error)
                agrees = False
            loop.call_soon_threadsafe(self._metrics.shadowed, served.name, served.version, agrees)

        return [work]

    def _observe(self, served: ServedModel, inputs: Tensors) -> list[_Look]:
        names = [name for name in self._settings.observed_layers if name in served.layers]
        if not names:
            return []
        loop = asyncio.get_running_loop()
        tensors = {name: served.model.layer(name).tensor for name in names}

        def work() -> None:
            found = served.model.run(inputs, list(dict.fromkeys(tensors.values())))
            seconds = layer_seconds(served, inputs)
            for name, tensor in tensors.items():
                values = found[tensor]
                if values.dtype.kind not in "biuf" or not values.size:  # text has no mean
                    continue
                if values.dtype.kind != "f":
                    values = values.astype(np.float64)
                told = (
                    float(values.mean()),
                    float(values.std()),
                    float((values == 0).mean()),
                    seconds.get(name),
                )
                loop.call_soon_threadsafe(
                    self._metrics.observed, served.name, served.version, name, told
                )

        return [work]
