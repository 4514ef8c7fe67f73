"""Conducting `pyconv study best`: train every candidate, choose, export, measure, write down."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pyconv.data import Dataset
from pyconv.model import load
from pyconv.training import keras_file
from pyconv.training.exporter import ENGINES, add_provenance
from pyconv.training.files import write_atomically
from pyconv.training.fit import Checkpoint
from pyconv.training.history import Epoch
from pyconv.training.run import export_trained, load_data
from pyconv.training.settings import Settings
from pyconv.training.study import best, report, results
from pyconv.training.study.best import Candidate, Contest
from pyconv.training.study.experiment import SILENT, Listener, check_positive
from pyconv.training.study.results import BATCHES, Speeds


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a contest.

    Attributes:
        contest: which.
        winner: the candidate with the best accuracy on the images held out.
        histories: of every candidate, by how much its images were changed.
        onnx_path: the winner, exported.
        parameters: its weights, moving means and variances counted.
        accuracy: on the test images, by engine; looked at once.
        speeds: inference on this machine; empty where it was not timed.
    """

    contest: Contest
    winner: Candidate
    histories: Mapping[str, Sequence[Epoch]]
    onnx_path: Path
    parameters: int
    accuracy: Mapping[str, float]
    speeds: Speeds

    @property
    def reached(self) -> bool:
        """Whether the goal was."""
        return min(self.accuracy.values()) >= self.contest.goal


def conduct(
    out: Path,
    contests: Sequence[Contest] = best.CONTESTS,
    *,
    epochs: int | None = None,
    seed: int = 0,
    images: int | None = None,
    data_folder: Path | None = None,
    timing_seconds: float = 1.0,
    listener: Listener = SILENT,
) -> list[Outcome]:
    """Train what is missing, choose by the images held out, and write it down.

    Writes `OUT/best/CONTEST.onnx`, `table.md` and `table.csv` beside the candidates' runs.

    Args:
        out: the folder of all studies.
        contests: data sets and budgets.
        epochs: how long each candidate is trained; those of the runs that are there, or
            `best.EPOCHS`, by default.
        seed: of every candidate.
        images, data_folder, timing_seconds, listener: as `experiment.conduct` takes them.

    Raises:
        InputError: a number below 1; the folder holds runs with other settings, or cannot be
            written.
        DataError: a data set is broken or cannot be had.
        ModelError: a file of a run is broken.
        ExportError: a network would not compute as ONNX what Keras does.
        MissingExtraError: TensorFlow or tf2onnx is not installed.
    """
    check_positive(epochs=epochs, images=images)
    outcomes = []
    for contest in contests:
        ways = [
            _as_kept(candidate, out) if epochs is None else candidate
            for candidate in best.candidates(
                contest, epochs=epochs or best.EPOCHS, seed=seed, images=images
            )
        ]
        dataset = load_data(ways[0].settings, data_folder)
        trained = []
        for candidate in ways:
            listener.on_run(candidate.folder(out).name)
            history = best.train(
                candidate,
                out,
                dataset,
                on_batch=listener.on_batch,
                on_epoch=listener.on_epoch,
            )
            trained.append((candidate, history))
        outcomes.append(_outcome(contest, trained, out, dataset, listener))
    if timing_seconds > 0:
        speeds = results.time_inference(
            [outcome.onnx_path for outcome in outcomes], timing_seconds, listener.on_stage
        )
        outcomes = [
            dataclasses.replace(outcome, speeds=speeds[outcome.onnx_path]) for outcome in outcomes
        ]
    _write(out / "best", outcomes)
    return outcomes


def _as_kept(candidate: Candidate, out: Path) -> Candidate:
    """The candidate, trained as long as its run says, where there is one."""
    kept = Checkpoint(candidate.folder(out)).settings
    if not kept.exists():
        return candidate
    epochs = Settings.read(kept).epochs
    return dataclasses.replace(
        candidate, settings=dataclasses.replace(candidate.settings, epochs=epochs)
    )


