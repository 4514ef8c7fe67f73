from __future__ import annotations

import dataclasses
import io

import pytest
from rich.console import Console

from pyconv.bench import table
from pyconv.bench.report import Report, StepTiming


def _printed(report: Report) -> str:
    console = Console(file=io.StringIO(), width=table.WIDTH)
    for part in table.render(report):
        console.print(part)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_render_shows_every_figure(report: Report) -> None:
    lines = [line.split() for line in _printed(report).splitlines()]
    first = ["small", "1", "1", "native", "1.00", "ms", "0.99–1.02", "1,000", "10.0", "5%"]
    assert first in lines
    assert ["onnxruntime", "3.00", "ms", "2.97–3.06", "333", "3.3", "2%", "3.00×"] in lines
    # 16 images on two threads: 16,000 a second, 160 GFLOP/s of 2 × 200.
    assert ["16", "2", "native", "1.00", "ms", "0.99–1.02", "16,000", "160.0", "40%"] in lines


def test_render_names_the_machine_the_refusals_and_the_notes(report: Report) -> None:
    text = _printed(report)
    assert "A CPU · 2 cores · avx2 · peak 200 GFLOP/s a core" in text
    assert "odd, batch 1, 1 thread: not timed: they differ" in text
    assert "Note: The machine was too noisy." in text


def test_steps_are_shown_below(report: Report) -> None:
    timing = report.cells[0].timings["native"]
    steps = [StepTiming("conv", "conv2d", "direct", timing, 0.75)]
    cells = [dataclasses.replace(report.cells[0], steps=steps), *report.cells[1:]]
    text = _printed(dataclasses.replace(report, cells=cells))
    assert "small, batch 1, 1 thread: native, step by step" in text
    (row,) = [line for line in text.splitlines() if "direct" in line]
    assert row.split() == ["conv", "conv2d", "direct", "1.00", "ms", "75%", "10.0", "5%"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3.5e-6, "3.50 µs"), (99.7e-6, "100 µs"), (12.34e-3, "12.3 ms"), (1.5, "1.50 s")],
)
def test_duration_has_three_digits_and_a_fitting_unit(seconds: float, text: str) -> None:
    assert table.duration(seconds) == text
