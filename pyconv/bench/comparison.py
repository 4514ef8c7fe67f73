"""The benchmark itself: the contestants must agree first, then they are timed, cell by cell."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np

from pyconv import bundled
from pyconv.bench.contestants import CONTESTANTS, Contestant, Runner
from pyconv.bench.inputs import random_inputs
from pyconv.bench.machine import Machine, describe, measure_peak
from pyconv.bench.measure import Budget, Spread, interleave, paired_ratio, spread
from pyconv.bench.memory import call_bytes
from pyconv.bench.report import NOISY, Cell, Refusal, Report, StepTiming, Subject, Timing
from pyconv.engines.base import Array
from pyconv.errors import InputError, PyconvError
from pyconv.model import load

TOLERANCE = 1e-4
"""Outputs that differ by more than this share of their scale are not timed against each other."""

_PEAK_DRIFT = 0.1


class DisagreementError(PyconvError):
    """Two contestants compute different outputs, so their times cannot be compared."""


def compare(
    models: Sequence[str | Path],
    batches: Sequence[int],
    threads: Sequence[int],
    budget: Budget,
    *,
    contestants: Mapping[str, Contestant] = CONTESTANTS,
    layers: bool = False,
    memory: bool = False,
    tolerance: float = TOLERANCE,
    progress: Callable[[str, float], None] = lambda _text, _share: None,
) -> Report:
    """Compare the contestants' speed on every model, number of threads and batch size.

    Args:
        models: bundled names or paths of ONNX files.
        batches: images a call, each at least 1.
        threads: that one call may use, each at least 1.
        budget: how long each cell is measured.
        contestants: who takes part, by name. The ratios are about the first.
        layers: whether the first is then timed step by step, too.
        memory: whether the memory that a call takes is measured, too, each in a process of its own.
        tolerance: the largest difference of outputs, as a share of their scale, at which a cell
            is timed.
        progress: is told what is being measured, and which share of the benchmark is done, 0 to 1.

    Returns:
        The figures. What a contestant cannot run, or computes otherwise than the first, is no
        error here: it is among the report's refusals.

    Raises:
        InputError: a batch size or a number of threads is below 1, or the budget is not positive.
        ModelError: a model does not exist or cannot be read.
    """
    _check(batches, threads, budget)
    files = _labelled(models)
    flops = {
        label: load(path, engine="onnxruntime").summary().flops for label, path in files.items()
    }
    machine = describe([one.package for one in contestants.values()], measure_peak())
    plan = [
        Subject(label, batch, count) for label in files for count in threads for batch in batches
    ]
    cells: list[Cell] = []
    refusals: list[Refusal] = []
    for done, subject in enumerate(plan):
        tell = partial(_tell, progress, str(subject), done, len(plan))
        tell(0.0)
        try:
            trial = _load(subject, files[subject.model], contestants)
            difference = _largest_difference(trial, tolerance)
            samples = interleave(
                {
                    name: partial(runner.call, trial.inputs)
                    for name, runner in trial.runners.items()
                },
                budget,
                own_threads=subject.threads > 1,
                progress=tell,
            )
        except PyconvError as error:
            refusals.append(Refusal(subject, str(error)))
            continue
        cell = _cell(subject, flops[subject.model], difference, samples, machine)
        if layers:
            cell = dataclasses.replace(cell, steps=_time_steps(trial, subject, budget, machine))
        if memory:
            path = files[subject.model]
            grown = {
                name: call_bytes(name, path, subject.batch, subject.threads) for name in contestants
            }
            cell = dataclasses.replace(cell, memory_bytes=grown)
        cells.append(cell)
    return Report(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine,
        budget=budget,
        tolerance=tolerance,
        cells=cells,
        refusals=refusals,
        notes=_notes(cells, machine, measure_peak()),
    )


@dataclass(frozen=True, slots=True)
class _Trial:
    """What is timed in one cell: the contestants, loaded, and what they are fed."""

    runners: Mapping[str, Runner]
    inputs: dict[str, Array]


def _load(subject: Subject, path: Path, contestants: Mapping[str, Contestant]) -> _Trial:
    runners = {name: one.load(path, subject.threads) for name, one in contestants.items()}
    return _Trial(runners, random_inputs(load(path, engine="onnxruntime").inputs, subject.batch))


def _largest_difference(trial: _Trial, tolerance: float) -> float:
    """The largest difference of the contestants' outputs from the first's."""
    outputs = {
        name: runner.outputs(runner.call(trial.inputs)) for name, runner in trial.runners.items()
    }
    first, *others = outputs
    return max(
        (
            _require_agreement(first, outputs[first], other, outputs[other], tolerance)
            for other in others
        ),
        default=0.0,
    )


def _time_steps(
    trial: _Trial, subject: Subject, budget: Budget, machine: Machine
) -> list[StepTiming]:
    """The first contestant's steps, each by its own median over as many runs as fit the budget."""
    runner = next(iter(trial.runners.values()))
    runs = [runner.time_steps(trial.inputs)]
    end = time.perf_counter() + budget.seconds
    while len(runs) < budget.rounds or time.perf_counter() < end:
        runs.append(runner.time_steps(trial.inputs))
    spreads = [spread(seconds) for seconds in zip(*runs, strict=True)]
    total = sum(each.median for each in spreads)
    return [
        StepTiming(
            name=step.name,
            operator=step.operator,
            algorithm=step.algorithm,
            timing=_timing(seconds, subject, step.flops, machine),
            share=seconds.median / total,
        )
        for step, seconds in zip(runner.steps, spreads, strict=True)
    ]