def _outcome(
    contest: Contest,
    trained: Sequence[tuple[Candidate, Sequence[Epoch]]],
    out: Path,
    dataset: Dataset,
    listener: Listener,
) -> Outcome:
    winner = best.chosen(trained)
    model = keras_file.load(Checkpoint(winner.folder(out)).model)
    path = out / "best" / f"{contest.name}.onnx"
    listener.on_stage(f"exporting {contest.name}", 0.0)
    if not _is_of(path, winner, out):
        export_trained(model, winner.settings, dataset, path)
        add_provenance(path, {"epochs": winner.settings.epochs})
    listener.on_stage(f"measuring {contest.name} on all images", 0.0)
    return Outcome(
        contest=contest,
        winner=winner,
        histories={candidate.augmentation: history for candidate, history in trained},
        onnx_path=path,
        parameters=model.count_params(),
        accuracy=results.test_accuracy(path, dataset),
        speeds={},
    )


def _is_of(path: Path, winner: Candidate, out: Path) -> bool:
    """Whether the file was exported from the winner's run as it is now."""
    if not path.exists():
        return False
    settings = load(path, engine="onnxruntime").metadata.provenance.get("settings")
    trained = Checkpoint(winner.folder(out)).model.stat().st_mtime
    return settings == winner.settings.to_dict() and path.stat().st_mtime >= trained


def _write(folder: Path, outcomes: Sequence[Outcome]) -> None:
    heads = [
        "data, budget",
        "parameters",
        "images changed",
        "epochs",
        "held out",
        "test",
        "goal",
        "file, kB",
        *(
            f"{engine}, {batch} at once, µs an image"
            for batch in BATCHES
            for engine in reversed(ENGINES)
        ),
    ]
    text = "## The best network of a budget\n\n" + report.table(
        heads, [_cells(outcome) for outcome in outcomes]
    )
    write_atomically(folder / "table.md", lambda file: file.write_text(text, encoding="utf-8"))
    rows = io.StringIO()
    writer = csv.writer(rows, lineterminator="\n")
    writer.writerow(
        [
            *("data", "budget", "parameters", "augmentation", "epochs", "validation_accuracy"),
            *(f"test_accuracy_{engine}" for engine in ENGINES),
            *("goal", "size_bytes"),
            *(f"{engine}_us_per_image_batch_{batch}" for batch in BATCHES for engine in ENGINES),
        ]
    )
    for outcome in outcomes:
        history = outcome.histories[outcome.winner.augmentation]
        writer.writerow(
            [
                *(outcome.contest.data, outcome.contest.parameters, outcome.parameters),
                *(outcome.winner.augmentation, len(history), history[-1].validation_accuracy),
                *(outcome.accuracy[engine] for engine in ENGINES),
                *(outcome.contest.goal, outcome.onnx_path.stat().st_size),
                *(
                    outcome.speeds.get(batch, {}).get(engine, "")
                    for batch in BATCHES
                    for engine in ENGINES
                ),
            ]
        )
    write_atomically(
        folder / "table.csv", lambda file: file.write_text(rows.getvalue(), encoding="utf-8")
    )


def _cells(outcome: Outcome) -> list[str]:
    held_out = ", ".join(
        f"{name} {history[-1].validation_accuracy:.4f}"
        for name, history in outcome.histories.items()
    )
    accuracies = dict.fromkeys(f"{value:.4f}" for value in outcome.accuracy.values())
    return [
        f"{outcome.contest.data}, {outcome.contest.parameters:,}",
        f"{outcome.parameters:,}",
        outcome.winner.augmentation,
        str(len(outcome.histories[outcome.winner.augmentation])),
        held_out,
        " and ".join(accuracies),
        f"{outcome.contest.goal:.3f} {'reached' if outcome.reached else 'not reached'}",
        f"{outcome.onnx_path.stat().st_size / 1000:.0f}",
        *(
            f"{outcome.speeds[batch][engine]:.1f}" if outcome.speeds else "–"
            for batch in BATCHES
            for engine in reversed(ENGINES)
        ),
    ]
