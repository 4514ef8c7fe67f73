"""A study's figures as Markdown and CSV, beside the lesson's own."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path

from pyconv.training.exporter import ENGINES
from pyconv.training.files import write_atomically
from pyconv.training.study.plan import Study, Variant
from pyconv.training.study.results import BATCHES, Result


def markdown(study: Study, results: Sequence[Result]) -> str:
    """The study's table, its title and question above it.

    A row a network. With several seeds a figure is the mean over them, and accuracies have the
    lowest and the highest beside it.
    """
    heads = [
        "network",
        "parameters",
        "epochs",
        "train",
        "test",
        "test loss lowest in epoch",
        "lesson: train",
        "lesson: test",
        "CPU s an epoch",
        "s in all",
        "lesson: s",
        *(
            f"{engine}, {batch} at once, µs an image"
            for batch in BATCHES
            for engine in reversed(ENGINES)
        ),
    ]
    rows = []
    for variant, group in _by_variant(results):
        rows.append(_cells(variant, group))
    return (
        f"## {study.title}\n\n{study.question}\n\n"
        + table(heads, rows)
        + "\nAccuracies: train is the mean over the last epoch, measured while the network was "
        "learning, as Keras prints it; test is measured after it, and the same on both engines. "
        "Inference: one thread, the median of calls in turn.\n"
    )


def write_csv(path: Path, results: Sequence[Result]) -> None:
    """Write a row a network and seed; the file is replaced in one step."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        [
            *("network", "seed", "parameters", "epochs", "train_accuracy", "test_accuracy"),
            *(f"test_accuracy_{engine}" for engine in ENGINES),
            *("train_loss", "test_loss", "seconds", "cpu_seconds"),
            *(f"{engine}_us_per_image_batch_{batch}" for batch in BATCHES for engine in ENGINES),
            "onnx",
        ]
    )
    for result in results:
        last = result.history[-1]
        writer.writerow(
            [
                *(result.variant.name, result.settings.seed, result.parameters, last.epoch),
                *(_plain(last.accuracy), _plain(last.test_accuracy)),
                *(_plain(result.accuracy[engine]) for engine in ENGINES),
                *(_plain(last.loss), _plain(last.test_loss)),
                *(f"{result.seconds:.1f}", f"{result.cpu_seconds:.1f}"),
                *(
                    _plain(result.speeds.get(batch, {}).get(engine), ".2f")
                    for batch in BATCHES
                    for engine in ENGINES
                ),
                result.onnx_path.relative_to(path.parent.parent),
            ]
        )
    write_atomically(path, lambda file: file.write_text(text.getvalue(), encoding="utf-8"))


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; every column but the first is aligned to the right."""
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cells(variant: Variant, group: Sequence[Result]) -> list[str]:
    lessons = variant.lesson

    def from_lesson(values: Iterable[float | int | None], spec: str) -> str:
        return " and ".join("–" if value is None else format(value, spec) for value in values)

    return [
        variant.name,
        f"{group[0].parameters:,}",
        _range([len(result.history) for result in group], "d"),
        _range([result.history[-1].accuracy for result in group], ".4f"),
        _range([result.history[-1].test_accuracy for result in group], ".4f"),
        _range([turn for result in group if (turn := _turn(result)) is not None], "d"),
        from_lesson((lesson.train for lesson in lessons), ".4g") or "–",
        from_lesson((lesson.test for lesson in lessons), ".4g") or "–",
        f"{_mean([result.cpu_seconds / len(result.history) for result in group]):.1f}",
        f"{_mean([result.seconds for result in group]):.0f}",
        from_lesson((lesson.seconds for lesson in lessons), ".0f") or "–",
        *(
            _speed([result.speeds.get(batch, {}).get(engine) for result in group])
            for batch in BATCHES
            for engine in reversed(ENGINES)
        ),
    ]


def _turn(result: Result) -> int | None:
    """The epoch with the lowest loss on the test images."""
    measured = [(row.test_loss, row.epoch) for row in result.history if row.test_loss is not None]
    return min(measured)[1] if measured else None


def _by_variant(results: Sequence[Result]) -> list[tuple[Variant, list[Result]]]:
    key: Callable[[Result], str] = lambda result: result.variant.name  # noqa: E731
    return [(group[0].variant, group) for _, found in groupby(results, key) if (group := [*found])]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _range(values: Sequence[float | None], spec: str) -> str:
    measured = [value for value in values if value is not None]
    if not measured:
        return "–"
    low, high = min(measured), max(measured)
    if low == high:
        return format(low, spec)
    mean = format(_mean(measured), ".1f" if spec == "d" else spec)
    return f"{mean} ({low:{spec}}–{high:{spec}})"


def _speed(values: Sequence[float | None]) -> str:
    measured = [value for value in values if value is not None]
    if not measured:
        return "–"
    mean = _mean(measured)
    return f"{mean:.1f}" if mean < 100 else f"{mean:.0f}"


def _plain(value: float | None, spec: str = ".6f") -> str:
    return "" if value is None else format(value, spec)
