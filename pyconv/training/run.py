"""A whole training run: fit, draw the curves, export, measure on the engines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyconv import data
from pyconv.data import Dataset
from pyconv.engines.base import EngineName
from pyconv.errors import InputError
from pyconv.training import charts, networks
from pyconv.training.backend import import_keras
from pyconv.training.exporter import (
    ENGINES,
    PICTURES,
    Explanation,
    Exported,
    add_provenance,
    export,
)
from pyconv.training.fit import PIXEL_SCALE, Checkpoint, Progress, fit
from pyconv.training.history import Epoch
from pyconv.training.measure import Accuracies, accuracies
from pyconv.training.settings import Settings

if TYPE_CHECKING:
    import keras

_COMPARED_IMAGES = 64


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run.

    Attributes:
        settings: what it was made of.
        folder: holds its files: settings.json, model.keras, history.csv, curves.png, model.onnx.
        model: the Keras model.
        history: one entry an epoch.
        exported: the ONNX file and its comparison with Keras.
        accuracy: of the ONNX file over all images.
    """

    settings: Settings
    folder: Path
    model: keras.Model
    history: Sequence[Epoch]
    exported: Exported
    accuracy: Accuracies

    @property
    def keras_path(self) -> Path:
        """The Keras model's file."""
        return Checkpoint(self.folder).model

    @property
    def history_path(self) -> Path:
        """The history as CSV."""
        return Checkpoint(self.folder).history

    @property
    def curves_path(self) -> Path:
        """The curves of loss and accuracy as PNG."""
        return self.folder / "curves.png"

    @property
    def onnx_path(self) -> Path:
        """The exported model."""
        return self.exported.path

    def to_dict(self) -> dict[str, Any]:
        """The run's results as values for JSON."""
        return {
            "settings": self.settings.to_dict(),
            "epochs": len(self.history),
            "keras": {
                "accuracy": self.history[-1].accuracy,
                "test_accuracy": self.history[-1].test_accuracy,
            },
            "accuracy": self.accuracy,
            "files": {
                "keras": str(self.keras_path),
                "history": str(self.history_path),
                "curves": str(self.curves_path),
                "onnx": str(self.onnx_path),
            },
            "export": self.exported.to_dict(),
        }


def train(
    settings: Settings,
    folder: str | Path,
    *,
    resume: bool = False,
    force: bool = False,
    data_folder: str | Path | None = None,
    engines: Sequence[EngineName] = ENGINES,
    on_start: Callable[[keras.Model], None] | None = None,
    on_batch: Callable[[Progress], None] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    on_stage: Callable[[str], None] | None = None,
) -> Run:
    """Train a network and export it.

    The same settings, versions and machine give the same network, whether the run was left in
    between and resumed or not. For that TensorFlow is told to compute in a fixed order, for the
    rest of the process.

    Args:
        settings: the data set, the network, and how it is fitted.
        folder: for the run's files.
        resume: go on after the last finished epoch of the run in the folder. The settings must be
            that run's, but for the number of epochs.
        force: replace the run in the folder.
        data_folder: where the data set's files are, as `pyconv.data.load` takes it.
        engines: those that the exported file is compared and measured on.
        on_start: called with the network before the first epoch.
        on_batch: called after every batch.
        on_epoch: called after every epoch, when it has been kept.
        on_stage: called with what begins after the last epoch, such as "converting it to ONNX".

    Raises:
        InputError: the folder holds another run, or none to resume; the network's maps shrink
            below its kernel; or the folder cannot be written.
        DataError: the data set is broken or cannot be had.
        ExportError: the exported file would not compute what the Keras model does.
        MissingExtraError: TensorFlow, tf2onnx or Matplotlib is not installed.
    """
    checkpoint = Checkpoint(Path(folder))
    _check_folder(checkpoint, settings, resume=resume, force=force)
    if settings.network == "convolutional":
        networks.check_sizes(settings, data.image_size(settings.data))
    import_keras("training a network")  # before anything is downloaded for it
    dataset = load_data(settings, data_folder)
    checkpoint.start(settings, anew=not resume)
    model, history = fit(
        settings, dataset, checkpoint, on_start=on_start, on_batch=on_batch, on_epoch=on_epoch
    )
    charts.draw(checkpoint.folder / "curves.png", _title(settings), history)
    path = checkpoint.folder / "model.onnx"
    exported = export_trained(model, settings, dataset, path, engines, on_stage)
    if on_stage is not None:
        on_stage("measuring it on all images")
    measured = accuracies(exported.path, dataset, exported.verification.engines)
    add_provenance(exported.path, {"epochs": len(history), "accuracy": measured})
    return Run(settings, checkpoint.folder, model, history, exported, measured)


def load_data(settings: Settings, folder: str | Path | None = None) -> Dataset:
    """The images that a run uses.

    Raises:
        DataError: the data set is broken or cannot be had.
    """
    dataset = data.load(settings.data, folder)
    return dataset if settings.images is None else dataset.first(settings.images)


def _check_folder(checkpoint: Checkpoint, settings: Settings, *, resume: bool, force: bool) -> None:
    exists = checkpoint.settings.exists()
    if resume and force:
        raise InputError("resume and force: expected at most one of the two")
    if resume and not exists:
        raise InputError(f"{checkpoint.folder}: there is no run to resume")
    if resume:
        differences = Settings.read(checkpoint.settings).differences(settings)
        if differences:
            raise InputError(
                f"{checkpoint.folder}: the run there has other settings (there and now): "
                + "; ".join(differences)
            )
    elif not force:
        found = [p.name for p in (checkpoint.settings, checkpoint.model) if p.exists()]
        if found:
            raise InputError(
                f"{checkpoint.folder}: there is a run already ({', '.join(found)}); go on with it "
                "with --resume, replace it with --force, or give another folder"
            )


def export_trained(
    model: keras.Model,
    settings: Settings,
    dataset: Dataset,
    path: Path,
    engines: Sequence[EngineName] = ENGINES,
    on_stage: Callable[[str], None] | None = None,
) -> Exported:
    """Export what `fit` trained, with what the settings and the data set say about it."""
    explanation = Explanation(
        labels=dataset.labels,
        scale=PIXEL_SCALE,
        picture=PICTURES.get(settings.data, "plain"),
        provenance={"settings": settings.to_dict()},
    )
    return export(
        model,
        path,
        explanation,
        images={settings.data: dataset.test_images[:_COMPARED_IMAGES]},
        engines=engines,
        on_stage=on_stage,
    )


def _title(settings: Settings) -> str:
    if settings.network == "dense":
        return f"{settings.data}: dense, {settings.hidden} hidden units"
    filters = " and ".join(map(str, settings.filters))
    return f"{settings.data}: convolutions of {filters} filters, {settings.hidden} hidden units"
