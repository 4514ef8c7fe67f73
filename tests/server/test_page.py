"""What the page asks of the server, compared with the library."""

from __future__ import annotations

import asyncio
import json
import math
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pyconv
from pyconv import bundled, inspect, pictures
from pyconv.colormap import INFERNO
from pyconv.server import page
from pyconv.server.errors import BusyError
from pyconv.server.inference import Inference
from pyconv.server.models import Models, load_served
from pyconv.server.settings import ModelSpec, Settings

Arrays = dict[str, np.ndarray]


def _ask(url: str, body: bytes | None = None, kind: str = "application/octet-stream") -> bytes:
    request = urllib.request.Request(url, body, {"Content-Type": kind} if body is not None else {})
    with urllib.request.urlopen(request, timeout=60) as answer:
        content: bytes = answer.read()
    return content


def _unpacked(content: bytes) -> tuple[dict[str, Any], Arrays]:
    length = int.from_bytes(content[:4], "little")
    facts = json.loads(content[4 : 4 + length])
    arrays, offset = {}, 4 + length
    for item in facts["arrays"]:
        offset += -offset % 8
        count = math.prod(item["shape"])
        array = np.frombuffer(content, item["dtype"], count, offset).reshape(item["shape"])
        arrays[item["name"]] = array
        offset += array.nbytes
    assert offset == len(content)
    return facts, arrays


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(8).integers(0, 256, (6, 8, 1), np.uint8)


def test_page_and_its_parts_are_served(http: str) -> None:
    html = _ask(f"{http}/").decode()
    for part in ("style.css", "app.js", "api.js", "heat.js", "inspector.js", "sketch.js"):
        assert _ask(f"{http}/web/{part}")
    assert "http://" not in html.replace("http://www.w3.org", "")
    assert "https://" not in html
    assert _ask(f"{http}/page/colormap") == INFERNO.tobytes()


def test_page_lists_every_model_that_takes_pictures(http: str, small_classifier: Path) -> None:
    models = json.loads(_ask(f"{http}/page/models"))["models"]
    assert [model["name"] for model in models] == ["small", "plain", "maps"]
    small = models[0]
    assert small["engines"] == ["native", "onnxruntime"]
    assert small["labels"] == ["left", "right", "flat"]
    assert (small["height"], small["width"], small["channels"]) == (6, 8, 1)
    conv, flatten, dense = small["layers"]
    field = inspect.receptive_fields(pyconv.load(small_classifier))["conv2d"]
    assert conv["filters"] is True
    assert conv["sees"] == [3, 3]
    for row, (top, bottom) in enumerate(conv["rows"]):
        assert field.box(row, 0)[0::2] == (top, bottom)
    for column, (left, right) in enumerate(conv["columns"]):
        assert field.box(0, column)[1::2] == (left, right)
    assert (dense["filters"], dense["sees"]) == (False, [6, 8])
    assert "rows" not in flatten


@pytest.mark.parametrize("engine", ["native", "onnxruntime"])
def test_page_sees_what_the_model_does(
    http: str, small_classifier: Path, make_png: Callable[..., bytes], engine: str
) -> None:
    model = pyconv.load(small_classifier, engine=engine)  # type: ignore[arg-type]
    assert model.input_contract is not None
    png = make_png(20, 30)
    expected = pictures.prepare(png, model.input_contract)
    question = f"{http}/page/see?model=small&engine={engine}"
    facts, arrays = _unpacked(_ask(question, png, "image/png"))
    assert facts["engine"] == engine
    np.testing.assert_array_equal(arrays.pop(""), expected)
    values = model.activations(expected[np.newaxis])
    assert list(arrays) == list(values)
    for name, array in arrays.items():
        np.testing.assert_allclose(array, values[name][0], rtol=1e-5, atol=1e-6)
    scores = [(item.label, item.probability) for item in model.classify(expected[None], 3)[0]]
    told = [(item["label"], pytest.approx(item["probability"])) for item in facts["predictions"]]
    assert scores == told
    again, _ = _unpacked(_ask(question, expected.tobytes()))
    assert again["predictions"] == facts["predictions"]


def test_page_sees_with_a_file_that_says_nothing_of_pixels(
    http: str, small_unexplained: Path, make_png: Callable[..., bytes]
) -> None:
    silent = pyconv.load(small_unexplained)
    assert silent.input_contract is not None
    png = make_png(20, 30)
    expected = pictures.prepare(png, silent.input_contract)
    model = silent.taking_pixels()
    for body, kind in ((png, "image/png"), (expected.tobytes(), "application/octet-stream")):
        facts, arrays = _unpacked(_ask(f"{http}/page/see?model=plain", body, kind))
        np.testing.assert_array_equal(arrays[""], expected)
        conv = model.activations(expected[np.newaxis])["conv"][0].transpose(1, 2, 0)
        np.testing.assert_allclose(arrays["conv"], conv, rtol=1e-5, atol=1e-6)
        best = model.classify(expected[np.newaxis])[0][0]
        assert facts["predictions"][0]["index"] == best.index
        assert facts["predictions"][0]["probability"] == pytest.approx(best.probability)
    for kind in ("occlusion", "grad-cam"):
        _, arrays = _unpacked(_ask(f"{http}/page/explain/{kind}?model=plain", expected.tobytes()))
        assert arrays["heat"].shape == expected.shape[:2]
    cam = inspect.grad_cam(model, expected)
    np.testing.assert_allclose(arrays["heat"], cam.heat, rtol=1e-4, atol=1e-5)
    times = json.loads(_ask(f"{http}/page/times?model=plain", expected.tobytes()))
    assert set(times["median_ms"]) == {"native", "onnxruntime"}
    listed = {model["name"]: model for model in json.loads(_ask(f"{http}/page/models"))["models"]}
    assert [listed[name]["assumed"] for name in ("small", "plain")] == [False, True]


