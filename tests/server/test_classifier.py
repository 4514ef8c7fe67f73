"""The protocol as its callers see it: a real server, a real channel, status codes."""

from __future__ import annotations

import itertools
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest

import pyconv
from pyconv.client import Client
from pyconv.engines.base import Array
from pyconv.server.models import ServedModel
from pyconv.server.scheduler import Tensors
from pyconv.server.settings import Settings
from pyconv.v1 import classifier_pb2 as pb
from pyconv.v1 import classifier_pb2_grpc
from pyconv.wire import tensor_from_wire, tensor_to_wire

_Stub = classifier_pb2_grpc.ClassifierStub

_SMALL = pb.ModelSelector(name="small")


def _tensor(array: Array) -> pb.Images:
    return pb.Images(tensor=tensor_to_wire(array))


def _files(*files: bytes) -> pb.Images:
    pictures = [pb.EncodedPicture(data=data, name=f"{i}.png") for i, data in enumerate(files)]
    return pb.Images(pictures=pb.EncodedPictures(pictures=pictures))


_IMAGES = np.random.default_rng(3).integers(0, 256, (5, 6, 8, 1), np.uint8)
_GOOD = _tensor(_IMAGES)


@pytest.fixture
def still_alive(stub: _Stub) -> Iterator[None]:
    """Whatever a test does to the server, it must answer right afterwards."""
    expected = stub.Classify(pb.ClassifyRequest(model=_SMALL, images=_GOOD), timeout=30)
    yield
    again = stub.Classify(pb.ClassifyRequest(model=_SMALL, images=_GOOD), timeout=30)
    assert again.classifications == expected.classifications


def test_classify(stub: _Stub, settings: Settings) -> None:
    request = pb.ClassifyRequest(model=_SMALL, images=_GOOD, top_k=2)
    response = stub.Classify(request, timeout=30)
    expected = pyconv.load(settings.models[0].source, engine="native").classify(_IMAGES, top=2)
    assert [
        [(item.label, item.index, item.probability) for item in row.predictions]
        for row in response.classifications
    ] == [[(item.label, item.index, item.probability) for item in row] for row in expected]
    assert (response.model, response.engine) == ("small", pb.ENGINE_NATIVE)
    assert response.timing.compute_ms > 0
    assert not response.HasField("inputs")


def test_classify_names_one_class_unless_asked_for_more(stub: _Stub) -> None:
    response = stub.Classify(pb.ClassifyRequest(model=_SMALL, images=_GOOD), timeout=30)
    assert [len(row.predictions) for row in response.classifications] == [1] * 5


def test_classify_runs_on_the_engine_asked_for(stub: _Stub) -> None:
    selector = pb.ModelSelector(name="small", engine=pb.ENGINE_ONNXRUNTIME)
    response = stub.Classify(pb.ClassifyRequest(model=selector, images=_GOOD), timeout=30)
    assert response.engine == pb.ENGINE_ONNXRUNTIME


def test_classify_returns_what_the_network_saw(stub: _Stub, make_png: Callable[..., bytes]) -> None:
    images = _files(make_png(), make_png(seed=1))
    request = pb.ClassifyRequest(model=_SMALL, images=images, return_inputs=True)
    inputs = stub.Classify(request, timeout=30).inputs
    assert (list(inputs.shape), inputs.dtype) == ([2, 6, 8, 1], pb.DATA_TYPE_UINT8)
    request = pb.ClassifyRequest(model=_SMALL, images=_GOOD, return_inputs=True)
    np.testing.assert_array_equal(
        tensor_from_wire(stub.Classify(request, timeout=30).inputs), _IMAGES
    )


