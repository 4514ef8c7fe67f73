"""Answers requests, knowing no transport: domain objects in, domain objects out.

This is the one place where a request becomes a run of a network. Networks run on the threads of
the scheduler, where the engines release the interpreter lock, and pictures are decoded on a few
more, so the event loop that calls these methods never waits for either.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from pyconv import pictures
from pyconv.engines.base import Array, shape_text
from pyconv.errors import InputError, PictureError, PyconvError, unknown_name
from pyconv.metadata import Layer
from pyconv.model import Model
from pyconv.server import examination
from pyconv.server.errors import DeadlineError, LimitError, NotFoundError
from pyconv.server.metrics import Metrics
from pyconv.server.models import Models, OutputChoice, Plan, ServedModel
from pyconv.server.requests import (
    NOTHING_ELSE,
    Activated,
    Classified,
    Examination,
    HeatMap,
    Images,
    Inferred,
    LayerChoice,
    LayerValues,
    Run,
    Selection,
    TensorRequest,
)
from pyconv.server.sampling import Sampling
from pyconv.server.scheduler import Lane, Outcome, Runner, Scheduler, Tensors
from pyconv.server.settings import MIB, Settings
from pyconv.server.statistics import Measured
from pyconv.server.status import code_name

if TYPE_CHECKING:
    from pyconv.summary import Summary

_T = TypeVar("_T")


class Inference:
    """Answers requests on the models given, within the limits set.

    Every method that takes a `deadline`, by `time.monotonic()`, gives up a request that it finds
    waiting after that.
    """

    def __init__(self, models: Models, settings: Settings) -> None:
        self.models = models
        self._settings = settings
        self.metrics = Metrics()
        self._scheduler = Scheduler(settings.concurrency, self._note_run)
        self._lanes: dict[ServedModel, Lane] = {}
        self._pool = ThreadPoolExecutor(settings.concurrency, thread_name_prefix="pyconv-prepare")
        self._sampling = Sampling(models, settings, self.metrics, self._pool)
        self._streams = 0

    def close(self) -> None:
        """Finish what is being computed and end the threads."""
        self._pool.shutdown(cancel_futures=True)
        self._scheduler.close()

    async def classify(
        self,
        selection: Selection,
        images: Images,
        top: int,
        *,
        asked: Examination = NOTHING_ELSE,
        deadline: float | None = None,
    ) -> Classified:
        """The likeliest classes of each image, `top` of them; `asked` is told in the run's facts.

        Raises:
            InputError: an image is none, or has the wrong shape or dtype.
            NotFoundError: the model or engine is not here.
            LimitError: too many images.
            BusyError: too many requests wait for the model.
            DeadlineError: the deadline has passed.
            ModelError: the network is no classifier.
        """
        with self._request(selection) as (served, request):
            model = served.model
            run, tensors = await self._run(
                served, images, (model.main_output,), deadline, request, asked
            )
            output = tensors[model.main_output]
            predictions = await self.work(
                output.nbytes, lambda: model.likeliest(model.scores(output), top)
            )
            return Classified(run, predictions)

    async def activations(
        self,
        selection: Selection,
        images: Images,
        layers: Sequence[LayerChoice],
        *,
        asked: Examination = NOTHING_ELSE,
        deadline: float | None = None,
    ) -> Activated:
        """What the chosen layers put out; all of them where none is named.

        Raises:
            InputError: as for `classify`, or a layer lacks a channel.
            NotFoundError: a layer, the model or the engine is not here.
            LimitError: too many images or layers, or an answer above the largest message.
            BusyError: too many requests wait for the model.
            DeadlineError: the deadline has passed.
        """
        with self._request(selection) as (served, request):
            self._check_outputs(layers)
            for choice in layers:
                if choice.name not in served.layers:
                    raise NotFoundError(unknown_name("layer", choice.name, served.layers))
            names = dict.fromkeys(choice.name for choice in layers) or dict.fromkeys(served.layers)
            wanted = {name: served.model.layer(name) for name in names}
            outputs = tuple(dict.fromkeys(layer.tensor for layer in wanted.values()))
            run, tensors = await self._run(served, images, outputs, deadline, request, asked)
            values = {
                name: served.model.keras_layout(layer, tensors[layer.tensor])
                for name, layer in wanted.items()
            }
            if not layers:
                # An ONNX file without a layer map also has tensors that belong to no image, such as
                # the shape arithmetic around a Flatten: whoever wants one has to name it.
                layers = [
                    LayerChoice(name)
                    for name, value in values.items()
                    if value.ndim >= 2 and len(value) == len(run.images)
                ]
            # Channels stand last in Keras' layout, and second in that of ONNX' own operators.
            mapped = bool(served.model.metadata.layers)
            chosen = [_choose(choice, values[choice.name], mapped) for choice in layers]
            self._check_size(sum(layer.values.nbytes for layer in chosen))
            return Activated(run, chosen)

    async def infer(self, request: TensorRequest, *, deadline: float | None = None) -> Inferred:
        """Compute tensors from tensors.

        Raises:
            InputError: an input is missing, unknown or of the wrong shape or dtype, or classes are
                asked of an output that is no row of scores.
            NotFoundError: an output, the model, its version or the engine is not here.
            LimitError: too many images or outputs, or an answer above the largest message.
            BusyError: too many requests wait for the model.
            DeadlineError: the deadline has passed.
        """
        with self._request(request.selection) as (served, measure):
            self._check_outputs(request.outputs)
            plan = served.plan(tuple(request.outputs))
            replaced = served.replaced(request.inputs)
            if replaced or request.examination.asked:
                own = {name: x for name, x in request.inputs.items() if name not in replaced}
                given = {name: request.inputs[name] for name in replaced}
                asked = replace(request.examination, replaced=given)
                found, facts = await self._examine(
                    served, own, asked, plan.tensors, measure, deadline
                )
                told = {name: json.dumps(fact) for name, fact in facts.items()}
                return Inferred(served, self._outputs(served, plan, found), told)
            images, rows = served.check(request.inputs)
            self._check_images(images)
            key = plan.tensors if rows and plan.row_by_row else None
            outcome = await self._lane(served).submit(
                request.inputs, plan.tensors, images, key=key, deadline=deadline
            )
            measure.ran(images, outcome)
            if self._sampling.is_on:
                self._sampling.look(served, request.inputs)
            return Inferred(served, self._outputs(served, plan, outcome.tensors))

    def _outputs(
        self, served: ServedModel, plan: Plan, tensors: Tensors
    ) -> list[tuple[str, Array]]:
        """The outputs of a request, as they were asked for."""
        if plan.plain is not None:
            outputs = [(name, tensors[tensor]) for name, tensor in plan.plain]
        else:
            outputs = [
                (choice.name, _wanted(served, choice, layer, tensors[layer.tensor]))
                for choice, layer in zip(plan.choices, plan.layers, strict=True)
            ]
        self._check_size(sum([array.nbytes for _, array in outputs]))
        return outputs

    async def _examine(
        self,
        served: ServedModel,
        inputs: Tensors,
        asked: Examination,
        tensors: Sequence[str],
        measure: Measured,
        deadline: float | None,
    ) -> tuple[Tensors, Mapping[str, Any]]:
        """A run that asks for more than tensors; it runs alone.

        Returns:
            The tensors, and what else was asked for, by name.
        """
        edits = {*asked.replaced, *asked.silenced}
        for name in edits:
            if name not in served.layers:
                raise NotFoundError(unknown_name("layer", name, served.layers))
        if edits and (asked.compare or asked.profile):
            raise InputError(
                "parameters: layers can be edited, or engines compared and steps timed, not both "
                "in one request"
            )
        if edits:
            count = served.edits.images(inputs, asked.replaced)
            images = served.images(inputs)[0] if count is None else count
        else:
            images = served.check(inputs)[0]
        self._check_images(images)
        other = None
        if asked.compare:
            other = self.models.select(served.name, "onnxruntime", served.version)

        def work() -> tuple[Tensors, dict[str, Any]]:
            if deadline is not None and time.monotonic() >= deadline:
                raise DeadlineError("the deadline passed before the request was computed")
            if edits:
                return served.edits.run(inputs, asked.replaced, asked.silenced, tensors), {}
            facts: dict[str, Any] = {}
            found = served.model.run(inputs, tensors)
            if other is not None:
                facts["comparison"] = examination.compare(served, other, inputs, asked.tolerance)
            if asked.profile:
                facts["profile"] = examination.profile(served, inputs)
            return found, facts

        with self._lane(served).place():
            started = time.monotonic()
            found, facts = await self._on_thread(work)
        took = time.monotonic() - started
        measure.ran(images, Outcome(found, 0.0, took, images))
        return found, facts

    async def heat_maps(self, activated: Activated, cell: int) -> Sequence[Sequence[HeatMap]]:
        """Draw activations, `cell` pixels to a value: for each layer, one image after another.

        Raises:
            InputError: `cell` is not between 1 and 64, or a layer has no value for each image.
            LimitError: too many pictures.
        """
        if not 1 <= cell <= 64:
            raise InputError(f"cell: expected 1 to 64 pixels, got {cell}")
        drawings = [_channel_maps(layer, len(activated.run.images)) for layer in activated.layers]
        count = sum(len(drawing) for drawing in drawings)
        if count > self._settings.max_heat_maps:
            raise LimitError(
                f"{count} heat maps were asked for, this server draws at most "
                f"{self._settings.max_heat_maps} at once; ask for fewer images, layers or channels"
            )
        return await self._on_thread(
            lambda: [[_draw(*item, cell) for item in drawing] for drawing in drawings]
        )

    async def summary(self, selection: Selection) -> tuple[ServedModel, Summary]:
        """The model and its table of layers.

        Raises:
            NotFoundError: the model or engine is not here.
        """
        served = self._select(selection)
        return served, await self._on_thread(served.model.summary)

    def retire(self, served: ServedModel) -> None:
        """Finish what was asked of a model that no request finds any more."""
        lane = self._lanes.pop(served, None)
        if lane is not None:
            self._scheduler.remove(lane)

    async def catalogue(self, selection: Selection) -> list[dict[str, Any]]:
        """A model's layers, as `pyconv.server.examination.catalogue` tells of them.

        Raises:
            NotFoundError: the model, its version or the engine is not here.
        """
        served = self._select(selection)
        return await self._on_thread(lambda: served.catalogue)

    @contextmanager
    def stream(self) -> Iterator[None]:
        """A stream of requests, for as long as it is open.

        Raises:
            LimitError: too many are open.
        """
        if self._streams >= self._settings.max_streams:
            error = LimitError(
                f"{self._streams} streams are open, the most that this server keeps; close some, "
                "or send single requests"
            )
            self.metrics.refused("", "", code_name(error))
            raise error
        self._streams += 1
        self.metrics.stream(1)
        try:
            yield
        finally:
            self._streams -= 1
            self.metrics.stream(-1)

    @contextmanager
    def reading(self, name: str, version: str) -> Iterator[None]:
        """Count a request that cannot even be read; the others count themselves."""
        try:
            yield
        except Exception as error:
            try:
                served = self.models.select(name, None, version)
            except PyconvError:
                self.metrics.refused("", "", code_name(error))
            else:
                self.metrics.refused(served.name, served.version, code_name(error))
            raise

    def _request(self, selection: Selection) -> _Request:
        """Find the model, and count what happens in the block as one request for it."""
        return _Request(self.models, selection, self.metrics)

    def _note_run(self, runner: Runner, images: int, seconds: float) -> None:
        if isinstance(runner, ServedModel):
            runner.statistics.note_run(images, seconds)
            engine = runner.model.engine
            self.metrics.ran(runner.name, runner.version, engine, images, seconds)

    def _select(self, selection: Selection) -> ServedModel:
        return self.models.select(selection.name, selection.engine, selection.version)

    def _lane(self, served: ServedModel) -> Lane:
        lane = self._lanes.get(served)
        if lane is None:
            _, max_batch, wait_ms = self._settings.of_model(served.spec)
            max_queue = self._settings.max_queue
            lane = self._scheduler.lane(served, max_batch, wait_ms / 1e3, max_queue)
            self._lanes[served] = lane
        return lane

    async def _run(
        self,
        served: ServedModel,
        images: Images,
        outputs: tuple[str, ...],
        deadline: float | None,
        request: Measured,
        asked: Examination,
    ) -> tuple[Run, Tensors]:
        """Prepare images and compute tensors for them."""
        self._check_count(images)
        lane = self._lane(served)
        started = time.perf_counter()
        with lane.place():
            size_bytes = images.nbytes if isinstance(images, np.ndarray) else None
            array, inputs = await self.work(
                size_bytes, partial(_prepare, served.model, images, self._settings, deadline)
            )
        prepared = time.perf_counter()
        prepare_ms = (prepared - started) * 1e3
        if asked.asked:
            tensors, facts = await self._examine(served, inputs, asked, outputs, request, deadline)
            compute_ms = request.compute_ns / 1e6
            return Run(served, array, prepare_ms, 0.0, compute_ms, facts), tensors
        key = outputs if served.is_row_by_row(outputs) else None
        outcome = await lane.submit(inputs, outputs, len(array), key=key, deadline=deadline)
        request.prepared(prepared - started)
        request.ran(len(array), outcome)
        if self._sampling.is_on:
            self._sampling.look(served, inputs)
        run = Run(served, array, prepare_ms, outcome.queue_s * 1e3, outcome.compute_s * 1e3)
        return run, outcome.tensors

    async def work(self, size_bytes: int | None, work: Callable[[], _T]) -> _T:
        """Do something here where it is a matter of microseconds, and on a thread otherwise."""
        if size_bytes is not None and size_bytes <= _SMALL_BYTES:
            return work()
        return await self._on_thread(work)

    async def _on_thread(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def _check_count(self, images: Images) -> None:
        self._check_images(len(images) if not isinstance(images, np.ndarray) or images.ndim else 0)

    def _check_images(self, count: int) -> None:
        if count == 0:
            raise InputError("images: expected at least one, got none")
        if count > self._settings.max_images:
            raise LimitError(
                f"images: this server takes at most {self._settings.max_images} in one request, "
                f"got {count}; send them in several"
            )

    def _check_outputs(self, outputs: Sequence[object]) -> None:
        if len(outputs) > self._settings.max_outputs:
            raise LimitError(
                f"{len(outputs)} outputs were asked for, this server gives at most "
                f"{self._settings.max_outputs} in one request; ask for fewer, or in several"
            )

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes > self._settings.max_message_bytes:
            raise LimitError(
                f"what was asked for takes {size_bytes / MIB:.1f} MiB, this server sends at "
                f"most {self._settings.max_message_bytes / MIB:g} MiB at once; ask for fewer "
                "images, layers or channels"
            )


class _Request:
    """A request for a model, for as long as a `with` block lasts.

    It stands in the way of every request: contextlib's way of writing it takes three times as long.
    """

    __slots__ = ("_measured", "_metrics", "_models", "_selection", "_served")

    def __init__(self, models: Models, selection: Selection, metrics: Metrics) -> None:
        self._measured = Measured()
        self._models = models
        self._selection = selection
        self._metrics = metrics
        self._served: ServedModel | None = None

    def __enter__(self) -> tuple[ServedModel, Measured]:
        name, engine, version = self._selection
        try:
            served = self._served = self._models.select(name, engine, version)
        except BaseException as error:
            self._fail(error)
            raise
        served.statistics.last_ms = time.time_ns() // 1_000_000
        return served, self._measured

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self._fail(error)
            if isinstance(error, PyconvError) and error is not (
                told := self._models.without_paths(error)
            ):
                raise told
            return
        served, measured = self._served, self._measured
        assert served is not None  # or there would have been an error
        took_ns = time.perf_counter_ns() - measured.started_ns
        served.statistics.answered(measured, took_ns)
        self._metrics.answered(served.name, served.version, took_ns / 1e9, measured.queue_ns / 1e9)

    def _fail(self, error: BaseException) -> None:
        name, version = (self._served.name, self._served.version) if self._served else ("", "")
        self._metrics.refused(name, version, code_name(error))
        if self._served:
            took_ns = time.perf_counter_ns() - self._measured.started_ns
            self._served.statistics.fail.add(took_ns)


_SMALL_BYTES = 1 << 16
"""An array up to this is prepared sooner than another thread would have begun with it."""


def _prepare(
    model: Model, images: Images, settings: Settings, deadline: float | None
) -> tuple[Array, Tensors]:
    """Images as (n, h, w, c), or as they came, and the network's input."""
    if isinstance(images, np.ndarray):
        inputs = model.preprocess(images)
        grey = images.ndim == 3 and model.input_contract and model.input_contract.channels == 1
        return (images[..., None] if grey else images), inputs
    contract = model.input_contract
    if contract is None:
        raise InputError("images: this network does not take pictures")
    prepared = []
    for number, file in enumerate(images, start=1):
        if deadline is not None and time.monotonic() >= deadline:
            raise DeadlineError("the deadline passed before all pictures were decoded")
        try:
            pixels = pictures.prepare(file.data, contract, max_pixels=settings.max_pixels)
        except PictureError as error:
            name = file.name or f"picture {number} of {len(images)}"
            # What has no name there is "the picture"; here it has one.
            raise PictureError(f"{name}: {str(error).removeprefix('the picture: ')}") from error
        prepared.append(pixels)
    array = np.stack(prepared)
    return array, model.preprocess(array)


