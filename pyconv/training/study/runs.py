"""Training the networks of the studies: each is kept once a seed, with its weights of every epoch.

    OUT/runs/mnist-16-seed0/settings.json       what it is made of
                            history.csv         a row an epoch
                            model.keras         after the last finished epoch, to train on from
                            epochs/001.onnx     the network as it was after each epoch
                                   002.onnx     …

Studies share their runs: one that wants 5 epochs of a network takes epoch 5 of a run that another
study has trained for 20, and a run that is too short is trained on. At a constant learning rate
that is the same network, weight by weight (`pyconv.training.fit`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pyconv import data
from pyconv.data import Dataset
from pyconv.errors import InputError
from pyconv.training import networks
from pyconv.training.fit import Checkpoint, Progress, fit
from pyconv.training.history import Epoch
from pyconv.training.run import export_trained
from pyconv.training.settings import Settings

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True, slots=True)
class Trained:
    """A network of a study, trained as long as the study asks for.

    Attributes:
        settings: what it is made of, the seed included.
        folder: the run's; it may hold further epochs.
        history: up to the study's last epoch.
    """

    settings: Settings
    folder: Path
    history: tuple[Epoch, ...]

    @property
    def onnx_path(self) -> Path:
        """The network after the study's last epoch."""
        return epoch_path(self.folder, len(self.history))


def epoch_path(folder: Path, epoch: int) -> Path:
    """Where a run keeps the network as it was after an epoch, counted from 1."""
    return folder / "epochs" / f"{epoch:03}.onnx"


def run_folder(out: Path, settings: Settings) -> Path:
    """Where a run is kept: everything but how long it is trained stands in the name."""
    network = "dense" if settings.network == "dense" else "-".join(str(n) for n in settings.filters)
    return out / "runs" / f"{settings.data}-{network}-seed{settings.seed}"


def train(
    settings: Settings,
    out: Path,
    dataset: Dataset,
    *,
    on_batch: Callable[[Progress], None] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> Trained:
    """Train a network, or go on where it was left, or take what is there.

    Args:
        settings: the network, at a constant learning rate.
        out: the folder of all studies.
        dataset: its images, as `pyconv.training.run.load_data` gives them.
        on_batch: called after every batch.
        on_epoch: called after every epoch that has been kept.

    Raises:
        InputError: the folder holds another run, or cannot be written; the network's maps shrink
            below its kernel; or the training diverges.
        ModelError: a file of the run is broken.
        ExportError: the network of an epoch would not compute as ONNX what Keras does.
        MissingExtraError: TensorFlow or tf2onnx is not installed.
    """
    if settings.network == "convolutional":
        networks.check_sizes(settings, data.image_size(settings.data))
    checkpoint = Checkpoint(run_folder(out, settings))
    _start(checkpoint, settings)

    def keep(model: keras.Model, epoch: Epoch) -> None:
        path = epoch_path(checkpoint.folder, epoch.epoch)
        path.parent.mkdir(exist_ok=True)
        export_trained(model, settings, dataset, path)

    _, history = fit(
        settings, dataset, checkpoint, on_batch=on_batch, on_epoch=on_epoch, snapshot=keep
    )
    return Trained(settings, checkpoint.folder, _as_long_as_asked(settings, history))


def _start(checkpoint: Checkpoint, settings: Settings) -> None:
    """Note what the run is made of, without the end that a study sets it."""
    endless = dataclasses.replace(settings, stop_at_accuracy=None)
    if checkpoint.settings.exists():
        kept = Settings.read(checkpoint.settings)
        differences = kept.differences(endless)
        if differences:
            raise InputError(
                f"{checkpoint.folder}: the run there has other settings (there and now): "
                + "; ".join(differences)
                + "; give another folder"
            )
        endless = dataclasses.replace(endless, epochs=max(kept.epochs, settings.epochs))
    checkpoint.start(endless, anew=False)


def _as_long_as_asked(settings: Settings, history: list[Epoch]) -> tuple[Epoch, ...]:
    stop = settings.stop_at_accuracy
    asked = history[: settings.epochs]
    for number, epoch in enumerate(asked, start=1):
        if stop is not None and epoch.accuracy >= stop:
            return tuple(asked[:number])
    return tuple(asked)
