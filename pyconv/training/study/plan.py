"""What each study varies, and what the lesson got."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pyconv.training.settings import Settings


@dataclass(frozen=True, slots=True)
class Lesson:
    """The figures that the lesson gives of a network; None where it gives none.

    Attributes:
        train: accuracy on the training images in the last epoch, a share of 1.
        test: on the test images.
        seconds: of the whole training, on the lesson's machine.
        parameters: weights of the network.
        epochs: after which it stopped, where that is what the lesson asks.
    """

    train: float | None = None
    test: float | None = None
    seconds: float | None = None
    parameters: int | None = None
    epochs: int | None = None


@dataclass(frozen=True, slots=True)
class Variant:
    """One network of a study.

    Attributes:
        name: as tables and plots show it.
        settings: the network and how it is fitted, without the seed; `settings.stop_at_accuracy`
            may end it before `settings.epochs`.
        lesson: what the lesson got with it; several where it describes the same network twice.
    """

    name: str
    settings: Settings
    lesson: tuple[Lesson, ...] = ()


@dataclass(frozen=True, slots=True)
class Study:
    """An experiment.

    Attributes:
        name: as the command line takes it.
        title: above its tables and plots.
        question: what it answers, a sentence.
        variants: its networks.
    """

    name: str
    title: str
    question: str
    variants: tuple[Variant, ...]


def _dense(epochs: int) -> Settings:
    return Settings("fashion-mnist", network="dense", epochs=epochs)


def _clothing(*filters: int, epochs: int = 5) -> Settings:
    return Settings("fashion-mnist", filters=filters, epochs=epochs)


def _digits(filters: int, stop: float | None = None) -> Settings:
    return Settings("mnist", filters=(filters,), epochs=10, stop_at_accuracy=stop)


_ALL = (
    Study(
        "baseline",
        "A dense network and one with two convolutions",
        "What do two convolutions of 64 filters add to a dense network on clothing in 5 epochs?",
        (
            Variant("dense", _dense(5), (Lesson(0.89, 0.87),)),
            Variant("64, 64", _clothing(64, 64), (Lesson(0.93, 0.91),)),
        ),
    ),
    Study(
        "overfitting",
        "The same two for 20 epochs",
        "When do the test images stop gaining from more epochs?",
        (
            Variant("dense", _dense(20)),
            Variant("64, 64", _clothing(64, 64, epochs=20)),
        ),
    ),
    Study(
        "width",
        "One convolution of 16, 32 and 64 filters",
        "What do more filters bring on digits in 10 epochs, and what do they cost?",
        (
            Variant("16", _digits(16), (Lesson(0.9979, 0.9872, 394),)),
            Variant("32", _digits(32), (Lesson(0.9985, 0.9862, 672),)),
            Variant("64", _digits(64), (Lesson(0.9983, 0.9863, 1232),)),
        ),
    ),
    Study(
        "depth",
        "One, two and three convolutions of 32 filters",
        "What do more layers bring on clothing in 5 epochs?",
        (
            # The lesson's network has two convolutions, so removing the last one and removing all
            # but the first give the same network; it has figures for both.
            Variant("32", _clothing(32), (Lesson(0.9403, 0.9107, 365), Lesson(0.8524, 0.8289, 92))),
            Variant("32, 32", _clothing(32, 32), (Lesson(0.9187, 0.9041),)),
            Variant("32, 32, 32", _clothing(32, 32, 32), (Lesson(0.8792, 0.8742, 349, 24_330),)),
        ),
    ),
    Study(
        "early-stop",
        "Stopping once 98 of 100 training images are right",
        "After which epoch does the training accuracy pass 0.98 on digits?",
        (Variant("16", _digits(16, stop=0.98), (Lesson(test=0.9818, epochs=2),)),),
    ),
)

STUDIES: Mapping[str, Study] = {study.name: study for study in _ALL}
"""The studies by their names, in the order of the lesson."""
