"""What the server counts, in Prometheus' terms."""

from __future__ import annotations

from functools import lru_cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Half a millisecond is what the transport alone takes; ten seconds is more than anybody waits.
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The counters of one server; every method is called on its event loop.

    Names, labels and meanings are the table in docs/service.md.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        model = ["model", "version"]
        self._requests = Counter(
            "pyconv_requests",
            "Requests for a model, by the status that they ended with.",
            [*model, "code"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "pyconv_request_seconds",
            "From a request's arrival to its answer, transport left out.",
            model,
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._queue = Histogram(
            "pyconv_queue_seconds",
            "What a request waited for a thread.",
            model,
            buckets=_SECONDS,
            registry=self.registry,
        )
        run = [*model, "engine"]
        self._run_images = Histogram(
            "pyconv_run_images",
            "Images that went through a network together.",
            run,
            buckets=_IMAGES,
            registry=self.registry,
        )
        self._run_seconds = Histogram(
            "pyconv_run_seconds",
            "What a run of a network took.",
            run,
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.streams = Gauge(
            "pyconv_streams_open", "Streams that are open.", registry=self.registry
        )
        # Looking a child up by its labels costs more than counting.
        self._request_children = lru_cache(1024)(self._requests.labels)
        self._time_children = lru_cache(256)(
            lambda *labels: (self._seconds.labels(*labels), self._queue.labels(*labels))
        )
        self._run_children = lru_cache(256)(
            lambda *labels: (self._run_images.labels(*labels), self._run_seconds.labels(*labels))
        )

    def answered(self, model: str, version: str, seconds: float, queue_seconds: float) -> None:
        """A request got its answer."""
        self._request_children(model, version, "OK").inc()
        took, waited = self._time_children(model, version)
        took.observe(seconds)
        waited.observe(queue_seconds)

    def refused(self, model: str, version: str, code: str) -> None:
        """A request ended with another status; model and version are empty where none was met."""
        self._request_children(model, version, code).inc()

    def ran(self, model: str, version: str, engine: str, images: int, seconds: float) -> None:
        """A network was run."""
        of_images, took = self._run_children(model, version, engine)
        of_images.observe(images)
        took.observe(seconds)

    def page(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)