_BAD_CLASSIFY = {
    "no model named": (
        pb.ClassifyRequest(images=_GOOD),
        grpc.StatusCode.INVALID_ARGUMENT,
        "model: say which one; this server has small, plain, maps",
    ),
    "unknown model": (
        pb.ClassifyRequest(model=pb.ModelSelector(name="smal"), images=_GOOD),
        grpc.StatusCode.NOT_FOUND,
        "there is no model 'smal'; did you mean 'small' or 'maps'? (known: small, plain, maps)",
    ),
    "model's name very long": (
        pb.ClassifyRequest(model=pb.ModelSelector(name="x" * 30_000), images=_GOOD),
        grpc.StatusCode.NOT_FOUND,
        "there is no model 'xxx",
    ),
    "unknown engine": (
        pb.ClassifyRequest(
            model=pb.ModelSelector(name="small", engine=9),  # type: ignore[arg-type]
            images=_GOOD,
        ),
        grpc.StatusCode.INVALID_ARGUMENT,
        "engine: expected 0 (any), 1 (native) or 2 (onnxruntime), got 9",
    ),
    "no images": (
        pb.ClassifyRequest(model=_SMALL),
        grpc.StatusCode.INVALID_ARGUMENT,
        "images: expected pictures or a tensor, got neither",
    ),
    "an empty list of pictures": (
        pb.ClassifyRequest(model=_SMALL, images=_files()),
        grpc.StatusCode.INVALID_ARGUMENT,
        "images: expected at least one, got none",
    ),
    "a batch of no images": (
        pb.ClassifyRequest(model=_SMALL, images=_tensor(np.zeros((0, 6, 8), np.uint8))),
        grpc.StatusCode.INVALID_ARGUMENT,
        "images: expected at least one, got none",
    ),
    "a picture that is none": (
        pb.ClassifyRequest(model=_SMALL, images=_files(b"GIF89a, or so it says")),
        grpc.StatusCode.INVALID_ARGUMENT,
        "0.png: ",
    ),
    "an empty file": (
        pb.ClassifyRequest(model=_SMALL, images=_files(b"")),
        grpc.StatusCode.INVALID_ARGUMENT,
        "0.png: is empty",
    ),
    "a wrong shape": (
        pb.ClassifyRequest(model=_SMALL, images=_tensor(np.zeros((1, 8, 6), np.uint8))),
        grpc.StatusCode.INVALID_ARGUMENT,
        "images: expected shape (n, 6, 8, 1) or (n, 6, 8), got (1, 8, 6",
    ),
    "a wrong number of axes": (
        pb.ClassifyRequest(model=_SMALL, images=_tensor(np.zeros((6, 8), np.uint8))),
        grpc.StatusCode.INVALID_ARGUMENT,
        "images: expected shape (n, 6, 8, 1) or (n, 6, 8), got (6, 8)",
    ),
    "too few bytes": (
        pb.ClassifyRequest(
            model=_SMALL,
            images=pb.Images(
                tensor=pb.Tensor(shape=[1, 6, 8], dtype=pb.DATA_TYPE_FLOAT32, data=bytes(48))
            ),
        ),
        grpc.StatusCode.INVALID_ARGUMENT,
        "tensor.data: float32 of shape (1, 6, 8) takes 192 bytes, got 48",
    ),
    "no dtype": (
        pb.ClassifyRequest(
            model=_SMALL, images=pb.Images(tensor=pb.Tensor(shape=[1, 6, 8], data=bytes(48)))
        ),
        grpc.StatusCode.INVALID_ARGUMENT,
        "tensor.dtype: expected 1 (uint8) or 2 (float32), got 0",
    ),
    "pixels for a file that does not say what they mean": (
        pb.ClassifyRequest(model=pb.ModelSelector(name="plain"), images=_GOOD),
        grpc.StatusCode.INVALID_ARGUMENT,
        "this file does not say how uint8 pixels become its input",
    ),
    "an edit of nothing, at a layer that is not here": (
        pb.ClassifyRequest(
            model=_SMALL,
            images=_GOOD,
            examination=pb.Examination(edits=[pb.LayerEdit(layer="conv")]),
        ),
        grpc.StatusCode.NOT_FOUND,
        "there is no layer 'conv'; did you mean 'conv2d'",
    ),
    "a replaced layer of another count": (
        pb.ClassifyRequest(
            model=_SMALL,
            images=_GOOD,
            examination=pb.Examination(
                edits=[
                    pb.LayerEdit(
                        layer=name, replacement=tensor_to_wire(np.zeros(shape, np.float32))
                    )
                    for name, shape in (("conv2d", (5, 4, 6, 4)), ("flatten", (3, 96)))
                ]
            ),
        ),
        grpc.StatusCode.INVALID_ARGUMENT,
        "layer 'flatten': expected float32 of shape (5, 96) for 5 images, got float32 of shape "
        "(3, 96)",
    ),
    "a network that is no classifier": (
        pb.ClassifyRequest(model=pb.ModelSelector(name="maps"), images=_GOOD),
        grpc.StatusCode.FAILED_PRECONDITION,
        "classify needs an output of shape (n, classes)",
    ),
    "too many images": (
        pb.ClassifyRequest(model=_SMALL, images=_tensor(np.zeros((65, 6, 8), np.uint8))),
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "this server takes at most 64 in one request, got 65",
    ),
    "a message above the limit": (
        pb.ClassifyRequest(model=_SMALL, images=_tensor(np.zeros((2000, 6, 8), np.uint8))),
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "larger than max",
    ),
}


