from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from typing import TypeAlias

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import pyconv
from pyconv.engines.base import Array, EngineName
from pyconv.errors import InputError, ModelError, PictureError
from pyconv.server import scheduler
from pyconv.server.errors import BusyError, DeadlineError, LimitError, NotFoundError
from pyconv.server.inference import Inference
from pyconv.server.models import Models, ServedModel
from pyconv.server.requests import Classified, LayerChoice, PictureFile, Selection
from pyconv.server.scheduler import Tensors
from pyconv.server.settings import Settings

Asked: TypeAlias = "asyncio.Task[Classified]"

_SMALL = Selection("small")


@pytest.fixture(scope="module")
def inference(settings: Settings) -> Iterator[Inference]:
    models = Models.load(settings.models, settings.engines, settings.threads)
    inference = Inference(models, replace(settings, concurrency=2))
    yield inference
    inference.close()


@pytest.fixture
def images() -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, (5, 6, 8, 1), np.uint8)


@pytest.mark.parametrize("engine", ["native", "onnxruntime"])
async def test_classify_says_what_the_model_says(
    inference: Inference, settings: Settings, images: Array, engine: EngineName
) -> None:
    classified = await inference.classify(Selection("small", engine), images, 2)
    model = pyconv.load(settings.models[0].source, engine=engine)
    assert classified.predictions == model.classify(images, top=2)
    assert classified.run.served.model.engine == engine
    np.testing.assert_array_equal(classified.run.images, images)


async def test_classify_of_pictures_says_the_same_as_of_what_they_become(
    inference: Inference, make_png: Callable[..., bytes]
) -> None:
    files = [PictureFile(make_png(height=30, width=20, seed=seed)) for seed in range(3)]
    of_files = await inference.classify(_SMALL, files, 3)
    assert of_files.run.images.shape == (3, 6, 8, 1)
    assert of_files.run.images.dtype == np.uint8
    assert of_files.run.prepare_ms > 0
    of_arrays = await inference.classify(_SMALL, of_files.run.images, 3)
    assert of_files.predictions == of_arrays.predictions


async def test_classify_without_the_axis_of_channels(inference: Inference, images: Array) -> None:
    classified = await inference.classify(_SMALL, images[..., 0], 1)
    assert classified.run.images.shape == (5, 6, 8, 1)


@pytest.mark.parametrize(("name", "called"), [("boot.png", "boot.png"), ("", "picture 2 of 2")])
async def test_classify_of_a_file_that_is_no_picture_names_it(
    inference: Inference, make_png: Callable[..., bytes], name: str, called: str
) -> None:
    files = [PictureFile(make_png()), PictureFile(b"no picture", name)]
    with pytest.raises(PictureError, match=f"^{called}: "):
        await inference.classify(_SMALL, files, 1)


@pytest.mark.parametrize("images", [[], np.zeros((0, 6, 8), np.uint8), np.zeros((), np.uint8)])
async def test_classify_of_nothing_is_refused(inference: Inference, images: Array) -> None:
    with pytest.raises(InputError, match="expected at least one, got none"):
        await inference.classify(_SMALL, images, 1)


async def test_classify_of_too_many_images_is_refused(inference: Inference) -> None:
    with pytest.raises(LimitError, match="at most 64 in one request, got 65"):
        await inference.classify(_SMALL, np.zeros((65, 6, 8), np.uint8), 1)


async def test_classify_with_a_network_that_is_no_classifier(
    inference: Inference, images: Array
) -> None:
    with pytest.raises(ModelError, match=r"^maps: classify needs an output of shape"):
        await inference.classify(Selection("maps"), images, 1)


@pytest.mark.parametrize("engine", ["native", "onnxruntime"])
async def test_activations_are_the_models(
    inference: Inference, settings: Settings, images: Array, engine: EngineName
) -> None:
    activated = await inference.activations(Selection("small", engine), images, [])
    expected = pyconv.load(settings.models[0].source, engine=engine).activations(images)
    assert [layer.name for layer in activated.layers] == list(expected)
    for layer in activated.layers:
        np.testing.assert_array_equal(layer.values, expected[layer.name])
        assert layer.channel_axis == layer.values.ndim - 1
        assert list(layer.channels) == list(range(layer.values.shape[-1]))


