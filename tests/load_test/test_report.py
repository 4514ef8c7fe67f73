from __future__ import annotations

import io
import json
from array import array
from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from pyconv.load_test import Cell, Load, Measured, Report

_latencies = st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=300)


def _cell(latencies: list[float], **changes: object) -> Cell:
    measured = Measured(latencies=array("d", latencies), seconds=2.0)
    for name, value in changes.items():
        setattr(measured, name, value)
    return Cell(Load(concurrency=8), 4, measured)


@given(_latencies)
def test_percentiles_are_latencies_that_enough_others_do_not_exceed(values: list[float]) -> None:
    found = _cell(values).percentiles_ms()
    for percent in (50, 90, 99, 99.9):
        rank = found[f"p{percent:g}"] / 1e3
        assert np.isclose(values, rank, rtol=1e-12).any()
        below = sum(value <= rank * (1 + 1e-12) for value in values)
        assert below >= percent / 100 * (len(values) - 1)
    assert found["min"] <= found["p50"] <= found["p90"] <= found["p99"] <= found["max"]


@given(_latencies)
def test_histogram_counts_every_latency_once(values: list[float]) -> None:
    counts, edges = _cell(values).histogram()
    assert counts.sum() == len(values)
    assert (np.diff(edges) > 0).all()
    assert edges[0] <= min(values) * 1e3 * (1 + 1e-12)
    assert edges[-1] >= max(values) * 1e3 * (1 - 1e-12)


def test_report_as_json_and_as_a_table() -> None:
    good = _cell([0.001] * 99 + [0.5])
    bad = _cell([], failures=Counter(UNAVAILABLE=7), messages={"UNAVAILABLE": "[gone]"}, unsent=3)
    busy = _cell([0.001], cpu_share=0.97)
    report = Report("127.0.0.1:1", "fashion", "classifier", [good, bad, busy])
    cells = json.loads(json.dumps(report.to_dict()))["cells"]
    assert cells[0]["requests_per_second"] == 50
    assert cells[0]["images_per_second"] == 200
    assert cells[0]["latency_ms"]["p50"] == 1
    assert cells[0]["latency_ms"]["p99.9"] == 500
    assert cells[1]["failures"] == {"UNAVAILABLE": {"count": 7, "first": "[gone]"}}
    assert cells[1]["latency_ms"] == {}
    console = Console(width=200, file=io.StringIO())
    for part in report.render(histogram=True):
        console.print(part)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "7 × UNAVAILABLE: [gone]" in text
    assert "3 requests were due and never sent" in text
    assert "the generator itself used 97% of a core" in text
    assert "█" in text