@pytest.mark.usefixtures("still_alive")
@pytest.mark.parametrize("case", _BAD_CLASSIFY)
def test_bad_classify_gets_its_status_and_is_counted(
    stub: _Stub, case: str, requests_by_code: Callable[[], Counter[str]]
) -> None:
    request, code, message = _BAD_CLASSIFY[case]
    before = requests_by_code()
    with pytest.raises(grpc.RpcError) as caught:
        stub.Classify(request, timeout=30)
    assert caught.value.code() is code
    assert message in str(caught.value.details())
    # What is too large, gRPC itself refuses, and the server never sees.
    counted = Counter() if case == "a message above the limit" else Counter([code.name])
    assert requests_by_code() - before == counted


@pytest.mark.usefixtures("still_alive")
def test_a_method_that_does_not_exist_is_unimplemented(channel: grpc.Channel) -> None:
    call: Any = channel.unary_unary("/pyconv.v1.Classifier/Guess")
    with pytest.raises(grpc.RpcError) as caught:
        call(b"", timeout=30)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_fault_of_the_servers_is_internal_and_tells_nothing(
    stub: _Stub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(served: ServedModel, inputs: Tensors, outputs: Sequence[str]) -> None:
        raise RuntimeError("a secret path")

    request = pb.ClassifyRequest(model=_SMALL, images=_GOOD)
    monkeypatch.setattr(ServedModel, "run", broken)
    with pytest.raises(grpc.RpcError) as caught:
        stub.Classify(request, timeout=30)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in str(caught.value.details())
    assert "RuntimeError: a secret path" in caplog.text
    monkeypatch.undo()
    stub.Classify(request, timeout=30)


# -- ClassifyStream --------------------------------------------------------------------------------


def test_stream_answers_every_request_in_order(stub: _Stub) -> None:
    good = pb.ClassifyRequest(model=_SMALL, images=_GOOD)
    requests = [
        pb.ClassifyStreamRequest(id=case, request=request)
        for case, (request, code, _) in _BAD_CLASSIFY.items()
        if case != "a message above the limit"
        for case, request in ((case, request), (f"after {case}", good))
    ]
    answers = list(stub.ClassifyStream(iter(requests), timeout=30))
    assert [answer.id for answer in answers] == [request.id for request in requests]
    expected = stub.Classify(good, timeout=30).classifications
    for answer in answers:
        if answer.id.startswith("after "):
            assert answer.response.classifications == expected
        else:
            _, code, message = _BAD_CLASSIFY[answer.id]
            assert answer.error.code == code.value[0]
            assert message in answer.error.message


def test_stream_answers_while_it_is_open(stub: _Stub) -> None:
    answered = threading.Event()

    def requests() -> Iterator[pb.ClassifyStreamRequest]:
        good = pb.ClassifyRequest(model=_SMALL, images=_GOOD)
        yield pb.ClassifyStreamRequest(id="first", request=good)
        assert answered.wait(30)
        yield pb.ClassifyStreamRequest(id="second", request=good)

    stream = stub.ClassifyStream(requests(), timeout=30)
    assert next(stream).id == "first"
    answered.set()
    assert [answer.id for answer in stream] == ["second"]


def test_stream_of_nothing_is_answered_by_nothing(stub: _Stub) -> None:
    assert list(stub.ClassifyStream(iter([]), timeout=30)) == []


@pytest.mark.usefixtures("still_alive")
def test_a_client_that_vanishes_from_a_stream_leaves_the_server_well(address: str) -> None:
    good = pb.ClassifyStreamRequest(request=pb.ClassifyRequest(model=_SMALL, images=_GOOD))
    for _ in range(5):
        with grpc.insecure_channel(address) as channel:
            endless = itertools.repeat(good)
            stream = classifier_pb2_grpc.ClassifierStub(channel).ClassifyStream(endless)
            assert next(stream).HasField("response")
            # The channel closes with requests and answers under way.


# -- Activations -----------------------------------------------------------------------------------


def test_activations_as_tensors(stub: _Stub, settings: Settings) -> None:
    layers = [
        pb.LayerSelection(name="dense"),
        pb.LayerSelection(name="conv2d", channels=[3, 1]),
    ]
    request = pb.ActivationsRequest(model=_SMALL, images=_GOOD, layers=layers)
    dense, conv2d = stub.Activations(request, timeout=30).layers
    model = pyconv.load(settings.models[0].source, engine="native")
    expected = model.activations(_IMAGES)
    np.testing.assert_array_equal(tensor_from_wire(dense.tensor), expected["dense"])
    np.testing.assert_array_equal(tensor_from_wire(conv2d.tensor), expected["conv2d"][..., [3, 1]])
    assert (dense.name, list(dense.channels), dense.channel_axis) == ("dense", [0, 1, 2], 1)
    assert (conv2d.name, list(conv2d.channels), conv2d.channel_axis) == ("conv2d", [3, 1], 3)


def test_activations_of_all_layers(stub: _Stub) -> None:
    response = stub.Activations(pb.ActivationsRequest(model=_SMALL, images=_GOOD), timeout=30)
    assert {layer.name: tuple(layer.tensor.shape) for layer in response.layers} == {
        "conv2d": (5, 4, 6, 4),
        "flatten": (5, 96),
        "dense": (5, 3),
    }


def test_activations_as_pictures(stub: _Stub) -> None:
    request = pb.ActivationsRequest(
        model=_SMALL,
        images=_GOOD,
        layers=[pb.LayerSelection(name="conv2d", channels=[0]), pb.LayerSelection(name="dense")],
        format=pb.ACTIVATION_FORMAT_PNG,
        return_inputs=True,
    )
    response = stub.Activations(request, timeout=30)
    np.testing.assert_array_equal(tensor_from_wire(response.inputs), _IMAGES)
    conv2d, dense = (layer.heat_maps.maps for layer in response.layers)
    assert [(item.image, item.channel) for item in conv2d] == [(i, 0) for i in range(5)]
    assert not any(item.HasField("channel") for item in dense)
    assert all(item.png.startswith(b"\x89PNG") for item in (*conv2d, *dense))


@pytest.mark.usefixtures("still_alive")
@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        (
            pb.ActivationsRequest(layers=[pb.LayerSelection(name="conv2")]),
            grpc.StatusCode.NOT_FOUND,
            "there is no layer 'conv2'; did you mean 'conv2d'? (known: conv2d, flatten, dense)",
        ),
        (
            pb.ActivationsRequest(layers=[pb.LayerSelection(name="conv2d", channels=[0, 4])]),
            grpc.StatusCode.INVALID_ARGUMENT,
            "layer 'conv2d' has 4 channels, 0 to 3; got 4",
        ),
        (
            pb.ActivationsRequest(format=pb.ACTIVATION_FORMAT_PNG, cell=65),
            grpc.StatusCode.INVALID_ARGUMENT,
            "cell: expected 1 to 64 pixels, got 65",
        ),
        (
            pb.ActivationsRequest(format=9),  # type: ignore[arg-type]
            grpc.StatusCode.INVALID_ARGUMENT,
            "format: expected 1 (tensor) or 2 (PNG), got 9",
        ),
        (
            pb.ActivationsRequest(
                format=pb.ACTIVATION_FORMAT_PNG,
                layers=[pb.LayerSelection(name="conv2d")] * 3,
            ),
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "60 heat maps were asked for, this server draws at most 50 at once",
        ),
        (
            pb.ActivationsRequest(layers=[pb.LayerSelection(name="conv2d")] * 50),
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "ask for fewer images, layers or channels",
        ),
    ],
)
def test_bad_activations_get_their_status(
    stub: _Stub, request_: pb.ActivationsRequest, code: grpc.StatusCode, message: str
) -> None:
    request_.model.CopyFrom(_SMALL)
    request_.images.CopyFrom(_GOOD)
    with pytest.raises(grpc.RpcError) as caught:
        stub.Activations(request_, timeout=30)
    assert caught.value.code() is code
    assert message in str(caught.value.details())


