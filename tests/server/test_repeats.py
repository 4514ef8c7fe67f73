"""Requests of which only the elements are new are read as protobuf reads them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pyconv.server import datatypes
from pyconv.server.repeats import Reader, Repeated
from pyconv.v2 import open_inference_pb2 as pb

_Input = pb.ModelInferRequest.InferInputTensor
_Output = pb.ModelInferRequest.InferRequestedOutputTensor


def _request(elements: bytes, **fields: Any) -> pb.ModelInferRequest:
    pixels = _Input(name="pixels", datatype="UINT8", shape=[2, len(elements) // 2])
    given = {"model_name": "m", "inputs": [pixels], "raw_input_contents": [elements]}
    return pb.ModelInferRequest(**{**given, **fields})


def test_a_request_that_comes_again_is_read_by_its_beginning() -> None:
    reader = Reader()
    outputs = [_Output(name="scores"), _Output(name="conv2d")]
    first = _request(b"abcd", model_version="2", outputs=outputs)
    assert reader.read(first.SerializeToString()) == first
    again = _request(b"efgh", model_version="2", outputs=outputs)
    read = reader.read(again.SerializeToString())
    assert isinstance(read, Repeated)
    assert read.beginning.selection == ("m", None, "2")
    assert list(read.beginning.outputs) == [("scores", 0), ("conv2d", 0)]
    np.testing.assert_array_equal(read.inputs["pixels"], [[101, 102], [103, 104]])
    assert read.inputs["pixels"].flags.aligned


@pytest.mark.parametrize(
    "request_",
    [
        _request(b"abcd", id="7"),
        _request(b"abcd", parameters={"timeout": pb.InferParameter(int64_param=9)}),
        _request(b"abcd", outputs=[_Output(name="x", parameters={"a": pb.InferParameter()})]),
        _request(b"abcd", inputs=[_Input(name="pixels", datatype="UINT8", shape=[3])]),
        _request(b"abcd", inputs=[_Input(name="pixels", datatype="INT3", shape=[4])]),
        _request(b"abcd", inputs=[_Input(name="pixels", datatype="BYTES", shape=[1])]),
        _request(b"abcd", raw_input_contents=[b"ab", b"cd"]),
        _request(b"abcd", model_name="m" * 5000),
        _request(b"", raw_input_contents=[]),
    ],
)
def test_what_asks_for_more_is_not_remembered(request_: pb.ModelInferRequest) -> None:
    reader = Reader()
    for _ in range(3):
        assert reader.read(request_.SerializeToString()) == request_


def test_a_beginning_counts_for_messages_of_its_size_alone() -> None:
    reader = Reader()
    short, long = (_request(bytes(size)).SerializeToString() for size in (40, 60))
    for data in (short, long):
        reader.read(data)
    # As long as one, and beginning as the other: with an id behind it, or cut off.
    name = "z" * (len(long) - len(short) - 2)
    read = reader.read(short + pb.ModelInferRequest(id=name).SerializeToString())
    assert isinstance(read, pb.ModelInferRequest)
    assert read.id == name
    with pytest.raises(DecodeError):
        reader.read(long[: len(short)])


def test_what_is_remembered_has_a_limit() -> None:
    reader = Reader()
    for number in range(2000):
        reader.read(_request(b"abcd", model_name=f"m{number}").SerializeToString())
        assert len(reader._beginnings) <= 256
    unknown = _Input(name="pixels", datatype="INT3", shape=[4])
    for size in range(2000):
        reader.read(_request(bytes(size), inputs=[unknown]).SerializeToString())
        assert len(reader._sizes) <= 256


_pieces = st.lists(
    st.one_of(
        st.sampled_from(
            [
                pb.ModelInferRequest(model_name="m"),
                pb.ModelInferRequest(id="7"),
                pb.ModelInferRequest(inputs=[_Input(name="x", datatype="UINT8", shape=[4])]),
                pb.ModelInferRequest(outputs=[_Output(name="scores")]),
                pb.ModelInferRequest(raw_input_contents=[b"abcd"]),
                pb.ModelInferRequest(raw_input_contents=[b""]),
            ]
        ).map(lambda message: message.SerializeToString()),
        # A field that the protocol does not have, and holds what looks like elements.
        st.just(b"\xa2\x06\x06\x3a\x04abcd"),
        st.binary(max_size=4),
    ),
    max_size=6,
).map(b"".join)


# A field that nobody knows, in the tensor.
@example(b"*\r\n\x01x\x12\x05UINT8\x1a\x01\x04\x98\xa2\x06\x06:\x04abcd", [(0, 0)])
@settings(max_examples=300, deadline=None, database=None)
@given(_pieces, st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), max_size=3))
def test_whatever_comes_means_what_protobuf_says(first: bytes, changes: list[Any]) -> None:
    usual = _request(b"abcd").SerializeToString()
    for start in (first, usual, usual + first, first + usual):
        reader = Reader()
        data = bytearray(start)
        for place, value in [(0, data[0] if data else 0), *changes]:
            if place < len(data):
                data[len(data) - 1 - place] = value
            read = _meaning(reader.read, bytes(data))
            assert read == _meaning(pb.ModelInferRequest.FromString, bytes(data))


def _meaning(read: Callable[[bytes], Any], data: bytes) -> Any:
    """What a request asks, however it was read; None where the bytes are no message."""
    try:
        request = read(data)
    except DecodeError:
        return None
    if not isinstance(request, Repeated):
        request.DiscardUnknownFields()  # which ask nothing
        return request
    message = pb.ModelInferRequest(
        model_name=request.beginning.selection.name,
        model_version=request.beginning.selection.version,
        outputs=[_Output(name=output.name) for output in request.beginning.outputs],
        raw_input_contents=[array.tobytes() for array in request.inputs.values()],
    )
    for name, array in request.inputs.items():
        message.inputs.add(
            name=name, datatype=datatypes.datatype_in(array.dtype), shape=array.shape
        )
    return message