def _timing(
    seconds: Spread, subject: Subject, flops_per_image: int | None, machine: Machine
) -> Timing:
    images_per_second = subject.batch / seconds.median
    if flops_per_image is None:
        return Timing(seconds, images_per_second, None, None)
    gflops = flops_per_image * images_per_second / 1e9
    peak = machine.peak_gflops * min(subject.threads, machine.cores)
    return Timing(seconds, images_per_second, gflops, gflops / peak)


def _cell(
    subject: Subject,
    flops_per_image: int | None,
    difference: float,
    samples: Mapping[str, Sequence[float]],
    machine: Machine,
) -> Cell:
    first, *others = samples
    return Cell(
        subject=subject,
        flops_per_image=flops_per_image,
        difference=difference,
        rounds=len(samples[first]),
        timings={
            name: _timing(spread(seconds), subject, flops_per_image, machine)
            for name, seconds in samples.items()
        },
        ratios={name: paired_ratio(samples[name], samples[first]) for name in others},
    )


def _require_agreement(
    first: str,
    outputs: Mapping[str, Array],
    other: str,
    expected: Mapping[str, Array],
    tolerance: float,
) -> float:
    largest = 0.0
    for name, array in expected.items():
        difference = _difference(outputs[name], array)
        if not difference <= tolerance:
            raise DisagreementError(
                f"not timed: {first} and {other} differ by {difference:.2g} of the scale of the "
                f"output {name!r}, more than the {tolerance:g} at which their times would compare; "
                "int8 differs by more, and can be allowed to: --tolerance"
            )
        largest = max(largest, difference)
    return largest


def _difference(got: Array, expected: Array) -> float:
    """The largest difference as a share of the largest absolute value that was expected."""
    if got.shape != expected.shape:
        return np.inf
    if not expected.size:
        return 0.0
    exact, wanted = got.astype(np.float64), expected.astype(np.float64)
    same = (exact == wanted) | (np.isnan(exact) & np.isnan(wanted))
    gap = np.abs(np.subtract(exact, wanted, where=~same, out=np.zeros_like(exact)))
    scale = np.abs(wanted[np.isfinite(wanted)]).max(initial=0.0) or 1.0
    return float(np.nan_to_num(gap, nan=np.inf).max() / scale)


def _notes(cells: Sequence[Cell], machine: Machine, peak_after: float) -> list[str]:
    notes = []
    noisy = sum(cell.noisy for cell in cells)
    if noisy:
        notes.append(
            f"The machine was too noisy to rely on {noisy} of {len(cells)} cells, marked ~: the "
            f"quartiles lie further apart than {NOISY:.0%} of the median. Close other programs, or "
            "measure longer (--seconds)."
        )
    drift = peak_after / machine.peak_gflops - 1
    if abs(drift) > _PEAK_DRIFT:
        notes.append(
            f"The core's peak moved from {machine.peak_gflops:.0f} to {peak_after:.0f} GFLOP/s "
            f"while this ran ({drift:+.0%}): take the shares of peak with care."
        )
    crowded = max((cell.subject.threads for cell in cells), default=0)
    if crowded > machine.cores:
        notes.append(f"{crowded} threads had to share {machine.cores} cores.")
    return notes


def _tell(
    progress: Callable[[str, float], None], text: str, done: int, total: int, share: float
) -> None:
    progress(text, (done + share) / total)


def _labelled(models: Sequence[str | Path]) -> dict[str, Path]:
    """The files by the names that the report gives them: short, unless two would be the same."""
    paths = dict.fromkeys(bundled.resolve(model) for model in models)
    stems = [path.stem for path in paths]
    return {path.stem if stems.count(path.stem) == 1 else str(path): path for path in paths}


def _check(batches: Sequence[int], threads: Sequence[int], budget: Budget) -> None:
    for name, values in (("batch", batches), ("threads", threads)):
        for value in values:
            if value < 1:
                raise InputError(f"{name}: expected at least 1, got {value}")
    if not 0 < budget.seconds < float("inf"):
        raise InputError(f"seconds: expected more than 0, got {budget.seconds:g}")
    if budget.rounds < 1:
        raise InputError(f"rounds: expected at least 1, got {budget.rounds}")