# -- Models ----------------------------------------------------------------------------------------


def test_list_models(stub: _Stub) -> None:
    models = stub.ListModels(pb.ListModelsRequest(), timeout=30).models
    both = [pb.ENGINE_NATIVE, pb.ENGINE_ONNXRUNTIME]
    assert [(model.name, list(model.engines)) for model in models] == [
        ("small", both),
        ("plain", both),
        ("maps", both),
    ]


def test_describe_model(stub: _Stub) -> None:
    response = stub.DescribeModel(pb.DescribeModelRequest(model=_SMALL), timeout=30)
    assert response.name == "small"
    assert response.engine == pb.ENGINE_NATIVE
    assert list(response.engines) == [pb.ENGINE_NATIVE, pb.ENGINE_ONNXRUNTIME]
    assert list(response.labels) == ["left", "right", "flat"]
    assert response.input == pb.InputContract(
        height=6, width=8, channels=1, scale=1 / 255, picture=pb.PICTURE_STYLE_PLAIN
    )
    assert list(response.inputs) == [
        pb.TensorInfo(name="pixels", dtype="float32", shape=[-1, 6, 8, 1])
    ]
    assert list(response.outputs) == [pb.TensorInfo(name="scores", dtype="float32", shape=[-1, 3])]
    assert response.output_kind == pb.OUTPUT_KIND_PROBABILITIES
    assert [(layer.name, layer.operator, list(layer.shape)) for layer in response.layers] == [
        ("conv2d", "Conv2D", [4, 6, 4]),
        ("flatten", "Flatten", [96]),
        ("dense", "Dense", [3]),
    ]
    assert [layer.parameters for layer in response.layers] == [40, 0, 288]
    assert "conv2d" in response.summary
    assert response.provenance_json == '{"data": "made up", "seed": 7}'


