"""The best network that a budget of parameters buys, with a recipe of today: `pyconv study best`.

Residual networks with batch normalisation, AdamW and a cosine schedule, on images that are changed
anew in every epoch. How much they are changed is chosen for each budget by 5,000 training images
that are held out; the test images are looked at once, with the chosen network.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyconv.data import Dataset
from pyconv.errors import InputError
from pyconv.training import history as history_file
from pyconv.training.fit import Checkpoint, Progress, fit
from pyconv.training.history import Epoch
from pyconv.training.settings import Settings

EPOCHS = 60
"""What a candidate is trained for, unless the command says otherwise."""

_HELD_OUT = 5_000
_KEEP_EVERY = 5


@dataclass(frozen=True, slots=True)
class Contest:
    """A data set and a budget, for which one network is wanted.

    Attributes:
        data: the data set's name.
        parameters: at most so many, moving means and variances counted.
        goal: the accuracy on the test images to reach.
    """

    data: str
    parameters: int
    goal: float

    @property
    def name(self) -> str:
        """Such as `"fashion-mnist-25000"`."""
        return f"{self.data}-{self.parameters}"


CONTESTS = (
    Contest("fashion-mnist", 25_000, 0.915),
    Contest("fashion-mnist", 100_000, 0.930),
    Contest("fashion-mnist", 1_000_000, 0.950),
    Contest("mnist", 25_000, 0.994),
    Contest("mnist", 100_000, 0.995),
    Contest("mnist", 1_000_000, 0.997),
)
"""The data sets and budgets, and what is hoped for."""

_NETWORKS: Mapping[int, tuple[tuple[int, ...], int]] = {
    25_000: ((12, 16, 24), 1),
    100_000: ((16, 32, 52), 1),
    1_000_000: ((32, 64, 136), 2),
}
"""Filters a stage, and blocks a stage, by budget."""

_AUGMENTATIONS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "fashion-mnist": {
        "mild": {"shift": 1, "flip": True},
        "strong": {"rotate": 4, "zoom": 0.08, "shift": 2, "flip": True, "erase": 9},
    },
    "mnist": {
        "mild": {"rotate": 8, "zoom": 0.08, "shift": 1},
        "strong": {"rotate": 14, "zoom": 0.16, "shift": 2, "erase": 7},
    },
}
"""How much the images are changed: what is chosen between, by data set."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to win a contest.

    Attributes:
        contest: which.
        augmentation: how much its images are changed, `"mild"` or `"strong"`.
        settings: the whole of it.
    """

    contest: Contest
    augmentation: str
    settings: Settings

    def folder(self, out: Path) -> Path:
        """Where its run is kept."""
        return out / "best" / f"{self.contest.name}-{self.augmentation}-seed{self.settings.seed}"


def candidates(
    contest: Contest, *, epochs: int = EPOCHS, seed: int = 0, images: int | None = None
) -> tuple[Candidate, ...]:
    """The candidates of a contest.

    The largest networks are trained in one way alone: they have room for what the strong changes
    ask of them, and cost most.

    Args:
        contest: which.
        epochs: how long each is trained.
        seed: of all of them.
        images: only the first so many images, and the seventh part of them held out; None for all.
    """
    filters, blocks = _NETWORKS[contest.parameters]
    ways = _AUGMENTATIONS[contest.data]
    if contest.parameters == max(_NETWORKS):
        ways = {"strong": ways["strong"]}
    plain = Settings(
        contest.data,
        network="residual",
        filters=filters,
        blocks=blocks,
        epochs=epochs,
        batch_size=500,
        learning_rate=3e-3,
        schedule="cosine",
        weight_decay=0.05,
        seed=seed,
        validation=_HELD_OUT if images is None else max(1, images // 7),
        images=images,
    )
    return tuple(
        Candidate(contest, name, dataclasses.replace(plain, **how)) for name, how in ways.items()
    )


def train(
    candidate: Candidate,
    out: Path,
    dataset: Dataset,
    *,
    on_batch: Callable[[Progress], None] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> tuple[Epoch, ...]:
    """Train a candidate, or go on where it was left, or take what is there.

    Keras runs on TensorFlow, or on the backend that `KERAS_BACKEND` names; a run may be begun on
    one and finished on another.

    Args:
        candidate: which.
        out: the folder of all studies.
        dataset: its images, as `pyconv.training.run.load_data` gives them.
        on_batch: called after every batch.
        on_epoch: called after every epoch.

    Returns:
        Its history, measured on the images that it held out.

    Raises:
        InputError: the folder holds another run, or cannot be written.
        ModelError: a file of the run is broken.
        MissingExtraError: Keras or its backend is not installed.
    """
    checkpoint = Checkpoint(candidate.folder(out))
    if checkpoint.settings.exists():
        differences = Settings.read(checkpoint.settings).differences(candidate.settings)
        if differences:
            raise InputError(
                f"{checkpoint.folder}: the run there has other settings (there and now): "
                + "; ".join(differences)
                + "; give another folder"
            )
    history = finished(candidate, out)
    if history is None:
        checkpoint.start(candidate.settings, anew=False)
        _, kept = fit(
            candidate.settings,
            dataset,
            checkpoint,
            on_batch=on_batch,
            on_epoch=on_epoch,
            keep_every=_KEEP_EVERY,
        )
        history = tuple(kept)
    return history


def finished(candidate: Candidate, out: Path) -> tuple[Epoch, ...] | None:
    """The history of a candidate that has been trained to its end; None of another."""
    checkpoint = Checkpoint(candidate.folder(out))
    if not checkpoint.model.exists() or not checkpoint.history.exists():
        return None
    history = history_file.read(checkpoint.history)
    return tuple(history) if len(history) >= candidate.settings.epochs else None


def chosen(histories: Sequence[tuple[Candidate, Sequence[Epoch]]]) -> Candidate:
    """The candidate that classifies most of the images right that it held out, at its end."""

    def held_out(item: tuple[Candidate, Sequence[Epoch]]) -> float:
        accuracy = item[1][-1].validation_accuracy
        assert accuracy is not None  # every candidate holds images out
        return accuracy

    return max(histories, key=held_out)[0]
