"""The curves of a run, or of several: loss and accuracy by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyconv.errors import MissingExtraError
from pyconv.training.files import write_atomically
from pyconv.training.history import Epoch

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Told apart by anyone (Okabe and Ito's colours).
_COLOURS = {"training": "#0072b2", "held out": "#009e73", "test": "#d55e00"}
_ORDER = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")
_INK = "#22262b"
_FAINT = "#6b7280"


def draw(path: Path, title: str, history: Sequence[Epoch]) -> None:
    """Draw the curves into a picture file, replaced in one step.

    Args:
        path: the file; its suffix says the format.
        title: above the whole picture.
        history: at least one epoch.

    Raises:
        MissingExtraError: Matplotlib is not installed.
    """
    figure = _figure(title)
    loss, accuracy = figure.subplots(1, 2)
    _curves(
        loss,
        history,
        {
            "training": [row.loss for row in history],
            "held out": [row.validation_loss for row in history],
            "test": [row.test_loss for row in history],
        },
    )
    _curves(
        accuracy,
        history,
        {
            "training": [row.accuracy for row in history],
            "held out": [row.validation_accuracy for row in history],
            "test": [row.test_accuracy for row in history],
        },
    )
    _label(loss, accuracy)
    accuracy.legend(frameon=False, loc="lower right", labelcolor=_INK)
    write_atomically(path, lambda file: figure.savefig(file, dpi=160))


def compare(path: Path, title: str, histories: Mapping[str, Sequence[Epoch]]) -> None:
    """Draw the curves of several networks into one picture file, replaced in one step.

    Solid lines are the test images, with a ring where their loss is lowest; dotted ones the
    training images.

    Args:
        path: the file; its suffix says the format.
        title: above the whole picture.
        histories: at least one epoch of each network, by its name.

    Raises:
        MissingExtraError: Matplotlib is not installed.
    """
    figure = _figure(title)
    loss, accuracy = figure.subplots(1, 2)
    single = all(len(history) == 1 for history in histories.values())  # no line to be drawn
    for place, (name, history) in enumerate(histories.items()):
        colour = _ORDER[place % len(_ORDER)]
        epochs = [row.epoch for row in history]
        for panel, tested, trained in (
            (loss, [row.test_loss for row in history], [row.loss for row in history]),
            (accuracy, [row.test_accuracy for row in history], [row.accuracy for row in history]),
        ):
            test: Any = tested  # Matplotlib leaves a gap where there is none
            dot, cross = (".", "x") if single else ("", "")
            panel.plot(epochs, test, linewidth=2, color=colour, label=name, marker=dot)
            panel.plot(epochs, trained, linewidth=1.2, linestyle=":", color=colour, marker=cross)
        measured = [row for row in history if row.test_loss is not None]
        if measured:
            turn = min(measured, key=lambda row: row.test_loss or 0.0)
            ring: Any = turn.test_loss
            loss.plot(turn.epoch, ring, "o", markersize=9, fillstyle="none", color=colour)
    _label(loss, accuracy)
    accuracy.legend(frameon=False, loc="lower right", labelcolor=_INK)
    figure.supxlabel(
        f"{'dots' if single else 'solid'}: test images, the ring where their loss is lowest · "
        f"{'crosses' if single else 'dotted'}: training images, measured while learning",
        x=0.012,
        ha="left",
        fontsize=8,
        color=_FAINT,
    )
    write_atomically(path, lambda file: figure.savefig(file, dpi=110))


def _figure(title: str) -> Figure:
    try:
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError:
        raise MissingExtraError("matplotlib", "train", "drawing the curves") from None
    figure = Figure(figsize=(9.6, 4.0), layout=ConstrainedLayoutEngine(wspace=0.06))
    figure.suptitle(title, x=0.012, ha="left", color=_INK, fontsize=13, fontweight="bold")
    return figure


def _label(loss: Axes, accuracy: Axes) -> None:
    loss.set_title("Loss (mean cross-entropy)", loc="left", color=_INK, fontsize=11)
    loss.set_ylim(0, 1.08 * loss.get_ylim()[1])
    accuracy.set_title("Accuracy", loc="left", color=_INK, fontsize=11)
    accuracy.yaxis.set_major_formatter(lambda value, _: f"{value:.1%}")
    for panel in (loss, accuracy):
        _style(panel)


def _curves(
    panel: Axes, history: Sequence[Epoch], series: dict[str, Sequence[float | None]]
) -> None:
    for name, values in series.items():
        if None in values:
            continue
        panel.plot(
            [row.epoch for row in history],
            values,  # type: ignore[arg-type]
            marker="o",
            markersize=4,
            linewidth=2,
            color=_COLOURS[name],
            label=name,
        )


def _style(panel: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    panel.set_xlabel("epoch", color=_FAINT)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    panel.grid(axis="y", color="#e5e7eb", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.tick_params(colors=_FAINT, length=0)
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)
    panel.spines["bottom"].set_color("#9ca3af")