def test_describe_an_unknown_model(stub: _Stub) -> None:
    request = pb.DescribeModelRequest(model=pb.ModelSelector(name="nothing"))
    with pytest.raises(grpc.RpcError) as caught:
        stub.DescribeModel(request, timeout=30)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


# -- Many at once ----------------------------------------------------------------------------------


def test_many_clients_at_once_each_get_their_own_answer(address: str, settings: Settings) -> None:
    images = np.random.default_rng(5).normal(size=(24, 6, 8, 1)).astype(np.float32)
    model = pyconv.load(settings.models[0].source, engine="native")
    expected = [model.classify(image[None], top=3)[0] for image in images]

    def ask(number: int) -> None:
        with Client(address) as client:
            for place in range(number, number + 24):
                image = images[place % 24][None]
                answer = client.classify(image, model="small", top=3).predictions[0]
                assert [item.label for item in answer] == [
                    item.label for item in expected[place % 24]
                ]
                maps = client.activations(image, layers={"conv2d": [1]}, model="small")
                np.testing.assert_array_equal(
                    maps.layers["conv2d"], model.activations(image)["conv2d"][..., [1]]
                )

    with ThreadPoolExecutor(12) as pool:
        for done in [pool.submit(ask, number) for number in range(12)]:
            done.result(60)


@pytest.mark.parametrize("method", ["Classify", "ClassifyStream"])
@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x05ab", b"\x0a\x02\xff\xfe"])
def test_bytes_that_are_no_message_are_the_callers_fault(
    channel: grpc.Channel, caplog: pytest.LogCaptureFixture, method: str, data: bytes
) -> None:
    path = f"/pyconv.v1.Classifier/{method}"
    if method == "Classify":
        call = channel.unary_unary(path).future(data, timeout=60)
    else:
        call = channel.stream_stream(path)(iter([data]), timeout=60)
    assert call.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "not a message of the kind" in call.details()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
