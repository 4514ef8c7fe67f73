"""Timing several callables against each other in one run, and what their samples say.

Nothing here knows a network or an engine. What runs on one thread is interleaved call by call, in a
random order in every round, so that whatever slows the machine down for a moment slows all of them
down, and the ratio of two samples of one round is a fair one.

What runs on threads of its own takes turns of several calls instead. Thread pools spin for a while
after a call (onnxruntime's for about 40 ms) before they sleep, and on a machine with few cores that
would be timed as the next one's slowness. So each turn begins when the process has gone quiet, and
with calls that wake the pool and are not counted.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

Trial: TypeAlias = Callable[[], object]
"""One call of what is timed. Its result is dropped."""

_WARM_UP_SECONDS = 0.02
_WARM_UP_CALLS = 3
_TURN_SECONDS = 0.01
_QUIET_WINDOW_SECONDS = 0.012  # process time may advance in ticks of 4 ms: three of them
_QUIET_CPU_SHARE = 0.1
_QUIET_TIMEOUT_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Budget:
    """How long to measure: until both are reached.

    Attributes:
        seconds: wall-clock time, warming up left out.
        rounds: every trial gives one sample a round.
    """

    seconds: float = 1.0
    rounds: int = 20


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle of some samples, and how far the middle half of them reaches.

    Attributes:
        q1: the lower quartile.
        median: half of the samples are below it.
        q3: the upper quartile.
    """

    q1: float
    median: float
    q3: float

    @property
    def relative(self) -> float:
        """The distance of the quartiles as a share of the median."""
        return (self.q3 - self.q1) / self.median


def spread(samples: Sequence[float]) -> Spread:
    """Median and quartiles (linear between the nearest samples) of one sample or more."""
    if len(samples) == 1:
        return Spread(samples[0], samples[0], samples[0])
    q1, median, q3 = statistics.quantiles(samples, n=4, method="inclusive")
    return Spread(q1, median, q3)


def paired_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Spread:
    """The spread of the ratios of samples that were taken in the same round."""
    return spread([above / below for above, below in zip(numerators, denominators, strict=True)])


def interleave(
    trials: Mapping[str, Trial],
    budget: Budget,
    *,
    own_threads: bool = False,
    progress: Callable[[float], None] | None = None,
) -> dict[str, list[float]]:
    """Time trials against each other.

    Args:
        trials: what to time, by name.
        budget: how long.
        own_threads: the trials run on thread pools that may spin between calls; see above.
        progress: is told the share of the budget that is spent, 0 to 1, after each round.

    Returns:
        Seconds a call: one sample a round for each trial, in the order of the rounds. In turns of
        several calls, the sample is the turn's median.
    """
    seconds_a_call = {name: _warm_up(trial) for name, trial in trials.items()}
    samples: dict[str, list[float]] = {name: [] for name in trials}
    order = list(trials)
    shuffle = random.Random(0).shuffle
    rounds, spent = 0, 0.0
    start = time.perf_counter()
    with _no_garbage_collection():
        while rounds < budget.rounds or spent < budget.seconds:
            shuffle(order)
            for name in order:
                if own_threads:
                    samples[name].append(_turn(trials[name], seconds_a_call[name]))
                else:
                    samples[name].append(_time(trials[name]))
            rounds, spent = rounds + 1, time.perf_counter() - start
            if progress is not None:
                progress(min(1.0, spent / budget.seconds, rounds / budget.rounds))
    return samples


def _time(trial: Trial) -> float:
    start = time.perf_counter()
    trial()
    return time.perf_counter() - start


def _warm_up(trial: Trial) -> float:
    """Call until caches, allocators and clocks have settled; returns the fastest call's seconds."""
    start = time.perf_counter()
    seconds = [_time(trial) for _ in range(_WARM_UP_CALLS)]
    while time.perf_counter() - start < _WARM_UP_SECONDS:
        seconds.append(_time(trial))
    return min(seconds)


def _turn(trial: Trial, seconds_a_call: float) -> float:
    _wait_until_quiet()
    for _ in range(_WARM_UP_CALLS):
        trial()
    calls = max(1, round(_TURN_SECONDS / seconds_a_call))
    return statistics.median(_time(trial) for _ in range(calls))


def _wait_until_quiet() -> None:
    """Sleep until no thread of this process spins any more, or half a second has passed."""
    deadline = time.perf_counter() + _QUIET_TIMEOUT_SECONDS
    while time.perf_counter() < deadline:
        wall, cpu = time.perf_counter(), time.process_time()
        time.sleep(_QUIET_WINDOW_SECONDS)
        if time.process_time() - cpu < _QUIET_CPU_SHARE * (time.perf_counter() - wall):
            return


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
