"""What a benchmark found, as plain data. docs/benchmarks.md describes its JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyconv.bench.machine import Machine
from pyconv.bench.measure import Budget, Spread

SCHEMA = "pyconv-bench/1"
"""Name and version of the JSON. The number rises when a field goes or changes its meaning."""

NOISY = 0.25
"""Quartiles further apart than this share of the median make a cell too noisy to rely on."""


@dataclass(frozen=True, slots=True)
class Timing:
    """One contestant in one cell.

    Attributes:
        seconds: of one call with the whole batch.
        images_per_second: by the median.
        gflops: 1e9 floating-point operations a second, by the median; None where the operations of
            the model cannot be counted.
        peak_share: `gflops` over the measured peak of the cores that the call may use, or None.
    """

    seconds: Spread
    images_per_second: float
    gflops: float | None
    peak_share: float | None


@dataclass(frozen=True, slots=True)
class Subject:
    """What a cell of the benchmark is about.

    Attributes:
        model: a bundled name, or the file's name without `.onnx`.
        batch: images a call.
        threads: that one call may use.
    """

    model: str
    batch: int
    threads: int

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{self.model}, batch {self.batch}, {threads}"


@dataclass(frozen=True, slots=True)
class StepTiming:
    """One step of native's program in one cell; all threads share it while it is timed.

    Attributes:
        name: the tensor that it produces, in a file exported by pyconv the last layer that it
            computes.
        operator: the native operator.
        algorithm: how it is computed, and what is fused into it.
        timing: as for a whole call.
        share: of the time of all steps, by their medians.
    """

    name: str
    operator: str
    algorithm: str
    timing: Timing
    share: float


@dataclass(frozen=True, slots=True)
class Cell:
    """One model at one batch size on one number of threads.

    Attributes:
        subject: the three of them.
        flops_per_image: floating-point operations that the network asks for, a multiply-add being
            two, without those on padding.
        difference: the largest between any two contestants' outputs, as a share of the largest
            absolute value of the output.
        rounds: samples of each contestant.
        timings: by contestant.
        ratios: the contestant's time over native's, paired round by round: how many times native
            is faster.
        steps: native's, in order; empty unless they were asked for.
        memory_bytes: by contestant, how far resident memory grows at most during a first call, its
            result included; empty unless it was asked for.
    """

    subject: Subject
    flops_per_image: int | None
    difference: float
    rounds: int
    timings: Mapping[str, Timing]
    ratios: Mapping[str, Spread]
    steps: Sequence[StepTiming] = ()
    memory_bytes: Mapping[str, int] = field(default_factory=dict)

    @property
    def noisy(self) -> bool:
        """Whether the samples spread too widely for the figures to be relied on."""
        spreads = [timing.seconds for timing in self.timings.values()]
        return any(spread.relative > NOISY for spread in [*spreads, *self.ratios.values()])


@dataclass(frozen=True, slots=True)
class Refusal:
    """A cell that was not timed.

    Attributes:
        subject: which one.
        reason: a sentence.
    """

    subject: Subject
    reason: str


@dataclass(frozen=True, slots=True)
class Change:
    """A figure beside that of an earlier benchmark.

    Attributes:
        subject: the cell.
        contestant: whose figure it is.
        before: seconds of a call then.
        now: and now.
        ratio_before: the contestant's time over native's then; None for native itself.
        ratio_now: and now.
    """

    subject: Subject
    contestant: str
    before: Spread
    now: Spread
    ratio_before: Spread | None
    ratio_now: Spread | None

    @property
    def speedup(self) -> float:
        """How many times faster it is now, by the medians."""
        return self.before.median / self.now.median

    @property
    def clear(self) -> bool:
        """Whether the middle halves of the samples lie apart."""
        return self.before.q1 > self.now.q3 or self.now.q1 > self.before.q3


@dataclass(frozen=True, slots=True)
class Report:
    """A whole benchmark.

    Attributes:
        created: when it ended, ISO 8601 in UTC.
        machine: what it ran on.
        budget: how long each cell was measured.
        tolerance: the largest difference of outputs at which a cell is timed.
        cells: in the order of models, threads, batches.
        refusals: what was not timed, and why.
        notes: sentences on what may have disturbed the measurement.
        changes: since an earlier benchmark; empty unless there was one to compare with.
    """

    created: str
    machine: Machine
    budget: Budget
    tolerance: float
    cells: Sequence[Cell]
    refusals: Sequence[Refusal]
    notes: Sequence[str]
    changes: Sequence[Change] = ()

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON types, described in docs/benchmarks.md."""
        values = {"schema": SCHEMA, **dataclasses.asdict(self)}
        for values_of_cell, cell in zip(values["cells"], self.cells, strict=True):
            values_of_cell["noisy"] = cell.noisy
        for values_of_change, change in zip(values["changes"], self.changes, strict=True):
            values_of_change |= {"speedup": change.speedup, "clear": change.clear}
        return values