async def test_activations_of_chosen_channels_come_in_the_order_asked_for(
    inference: Inference, images: Array
) -> None:
    whole = await inference.activations(_SMALL, images, [])
    choices = [LayerChoice("dense", (2,)), LayerChoice("conv2d", (3, 0, 3))]
    dense, conv2d = (await inference.activations(_SMALL, images, choices)).layers
    np.testing.assert_array_equal(dense.values, whole.layers[2].values[:, [2]])
    np.testing.assert_array_equal(conv2d.values, whole.layers[0].values[..., [3, 0, 3]])
    assert conv2d.channels == (3, 0, 3)


async def test_activations_without_a_layer_map_have_channels_second(
    inference: Inference, images: Array
) -> None:
    images = images.astype(np.float32)
    plain = Selection("plain", "onnxruntime")
    (relu,) = (await inference.activations(plain, images, [LayerChoice("relu", (1,))])).layers
    assert relu.channel_axis == 1
    whole = await inference.activations(Selection("small", "onnxruntime"), images, [])
    expected = whole.layers[0].values[..., 1]
    np.testing.assert_allclose(relu.values[:, 0], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("choice", "kind", "message"),
    [
        (LayerChoice("conv"), NotFoundError, "no layer 'conv'; did you mean 'conv2d'"),
        (LayerChoice("conv2d", (4,)), InputError, "'conv2d' has 4 channels, 0 to 3; got 4"),
        (LayerChoice("dense", (0, 3)), InputError, "'dense' has 3 channels, 0 to 2; got 3"),
    ],
)
async def test_activations_of_what_is_not_there(
    inference: Inference,
    images: Array,
    choice: LayerChoice,
    kind: type[Exception],
    message: str,
) -> None:
    with pytest.raises(kind, match=message):
        await inference.activations(_SMALL, images, [choice])


async def test_activations_above_the_largest_message_are_refused(inference: Inference) -> None:
    images = np.zeros((64, 6, 8), np.uint8)
    # 64 images of (96 + 96 + 3) float32 are 49,920 bytes, and the limit is 65,536.
    await inference.activations(_SMALL, images, [])
    twice = [LayerChoice("conv2d"), LayerChoice("flatten"), LayerChoice("conv2d")]
    with pytest.raises(LimitError, match=r"takes 0\.1 MiB, this server sends at most 0\.0625 MiB"):
        await inference.activations(_SMALL, images, twice)


async def test_heat_maps_show_lowest_and_highest(inference: Inference, images: Array) -> None:
    activated = await inference.activations(_SMALL, images[:2], [LayerChoice("conv2d", (1, 3))])
    (maps,) = await inference.heat_maps(activated, cell=5)
    assert [(item.image, item.channel) for item in maps] == [(0, 1), (0, 3), (1, 1), (1, 3)]
    values = activated.layers[0].values[1, :, :, 1]
    assert (maps[3].low, maps[3].high) == (values.min(), values.max())
    image = Image.open(BytesIO(maps[3].png))
    assert (image.format, image.size) == ("PNG", (6 * 5, 4 * 5))
    light = np.asarray(image.convert("L"))[::5, ::5].astype(int)
    assert light.flat[values.argmin()] == light.min()
    assert light.flat[values.argmax()] == light.max()


async def test_heat_map_of_a_dense_layer_shows_all_units(
    inference: Inference, images: Array
) -> None:
    activated = await inference.activations(_SMALL, images[:2], [LayerChoice("dense")])
    (maps,) = await inference.heat_maps(activated, cell=1)
    assert [(item.image, item.channel) for item in maps] == [(0, None), (1, None)]
    assert Image.open(BytesIO(maps[0].png)).size == (3, 1)


@pytest.mark.parametrize("cell", [0, 65])
async def test_heat_maps_of_a_senseless_cell(
    inference: Inference, images: Array, cell: int
) -> None:
    activated = await inference.activations(_SMALL, images, [LayerChoice("dense")])
    with pytest.raises(InputError, match=f"expected 1 to 64 pixels, got {cell}"):
        await inference.heat_maps(activated, cell)


async def test_too_many_heat_maps_are_refused(inference: Inference) -> None:
    images = np.zeros((13, 6, 8), np.uint8)
    activated = await inference.activations(_SMALL, images, [LayerChoice("conv2d")])
    with pytest.raises(LimitError, match="52 heat maps were asked for, this server draws at most"):
        await inference.heat_maps(activated, 8)


