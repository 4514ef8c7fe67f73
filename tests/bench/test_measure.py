from __future__ import annotations

import gc
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyconv.bench.measure import Budget, interleave, paired_ratio, spread

_BRIEF = Budget(seconds=0.001, rounds=8)


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=50))
def test_spread_is_numpys_quartiles(samples: list[float]) -> None:
    got = spread(samples)
    expected = np.quantile(samples, [0.25, 0.5, 0.75])
    np.testing.assert_allclose([got.q1, got.median, got.q3], expected, rtol=1e-9)


def test_paired_ratio_divides_samples_of_one_round() -> None:
    # The machine slowed down tenfold half-way; the pairs do not see it.
    ratio = paired_ratio([2.0, 2.0, 20.0, 20.0], [1.0, 1.0, 10.0, 10.0])
    assert (ratio.q1, ratio.median, ratio.q3) == (2.0, 2.0, 2.0)


def test_paired_ratio_refuses_unequal_counts() -> None:
    with pytest.raises(ValueError, match="zip"):
        paired_ratio([1.0, 2.0], [1.0])


def test_interleave_calls_every_trial_once_a_round_in_changing_order() -> None:
    calls: list[str] = []
    trials = {name: lambda name=name: calls.append(name) for name in "abc"}
    samples = interleave(trials, Budget(seconds=1e-9, rounds=30))
    assert {name: len(values) for name, values in samples.items()} == {"a": 30, "b": 30, "c": 30}
    timed = calls[-90:]
    rounds = [tuple(timed[start : start + 3]) for start in range(0, 90, 3)]
    assert all(sorted(names) == ["a", "b", "c"] for names in rounds)
    assert len(set(rounds)) > 3


def test_interleave_measures_what_a_call_takes() -> None:
    samples = interleave({"a": lambda: time.sleep(0.002), "b": lambda: time.sleep(0.05)}, _BRIEF)
    assert min(samples["a"]) >= 0.002
    assert paired_ratio(samples["b"], samples["a"]).median > 3


def test_interleave_goes_on_until_the_seconds_are_spent() -> None:
    start = time.perf_counter()
    samples = interleave({"a": lambda: time.sleep(0.005)}, Budget(seconds=0.2, rounds=1))
    assert time.perf_counter() - start >= 0.2
    assert len(samples["a"]) > 5


def test_interleave_reports_progress_up_to_the_end() -> None:
    shares: list[float] = []
    interleave({"a": lambda: None}, _BRIEF, progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_interleave_leaves_garbage_collection_as_it_was() -> None:
    def fail_when_timed() -> None:
        if not gc.isenabled():
            raise RuntimeError("in a round")

    with pytest.raises(RuntimeError, match="in a round"):
        interleave({"a": fail_when_timed}, _BRIEF)
    assert gc.isenabled()


def test_interleave_with_own_threads_lets_the_others_threads_come_to_rest() -> None:
    spinners: list[threading.Thread] = []
    disturbed: list[bool] = []

    def spin() -> None:
        end = time.perf_counter() + 0.04
        while time.perf_counter() < end:
            pass

    def leave_a_thread_spinning() -> None:
        if not any(thread.is_alive() for thread in spinners):
            spinners.append(threading.Thread(target=spin))
            spinners[-1].start()

    def look() -> None:
        disturbed.append(any(thread.is_alive() for thread in spinners))

    def share_disturbed(own_threads: bool) -> float:
        rounds = 0

        def forget_the_warm_up(_share: float) -> None:
            nonlocal rounds
            rounds += 1
            if rounds == 1:
                disturbed.clear()

        interleave(
            {"pool": leave_a_thread_spinning, "other": look},
            Budget(seconds=0.001, rounds=6),
            own_threads=own_threads,
            progress=forget_the_warm_up,
        )
        return sum(disturbed) / len(disturbed)

    assert share_disturbed(own_threads=True) < 0.01
    assert share_disturbed(own_threads=False) > 0.01  # so that the check above can fail