def _wanted(served: ServedModel, choice: OutputChoice, layer: Layer, array: Array) -> Array:
    """An output as it was asked for: the numbers in their layout, or the likeliest classes."""
    array = served.model.keras_layout(layer, array)
    if not choice.classes:
        return array
    if choice.classes < 0 or array.ndim != 2:
        raise InputError(
            f"output {choice.name!r}: classes can be named, 1 or more, where an output's shape is "
            f"(n, classes); got {choice.classes} for {shape_text(array.shape)}"
        )
    labels = served.model.labels if len(served.model.labels) == array.shape[1] else ()
    order = np.argsort(-array, axis=1, kind="stable")[:, : choice.classes]
    named = np.empty(order.shape, object)
    for place, index in np.ndenumerate(order):
        label = f":{labels[int(index)]}" if labels else ""
        named[place] = f"{array[place[0], index]:f}:{index}{label}"
    return named


def _choose(choice: LayerChoice, values: Array, mapped: bool) -> LayerValues:
    """The chosen channels of a layer, as float32."""
    values = values.astype(np.float32, copy=False)
    if values.ndim < 2:
        if choice.channels:
            raise InputError(
                f"layer {choice.name!r} has no channels: its shape is {shape_text(values.shape)}"
            )
        return LayerValues(choice.name, (), 0, values)
    axis = values.ndim - 1 if mapped else 1
    count = values.shape[axis]
    for channel in choice.channels:
        if channel >= count:
            raise InputError(
                f"layer {choice.name!r} has {count} channels, 0 to {count - 1}; got {channel}"
            )
    if not choice.channels:
        return LayerValues(choice.name, range(count), axis, values)
    return LayerValues(choice.name, choice.channels, axis, values.take(choice.channels, axis=axis))


def _channel_maps(layer: LayerValues, images: int) -> list[tuple[int, int | None, Array]]:
    """Every picture of a layer: image, channel, and a map or a row of units."""
    values = layer.values
    if not layer.channels or len(values) != images:
        raise InputError(
            f"layer {layer.name!r} holds no values of each image: its shape is "
            f"{shape_text(values.shape)}; ask for the tensor"
        )
    values = np.moveaxis(values, layer.channel_axis, -1)
    if values.ndim != 4:
        # A channel without rows and columns is no picture; all of them together make one.
        return [(image, None, values[image].reshape(-1)) for image in range(images)]
    return [
        (image, channel, values[image, :, :, place])
        for image in range(images)
        for place, channel in enumerate(layer.channels)
    ]


def _draw(image: int, channel: int | None, values: Array, cell: int) -> HeatMap:
    from pyconv import figures

    png = figures.png_bytes(figures.heat_map(values, cell=cell))
    return HeatMap(image, channel, png, float(values.min()), float(values.max()))
