"""A benchmark's report as a bar chart (the extra `plot`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pyconv.bench.report import Cell, Report
from pyconv.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The first stands out; the others are told apart by anyone (Okabe and Ito's colours).
_COLOURS = ("#d55e00", "#8d99a6", "#0072b2", "#009e73", "#cc79a7", "#e69f00")
_INK = "#22262b"
_FAINT = "#6b7280"


def require_matplotlib() -> None:
    """Find out before anything is measured whether a chart can be drawn.

    Raises:
        MissingExtraError: Matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise MissingExtraError("matplotlib", "plot", "drawing the chart") from None


def draw(report: Report) -> Figure:
    """Images a second by batch size: a row of panels a model, a column a number of threads.

    Raises:
        InputError: the report has no timed cell.
        MissingExtraError: Matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    if not report.cells:
        raise InputError("there is nothing to draw: no cell of the benchmark was timed")
    models = list(dict.fromkeys(cell.subject.model for cell in report.cells))
    threads = list(dict.fromkeys(cell.subject.threads for cell in report.cells))
    figure = Figure(
        figsize=(1.6 + 4.2 * len(threads), 1.5 + 2.9 * len(models)), layout="constrained"
    )
    panels = figure.subplots(len(models), len(threads), sharey="row", squeeze=False)
    for row, model in zip(panels, models, strict=True):
        for panel, count in zip(row, threads, strict=True):
            cells = [
                cell
                for cell in report.cells
                if (cell.subject.model, cell.subject.threads) == (model, count)
            ]
            _bars(panel, cells)
            panel.set_title(
                f"{model} · {count} thread{'s' if count > 1 else ''}",
                loc="left",
                fontsize=11,
                fontweight="bold",
                color=_INK,
            )
        row[0].set_ylabel("images a second", color=_FAINT)
        row[0].set_ylim(bottom=0)  # after all bars of the row, which share this axis
    for panel in panels[-1]:
        panel.set_xlabel("images a call", color=_FAINT)
    first, *others = report.cells[0].timings
    handles, names = panels[0][0].get_legend_handles_labels()
    figure.legend(
        handles, names, loc="outside upper right", ncols=len(names), frameon=False, fontsize=10
    )
    figure.suptitle(
        f"{first} against {others[0] if len(others) == 1 else 'the others'}"
        if others
        else f"the speed of {first}",
        x=0.01,
        ha="left",
        fontsize=13,
        fontweight="bold",
        color=_INK,
    )
    machine = report.machine
    meaning = f"Above the bars: how many times faster {first} is. " if others else ""
    figure.supxlabel(
        f"{meaning}Bars are medians, whiskers quartiles.\n"
        f"{machine.cpu}, {machine.isa}, {machine.system} · pyconv bench, {report.created[:10]}",
        x=0.01,
        ha="left",
        fontsize=8,
        color=_FAINT,
    )
    return figure


def save(report: Report, path: Path) -> None:
    """Draw the chart into a file, whose ending says the format.

    Raises:
        InputError: the report has no timed cell, or the file cannot be written.
        MissingExtraError: Matplotlib is not installed.
    """
    figure = draw(report)
    try:
        figure.savefig(path, dpi=160)
    except OSError as error:
        raise InputError(f"cannot write the chart: {error}") from error


def _bars(panel: Axes, cells: Sequence[Cell]) -> None:
    names = list(cells[0].timings) if cells else []
    width = 0.8 / max(1, len(names))
    for place, name in enumerate(names):
        timings = [cell.timings[name] for cell in cells]
        rates = [timing.images_per_second for timing in timings]
        batches = [cell.subject.batch for cell in cells]
        slow = [batch / t.seconds.q3 for batch, t in zip(batches, timings, strict=True)]
        fast = [batch / t.seconds.q1 for batch, t in zip(batches, timings, strict=True)]
        panel.bar(
            [index + (place - (len(names) - 1) / 2) * width for index in range(len(cells))],
            rates,
            width * 0.92,
            yerr=[
                [rate - low for rate, low in zip(rates, slow, strict=True)],
                [high - rate for rate, high in zip(rates, fast, strict=True)],
            ],
            error_kw={"ecolor": _INK, "elinewidth": 0.8, "capsize": 2, "alpha": 0.7},
            color=_COLOURS[place % len(_COLOURS)],
            label=name,
        )
        if place == 0:
            for index, (cell, top) in enumerate(zip(cells, fast, strict=True)):
                if cell.ratios:
                    panel.annotate(
                        f"{min(ratio.median for ratio in cell.ratios.values()):.1f}×",
                        (index - (len(names) - 1) / 2 * width, top),
                        xytext=(0, 4),
                        textcoords="offset points",
                        ha="center",
                        fontsize=10,
                        fontweight="bold",
                        color=_INK,
                    )
    panel.set_xticks(range(len(cells)), [str(cell.subject.batch) for cell in cells])
    panel.margins(y=0.14)
    panel.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    panel.grid(axis="y", color="#e5e7eb", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.spines["bottom"].set_color("#9ca3af")
    panel.tick_params(length=0, colors=_FAINT)
