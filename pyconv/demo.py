"""The main job in one go: serve the bundled models, classify the samples, draw the activations."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pyconv import bundled, layer_figure
from pyconv.client import Client
from pyconv.engines.base import EngineName
from pyconv.errors import InputError, ModelError
from pyconv.model import Prediction
from pyconv.server.background import BackgroundServer
from pyconv.server.settings import ModelSpec, Settings

ENGINES: tuple[EngineName, ...] = ("native", "onnxruntime")

TOLERANCE = 1e-5
"""The most by which a probability may differ between the engines."""

_WARM_UP_ROUNDS = 1
_ROUNDS = 10
_FIGURE_ROWS = 3


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample picture and what each engine made of it.

    Attributes:
        model: the model asked.
        picture: the file.
        expected: the label that is right.
        predictions: the likeliest class, by engine.
        difference: the largest difference between the engines' probabilities, over all classes.
    """

    model: str
    picture: Path
    expected: str
    predictions: dict[EngineName, Prediction]
    difference: float

    @property
    def right(self) -> dict[EngineName, bool]:
        """Whether each engine's likeliest class is the right one."""
        return {
            engine: prediction.label == self.expected
            for engine, prediction in self.predictions.items()
        }

    @property
    def agreed(self) -> bool:
        """Whether the engines say the same."""
        labels = {prediction.label for prediction in self.predictions.values()}
        return len(labels) == 1 and self.difference <= TOLERANCE


@dataclass(frozen=True, slots=True)
class Timing:
    """How long one picture takes; medians over all samples of a model, in milliseconds.

    Attributes:
        model: the model asked.
        engine: the engine that ran it.
        requests: how many requests were timed.
        round_trip_ms: from the client's call to its answer, everything in it.
        prepare_ms: the server's decoding and preparing of the picture.
        compute_ms: the engine's part.
    """

    model: str
    engine: EngineName
    requests: int
    round_trip_ms: float
    prepare_ms: float
    compute_ms: float


@dataclass(frozen=True, slots=True)
class Report:
    """What the demonstration found."""

    samples: Sequence[Sample]
    timings: Sequence[Timing]
    figures: Sequence[Path]

    @property
    def agreed(self) -> bool:
        """Whether the engines say the same of every picture."""
        return all(sample.agreed for sample in self.samples)


def run(out: Path) -> Report:
    """Serve every bundled model on both engines, and ask for every sample picture.

    Args:
        out: a folder for the figures; made if it does not exist.

    Raises:
        ModelError: a bundled model or its samples are missing from the installation.
        InputError: the folder cannot be written.
    """
    names = bundled.names()
    if not names or not all(bundled.samples(name) for name in names):
        raise ModelError("the bundled models or samples are missing; install pyconv again")
    settings = Settings(models=[ModelSpec(name, name) for name in names], engines=ENGINES, port=0)
    with BackgroundServer(settings) as address, Client(address) as client:
        client.wait_ready()
        samples = [sample for name in names for sample in _classify(client, name)]
        timings = [timing for name in names for timing in _time(client, name)]
        drawn = [_draw(client, name, out) for name in names]
    return Report(samples, timings, drawn)


@contextmanager
def page() -> Iterator[str]:
    """Serve the page that looks inside the bundled models, on both engines; gives its address.

    Raises:
        ServerError: there is no free port.
    """
    models = [ModelSpec(name, name) for name in bundled.names()]
    server = BackgroundServer(Settings(models=models, engines=ENGINES, port=0, http_port=0))
    with server:
        yield f"http://{server.http_address}/"


def _classify(client: Client, model: str) -> list[Sample]:
    """Ask both engines for every sample of a model."""
    files = bundled.samples(model)
    labels = client.describe(model).labels
    answers = {
        engine: client.classify(files, model=model, engine=engine, top=len(labels)).predictions
        for engine in ENGINES
    }
    samples = []
    for place, file in enumerate(files):
        rows = {engine: answer[place] for engine, answer in answers.items()}
        scores = [{item.index: item.probability for item in row} for row in rows.values()]
        difference = max(
            abs(one[index] - other[index])
            for one in scores
            for other in scores
            for index in range(len(labels))
        )
        likeliest = {engine: row[0] for engine, row in rows.items()}
        samples.append(Sample(model, file, _expected(file, labels), likeliest, difference))
    return samples


def _expected(file: Path, labels: Sequence[str]) -> str:
    """The label that a sample's file is named after: `t-shirt.png` is `T-shirt/top`."""
    for label in labels:
        if file.stem == re.sub("[^a-z0-9]+", "-", label.partition("/")[0].lower()):
            return label
    raise ModelError(f"{file}: the sample is named after none of the labels {', '.join(labels)}")


def _time(client: Client, model: str) -> list[Timing]:
    """Send the samples one at a time; the engines take turns, so that both meet the same noise."""
    files = [file.read_bytes() for file in bundled.samples(model)]
    figures: dict[EngineName, list[tuple[float, float, float]]] = {name: [] for name in ENGINES}
    for number in range(_WARM_UP_ROUNDS + _ROUNDS):
        for file in files:
            for engine in ENGINES:
                started = time.perf_counter()
                answer = client.classify(file, model=model, engine=engine)
                round_trip_ms = (time.perf_counter() - started) * 1e3
                if number >= _WARM_UP_ROUNDS:
                    figures[engine].append((round_trip_ms, answer.prepare_ms, answer.compute_ms))
    return [
        Timing(model, engine, len(rows), *map(statistics.median, zip(*rows, strict=True)))
        for engine, rows in figures.items()
    ]


def _draw(client: Client, model: str, out: Path) -> Path:
    files = bundled.samples(model)[:_FIGURE_ROWS]
    figure = layer_figure.compute(
        client, files, captions=[file.stem for file in files], model=model
    )
    path = out / f"activations-{model}.png"
    try:
        out.mkdir(parents=True, exist_ok=True)
        figure.draw().save(path)
    except OSError as error:
        raise InputError(f"the figure cannot be written to {path}: {error}") from error
    return path
