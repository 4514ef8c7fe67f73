"""What a training run is made of: the data set, the network, and how it is fitted."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pyconv.errors import InputError, ModelError, unknown_name
from pyconv.training.augmentation import Augmentation

NetworkName = Literal["convolutional", "dense", "residual"]

ScheduleName = Literal["constant", "cosine"]

NETWORKS: tuple[NetworkName, ...] = ("convolutional", "dense", "residual")
SCHEDULES: tuple[ScheduleName, ...] = ("constant", "cosine")

MOST_SEED = 2**32 - 1
"""NumPy's legacy generator, which Keras seeds too, takes no larger one."""


@dataclass(frozen=True, slots=True)
class Settings:
    """One training run, whole: the same settings on the same machine give the same network.

    Attributes:
        data: a data set's name, as `pyconv.data.load` takes it.
        network: `"convolutional"`, `"dense"`: the baseline, Flatten and two Dense layers, or
            `"residual"`: stages of normalized convolutions with short cuts (`networks.build`).
        filters: filters of each convolution, one entry a layer; of a residual network, one entry a
            stage; a dense network ignores it.
        blocks: residual blocks a stage, of a residual network.
        kernel_size: rows and columns of every convolution's kernel.
        pool: rows and columns of the max pooling after every convolution, or between the stages of
            a residual network; 1 for none.
        hidden: units of the hidden Dense layer; a residual network has none.
        epochs: how many times the network sees the training images.
        batch_size: images a step of the optimizer.
        learning_rate: Adam's; with a schedule, its first.
        schedule: `"constant"`, or `"cosine"`: the learning rate falls to 0 along half a cosine,
            step by step until the last epoch (Loshchilov and Hutter 2017, arXiv:1608.03983).
        weight_decay: the share of a weight, times the learning rate, by which every step shrinks it
            (AdamW: Loshchilov and Hutter 2019, arXiv:1711.05101); 0 for plain Adam.
        rotate, zoom, shift, flip, erase: how every epoch changes the training images, drawn anew
            from the seed (`augmentation.Augmentation`).
        seed: of the first weights and of the order of the images.
        stop_at_accuracy: training ends after the first epoch whose training accuracy reaches this,
            a share between 0 and 1; None to train every epoch.
        validation: how many training images, chosen by the seed, are held out of training and
            measured after every epoch instead.
        images: only the first so many training images, and as many test images at most, are used:
            to try something out; None for all.
    """

    data: str
    network: NetworkName = "convolutional"
    filters: tuple[int, ...] = (64, 64)
    kernel_size: int = 3
    pool: int = 2
    hidden: int = 128
    blocks: int = 1
    epochs: int = 5
    batch_size: int = 32
    learning_rate: float = 1e-3
    schedule: ScheduleName = "constant"
    weight_decay: float = 0.0
    rotate: float = 0.0
    zoom: float = 0.0
    shift: int = 0
    flip: bool = False
    erase: int = 0
    seed: int = 0
    stop_at_accuracy: float | None = None
    validation: int = 0
    images: int | None = None

    def __post_init__(self) -> None:
        """Refuse values that no training can have.

        Raises:
            InputError: naming the setting, what was expected and what came.
        """
        if self.network not in NETWORKS:
            raise InputError(unknown_name("network", self.network, NETWORKS))
        if self.schedule not in SCHEDULES:
            raise InputError(unknown_name("schedule", self.schedule, SCHEDULES))
        lowest = {
            "kernel_size": 1,
            "pool": 1,
            "hidden": 1,
            "epochs": 1,
            "batch_size": 1,
            "blocks": 1,
            "weight_decay": 0,
            "rotate": 0,
            "zoom": 0,
            "shift": 0,
            "erase": 0,
            "seed": 0,
            "validation": 0,
        }
        for name, least in lowest.items():
            value = getattr(self, name)
            if not value >= least:
                raise InputError(f"{name}: expected at least {least}, got {value}")
        if not self.zoom < 1:
            raise InputError(f"zoom: expected a share below 1, got {self.zoom}")
        if self.network != "dense" and (not self.filters or min(self.filters) < 1):
            raise InputError(
                f"filters: expected a count of at least 1 for each convolution, "
                f"got {list(self.filters)}; a network without convolutions is called dense"
            )
        if self.seed > MOST_SEED:
            raise InputError(f"seed: expected at most {MOST_SEED}, got {self.seed}")
        if self.images is not None and self.images < 1:
            raise InputError(f"images: expected at least 1, got {self.images}")
        if not 0 < self.learning_rate < float("inf"):
            raise InputError(f"learning_rate: expected more than 0, got {self.learning_rate}")
        if self.stop_at_accuracy is not None and not 0 < self.stop_at_accuracy <= 1:
            raise InputError(
                f"stop_at_accuracy: expected a share above 0 and up to 1, such as 0.98, "
                f"got {self.stop_at_accuracy}"
            )

    @property
    def augmentation(self) -> Augmentation:
        """How every epoch changes the training images."""
        return Augmentation(self.rotate, self.zoom, self.shift, self.flip, self.erase)

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values for JSON."""
        return dataclasses.asdict(self) | {"filters": list(self.filters)}

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what a run stored.

        Raises:
            ModelError: the file is not one that a run wrote.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return cls(**values | {"filters": tuple(values["filters"])})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ModelError(
                f"{path}: not the settings of a training run ({error}); "
                "train into another folder, or anew with --force"
            ) from error

    def differences(self, other: Settings) -> list[str]:
        """The settings in which another run differs, such as `"seed: 0 and 1"`.

        At a constant learning rate the number of epochs is not among them: a run may be resumed for
        more.
        """
        mine, theirs = self.to_dict(), other.to_dict()
        open_end = self.schedule == "constant"
        return [
            f"{name}: {mine[name]} and {theirs[name]}"
            for name in mine
            if mine[name] != theirs[name] and not (name == "epochs" and open_end)
        ]
