"""Fitting a network to a data set, one epoch at a time, so that it can be left and resumed."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pyconv.data import Dataset
from pyconv.errors import InputError, ModelError
from pyconv.training import history as history_file
from pyconv.training import keras_file, networks
from pyconv.training.augmentation import augmented
from pyconv.training.backend import import_keras, import_tensorflow
from pyconv.training.files import write_atomically
from pyconv.training.history import Epoch
from pyconv.training.settings import Settings

if TYPE_CHECKING:
    import keras

Pixels = NDArray[np.uint8]

PIXEL_SCALE = 1.0 / 255.0
"""What the networks here see of a uint8 pixel: `pixel * PIXEL_SCALE`."""

_MEASURED_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands.

    Attributes:
        epoch: the epoch under way, from 1.
        epochs: how many there are to be.
        batch: batches done in this epoch.
        batches: batches of an epoch.
        loss: mean over this epoch so far.
        accuracy: likewise.
    """

    epoch: int
    epochs: int
    batch: int
    batches: int
    loss: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The files of a run that training itself keeps, in one folder."""

    folder: Path

    @property
    def settings(self) -> Path:
        """The run's settings, as JSON."""
        return self.folder / "settings.json"

    @property
    def model(self) -> Path:
        """The network after the last finished epoch, its optimizer's state included."""
        return self.folder / "model.keras"

    @property
    def history(self) -> Path:
        """One row an epoch, as CSV."""
        return self.folder / "history.csv"

    def start(self, settings: Settings, *, anew: bool) -> None:
        """Make the folder and store the settings, of a run begun anew or resumed for longer.

        Raises:
            InputError: the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if anew:
                for path in (self.model, self.history):
                    path.unlink(missing_ok=True)
            text = json.dumps(settings.to_dict(), indent=2) + "\n"
            write_atomically(self.settings, lambda file: file.write_text(text, encoding="utf-8"))
        except OSError as error:
            raise InputError(f"cannot write the run's folder {self.folder}: {error}") from error

    def save(self, model: keras.Model, history: list[Epoch]) -> None:
        """Keep a finished epoch.

        The model's file counts: it is replaced last, and `load` cuts the history to the epochs
        that the model has seen.
        """
        history_file.write(self.history, history)
        write_atomically(self.model, model.save)

    def load(self, batches: int) -> tuple[keras.Model, list[Epoch]] | None:
        """The network and the history after the last finished epoch; None before the first.

        Args:
            batches: steps of the optimizer in an epoch.

        Raises:
            ModelError: a file is broken.
        """
        if not self.model.exists():
            return None
        model = keras_file.load(self.model, training=True)
        finished = int(model.optimizer.iterations) // batches
        history = history_file.read(self.history)
        if len(history) < finished:
            raise ModelError(
                f"{self.history}: expected {finished} epochs, as {self.model.name} has seen, "
                f"got {len(history)}; train anew with --force"
            )
        return model, history[:finished]


def fit(
    settings: Settings,
    dataset: Dataset,
    checkpoint: Checkpoint,
    *,
    on_start: Callable[[keras.Model], None] | None = None,
    on_batch: Callable[[Progress], None] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    snapshot: Callable[[keras.Model, Epoch], None] | None = None,
    keep_every: int = 1,
) -> tuple[keras.Model, list[Epoch]]:
    """Train from the last finished epoch in the checkpoint, or from fresh weights, to the end.

    The order of the images depends on the seed and the number of the epoch alone, so a run that
    was left and resumed comes out as one that was not. After every epoch the checkpoint is
    replaced; leaving by an exception (Ctrl-C) keeps the last one.

    Keras runs on TensorFlow, or on the backend that `KERAS_BACKEND` names.

    Args:
        settings: the run's.
        dataset: its images and labels.
        checkpoint: where to go on from, and where every finished epoch is kept.
        on_start: called with the network before the first epoch.
        on_batch: called after every batch.
        on_epoch: called after every epoch, when it has been kept.
        snapshot: called with the network after every epoch, before it is kept: so what it writes
            is there for every epoch in the checkpoint.
        keep_every: the checkpoint is replaced after every so many epochs, and after the last.

    Returns:
        The network and the history from its first epoch on.

    Raises:
        InputError: more images are held out than there are, the network's maps shrink away, or
            the training diverges: an epoch's loss is no number, and the epoch is not kept.
        ModelError: the checkpoint is broken.
        MissingExtraError: TensorFlow is not installed.
    """
    training, held_out = _split(settings, len(dataset.train_images))
    batches = math.ceil(len(training) / settings.batch_size)
    keras = import_keras("training a network", any_backend=True)
    if keras.backend.backend() == "tensorflow":
        # It may otherwise add in another order, and get other sums, each time.
        import_tensorflow("training a network").config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(settings.seed)

    model, history = checkpoint.load(batches) or (_fresh(settings, dataset, batches), [])
    if on_start is not None:
        on_start(model)
    while len(history) < settings.epochs and not _reached(settings, history):
        number = len(history) + 1
        started, computed = time.perf_counter(), time.process_time()
        random = np.random.default_rng([settings.seed, number])
        order = training[random.permutation(len(training))]
        images = augmented(dataset.train_images[order], settings.augmentation, random)
        logs = model.fit(
            _inputs(images),
            dataset.train_labels[order],
            batch_size=settings.batch_size,
            shuffle=False,
            verbose=0,
            callbacks=_callbacks(on_batch, number, settings.epochs, batches),
        ).history
        if not math.isfinite(logs["loss"][0]):
            raise InputError(
                f"the training diverged in epoch {number}: its loss is {logs['loss'][0]}; expected "
                f"a smaller learning_rate, got {settings.learning_rate:g}"
            )
        # With images held out, the test images wait until everything has been chosen.
        nothing: tuple[float | None, float | None] = (None, None)
        test, validation = nothing, nothing
        if len(held_out):
            validation = _measure(
                model, dataset.train_images[held_out], dataset.train_labels[held_out]
            )
        else:
            test = _measure(model, dataset.test_images, dataset.test_labels)
        history.append(
            Epoch(
                epoch=number,
                loss=logs["loss"][0],
                accuracy=logs["accuracy"][0],
                test_loss=test[0],
                test_accuracy=test[1],
                validation_loss=validation[0],
                validation_accuracy=validation[1],
                seconds=round(time.perf_counter() - started, 3),
                cpu_seconds=round(time.process_time() - computed, 3),
            )
        )
        if snapshot is not None:
            snapshot(model, history[-1])
        last = len(history) == settings.epochs or _reached(settings, history)
        if last or number % keep_every == 0:
            checkpoint.save(model, history)
        if on_epoch is not None:
            on_epoch(history[-1])
    return model, history


def _fresh(settings: Settings, dataset: Dataset, batches: int) -> keras.Model:
    keras = import_keras("training a network", any_backend=True)
    height, width = dataset.train_images.shape[1:3]
    model = networks.build(settings, (height, width, 1), len(dataset.labels))
    rate = settings.learning_rate
    if settings.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, batches * settings.epochs)
    if settings.weight_decay:
        optimizer = keras.optimizers.AdamW(rate, weight_decay=settings.weight_decay)
        # Biases, and what scales and shifts a normalized map, have nothing to shrink from.
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    else:
        optimizer = keras.optimizers.Adam(rate)
    model.compile(
        optimizer=optimizer,
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def _split(settings: Settings, count: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The places of the images to train with and of those held out."""
    if settings.validation >= count:
        raise InputError(
            f"validation: expected fewer than the {count} training images, "
            f"got {settings.validation}"
        )
    if settings.validation == 0:
        return np.arange(count), np.arange(0)
    # Epochs are numbered from 1, so [seed, 0] is no epoch's order.
    places = np.random.default_rng([settings.seed, 0]).permutation(count)
    return np.sort(places[settings.validation :]), np.sort(places[: settings.validation])


def _reached(settings: Settings, history: list[Epoch]) -> bool:
    stop = settings.stop_at_accuracy
    return stop is not None and bool(history) and history[-1].accuracy >= stop


def _inputs(images: Pixels) -> NDArray[np.float32]:
    """What a network is shown: (n, height, width, 1) float32."""
    return images[..., np.newaxis].astype(np.float32) * np.float32(PIXEL_SCALE)


def _measure(model: keras.Model, images: Pixels, labels: Pixels) -> tuple[float, float]:
    loss, accuracy = model.evaluate(
        _inputs(images), labels, batch_size=_MEASURED_AT_ONCE, verbose=0
    )
    return loss, accuracy


def _callbacks(
    on_batch: Callable[[Progress], None] | None, epoch: int, epochs: int, batches: int
) -> list[keras.callbacks.Callback]:
    if on_batch is None:
        return []
    keras = import_keras("training a network", any_backend=True)

    def report(batch: int, logs: dict[str, float]) -> None:
        on_batch(Progress(epoch, epochs, batch + 1, batches, logs["loss"], logs["accuracy"]))

    return [keras.callbacks.LambdaCallback(on_train_batch_end=report)]
