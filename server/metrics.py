"""What the server counts, in Prometheus' terms.

prometheus-client writes the page. The counting itself is plain numbers of the event loop's own,
which need no locks; the client's own counters would be a tenth of what a request takes in all.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import TypeAlias

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
)

_Labels: TypeAlias = tuple[str, ...]


class _Histogram:
    """Counts by bucket, for each set of labels."""

    def __init__(self, name: str, about: str, labels: Sequence[str], bounds: Sequence[float]):
        self._name, self._about, self._labels = name, about, labels
        self._bounds = bounds
        self._counts: dict[_Labels, list[int]] = {}
        self._sums: dict[_Labels, float] = {}

    def observe(self, labels: _Labels, value: float) -> None:
        counts = self._counts.get(labels)
        if counts is None:
            counts = self._counts[labels] = [0] * (len(self._bounds) + 1)
            self._sums[labels] = 0.0
        counts[bisect_left(self._bounds, value)] += 1
        self._sums[labels] += value

    def family(self) -> Metric:
        family = HistogramMetricFamily(self._name, self._about, labels=self._labels)
        for labels, counts in self._counts.items():
            total, buckets = 0, []
            for bound, count in zip((*self._bounds, "+Inf"), counts, strict=True):
                total += count
                buckets.append((str(bound), total))
            family.add_metric(labels, buckets, self._sums[labels])
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
        self._layers: dict[_Labels, tuple[float, float, float]] = {}
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
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

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
        self, model: str, version: str, layer: str, told: tuple[float, float, float]
    ) -> None:
        """A layer's values were looked at: their mean, deviation and share of zeros."""
        self._layers[model, version, layer] = told

    def page(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)

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
                gauge.add_metric(labels, told[place])
            yield gauge
        for histogram in (self._seconds, self._queue, self._run_images, self._run_seconds):
            yield histogram.family()
        yield GaugeMetricFamily("pyconv_streams_open", "Streams that are open.", self._streams)
