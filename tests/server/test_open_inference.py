"""The Open Inference Protocol over gRPC, message by message: what no decent client sends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import numpy as np
import pytest

import pyconv
from pyconv.server.settings import Settings
from pyconv.v2 import open_inference_pb2 as pb
from pyconv.v2 import open_inference_pb2_grpc

_IMAGES = np.random.default_rng(3).random((2, 6, 8, 1), np.float32)

_Input = pb.ModelInferRequest.InferInputTensor
_Output = pb.ModelInferRequest.InferRequestedOutputTensor


@pytest.fixture
def stub(channel: grpc.Channel) -> open_inference_pb2_grpc.GRPCInferenceServiceStub:
    return open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)


def _request(outputs: Sequence[str | _Output] = (), **fields: Any) -> pb.ModelInferRequest:
    pixels = _Input(name="pixels", datatype="FP32", shape=_IMAGES.shape)
    given: dict[str, Any] = {
        "model_name": "small",
        "inputs": [pixels],
        "raw_input_contents": [_IMAGES.tobytes()],
        "outputs": [
            _Output(name=output) if isinstance(output, str) else output for output in outputs
        ],
    }
    return pb.ModelInferRequest(**{**given, **fields})


def _typed(contents: pb.InferTensorContents, datatype: str = "FP32") -> pb.ModelInferRequest:
    pixels = _Input(name="pixels", datatype=datatype, shape=_IMAGES.shape, contents=contents)
    return _request(inputs=[pixels], raw_input_contents=[])


def _parameter(**value: Any) -> dict[str, pb.InferParameter]:
    (kind, content), *_ = value.items()
    name, _, field = kind.partition("__")
    return {name: pb.InferParameter(**{field: content})}


def test_raw_contents_are_answered_raw(stub: Any, settings: Settings) -> None:
    response = stub.ModelInfer(_request(["scores", "conv2d"], id="7"), timeout=30)
    assert (response.model_name, response.model_version, response.id) == ("small", "1", "7")
    model = pyconv.load(settings.models[0].source)
    scores, layer = response.outputs
    assert (scores.name, scores.datatype, list(scores.shape)) == ("scores", "FP32", [2, 3])
    assert (layer.name, layer.datatype, list(layer.shape)) == ("conv2d", "FP32", [2, 4, 6, 4])
    raw = [np.frombuffer(data, "<f4") for data in response.raw_output_contents]
    np.testing.assert_array_equal(raw[0].reshape(2, 3), model.predict(_IMAGES))
    expected = model.activations(_IMAGES)["conv2d"]
    np.testing.assert_array_equal(raw[1].reshape(2, 4, 6, 4), expected)


def test_typed_contents_are_answered_typed(stub: Any, settings: Settings) -> None:
    request = _typed(pb.InferTensorContents(fp32_contents=_IMAGES.ravel()))
    response = stub.ModelInfer(request, timeout=30)
    assert not response.raw_output_contents
    (scores,) = response.outputs
    expected = pyconv.load(settings.models[0].source).predict(_IMAGES)
    np.testing.assert_array_equal(
        np.reshape(scores.contents.fp32_contents, scores.shape).astype("f4"), expected
    )


_BAD: dict[str, tuple[pb.ModelInferRequest, grpc.StatusCode, str]] = {
    "unknown model": (
        _request(model_name="smal"),
        grpc.StatusCode.NOT_FOUND,
        "there is no model 'smal'; did you mean 'small'",
    ),
    "unknown version": (
        _request(model_version="2"),
        grpc.StatusCode.NOT_FOUND,
        "there is no version of model 'small' '2'",
    ),
    "unknown engine": (
        _request(parameters=_parameter(engine__string_param="gpu")),
        grpc.StatusCode.INVALID_ARGUMENT,
        "parameter 'engine': expected one of native, onnxruntime",
    ),
    "a timeout that is no number": (
        _request(parameters=_parameter(timeout__bool_param=True)),
        grpc.StatusCode.INVALID_ARGUMENT,
        "parameter 'timeout': expected microseconds, an integer of at least 0, got True",
    ),
    "senseless timeout": (
        _request(parameters=_parameter(timeout__string_param="soon")),
        grpc.StatusCode.INVALID_ARGUMENT,
        "parameter 'timeout': expected microseconds",
    ),
    "senseless count of classes": (
        _request([_Output(name="scores", parameters=_parameter(classification__int64_param=-1))]),
        grpc.StatusCode.INVALID_ARGUMENT,
        "parameter 'classification': expected an integer of at least 0, got -1",
    ),
    "classes of a layer": (
        _request(
            outputs=[_Output(name="conv2d", parameters=_parameter(classification__int64_param=2))]
        ),
        grpc.StatusCode.INVALID_ARGUMENT,
        "classes can be named, 1 or more, where an output's shape is (n, classes)",
    ),
    "no input": (
        _request(inputs=[], raw_input_contents=[]),
        grpc.StatusCode.INVALID_ARGUMENT,
        "missing: ['pixels']",
    ),
    "an input too many": (
        _request(
            inputs=[
                _Input(name="pixels", datatype="FP32", shape=_IMAGES.shape),
                _Input(name="more", datatype="FP32", shape=[0]),
            ],
            raw_input_contents=[_IMAGES.tobytes(), b""],
        ),
        grpc.StatusCode.INVALID_ARGUMENT,
        "unknown: ['more']",
    ),
    "an input twice": (
        _request(
            inputs=[_Input(name="pixels", datatype="FP32", shape=_IMAGES.shape)] * 2,
            raw_input_contents=[_IMAGES.tobytes()] * 2,
        ),
        grpc.StatusCode.INVALID_ARGUMENT,
        "input 'pixels' is given twice",
    ),
    "too many raw contents": (
        _request(raw_input_contents=[b"", b""]),
        grpc.StatusCode.INVALID_ARGUMENT,
        "raw_input_contents: expected one for each of the 1 inputs, got 2",
    ),
    "too few bytes": (
        _request(raw_input_contents=[_IMAGES.tobytes()[4:]]),
        grpc.StatusCode.INVALID_ARGUMENT,
        "FP32 of shape (2, 6, 8, 1) takes 384 bytes, got 380",
    ),
    "contents in both places": (
        _request(
            inputs=[
                _Input(
                    name="pixels",
                    datatype="FP32",
                    shape=_IMAGES.shape,
                    contents=pb.InferTensorContents(fp32_contents=[1]),
                )
            ]
        ),
        grpc.StatusCode.INVALID_ARGUMENT,
        "expected its elements in contents or in raw_input_contents, got both",
    ),
    "contents in another field": (
        _typed(pb.InferTensorContents(fp64_contents=_IMAGES.ravel())),
        grpc.StatusCode.INVALID_ARGUMENT,
        "expected the elements of shape (2, 6, 8, 1), got 0",
    ),
    "FP16 without raw contents": (
        _typed(pb.InferTensorContents(), "FP16"),
        grpc.StatusCode.INVALID_ARGUMENT,
        "FP16 has no typed contents; send it raw",
    ),
    "elements too large for their type": (
        _typed(pb.InferTensorContents(int_contents=[1 << 20] * _IMAGES.size), "INT8"),
        grpc.StatusCode.INVALID_ARGUMENT,
        "expected elements of INT8, got larger ones",
    ),
    "text that is none": (
        _typed(pb.InferTensorContents(bytes_contents=[b"\xff"] * _IMAGES.size), "BYTES"),
        grpc.StatusCode.INVALID_ARGUMENT,
        "expected elements of UTF-8, got other bytes",
    ),
    "text that ends too soon": (
        _request(
            inputs=[_Input(name="pixels", datatype="BYTES", shape=[1])],
            raw_input_contents=[b"\x05\0\0\0boot"],
        ),
        grpc.StatusCode.INVALID_ARGUMENT,
        "element 0 of BYTES ends after the contents do",
    ),
    "unknown datatype": (
        _request(
            inputs=[_Input(name="pixels", datatype="BF16", shape=[2])],
            raw_input_contents=[b"\0\0\0\0"],
        ),
        grpc.StatusCode.INVALID_ARGUMENT,
        "expected one of the datatypes BOOL, INT8",
    ),
    "negative size": (
        _request(
            inputs=[_Input(name="pixels", datatype="FP32", shape=[-2, 6, 8, -1])],
        ),
        grpc.StatusCode.INVALID_ARGUMENT,
        "expected the elements of shape (-2, 6, 8, -1)",
    ),
    "shared memory for an input": (
        _request(
            inputs=[
                _Input(
                    name="pixels",
                    datatype="FP32",
                    shape=[2, 6, 8, 1],
                    parameters=_parameter(shared_memory_region__string_param="mine"),
                )
            ],
            raw_input_contents=[],
        ),
        grpc.StatusCode.INVALID_ARGUMENT,
        "input 'pixels': parameter 'shared_memory_region': this server shares no memory",
    ),
    "shared memory for an output": (
        _request(
            [
                _Output(
                    name="scores",
                    parameters=_parameter(shared_memory_region__string_param="mine"),
                )
            ]
        ),
        grpc.StatusCode.INVALID_ARGUMENT,
        "output 'scores': parameter 'shared_memory_region': this server shares no memory",
    ),
    "no images": (
        _request(
            inputs=[_Input(name="pixels", datatype="FP32", shape=[0, 6, 8, 1])],
            raw_input_contents=[b""],
        ),
        grpc.StatusCode.INVALID_ARGUMENT,
        "images: expected at least one, got none",
    ),
    "too many images": (
        _request(
            inputs=[_Input(name="pixels", datatype="FP32", shape=[65, 6, 8, 1])],
            raw_input_contents=[bytes(65 * 6 * 8 * 4)],
        ),
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "this server takes at most 64 in one request, got 65",
    ),
    "replaced layers of different counts": (
        _request(
            inputs=[
                _Input(name="conv2d", datatype="FP32", shape=[1, 4, 6, 4]),
                _Input(name="flatten", datatype="FP32", shape=[2, 96]),
            ],
            raw_input_contents=[bytes(96 * 4), bytes(2 * 96 * 4)],
        ),
        grpc.StatusCode.INVALID_ARGUMENT,
        "expected all of as many images, got 'conv2d' of 1, 'flatten' of 2",
    ),
    "a replaced layer of too many images": (
        _request(
            inputs=[_Input(name="flatten", datatype="FP32", shape=[65, 96])],
            raw_input_contents=[bytes(65 * 96 * 4)],
        ),
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "this server takes at most 64 in one request, got 65",
    ),
    "too many outputs": (
        _request(["scores"] * 257),
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "257 outputs were asked for, this server gives at most 256",
    ),
    "too large an answer": (
        _request(["conv2d"] * 200),
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "what was asked for takes 0.1 MiB",
    ),
}


@pytest.mark.parametrize("case", _BAD)
def test_bad_request_gets_its_status_and_is_counted(
    stub: Any, case: str, requests_by_code: Callable[[], Counter[str]]
) -> None:
    request, code, message = _BAD[case]
    before = requests_by_code()
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request, timeout=30)
    assert caught.value.code() is code
    assert message in str(caught.value.details())
    assert requests_by_code() - before == Counter([code.name])
    stub.ModelInfer(_request(), timeout=30)


def test_stream_answers_bad_requests_with_their_errors(stub: Any) -> None:
    requests = [item for bad, *_ in _BAD.values() for item in (bad, _request(id="good"))]
    answers = list(stub.ModelStreamInfer(iter(requests), timeout=30))
    assert len(answers) == len(requests)
    for (_, _, message), bad, good in zip(_BAD.values(), answers[::2], answers[1::2], strict=True):
        assert message in bad.error_message
        assert (good.error_message, good.infer_response.id) == ("", "good")


def test_no_files_or_settings_come_with_a_load(stub: Any) -> None:
    config = {"config": pb.ModelRepositoryParameter(string_param="{}")}
    request = pb.RepositoryModelLoadRequest(model_name="small", parameters=config)
    with pytest.raises(grpc.RpcError) as caught:
        stub.RepositoryModelLoad(request, timeout=30)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "parameter 'config': models are loaded as they lie" in str(caught.value.details())


def test_what_is_not_here_is_not_ready(stub: Any) -> None:
    assert not stub.ModelReady(pb.ModelReadyRequest(name="small", version="2"), timeout=30).ready
    for call, request in (
        (stub.ModelMetadata, pb.ModelMetadataRequest(name="nobody")),
        (stub.ModelConfig, pb.ModelConfigRequest(name="nobody")),
        (stub.ModelStatistics, pb.ModelStatisticsRequest(name="nobody")),
        (stub.RepositoryModelLoad, pb.RepositoryModelLoadRequest(model_name="nobody")),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            call(request, timeout=30)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
