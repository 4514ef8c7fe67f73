"""A run's history: one row an epoch, kept as CSV."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pyconv.errors import ModelError
from pyconv.training.files import write_atomically


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one epoch came to. Losses are mean cross-entropies in nats, accuracies shares of 1.

    Attributes:
        epoch: its number, from 1.
        loss: over the training images, each measured in its batch while the network was learning.
        accuracy: likewise.
        test_loss: over the test images, after the epoch; None where training images are held out,
            which are there to be looked at instead.
        test_accuracy: likewise.
        validation_loss: over the held-out training images, after the epoch; None without any.
        validation_accuracy: likewise.
        seconds: how long it took by the clock, its measurements included.
        cpu_seconds: what the process computed meanwhile, all threads together. Other work on the
            machine makes `seconds` longer and leaves this nearly as it is.
    """

    epoch: int
    loss: float
    accuracy: float
    test_loss: float | None
    test_accuracy: float | None
    validation_loss: float | None
    validation_accuracy: float | None
    seconds: float
    cpu_seconds: float


_COLUMNS = [field.name for field in dataclasses.fields(Epoch)]


def write(path: Path, history: Sequence[Epoch]) -> None:
    """Write the history as CSV with a header; the file is replaced in one step."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(dataclasses.asdict, history))
    write_atomically(path, lambda file: file.write_text(text.getvalue(), encoding="utf-8"))


def read(path: Path) -> list[Epoch]:
    """Read what `write` wrote.

    Raises:
        ModelError: the file is not a run's history.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [_parse(row) for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: not the history of a training run ({error})") from error


def _parse(row: dict[str, str]) -> Epoch:
    values = {name: float(row[name]) if row[name] else None for name in _COLUMNS}
    return Epoch(**values | {"epoch": int(row["epoch"])})  # type: ignore[arg-type]