class _Gate:
    """Holds every run of a network until it is opened; tells how many images each was of."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.runs: list[int] = []
        self.threads: list[int] = []
        self.most = 0
        self._open = threading.Event()
        self._lock = threading.Lock()
        self._running = 0
        real = ServedModel.run

        def gated(served: ServedModel, inputs: Tensors, outputs: Sequence[str]) -> Tensors:
            with self._lock:
                self.runs.append(len(inputs["pixels"]))
                self.threads.append(threading.get_ident())
                self._running += 1
                self.most = max(self.most, self._running)
            assert self._open.wait(30)
            with self._lock:
                self._running -= 1
            return real(served, inputs, outputs)

        monkeypatch.setattr(ServedModel, "run", gated)
        monkeypatch.setattr("pyconv.server.scheduler.QUICK_S", 0)  # it would hold the event loop

    async def entered(self, times: int) -> None:
        while len(self.runs) < times:
            await asyncio.sleep(0.001)

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Gate]:
    gate = _Gate(monkeypatch)
    yield gate
    gate.open()


@contextmanager
def _limited(settings: Settings, **limits: float) -> Iterator[Inference]:
    models = Models.load(settings.models[:1], settings.engines, settings.threads)
    inference = Inference(models, replace(settings, **{"concurrency": 1, **limits}))  # type: ignore[arg-type]
    try:
        yield inference
    finally:
        inference.close()


def _ask(inference: Inference, images: Array, deadline: float | None = None) -> Asked:
    return asyncio.create_task(inference.classify(_SMALL, images, 3, deadline=deadline))


async def test_computing_does_not_block_the_event_loop(
    inference: Inference, images: Array, gate: _Gate
) -> None:
    answer = _ask(inference, images)
    await gate.entered(1)
    await asyncio.sleep(0.01)  # the loop is free while the network computes
    assert not answer.done()
    gate.open()
    assert len((await answer).predictions) == 5
    assert gate.threads != [threading.get_ident()]


async def test_a_run_that_is_quick_is_done_on_the_event_loop(
    inference: Inference, images: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = set()
    real = ServedModel.run

    def watched(served: ServedModel, inputs: Tensors, outputs: Sequence[str]) -> Tensors:
        threads.add(threading.get_ident())
        return real(served, inputs, outputs)

    monkeypatch.setattr(ServedModel, "run", watched)
    served = inference.models.select("small", None)
    assert 0 < served.image_s < 30
    monkeypatch.setattr(served, "image_s", 0.0001)
    await inference.classify(_SMALL, images, 1)  # five images of a tenth of a millisecond
    assert threads == {threading.get_ident()}
    threads.clear()
    monkeypatch.setattr(served, "image_s", 0.001)
    await inference.classify(_SMALL, images, 1)
    assert threads != {threading.get_ident()}


async def test_no_more_is_computed_at_once_than_the_settings_say(
    inference: Inference, gate: _Gate
) -> None:
    images = np.zeros((40, 6, 8), np.uint8)  # two of them are above the largest batch
    asked = [_ask(inference, images) for _ in range(8)]
    await gate.entered(2)
    await asyncio.sleep(0.02)
    assert gate.most == 2
    gate.open()
    await asyncio.gather(*asked)
    assert (gate.most, gate.runs) == (2, [40] * 8)


async def test_a_request_that_is_cancelled_while_it_waits_is_not_computed(
    inference: Inference, images: Array, gate: _Gate
) -> None:
    # Two requests occupy both threads; the third waits for one.
    busy = [_ask(inference, images)]
    await gate.entered(1)
    busy.append(_ask(inference, images))
    await gate.entered(2)
    waiting = _ask(inference, images[:1])
    await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.wait([waiting])
    gate.open()
    await asyncio.gather(*busy)
    await inference.classify(_SMALL, images[:3], 1)
    assert gate.runs == [5, 5, 3]


@pytest.mark.parametrize("engine", ["native", "onnxruntime"])
async def test_requests_that_arrive_together_run_together_and_get_their_own_answers(
    inference: Inference, gate: _Gate, engine: EngineName
) -> None:
    random = np.random.default_rng(8)
    batches = [random.integers(0, 256, (n, 6, 8), np.uint8) for n in (1, 3, 2, 5)]
    selection = Selection("small", engine)
    asked = [asyncio.create_task(inference.classify(selection, batch, 3)) for batch in batches]
    await gate.entered(1)
    gate.open()
    answers = await asyncio.gather(*asked)
    assert gate.runs == [11]
    model = inference.models.select("small", engine).model
    for batch, answer in zip(batches, answers, strict=True):
        expected = model.classify(batch, top=3)
        assert [[item.label for item in row] for row in answer.predictions] == [
            [item.label for item in row] for row in expected
        ]
        np.testing.assert_allclose(
            [[item.probability for item in row] for row in answer.predictions],
            [[item.probability for item in row] for row in expected],
            rtol=1e-5,
        )


@pytest.mark.parametrize("engine", ["native", "onnxruntime"])
async def test_a_large_request_is_shared_among_free_threads(
    inference: Inference, gate: _Gate, engine: EngineName
) -> None:
    images = np.random.default_rng(8).integers(0, 256, (64, 6, 8), np.uint8)
    asked = asyncio.create_task(inference.classify(Selection("small", engine), images, 3))
    await gate.entered(2)
    assert gate.runs == [32, 32]
    gate.open()
    answer = await asked
    expected = inference.models.select("small", engine).model.classify(images, top=3)
    assert [[item.label for item in row] for row in answer.predictions] == [
        [item.label for item in row] for row in expected
    ]
    layer = (await inference.activations(_SMALL, images, [LayerChoice("conv2d")])).layers[0]
    model = inference.models.select("small", None).model
    np.testing.assert_allclose(layer.values, model.activations(images)["conv2d"], rtol=1e-5)


async def test_requests_for_different_outputs_do_not_run_together(
    inference: Inference, images: Array, gate: _Gate
) -> None:
    layers = [LayerChoice("conv2d")]
    asked = [inference.classify(_SMALL, images, 1), inference.activations(_SMALL, images, layers)]
    answers = asyncio.gather(*asked)
    await gate.entered(2)
    gate.open()
    await answers
    assert gate.runs == [5, 5]


async def test_a_batch_is_no_larger_than_the_settings_say(
    settings: Settings, images: Array, gate: _Gate
) -> None:
    with _limited(settings, max_batch=12) as inference:
        first = _ask(inference, images)
        await gate.entered(1)
        later = [_ask(inference, images) for _ in range(5)]
        await asyncio.sleep(0.01)
        gate.open()
        await asyncio.gather(first, *later)
    assert gate.runs == [5, 10, 10, 5]


async def test_a_request_waits_for_company_as_long_as_the_settings_say(
    settings: Settings, images: Array, gate: _Gate
) -> None:
    gate.open()
    with _limited(settings, max_wait_ms=1000) as inference:
        started = time.monotonic()
        first = _ask(inference, images)
        await asyncio.sleep(0.05)
        await asyncio.gather(first, _ask(inference, images))
        assert time.monotonic() - started >= 1
    assert gate.runs == [10]


async def test_a_full_queue_refuses_at_once_and_says_when_to_come_again(
    settings: Settings, images: Array, gate: _Gate
) -> None:
    with _limited(settings, max_queue=2) as inference:
        busy = [_ask(inference, images)]
        await gate.entered(1)
        busy += [_ask(inference, images) for _ in range(2)]
        await asyncio.sleep(0.01)
        with pytest.raises(BusyError, match="2 requests wait for this model already") as caught:
            await inference.classify(_SMALL, images, 1)
        assert caught.value.retry_after_ms >= 1
        gate.open()
        await asyncio.gather(*busy)
        await inference.classify(_SMALL, images, 1)


async def test_a_request_whose_deadline_passes_while_it_waits_is_not_computed(
    settings: Settings, images: Array, gate: _Gate
) -> None:
    with _limited(settings) as inference:
        first = _ask(inference, images)
        await gate.entered(1)
        late = _ask(inference, images, deadline=time.monotonic() + 0.01)
        await asyncio.sleep(0.03)
        gate.open()
        await first
        with pytest.raises(DeadlineError, match=r"the deadline passed after \d+\.\d+ s in"):
            await late
    assert gate.runs == [5]


async def test_pictures_are_not_decoded_after_the_deadline(
    inference: Inference, make_png: Callable[..., bytes]
) -> None:
    files = [PictureFile(make_png())]
    with pytest.raises(DeadlineError, match="before all pictures were decoded"):
        await inference.classify(_SMALL, files, 1, deadline=time.monotonic())


async def test_a_fault_of_one_request_is_not_the_others(
    inference: Inference, images: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ServedModel.run

    def picky(served: ServedModel, inputs: Tensors, outputs: Sequence[str]) -> Tensors:
        if np.isnan(inputs["pixels"]).any():
            raise RuntimeError("not a number")
        return real(served, inputs, outputs)

    monkeypatch.setattr(ServedModel, "run", picky)
    good = images.astype(np.float32)
    answers = await asyncio.gather(
        *(_ask(inference, batch) for batch in (good, good * np.float32("nan"), good)),
        return_exceptions=True,
    )
    assert [type(answer) for answer in answers] == [Classified, RuntimeError, Classified]


async def test_pixels_of_a_picture_are_limited(
    settings: Settings, make_png: Callable[..., bytes]
) -> None:
    with _limited(settings, max_pixels=100) as inference:
        await inference.classify(_SMALL, [PictureFile(make_png(height=10, width=10))], 1)
        with pytest.raises(PictureError, match="too large"):
            await inference.classify(_SMALL, [PictureFile(make_png(height=10, width=11))], 1)


async def test_outputs_of_a_request_are_limited(settings: Settings, images: Array) -> None:
    refused = pytest.raises(LimitError, match="3 outputs were asked for, this server gives at most")
    with _limited(settings, max_outputs=2) as inference, refused:
        await inference.activations(_SMALL, images, [LayerChoice("dense")] * 3)


def test_open_streams_are_limited(settings: Settings) -> None:
    with _limited(settings, max_streams=1) as inference:
        refused = pytest.raises(LimitError, match="1 streams are open")
        with inference.stream(), refused, inference.stream():
            pass
        counted = b'pyconv_requests_total{code="RESOURCE_EXHAUSTED",model="",version=""} 1.0'
        assert counted in inference.metrics.page()
        with inference.stream():
            pass


async def test_quick_requests_run_together_where_the_event_loop_is_busy(
    inference: Inference, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[int] = []
    real = ServedModel.run

    def watched(served: ServedModel, inputs: Tensors, outputs: Sequence[str]) -> Tensors:
        runs.append(len(inputs["pixels"]))
        return real(served, inputs, outputs)

    monkeypatch.setattr(ServedModel, "run", watched)
    monkeypatch.setattr("pyconv.server.scheduler.LoopLoad.is_high", lambda _: True)
    served = inference.models.select("small", None)
    monkeypatch.setattr(served, "image_s", 1e-5)
    images = np.random.default_rng(4).integers(0, 256, (8, 6, 8), np.uint8)
    expected = served.model.classify(images, top=1)
    together = [inference.classify(_SMALL, images[n : n + 1], 1) for n in range(8)]
    for answer, row in zip(await asyncio.gather(*together), expected, strict=True):
        assert answer.predictions[0][0].label == row[0].label
    assert runs == [8]
    runs.clear()
    # Three wait for a fourth that does not come, and then nobody waits for a while.
    before = time.monotonic()
    few = [inference.classify(_SMALL, images[n : n + 1], 1) for n in range(3)]
    await asyncio.gather(*few)
    assert time.monotonic() - before >= scheduler.GATHER_S
    assert runs == [3]
    assert (await inference.classify(_SMALL, images[:1], 1)).run.queue_ms == 0


async def test_quick_requests_wait_no_more_once_the_event_loop_has_time(
    inference: Inference, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = [True, False, False]
    monkeypatch.setattr("pyconv.server.scheduler.LoopLoad.is_high", lambda _: busy.pop(0))
    monkeypatch.setattr("pyconv.server.scheduler.GATHER_S", 1e6)
    monkeypatch.setattr(inference.models.select("small", None), "image_s", 1e-5)
    images = np.zeros((1, 6, 8), np.uint8)
    waiting = [inference.classify(_SMALL, images, 1) for _ in range(2)]
    await asyncio.wait_for(asyncio.gather(*waiting), 30)
    assert (await inference.classify(_SMALL, images, 1)).run.queue_ms == 0


def test_an_event_loop_is_busy_where_its_thread_never_sleeps() -> None:
    load = scheduler.LoopLoad()
    begun = time.thread_time()
    while time.thread_time() - begun < 0.05:
        busy = load.is_high()
    assert busy
    for _ in range(80):
        time.sleep(0.0005)
        busy = load.is_high()
    assert not busy
