"""Requests that nobody sane would send: each is answered or refused, and none is a fault."""

from __future__ import annotations

import logging

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyconv.v1 import classifier_pb2 as pb
from pyconv.v1 import classifier_pb2_grpc

_OUTCOMES = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}

# Mostly what is right, so that a request gets far enough for its one fault to be met.
_uint32 = st.one_of(st.integers(0, 5), st.integers(0, 5), st.integers(0, (1 << 32) - 1))
_enum = st.one_of(st.integers(0, 2), st.integers(0, 2), st.integers(-(1 << 31), (1 << 31) - 1))
_sizes = st.sampled_from([0, 0, 1, 2, 6, 8, -1, 1 << 32, 1 << 62, (1 << 63) - 1, -(1 << 63)])
_selectors = st.builds(
    pb.ModelSelector,
    name=st.one_of(
        st.just("small"), st.sampled_from(["small", "plain", "maps", ""]), st.text(max_size=20)
    ),
    engine=_enum,
)


@st.composite
def _fitting_tensors(draw: st.DrawFn) -> pb.Tensor:
    """Tensors whose bytes fit their shape, so that they get past the first check."""
    right, wrong = [[1, 6, 8, 1], [2, 6, 8]], [[1, 8, 6, 1], [0, 6, 8, 1], [6, 8], []]
    shape = draw(st.sampled_from([*right, *right, *wrong]))
    dtype = draw(st.sampled_from([pb.DATA_TYPE_UINT8, pb.DATA_TYPE_FLOAT32]))
    count = 1 if dtype == pb.DATA_TYPE_UINT8 else 4
    for size in shape:
        count *= size
    return pb.Tensor(shape=shape, dtype=dtype, data=draw(st.binary(min_size=count, max_size=count)))


_images = st.one_of(
    st.builds(pb.Images),
    st.builds(pb.Images, tensor=_fitting_tensors()),
    st.builds(pb.Images, tensor=_fitting_tensors()),
    st.builds(pb.Images, tensor=_fitting_tensors()),
    st.builds(
        pb.Images,
        tensor=st.builds(
            pb.Tensor,
            shape=st.lists(_sizes, max_size=6),
            dtype=_enum,
            data=st.sampled_from([b"", bytes(48), bytes(192)]),
        ),
    ),
    st.builds(
        pb.Images,
        pictures=st.builds(
            pb.EncodedPictures,
            pictures=st.lists(
                st.builds(
                    pb.EncodedPicture, data=st.binary(max_size=100), name=st.text(max_size=9)
                ),
                max_size=3,
            ),
        ),
    ),
)
_layers = st.builds(
    pb.LayerSelection,
    name=st.one_of(
        st.sampled_from(["conv2d", "dense"]), st.sampled_from(["relu", ""]), st.text(max_size=9)
    ),
    channels=st.lists(_uint32, max_size=4),
)
_classify = st.builds(
    pb.ClassifyRequest, model=_selectors, images=_images, top_k=_uint32, return_inputs=st.booleans()
)
_activations = st.builds(
    pb.ActivationsRequest,
    model=_selectors,
    images=_images,
    layers=st.lists(_layers, max_size=4),
    format=_enum,
    cell=_uint32,
    return_inputs=st.booleans(),
)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(request=st.one_of(_classify, _activations))
def test_hostile_request_is_answered_or_refused(
    stub: classifier_pb2_grpc.ClassifierStub,
    caplog: pytest.LogCaptureFixture,
    request: pb.ClassifyRequest | pb.ActivationsRequest,
) -> None:
    method = stub.Classify if isinstance(request, pb.ClassifyRequest) else stub.Activations
    call = method.future(request, timeout=10)
    assert call.code() in _OUTCOMES, (call.code(), call.details())
    assert call.code() is grpc.StatusCode.OK or call.details()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


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
