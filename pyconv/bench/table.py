"""A benchmark's report as a table for people."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from pyconv.bench.measure import Spread
from pyconv.bench.report import Cell, Report

WIDTH = 100
"""Columns of text that the table needs."""

_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


def header(report: Report) -> str:
    """The machine and the versions, in two lines."""
    machine = report.machine
    versions = " · ".join(f"{name} {version}" for name, version in machine.versions.items())
    return (
        f"{machine.cpu} · {machine.cores} core{'s' if machine.cores > 1 else ''} · "
        f"{machine.isa} · peak {machine.peak_gflops:.0f} GFLOP/s a core (measured)\n"
        f"{machine.system} · {versions}"
    )


def render(report: Report) -> Iterator[RenderableType]:
    """What to print, in order: the header, the table, what was refused, the notes."""
    yield Text(header(report))
    if report.cells:
        yield _table(report)
    for cell in report.cells:
        if cell.steps:
            yield _steps(cell)
    if any(cell.memory_bytes for cell in report.cells):
        yield _memory(report)
    if report.changes:
        yield _changes(report)
    for refusal in report.refusals:
        yield Text(f"{refusal.subject}: {refusal.reason}", style="red")
    for note in report.notes:
        yield Text(f"Note: {note}", style="yellow")


def _table(report: Report) -> Table:
    first = next(iter(report.cells[0].timings))
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        caption=f"“a call” is the median; half of the calls lie within the quartiles. "
        f"÷ {first}: the engine's time over {first}'s, the median of pairs.",
        caption_justify="left",
    )
    _add_subject_columns(table)
    for name in ("a call", "quartiles", "images/s", "GFLOP/s", "of peak", f"÷ {first}"):
        table.add_column(name, justify="right", no_wrap=True)
    previous = ""
    for cell in report.cells:
        model = cell.subject.model
        _add_rows(table, cell, shown_model=model if model != previous else "")
        previous = model
    return table


def _add_rows(table: Table, cell: Cell, shown_model: str) -> None:
    names = list(cell.timings)
    for name, timing in cell.timings.items():
        leads, ends = name == names[0], name == names[-1]
        ratio = cell.ratios.get(name)
        table.add_row(
            shown_model if leads else "",
            str(cell.subject.batch) if leads else "",
            str(cell.subject.threads) if leads else "",
            name,
            ("~" if cell.noisy else "") + duration(timing.seconds.median),
            _quartiles(timing.seconds),
            f"{timing.images_per_second:,.0f}",
            "–" if timing.gflops is None else f"{timing.gflops:.1f}",
            "–" if timing.peak_share is None else f"{timing.peak_share:.0%}",
            f"{ratio.median:.2f}×" if ratio else "",
            end_section=ends,
        )


def _steps(cell: Cell) -> Table:
    table = _new_table(f"{cell.subject}: native, step by step")
    for name in ("computes", "operator", "algorithm"):
        table.add_column(name)
    for name in ("a call", "share", "GFLOP/s", "of peak"):
        table.add_column(name, justify="right", no_wrap=True)
    for step in cell.steps:
        timing = step.timing
        counted = bool(timing.gflops)
        table.add_row(
            step.name,
            step.operator,
            step.algorithm,
            duration(timing.seconds.median),
            f"{step.share:.0%}",
            f"{timing.gflops:.1f}" if counted else "–",
            f"{timing.peak_share:.0%}" if counted else "–",
        )
    return table


def _new_table(title: str, caption: str | None = None) -> Table:
    return Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        title=title,
        title_justify="left",
        caption=caption,
        caption_justify="left",
    )


def _add_subject_columns(table: Table) -> None:
    """The columns that say which cell of the benchmark, and whose figures, a row is about."""
    table.add_column("model")
    for name in ("batch", "threads"):
        table.add_column(name, justify="right")
    table.add_column("engine")


def _memory(report: Report) -> Table:
    first = next(iter(report.cells[0].timings))
    table = _new_table(
        "Memory that a call takes",
        "how far resident memory grows during a first call, its result included.",
    )
    _add_subject_columns(table)
    for name in ("MB", f"÷ {first}"):
        table.add_column(name, justify="right", no_wrap=True)
    for cell in report.cells:
        for name, grown in cell.memory_bytes.items():
            least = cell.memory_bytes[first]
            table.add_row(
                cell.subject.model,
                str(cell.subject.batch),
                str(cell.subject.threads),
                name,
                f"{grown / 1e6:.2f}",
                f"{grown / least:.1f}×" if name != first and least > 0 else "",
            )
    return table


def _changes(report: Report) -> Table:
    first = next(iter(report.cells[0].timings))
    table = _new_table(
        "Beside the earlier figures",
        "faster: the earlier median over this one; ≈ where the quartiles overlap.",
    )
    _add_subject_columns(table)
    for name in ("then", "now", "faster", f"÷ {first} then", "now"):
        table.add_column(name, justify="right", no_wrap=True)
    for change in report.changes:
        table.add_row(
            change.subject.model,
            str(change.subject.batch),
            str(change.subject.threads),
            change.contestant,
            duration(change.before.median),
            duration(change.now.median),
            ("" if change.clear else "≈ ") + f"{change.speedup:.2f}×",
            f"{change.ratio_before.median:.2f}×" if change.ratio_before else "",
            f"{change.ratio_now.median:.2f}×" if change.ratio_now else "",
        )
    return table


def duration(seconds: float) -> str:
    """Three digits and a unit: `1.25 ms`."""
    size, unit = _unit(seconds)
    return f"{_digits(seconds / size)} {unit}"


def _quartiles(seconds: Spread) -> str:
    size, _ = _unit(seconds.median)
    return f"{_digits(seconds.q1 / size)}–{_digits(seconds.q3 / size)}"


def _unit(seconds: float) -> tuple[float, str]:
    return next((unit for unit in _UNITS if seconds >= unit[0]), _UNITS[-1])


def _digits(value: float) -> str:
    """Three significant digits, never an exponent."""
    return f"{value:.0f}" if value >= 99.5 else f"{value:.1f}" if value >= 9.95 else f"{value:.2f}"
