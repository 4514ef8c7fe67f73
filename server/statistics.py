"""What a model has done since it was loaded, as the protocol's ModelStatistics tells it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from pyconv.server.scheduler import Outcome


@dataclass(slots=True)
class Duration:
    """How many times something happened, and what it took in all, in nanoseconds."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int) -> None:
        """One time more."""
        self.count += 1
        self.ns += ns


class Measured:
    """One request, while it is answered."""

    __slots__ = ("compute_ns", "images", "prepare_ns", "queue_ns", "started_ns")

    def __init__(self) -> None:
        self.started_ns = time.perf_counter_ns()
        self.images = 0
        self.prepare_ns = 0
        self.queue_ns = 0
        self.compute_ns = 0

    def prepared(self, seconds: float) -> None:
        """Its images have been prepared."""
        self.prepare_ns = int(seconds * 1e9)

    def ran(self, images: int, outcome: Outcome) -> None:
        """Its images have been through the network."""
        self.images = images
        self.queue_ns = int(outcome.queue_s * 1e9)
        self.compute_ns = int(outcome.compute_s * 1e9)


@dataclass(slots=True)
class Statistics:
    """What one version of a model has done; kept on the event loop alone.

    Attributes:
        last_ms: when the last request came, in milliseconds since 1970; 0 if none did.
        images: images of the requests that were answered.
        success: requests that were answered, from arrival to answer.
        fail: requests that were not.
        queue_ns: the waiting of those answered.
        prepare_ns: the preparing of their images.
        compute_ns: the runs that they were part of.
        runs: runs of the network, by the number of images.
    """

    last_ms: int = 0
    images: int = 0
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue_ns: int = 0
    prepare_ns: int = 0
    compute_ns: int = 0
    runs: dict[int, Duration] = field(default_factory=dict)

    @property
    def finish_ns(self) -> int:
        """From the run to the answer, of the requests that were answered."""
        return max(0, self.success.ns - self.prepare_ns - self.queue_ns - self.compute_ns)

    def answered(self, request: Measured, took_ns: int) -> None:
        """Count a request that got its answer."""
        self.images += request.images
        self.success.add(took_ns)
        self.prepare_ns += request.prepare_ns
        self.queue_ns += request.queue_ns
        self.compute_ns += request.compute_ns

    def note_run(self, images: int, seconds: float) -> None:
        """Count one run."""
        duration = self.runs.get(images)
        if duration is None:
            duration = self.runs[images] = Duration()
        duration.add(int(seconds * 1e9))
