from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pyconv.bench import earlier, table
from pyconv.bench.measure import Spread
from pyconv.bench.report import Report
from pyconv.errors import InputError


@pytest.fixture
def saved(report: Report, tmp_path: Path) -> Path:
    path = tmp_path / "earlier.json"
    path.write_text(json.dumps(report.to_dict()), encoding="utf-8")
    return path


def _faster(report: Report, times: float) -> Report:
    """The report of a native engine that is so many times faster in its first cell."""
    cell = report.cells[0]
    native = cell.timings["native"]
    spread = Spread(*(value / times for value in dataclasses.astuple(native.seconds)))
    timings = {**cell.timings, "native": dataclasses.replace(native, seconds=spread)}
    ratios = {"onnxruntime": Spread(*(3.0 * times * share for share in (0.97, 1.0, 1.03)))}
    cell = dataclasses.replace(cell, timings=timings, ratios=ratios)
    return dataclasses.replace(report, cells=[cell, *report.cells[1:]])


def test_what_became_faster_is_told_from_what_stayed(report: Report, saved: Path) -> None:
    now = earlier.compare_with(_faster(report, 1.5), earlier.read(saved))
    assert [(c.subject, c.contestant) for c in now.changes] == [
        (cell.subject, name) for cell in report.cells for name in ("native", "onnxruntime")
    ]
    first, second, *others = now.changes
    assert first.speedup == pytest.approx(1.5)
    assert first.clear
    assert (first.ratio_before, first.ratio_now) == (None, None)
    assert second.speedup == 1.0
    assert second.ratio_before is not None
    assert second.ratio_now is not None
    assert (second.ratio_before.median, second.ratio_now.median) == (3.0, 4.5)
    assert not any(change.clear for change in (second, *others))
    assert now.notes == report.notes  # the same machine: nothing to be careful about


def test_changes_are_shown(report: Report, saved: Path) -> None:
    now = earlier.compare_with(_faster(report, 1.5), earlier.read(saved))
    console = Console(file=io.StringIO(), width=table.WIDTH)
    for part in table.render(now):
        console.print(part)
    lines = [line.split() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert ["small", "1", "1", "native", "1.00", "ms", "667", "µs", "1.50×"] in lines
    row = ["small", "1", "1", "onnxruntime", "3.00", "ms", "3.00", "ms", "≈", "1.00×"]
    assert [*row, "3.00×", "4.50×"] in lines
    assert json.loads(json.dumps(now.to_dict()))["changes"][0]["speedup"] == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"cpu": "Another"}, "measured on another machine (Another, 2 cores"),
        ({"cores": 8}, "measured on another machine (A CPU, 8 cores"),
        ({"peak_gflops": 150.0}, "The core's peak was 150 GFLOP/s then and is 200 now"),
        ({"isa": "avx512", "peak_gflops": 400.0}, "at the ISA level avx512, this at avx2"),
        ({"versions": {"python": "3.10.1"}}, "python was 3.10.1 then and is 3.11.0 now"),
    ],
)
def test_what_makes_figures_unlike_is_noted(
    report: Report, saved: Path, change: dict[str, Any], note: str
) -> None:
    values = json.loads(saved.read_text())
    values["machine"] |= change
    saved.write_text(json.dumps(values))
    (said,) = earlier.compare_with(report, earlier.read(saved)).notes[len(report.notes) :]
    assert note in said


def test_nothing_in_common_is_noted(report: Report, saved: Path) -> None:
    values = json.loads(saved.read_text())
    for cell in values["cells"]:
        cell["subject"]["model"] = "other"
    saved.write_text(json.dumps(values))
    now = earlier.compare_with(report, earlier.read(saved))
    assert now.changes == []
    assert now.notes[-1] == f"{saved} has none of these models, batch sizes and threads."


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), r"earlier\.json: cannot be read: No such file"),
        (
            lambda path: path.write_bytes(b"\xff\xfe\x00"),
            r"earlier\.json: expected what pyconv bench",
        ),
        (lambda path: path.write_text("{"), "expected what pyconv bench --json wrote"),
        (lambda path: path.write_text("[]"), "got None"),
        (lambda path: path.write_text('{"schema": "pyconv-bench/9"}'), "got 'pyconv-bench/9'"),
        (lambda path: path.write_text('{"schema": "pyconv-bench/1"}'), "are not whole"),
        (
            lambda path: path.write_text(path.read_text().replace('"threads"', '"thraeds"')),
            "are not whole",
        ),
    ],
)
def test_a_file_that_is_none_is_refused(
    saved: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(saved)
    with pytest.raises(InputError, match=message):
        earlier.read(saved)
