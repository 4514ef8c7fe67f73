"""What came of a study's networks: accuracies, sizes, and the speed of both engines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pyconv.bench import Budget, compare
from pyconv.data import Dataset
from pyconv.model import load
from pyconv.training.exporter import ENGINES, add_provenance
from pyconv.training.history import Epoch
from pyconv.training.measure import accuracies
from pyconv.training.settings import Settings
from pyconv.training.study.plan import Variant

BATCHES = (1, 256)
"""Images a call at which inference is timed, on one thread."""

Speeds = Mapping[int, Mapping[str, float]]
"""By batch size and engine: microseconds an image, the median of interleaved calls."""


@dataclass(frozen=True, slots=True)
class Result:
    """One trained network of a study.

    Attributes:
        variant: which network of the study.
        settings: what it is made of, the seed included.
        folder: where its run is kept.
        onnx_path: the network itself.
        history: every epoch, up to the last that the study asks for.
        parameters: its weights, moving means and variances counted.
        accuracy: of the ONNX file on all images of the test set, by engine.
        speeds: inference on this machine; empty where it was not timed.
    """

    variant: Variant
    settings: Settings
    folder: Path
    onnx_path: Path
    history: tuple[Epoch, ...]
    parameters: int
    accuracy: Mapping[str, float]
    speeds: Speeds

    @property
    def seconds(self) -> float:
        """How long the training took by the clock, the measurements after each epoch included."""
        return sum(epoch.seconds for epoch in self.history)

    @property
    def cpu_seconds(self) -> float:
        """What was computed meanwhile, all threads together."""
        return sum(epoch.cpu_seconds for epoch in self.history)


def test_accuracy(path: Path, dataset: Dataset) -> Mapping[str, float]:
    """The share of test images that a file classifies right, by engine; measured once.

    What was measured is noted in the file, and taken from there the next time.

    Args:
        path: an exported network.
        dataset: the images that its run uses.
    """
    noted = load(path, engine="onnxruntime").metadata.provenance.get("accuracy")
    if noted is None:
        noted = accuracies(path, dataset, ENGINES, ["test"])
        add_provenance(path, {"accuracy": noted})
    by_engine: Mapping[str, float] = noted["test"]
    return by_engine


def parameters(path: Path) -> int:
    """The weights of an exported network, as Keras counts them."""
    return sum(layer.parameters for layer in load(path, engine="onnxruntime").metadata.layers)


def time_inference(
    paths: Sequence[Path], seconds: float, progress: Callable[[str, float], None]
) -> Mapping[Path, Speeds]:
    """Time networks on both engines, call by call in turn, one thread.

    Args:
        paths: exported networks.
        seconds: how long each network is timed at each batch size.
        progress: is told what is timed, and which share of all is done, 0 to 1.

    Returns:
        The speeds by network, as `pyconv bench` measures them.
    """
    speeds: dict[Path, Speeds] = {}
    for number, path in enumerate(paths):

        def tell(_: str, share: float, number: int = number, path: Path = path) -> None:
            progress(f"timing {path.parent.parent.name}", (number + share) / len(paths))

        report = compare([path], BATCHES, [1], Budget(seconds, rounds=5), progress=tell)
        speeds[path] = {
            cell.subject.batch: {
                name: 1e6 / timing.images_per_second for name, timing in cell.timings.items()
            }
            for cell in report.cells
        }
    return speeds
