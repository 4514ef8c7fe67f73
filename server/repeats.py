"""Requests of which only the elements are new: nearly all that a caller sends.

A caller that sends one image after another sends the same bytes again and again, up to the
elements of its tensor, which stand last. What those bytes ask is worked out once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pyconv.engines.base import Array
from pyconv.errors import InputError
from pyconv.server import datatypes
from pyconv.server.models import OutputChoice
from pyconv.server.requests import Selection
from pyconv.v2 import open_inference_pb2 as pb

_MOST = 256
"""Beginnings that are remembered."""

_LONGEST = 4096
"""Bytes of the longest of them."""

_NO_USE = 0
"""Stands for the size of the beginning where none is remembered."""


class Beginning(NamedTuple):
    """What a request asks whose message begins so; the elements of its one tensor are the rest.

    Attributes:
        selection: the model.
        outputs: what is wanted; the graph's own outputs where empty.
        name: the tensor.
        dtype: its elements'.
        shape: its shape.
    """

    selection: Selection
    outputs: Sequence[OutputChoice]
    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class Repeated(NamedTuple):
    """A request that begins as one before it did."""

    beginning: Beginning
    elements: bytes

    @property
    def inputs(self) -> dict[str, Array]:
        """The tensor, by its name."""
        _, _, name, dtype, shape = self.beginning
        return {name: np.ndarray(shape, dtype, self.elements)}


class Reader:
    """Reads ModelInferRequest from bytes."""

    def __init__(self) -> None:
        self._sizes: dict[int, int] = {}  # by the size of a message: that of its beginning
        # By the size of the message too: of another size, its end would mean something else.
        self._beginnings: dict[tuple[int, bytes], Beginning] = {}

    def read(self, data: bytes) -> pb.ModelInferRequest | Repeated:
        """A request.

        Raises:
            google.protobuf.message.DecodeError: the bytes are none.
        """
        # Of the same size and beginning, so the field of the elements holds just as many of them.
        size = self._sizes.get(len(data))
        if size is not None:
            beginning = self._beginnings.get((len(data), data[:size]))
            if beginning is not None:
                return Repeated(beginning, data[size:])
        request = pb.ModelInferRequest.FromString(data)
        if size != _NO_USE and _asks_for_nothing_else(request):
            self._remember(data, request)
        return request

    def _remember(self, data: bytes, request: pb.ModelInferRequest) -> None:
        if len(self._sizes) >= _MOST or len(self._beginnings) >= _MOST:
            self._sizes.clear()
            self._beginnings.clear()
        (elements,) = request.raw_input_contents
        size = len(data) - len(elements)
        self._sizes[len(data)] = _NO_USE
        if size > _LONGEST or not _ends_with(data, request, elements):
            return
        (tensor,) = request.inputs
        try:
            array = datatypes.from_bytes(tensor.name, tensor.datatype, tensor.shape, elements)
        except InputError:
            return  # is said where the request is answered
        if array.dtype.hasobject or not array.size or sys.byteorder != "little":
            return
        self._sizes[len(data)] = size
        self._beginnings[len(data), data[:size]] = Beginning(
            Selection(request.model_name, None, request.model_version),
            [OutputChoice(output.name) for output in request.outputs],
            tensor.name,
            array.dtype,
            array.shape,
        )


def _asks_for_nothing_else(request: pb.ModelInferRequest) -> bool:
    """Whether all that it asks for is tensors of one tensor, whose elements lie as they are."""
    return not (
        request.id
        or request.parameters
        or len(request.inputs) != 1
        or len(request.raw_input_contents) != 1
        or request.inputs[0].HasField("contents")
        or any(output.parameters for output in request.outputs)
    )


def _ends_with(data: bytes, request: pb.ModelInferRequest, elements: bytes) -> bool:
    """Whether the message is that of all the rest with that of the elements behind it.

    Messages behind each other are one, which has the fields of both. So the same beginning with as
    many other elements is the same request with these.
    """
    rest = pb.ModelInferRequest()
    rest.CopyFrom(request)
    del rest.raw_input_contents[:]
    last = pb.ModelInferRequest(raw_input_contents=[elements])
    return data == rest.SerializeToString() + last.SerializeToString()
