"""The curves of a run: loss and accuracy by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pyconv.errors import MissingExtraError
from pyconv.training.files import write_atomically
from pyconv.training.history import Epoch

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Told apart by anyone (Okabe and Ito's colours).
_COLOURS = {"training": "#0072b2", "held out": "#009e73", "test": "#d55e00"}
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
    try:
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError:
        raise MissingExtraError("matplotlib", "train", "drawing the curves") from None

    figure = Figure(figsize=(9.6, 4.0), layout=ConstrainedLayoutEngine(wspace=0.06))
    figure.suptitle(title, x=0.012, ha="left", color=_INK, fontsize=13, fontweight="bold")
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
    loss.set_title("Loss (mean cross-entropy)", loc="left", color=_INK, fontsize=11)
    loss.set_ylim(0, 1.08 * loss.get_ylim()[1])
    _curves(
        accuracy,
        history,
        {
            "training": [row.accuracy for row in history],
            "held out": [row.validation_accuracy for row in history],
            "test": [row.test_accuracy for row in history],
        },
    )
    accuracy.set_title("Accuracy", loc="left", color=_INK, fontsize=11)
    accuracy.yaxis.set_major_formatter(lambda value, _: f"{value:.1%}")
    accuracy.legend(frameon=False, loc="lower right", labelcolor=_INK)
    write_atomically(path, lambda file: figure.savefig(file, dpi=160))


def _curves(
    panel: Axes, history: Sequence[Epoch], series: dict[str, Sequence[float | None]]
) -> None:
    from matplotlib.ticker import MaxNLocator

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
    panel.set_xlabel("epoch", color=_FAINT)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    panel.grid(axis="y", color="#e5e7eb", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.tick_params(colors=_FAINT, length=0)
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)
    panel.spines["bottom"].set_color("#9ca3af")