def test_page_shows_a_network_that_is_no_classifier(
    http: str, make_png: Callable[..., bytes]
) -> None:
    facts, arrays = _unpacked(_ask(f"{http}/page/see?model=maps", make_png(9, 9), "image/png"))
    assert facts["predictions"] == []
    assert len(arrays) > 1


def test_page_explains_as_the_library_does(
    http: str, small_classifier: Path, image: np.ndarray
) -> None:
    model = pyconv.load(small_classifier)
    question = f"{http}/page/explain/grad-cam?model=small&class=1"
    facts, arrays = _unpacked(_ask(question, image.tobytes()))
    cam = inspect.grad_cam(model, image, 1)
    assert (facts["label"], facts["layer"]) == ("right", "conv2d")
    np.testing.assert_allclose(arrays["heat"], cam.heat, rtol=1e-5)
    question = f"{http}/page/explain/occlusion?model=small"
    facts, arrays = _unpacked(_ask(question, image.tobytes()))
    hidden = inspect.occlusion_map(model, image, size=facts["size"])
    np.testing.assert_allclose(arrays["heat"], hidden.heat, rtol=1e-4, atol=1e-6)


def test_page_gives_filters_and_times(http: str, small_classifier: Path, image: np.ndarray) -> None:
    kernel = inspect.filters(pyconv.load(small_classifier), "conv2d").kernel
    _, arrays = _unpacked(_ask(f"{http}/page/filter?model=small&layer=conv2d&channel=2"))
    np.testing.assert_array_equal(arrays["kernel"], kernel[..., 2])
    times = json.loads(_ask(f"{http}/page/times?model=small", image.tobytes()))
    assert list(times["median_ms"]) == ["native", "onnxruntime"]
    assert all(0 < taken < 10_000 for taken in times["median_ms"].values())


def test_page_finds_the_most_exciting_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "_dataset_name", lambda model: None)
    model = pyconv.load("digits")
    assert model.input_contract is not None
    facts, images = page._most_exciting(model, "conv2d", 3)
    samples = pictures.prepare_all(bundled.samples("digits"), model.input_contract)
    expected = inspect.exciting_images(model, "conv2d", 3, samples, page.EXCITING)
    assert [item["index"] for item in facts["images"]] == expected.indices.tolist()
    np.testing.assert_array_equal(images, expected.images)
    assert facts["source"] == "the sample pictures"


def test_page_shows_the_layers_that_fit_into_an_answer(small_classifier: Path) -> None:
    spec = ModelSpec("small", str(small_classifier))
    (served,) = load_served(spec, ["native"], 1, "float32")
    names = [choice.name for choice in page._shown_layers(served, 4 * (96 + 3))]
    assert names == ["conv2d", "dense"]  # flatten is as large as conv2d, of 96 values
    assert page._shown_layers(served, 1 << 20) == []


async def test_page_refuses_what_is_too_much_at_once(settings: Settings) -> None:
    inference = Inference(Models(), settings)
    asked = page._Page(inference, settings)
    hold = threading.Event()
    waiting = [asyncio.ensure_future(asked._look(hold.wait)) for _ in range(page._MOST_LOOKING)]
    await asyncio.sleep(0)
    with pytest.raises(BusyError, match="try again"):
        await asked._look(hold.wait)
    waiting.pop().cancel()  # its thread goes on all the same
    await asyncio.sleep(0)
    with pytest.raises(BusyError):
        await asked._look(hold.wait)
    hold.set()
    assert all(await asyncio.gather(*waiting))
    while asked._looking:
        await asyncio.sleep(0.01)
    assert await asked._look(lambda: 7) == 7
    inference.close()


@pytest.mark.parametrize(
    ("question", "body", "status", "message"),
    [
        ("see?model=none", b"", 404, "there is no model 'none'"),
        ("see?model=small", b"123", 400, "expected 48 bytes"),
        ("see?model=small&engine=gpu", b"123", 400, "expected native or onnxruntime, got 'gpu'"),
        ("explain/magic?model=small", b"0" * 48, 404, "known: occlusion, grad-cam"),
        ("explain/grad-cam?model=small&class=-1", b"0" * 48, 400, "class: expected an integer"),
        ("explain/grad-cam?model=small&class=3", b"0" * 48, 400, "class from 0 to 2"),
        ("explain/grad-cam?model=maps", b"0" * 48, 400, '"maps: Grad-CAM needs an output of'),
        ("filter?model=small&layer=dense", None, 400, "layers that have: conv2d"),
        ("filter?model=small&layer=conv2d&channel=4", None, 400, "expected 0 to 3"),
        ("exciting?model=small&layer=conv2d", None, 404, "no images to search"),
        ("sample/small/0.png", None, 404, "has no sample '0.png'"),
    ],
)
def test_page_says_what_is_wrong(
    http: str, question: str, body: bytes | None, status: int, message: str
) -> None:
    with pytest.raises(urllib.error.HTTPError) as error:
        _ask(f"{http}/page/{question}", body)
    assert error.value.code == status
    assert message in json.dumps(json.loads(error.value.read())["error"])
