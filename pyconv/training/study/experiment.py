"""Conducting a study: train what is missing, measure, write tables and plots."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pyconv import layer_figure
from pyconv.data import Dataset
from pyconv.errors import InputError
from pyconv.model import load
from pyconv.training import charts
from pyconv.training.files import write_atomically
from pyconv.training.fit import Progress
from pyconv.training.history import Epoch
from pyconv.training.run import load_data
from pyconv.training.settings import Settings
from pyconv.training.study import report, results, runs
from pyconv.training.study.plan import STUDIES, Study, Variant
from pyconv.training.study.results import Result

ACTIVATIONS = {"three": (3, 55, 11), "shoes": (0, 23, 28)}
"""The figures of the study `activations`: places in the test set of the images that each shows."""


@dataclass(frozen=True, slots=True)
class Listener:
    """Who wants to know how a study goes on.

    Attributes:
        on_run: called with the run that is looked at next, such as `"fashion-mnist-32-seed0"`.
        on_batch: called after every batch that is trained.
        on_epoch: called after every epoch that is trained.
        on_stage: called with what is measured, and which share of it is done, 0 to 1.
    """

    on_run: Callable[[str], None] = lambda _: None
    on_batch: Callable[[Progress], None] | None = None
    on_epoch: Callable[[Epoch], None] | None = None
    on_stage: Callable[[str, float], None] = lambda _text, _share: None


SILENT = Listener()
"""Nobody."""


def conduct(
    study: Study,
    out: str | Path,
    *,
    seeds: int = 1,
    epochs: int | None = None,
    images: int | None = None,
    data_folder: str | Path | None = None,
    timing_seconds: float = 1.0,
    listener: Listener = SILENT,
) -> list[Result]:
    """Train the networks of a study, or take what is there, and write it down.

    Writes `OUT/STUDY/table.md`, `table.csv` and `curves.png`; the networks themselves are kept in
    `OUT/runs` (`pyconv.training.study.runs`).

    Args:
        study: one of `STUDIES`.
        out: the folder of all studies.
        seeds: each network is trained so many times, from other first weights and with the images
            in another order: seeds 0, 1, ….
        epochs: instead of the study's own.
        images: only the first so many images of each split are used, to try it out.
        data_folder: where the data sets' files are, as `pyconv.data.load` takes it.
        timing_seconds: how long inference of each network is timed, at each batch size; 0 for not
            at all.
        listener: is told how it goes on.

    Returns:
        The results, network by network and seed by seed.

    Raises:
        InputError: a number below 1; the folder holds runs with other settings, or cannot be
            written; or a training diverges.
        DataError: a data set is broken or cannot be had.
        ModelError: a file of a run is broken.
        ExportError: a network would not compute as ONNX what Keras does.
        MissingExtraError: TensorFlow, tf2onnx or Matplotlib is not installed.
    """
    check_positive(seeds=seeds, epochs=epochs, images=images)
    out = Path(out)
    found: list[Result] = []
    for variant in study.variants:
        settings = dataclasses.replace(variant.settings, images=images)
        if epochs is not None:
            settings = dataclasses.replace(settings, epochs=epochs)
        dataset = load_data(settings, data_folder)
        for seed in range(seeds):
            found.append(
                _result(variant, dataclasses.replace(settings, seed=seed), out, dataset, listener)
            )
    if timing_seconds > 0:
        found = _timed(found, timing_seconds, listener)
    _write(study, out, found)
    return found


def activations(
    out: str | Path,
    *,
    epochs: int | None = None,
    images: int | None = None,
    data_folder: str | Path | None = None,
    listener: Listener = SILENT,
) -> list[Path]:
    """Draw what the first four layers make of some clothes: the study `activations`.

    The network is that of the study `baseline` with two convolutions, seed 0; it is trained where
    it is not there.

    Args:
        out, epochs, images, data_folder, listener: as `conduct` takes them.

    Returns:
        The figures, `OUT/activations/*.png`.
    """
    check_positive(epochs=epochs, images=images)
    out = Path(out)
    variant = STUDIES["baseline"].variants[-1]
    settings = dataclasses.replace(variant.settings, images=images)
    if epochs is not None:
        settings = dataclasses.replace(settings, epochs=epochs)
    dataset = load_data(settings, data_folder)
    farthest = max(place for places in ACTIVATIONS.values() for place in places)
    if farthest >= len(dataset.test_images):
        raise InputError(
            f"images: expected more than {farthest}, which is shown, got {len(dataset.test_images)}"
        )
    model = load(_trained(settings, out, dataset, listener).onnx_path)
    folder = _folder(out / "activations")
    paths = []
    for name, places in ACTIVATIONS.items():
        figure = layer_figure.of_model(
            model, dataset.test_images[list(places)], [f"test image {place}" for place in places]
        )
        path = folder / f"{name}.png"
        write_atomically(path, figure.draw().save)
        paths.append(path)
    return paths


def _result(
    variant: Variant, settings: Settings, out: Path, dataset: Dataset, listener: Listener
) -> Result:
    trained = _trained(settings, out, dataset, listener)
    listener.on_stage(f"measuring {trained.folder.name} on all images", 0.0)
    return Result(
        variant=variant,
        settings=settings,
        folder=trained.folder,
        onnx_path=trained.onnx_path,
        history=trained.history,
        parameters=results.parameters(trained.onnx_path),
        accuracy=results.test_accuracy(trained.onnx_path, dataset),
        speeds={},
    )


def _trained(settings: Settings, out: Path, dataset: Dataset, listener: Listener) -> runs.Trained:
    listener.on_run(runs.run_folder(out, settings).name)
    return runs.train(
        settings, out, dataset, on_batch=listener.on_batch, on_epoch=listener.on_epoch
    )


def _timed(found: Sequence[Result], seconds: float, listener: Listener) -> list[Result]:
    speeds = results.time_inference(
        [result.onnx_path for result in found], seconds, listener.on_stage
    )
    return [dataclasses.replace(result, speeds=speeds[result.onnx_path]) for result in found]


def _write(study: Study, out: Path, found: Sequence[Result]) -> None:
    folder = _folder(out / study.name)
    text = report.markdown(study, found)
    write_atomically(folder / "table.md", lambda file: file.write_text(text, encoding="utf-8"))
    report.write_csv(folder / "table.csv", found)
    charts.compare(
        folder / "curves.png",
        study.title,
        {result.variant.name: result.history for result in found if result.settings.seed == 0},
    )


def _folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write the study's folder {path}: {error}") from error
    return path


def check_positive(**numbers: int | None) -> None:
    """Refuse numbers below 1.

    Raises:
        InputError: it names the first of them.
    """
    for name, value in numbers.items():
        if value is not None and value < 1:
            raise InputError(f"{name}: expected at least 1, got {value}")
