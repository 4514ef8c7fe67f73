from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest

import pyconv
from pyconv.client import Client, Examination, Images, Picture
from pyconv.engines.base import EngineName
from pyconv.errors import InputError, ModelError, PictureError, ServerError
from pyconv.server.background import BackgroundServer
from pyconv.server.models import ServedModel
from pyconv.server.settings import ModelSpec, Settings
from pyconv.v1 import classifier_pb2, classifier_pb2_grpc


@pytest.fixture(scope="module")
def address(small_classifier: Path, small_maps: Path, small_unexplained: Path) -> Iterator[str]:
    paths = (small_classifier, small_maps, small_unexplained)
    models = [ModelSpec(path.stem, str(path)) for path in paths]
    settings = Settings(
        models=models,
        engines=["onnxruntime", "native"],
        port=0,
        max_images=8,
        max_message_bytes=1 << 16,
    )
    with BackgroundServer(settings) as address:
        yield address


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(address) as client:
        yield client


@pytest.fixture
def picture(tmp_path: Path, make_png: Callable[..., bytes]) -> Path:
    path = tmp_path / "boot.png"
    path.write_bytes(make_png(40, 40))
    return path


@pytest.fixture
def nobody() -> str:
    """An address at which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def test_classify_takes_a_picture_in_any_form(client: Client, picture: Path) -> None:
    forms: list[Images] = [picture, str(picture), picture.read_bytes(), [picture], [str(picture)]]
    answers = [client.classify(form, model="small", top=3) for form in forms]
    assert {answer.predictions for answer in answers} == {answers[0].predictions}
    assert len(answers[0].predictions) == 1


def test_classify_takes_arrays(client: Client, small_classifier: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 8), np.uint8)
    answer = client.classify(pixels, model="small", top=2)
    model = pyconv.load(small_classifier, engine="onnxruntime")
    assert [list(row) for row in answer.predictions] == model.classify(pixels, top=2)
    assert (answer.model, answer.engine) == ("small", "onnxruntime")
    assert answer.compute_ms > 0
    assert answer.inputs is None


def test_classify_on_a_chosen_engine(client: Client, picture: Path) -> None:
    assert client.classify(picture, model="small", engine="native").engine == "native"


def test_classify_returns_what_the_network_saw(client: Client, picture: Path) -> None:
    answer = client.classify([picture] * 2, model="small", return_inputs=True)
    assert answer.inputs is not None
    assert answer.inputs.shape == (2, 6, 8, 1)
    assert answer.inputs.dtype == np.uint8
    again = client.classify(answer.inputs, model="small")
    assert again.predictions == answer.predictions


def test_stream_yields_errors_in_their_place(client: Client, picture: Path, tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no picture")
    pictures: list[Picture] = [
        tmp_path / "missing.png",
        picture,
        text,
        picture.read_bytes(),
        "missing.jpg",
    ]
    answers = list(client.classify_stream(pictures, model="small"))
    missing, of_path, of_text, of_bytes, last = answers
    assert isinstance(missing, PictureError)
    assert "missing.png: cannot be read: No such file" in str(missing)
    assert isinstance(of_text, InputError)
    assert "notes.txt: is not a picture" in str(of_text)
    assert isinstance(last, PictureError)
    assert not isinstance(of_path, Exception)
    assert not isinstance(of_bytes, Exception)
    assert of_path.predictions == of_bytes.predictions


def test_stream_of_a_broken_iterable_raises_its_error(client: Client, picture: Path) -> None:
    def pictures() -> Iterator[Path]:
        yield picture
        raise OSError("the camera is off")

    stream = client.classify_stream(pictures(), model="small")
    assert not isinstance(next(stream), Exception)
    with pytest.raises(OSError, match="the camera is off"):
        next(stream)


def test_stream_that_is_left_early_ends(client: Client, picture: Path) -> None:
    endless = iter(lambda: picture, None)
    stream = client.classify_stream(endless, model="small")
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    client.classify(picture, model="small")


def test_activations(client: Client, small_classifier: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 6, 8, 1), np.uint8)
    expected = pyconv.load(small_classifier, engine="onnxruntime").activations(pixels)
    everything = client.activations(pixels, model="small")
    assert list(everything.layers) == list(expected)
    named = client.activations(pixels, model="small", layers=["dense", "conv2d"])
    assert list(named.layers) == ["dense", "conv2d"]
    chosen = client.activations(
        pixels, model="small", layers={"conv2d": [2, 0], "dense": []}, return_inputs=True
    )
    assert chosen.inputs is not None
    np.testing.assert_array_equal(chosen.inputs, pixels)
    np.testing.assert_array_equal(chosen.layers["conv2d"], expected["conv2d"][..., [2, 0]])
    for name in ("conv2d", "dense"):
        np.testing.assert_array_equal(everything.layers[name], expected[name])
        np.testing.assert_array_equal(named.layers[name], expected[name])


def test_activations_of_a_file_without_a_layer_map_have_their_channels_last(
    client: Client,
) -> None:
    images = np.random.default_rng(0).normal(size=(2, 6, 8, 1)).astype(np.float32)
    relu = client.activations(images, model="plain", layers={"relu": [3, 1]}).layers["relu"]
    conv2d = client.activations(images, model="small", layers={"conv2d": [3, 1]}).layers["conv2d"]
    assert relu.shape == (2, 4, 6, 2)
    np.testing.assert_allclose(relu, conv2d, rtol=1e-6)


def test_heat_maps(client: Client, picture: Path) -> None:
    maps = client.heat_maps(picture, model="small", layers={"conv2d": [3], "dense": []}, cell=2)
    assert [(item.layer, item.image, item.channel) for item in maps] == [
        ("conv2d", 0, 3),
        ("dense", 0, None),
    ]
    assert all(item.png.startswith(b"\x89PNG") and item.low <= item.high for item in maps)


def test_models_and_description(client: Client) -> None:
    assert client.models() == {
        "small": ("onnxruntime", "native"),
        "maps": ("onnxruntime", "native"),
        "plain": ("onnxruntime", "native"),
    }
    description = client.describe("small")
    assert description.labels == ("left", "right", "flat")
    assert description.image_shape == (6, 8, 1)
    assert [layer.name for layer in description.layers] == ["conv2d", "flatten", "dense"]
    assert description.layers[0].shape == (4, 6, 4)
    assert description.provenance == {"data": "made up", "seed": 7}
    assert description.engines == ("onnxruntime", "native")


def test_wait_ready_returns_when_the_server_serves(client: Client) -> None:
    client.wait_ready(timeout=30)


def test_wait_ready_waits_no_longer_than_told(nobody: str) -> None:
    with (
        Client(nobody) as client,
        pytest.raises(ServerError, match=r"nothing serves at .*, waited for 0\.2 s"),
    ):
        client.wait_ready(timeout=0.2)


@pytest.mark.parametrize(
    ("ask", "kind", "message"),
    [
        (lambda c: c.classify(b"no picture", model="small"), InputError, "is not a picture"),
        (lambda c: c.classify(np.zeros((1, 2, 2), "f4"), model="small"), InputError, "got (1, 2,"),
        (lambda c: c.classify(np.zeros((1, 6, 8)), model="small"), InputError, "got float64"),
        (lambda c: c.classify(np.zeros((1, 6, 8), "f4")), InputError, "say which one"),
        (lambda c: c.classify(b"", model="smell"), InputError, "did you mean 'small'"),
        (lambda c: c.classify(b"", model="small", top=0), InputError, "top: expected at least 1"),
        (lambda c: c.classify(b"", engine="gpu"), InputError, "got 'gpu'"),
        (lambda c: c.classify([], model="small"), InputError, "expected at least one, got none"),
        (lambda c: c.classify("nowhere.png", model="small"), PictureError, "nowhere.png: cannot"),
        (lambda c: c.classify(np.zeros((1, 6, 8), "f4"), model="maps"), ModelError, "classify ne"),
        (lambda c: c.classify(np.zeros((9, 6, 8), "u1"), model="small"), ServerError, "most 8 in"),
        (
            lambda c: c.classify(np.zeros((2000, 6, 8), "u1"), model="small"),
            ServerError,
            "the message is larger than the server at 127.0.0.1:",
        ),
        (
            lambda c: c.activations(b"", model="small", layers={"conv2d": [-1]}),
            InputError,
            "layer 'conv2d': expected channels from 0, got [-1]",
        ),
        (
            lambda c: c.activations(b"", model="small", layers=[]),
            InputError,
            "expected at least one, or None for all",
        ),
        (
            lambda c: c.activations(np.zeros((1, 6, 8), "f4"), model="small", layers=["conv"]),
            InputError,
            "did you mean 'conv2d'",
        ),
        (lambda c: c.heat_maps(b"", model="small", cell=0), InputError, "cell: expected at least"),
        (lambda c: c.describe("nothing"), InputError, "there is no model 'nothing'"),
    ],
)
def test_what_is_wrong_raises_its_kind(
    client: Client, ask: Callable[[Client], object], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind) as caught:
        ask(client)
    assert type(caught.value) is kind
    assert message in str(caught.value)


def test_address_where_nobody_listens_says_how_to_start_a_server(nobody: str) -> None:
    with Client(nobody) as client, pytest.raises(ServerError) as caught:
        client.models()
    assert caught.value.code == "UNAVAILABLE"
    assert f"nothing answers at {nobody}" in str(caught.value)
    assert "pyconv serve" in str(caught.value)


def test_server_of_another_kind_is_told_apart(address: str, client: Client) -> None:
    # Whoever speaks gRPC but not this protocol answers UNIMPLEMENTED.
    client._stub.Classify = client._channel.unary_unary("/other.Service/Method")
    with pytest.raises(ServerError, match="is not pyconv's"):
        client._call(client._stub.Classify, b"")


def test_answer_that_takes_too_long(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()

    def slow(served: ServedModel, inputs: object, outputs: object) -> None:
        assert answered.wait(30)

    monkeypatch.setattr(ServedModel, "run", slow)
    monkeypatch.setattr("pyconv.server.scheduler.QUICK_S", 0)  # it would hold the event loop
    try:
        with Client(address, timeout=0.2) as client, pytest.raises(ServerError) as caught:
            client.classify(np.zeros((1, 6, 8), np.uint8), model="small")
    finally:
        answered.set()
    assert caught.value.code == "DEADLINE_EXCEEDED"
    assert "within 0.2 s" in str(caught.value)


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_senseless_timeout_is_refused(timeout: float) -> None:
    with pytest.raises(InputError, match="timeout: expected more than 0"):
        Client("127.0.0.1:1", timeout=timeout)


@pytest.mark.parametrize("address", ["", " "])
def test_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(InputError, match="address: expected HOST:PORT, such as"):
        Client(address)


@pytest.mark.parametrize("retries", [-1, 5])
def test_retries_that_grpc_cannot_do(retries: int) -> None:
    with pytest.raises(InputError, match=f"retries: expected 0 to 4, got {retries}"):
        Client("127.0.0.1:1", retries=retries)


@pytest.mark.parametrize(("retries", "answered"), [(0, False), (2, True)])
def test_a_request_whose_connection_broke_is_sent_again(retries: int, answered: bool) -> None:
    calls = []

    class Restarting(classifier_pb2_grpc.ClassifierServicer):
        def ListModels(  # noqa: N802
            self, request: classifier_pb2.ListModelsRequest, context: grpc.ServicerContext
        ) -> classifier_pb2.ListModelsResponse:
            calls.append(request)
            if len(calls) <= 2:
                context.abort(grpc.StatusCode.UNAVAILABLE, "restarting")
            return classifier_pb2.ListModelsResponse()

    server = grpc.server(ThreadPoolExecutor(1))
    classifier_pb2_grpc.add_ClassifierServicer_to_server(Restarting(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with Client(f"127.0.0.1:{port}", retries=retries) as client:
            if answered:
                assert client.models() == {}
            else:
                with pytest.raises(ServerError, match="restarting"):
                    client.models()
    finally:
        server.stop(None)
    assert len(calls) == 1 + retries


def _pixels() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(3).integers(0, 256, (2, 6, 8), np.uint8)


def test_both_engines_in_one_answer(client: Client) -> None:
    asked = Examination(compare=True)
    answer = client.classify(_pixels(), model="small", examination=asked)
    assert answer.engine == "native"
    assert answer.comparison is not None
    assert answer.comparison.first_diverging is None
    names = [layer.name for layer in answer.comparison.layers]
    assert names == ["conv2d", "flatten", "dense", "scores"]
    native, other = (
        client.activations(_pixels(), model="small", engine=engine).layers
        for engine in ("native", "onnxruntime")
    )
    for row in answer.comparison.layers[:3]:
        difference = float(np.abs(native[row.name] - other[row.name]).max())
        assert row.largest_difference == pytest.approx(difference, rel=1e-5)
        assert row.largest_value == pytest.approx(float(np.abs(other[row.name]).max()), rel=1e-5)
    strict = Examination(compare=True, tolerance=0)
    told = client.activations(_pixels(), model="small", examination=strict).comparison
    differing = [row.name for row in answer.comparison.layers if row.largest_difference]
    assert told is not None
    assert told.first_diverging == (differing[0] if differing else None)


def test_each_step_of_the_network_tells_what_it_takes(client: Client) -> None:
    asked = Examination(profile=True)
    answer = client.classify(_pixels(), model="small", engine="native", examination=asked)
    layers = {layer.name: layer for layer in client.describe("small").layers}
    computed = [name for step in answer.steps for name in step.layers]
    assert {"conv2d", "dense"} <= set(computed)
    (convolution,) = [step for step in answer.steps if "conv2d" in step.layers]
    assert convolution.ms > 0
    # Two images; 9 multiplies and adds for each of 4 x 6 values of 4 channels.
    assert convolution.flops == 2 * (2 * 9) * (4 * 6 * 4)
    assert convolution.bytes == 2 * 4 * int(np.prod([x or 0 for x in layers["conv2d"].shape]))


def test_the_rest_of_the_network_runs_on_an_edited_layer(client: Client) -> None:
    plain = client.activations(_pixels(), model="small")
    silenced = Examination(silenced={"conv2d": [1, 3]})
    deaf = client.activations(_pixels(), model="small", examination=silenced)
    edited = plain.layers["conv2d"].copy()
    edited[..., [1, 3]] = 0
    np.testing.assert_array_equal(deaf.layers["conv2d"], edited)
    replaced = Examination(replaced={"conv2d": edited})
    again = client.activations(_pixels(), model="small", examination=replaced)
    np.testing.assert_allclose(again.layers["dense"], deaf.layers["dense"], rtol=1e-6)
    assert not np.allclose(deaf.layers["dense"], plain.layers["dense"])
    scores = [
        client.classify(_pixels(), model="small", top=3, examination=asked).predictions
        for asked in (silenced, replaced, None)
    ]
    assert scores[0] == scores[1] != scores[2]


@pytest.mark.parametrize(
    ("asked", "engine", "message"),
    [
        (Examination(compare=True), "onnxruntime", "the native one answers"),
        (Examination(compare=True, tolerance=-1), None, "expected a number from 0, got -1"),
        (Examination(profile=True), "onnxruntime", "only the native engine tells"),
        (Examination(silenced={"conv2": [0]}), None, "conv2d"),
        (Examination(silenced={"conv2d": [4]}), None, "has 4 channels, 0 to 3; got 4"),
        (Examination(replaced={"conv2d": np.zeros((2, 3), np.float32)}), None, "expected float32"),
        (
            Examination(replaced={"conv2d": np.zeros((1, 4, 6, 4), np.float32)}),
            None,
            r"layer 'conv2d': expected float32 of shape \(2, 4, 6, 4\) for 2 images, got",
        ),
        (
            Examination(replaced={"conv2d": np.zeros((2, 4, 6, 4))}),
            None,
            "layer 'conv2d': expected dtype uint8 or float32, got float64",
        ),
        (Examination(silenced={"conv2d": [-1]}), None, "expected channels from 0"),
        (Examination(profile=True, silenced={"conv2d": [0]}), None, "not both in one request"),
    ],
)
def test_examinations_that_cannot_be(
    client: Client, asked: Examination, engine: EngineName | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        client.classify(_pixels(), model="small", engine=engine, examination=asked)


def test_the_catalogue_tells_what_a_layer_sees(client: Client) -> None:
    layers = {layer.name: layer for layer in client.describe("small", engine="native").layers}
    assert layers["conv2d"].filters == layers["conv2d"].shape[-1] == 4
    assert layers["conv2d"].receptive_field == (3, 3)
    assert layers["conv2d"].stride == (1, 1)
    assert layers["dense"].filters == 3
