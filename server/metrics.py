"""What the server counts, in Prometheus' terms.

prometheus-client writes the page. The counting itself is plain numbers of the event loop's own,
which need no locks; the client's own counters would be a tenth of what a request takes in all.
"""

from __future__ import annotations

import asyncio
import os
import pickle
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Half a millisecond is what the transport alone takes; ten seconds is more than anybody waits.
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256)

_OF_LAYERS = (
    ("pyconv_layer_mean", "The mean of an observed layer's values, in the last request seen."),
    ("pyconv_layer_deviation", "Their standard deviation."),
    ("pyconv_layer_zeros", "The share of them that are exactly 0."),
    (
        "pyconv_layer_seconds",
        "What the native engine's step that computes it took, for one image of that request.",
    ),
)

_Labels: TypeAlias = tuple[str, ...]
_State: TypeAlias = dict[str, Any]

_SUFFIX = ".counts"


class _Series:
    """Counts by bucket, of one set of labels."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class _Histogram:
    """Counts by bucket, for each set of labels."""

    def __init__(self, name: str, about: str, labels: Sequence[str], bounds: Sequence[float]):
        self._name, self._about, self._labels = name, about, labels
        self._bounds = bounds
        self._series: dict[_Labels, _Series] = {}

    def observe(self, labels: _Labels, value: float) -> None:
        series = self._series.get(labels)
        if series is None:
            series = self._series[labels] = _Series(self._bounds)
        series.observe(value)

    def state(self) -> dict[_Labels, tuple[list[int], float]]:
        return {labels: (series.counts, series.sum) for labels, series in self._series.items()}

    def add(self, state: dict[_Labels, tuple[list[int], float]]) -> None:
        for labels, (counts, more) in state.items():
            series = self._series.setdefault(labels, _Series(self._bounds))
            series.counts = [a + b for a, b in zip(series.counts, counts, strict=True)]
            series.sum += more

    def family(self) -> Metric:
        family = HistogramMetricFamily(self._name, self._about, labels=self._labels)
        for labels, series in self._series.items():
            total, buckets = 0, []
            for bound, count in zip((*self._bounds, "+Inf"), series.counts, strict=True):
                total += count
                buckets.append((str(bound), total))
            family.add_metric(labels, buckets, series.sum)
        return family


class _Counts:
    """A counter or a gauge, for each set of labels."""

    def __init__(self) -> None:
        self.values: dict[_Labels, float] = {}

    def add(self, labels: _Labels, amount: float = 1) -> None:
        self.values[labels] = self.values.get(labels, 0) + amount


class Metrics(Collector):
    """The counters of one server; every method is called on its event loop.

    Names, labels and meanings are the table in docs/service.md.
    """

    def __init__(self) -> None:
        self._requests = _Counts()
        self._shadowed = _Counts()
        self._disagreed = _Counts()
        self._layers: dict[_Labels, tuple[float | None, ...]] = {}
        self._streams = 0
        model = ["model", "version"]
        self._seconds = _Histogram(
            "pyconv_request_seconds",
            "From a request's arrival to its answer, transport left out.",
            model,
            _SECONDS,
        )
        self._queue = _Histogram(
            "pyconv_queue_seconds", "What a request waited for a thread.", model, _SECONDS
        )
        run = [*model, "engine"]
        self._run_images = _Histogram(
            "pyconv_run_images", "Images that went through a network together.", run, _IMAGES
        )
        self._run_seconds = _Histogram(
            "pyconv_run_seconds", "What a run of a network took.", run, _SECONDS
        )
        self._folder: Path | None = None

    def answered(self, model: str, version: str, seconds: float, queue_seconds: float) -> None:
        """A request got its answer."""
        self._requests.add((model, version, "OK"))
        labels = (model, version)
        self._seconds.observe(labels, seconds)
        self._queue.observe(labels, queue_seconds)

    def refused(self, model: str, version: str, code: str) -> None:
        """A request ended with another status; model and version are empty where none was met."""
        self._requests.add((model, version, code))

    def ran(self, model: str, version: str, engine: str, images: int, seconds: float) -> None:
        """A network was run."""
        labels = (model, version, engine)
        self._run_images.observe(labels, images)
        self._run_seconds.observe(labels, seconds)

    def stream(self, opened: int) -> None:
        """A stream was opened (1), or closed (-1)."""
        self._streams += opened

    def shadowed(self, model: str, version: str, agrees: bool) -> None:
        """A request was run on both engines."""
        self._shadowed.add((model, version))
        self._disagreed.add((model, version), 0 if agrees else 1)

    def observed(
        self, model: str, version: str, layer: str, told: tuple[float | None, ...]
    ) -> None:
        """A layer was looked at: its values' mean, deviation and share of zeros, and its time.

        Where onnxruntime ran, which tells no time, that which the native engine told stays.
        """
        *values, seconds = told
        if seconds is None:
            *_, seconds = self._layers.get((model, version, layer), (None,))
        self._layers[model, version, layer] = (*values, seconds)

    def page(self) -> bytes:
        """All of it in Prometheus' text format, other processes' numbers added where they share."""
        total = Metrics()
        total._add(self._state())
        for state in self._others():
            total._add(state)
        registry = CollectorRegistry(auto_describe=False)
        registry.register(total)
        return generate_latest(registry)

    async def share(self, folder: Path, seconds: float = 0.5) -> None:
        """Write the numbers to a folder again and again, and add those of other processes there.

        What a process that died had counted stays counted.
        """
        self._folder = folder
        own = folder / f"{os.getpid()}{_SUFFIX}"
        while True:
            new = own.with_suffix(".new")
            new.write_bytes(pickle.dumps(self._state()))
            new.replace(own)
            await asyncio.sleep(seconds)

    def _state(self) -> _State:
        return {
            "counts": [counts.values for counts in self._counts()],
            "histograms": [item.state() for item in self._histograms()],
            "layers": self._layers,
            "streams": self._streams,
        }

    def _add(self, state: _State) -> None:
        for counts, values in zip(self._counts(), state["counts"], strict=True):
            for labels, value in values.items():
                counts.add(labels, value)
        for histogram, more in zip(self._histograms(), state["histograms"], strict=True):
            histogram.add(more)
        self._layers |= state["layers"]
        self._streams += state["streams"]

    def _others(self) -> Iterable[_State]:
        """What the other processes wrote last, which nobody but them can write."""
        if self._folder is None:
            return
        for path in self._folder.glob(f"*{_SUFFIX}"):
            if path.stem == str(os.getpid()):
                continue
            state = pickle.loads(path.read_bytes())
            if not Path("/proc", path.stem).exists():
                state["streams"] = 0
            yield state

    def _counts(self) -> Sequence[_Counts]:
        return self._requests, self._shadowed, self._disagreed

    def _histograms(self) -> Sequence[_Histogram]:
        return self._seconds, self._queue, self._run_images, self._run_seconds

    def collect(self) -> Iterable[Metric]:
        """See prometheus_client's Collector."""
        requests = CounterMetricFamily(
            "pyconv_requests",
            "Requests for a model, by the status that they ended with.",
            labels=["model", "version", "code"],
        )
        for labels, count in self._requests.values.items():
            requests.add_metric(labels, count)
        yield requests
        for name, about, counts in (
            ("pyconv_shadow_runs", "Requests that were run on both engines.", self._shadowed),
            ("pyconv_shadow_disagreements", "Those that they disagreed on.", self._disagreed),
        ):
            counter = CounterMetricFamily(name, about, labels=["model", "version"])
            for labels, count in counts.values.items():
                counter.add_metric(labels, count)
            yield counter
        for place, (name, about) in enumerate(_OF_LAYERS):
            gauge = GaugeMetricFamily(name, about, labels=["model", "version", "layer"])
            for labels, told in self._layers.items():
                if (value := told[place]) is not None:
                    gauge.add_metric(labels, value)
            yield gauge
        for histogram in self._histograms():
            yield histogram.family()
        yield GaugeMetricFamily("pyconv_streams_open", "Streams that are open.", self._streams)
