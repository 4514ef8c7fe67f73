"""Element types and elements as the Open Inference Protocol writes them, over gRPC and HTTP."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from pyconv.engines.base import Array, shape_text
from pyconv.errors import InputError

# Little-endian whatever the machine is.
_DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
_NAMES = {dtype.newbyteorder("=").name: name for name, dtype in _DTYPES.items()}
# NumPy makes the name of a dtype anew whenever it is asked for.
_BY_DTYPE = {dtype.newbyteorder("="): name for name, dtype in _DTYPES.items()}

_LENGTH_BYTES = 4  # before every element of BYTES


def datatype(dtype: str) -> str:
    """The protocol's name of an element type.

    Args:
        dtype: NumPy's name, such as `"float32"`; `"object"` is text.
    """
    return _NAMES.get(dtype, "BYTES")


def datatype_in(dtype: np.dtype[Any]) -> str:
    """The protocol's name of an element type."""
    return _BY_DTYPE.get(dtype, "BYTES")


def datatype_of(name: str, given: str) -> np.dtype[Any]:
    """The NumPy dtype, little-endian, of a datatype that a request gives.

    Args:
        name: the tensor's name, for messages.
        given: such as `"FP32"`; `"BYTES"` is NumPy's object.

    Raises:
        InputError: there is no such datatype.
    """
    if given == "BYTES":
        return np.dtype(object)
    if given not in _DTYPES:
        raise InputError(
            f"input {name!r}: expected one of the datatypes {', '.join(_DTYPES)}, BYTES, "
            f"got {given[:40]!r}"
        )
    return _DTYPES[given]


def from_bytes(name: str, given: str, shape: Sequence[int], data: bytes) -> Array:
    """The array of raw contents: read-only, without a copy.

    Args:
        name: the tensor's name, for messages.
        given: its datatype.
        shape: the size of every axis.
        data: the elements in C order, little-endian; those of BYTES each after their length.

    Raises:
        InputError: no such datatype or shape, or the bytes are not as many as it needs.
    """
    dtype = _DTYPES.get(given)
    if dtype is None:
        datatype_of(name, given)  # or there is none such
        return shaped(name, _texts(name, data), shape)
    shape = tuple(shape)
    needed_bytes = dtype.itemsize * math.prod(shape)
    if len(data) != needed_bytes:
        raise InputError(
            f"input {name!r}: {given} of shape {shape_text(shape)} takes {needed_bytes} bytes, "
            f"got {len(data)}"
        )
    if dtype.isnative and data:
        try:
            return np.ndarray(shape, dtype, data)
        except ValueError:
            pass  # which is explained below
    return shaped(name, np.frombuffer(data, dtype), shape)


def shaped(name: str, elements: Array, shape: Sequence[int]) -> Array:
    """Elements in C order as an array of a shape, in the machine's own byte order.

    Raises:
        InputError: that is no shape, or the elements are not as many as it needs.
    """
    if min(shape, default=0) < 0 or math.prod(shape) != elements.size:
        raise InputError(
            f"input {name!r}: expected the elements of shape {shape_text(shape)}, "
            f"got {elements.size}"
        )
    try:
        array = elements.reshape(shape)
    except ValueError as error:  # more axes, or larger ones, than NumPy can hold
        raise InputError(f"input {name!r}: {shape_text(shape)} is no shape: {error}") from None
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def to_bytes(array: Array) -> bytes:
    """The raw contents of an array of any strides."""
    if array.dtype.hasobject:
        return b"".join(
            len(item).to_bytes(_LENGTH_BYTES, "little") + item for item in encoded(array)
        )
    if sys.byteorder == "big":
        array = array.astype(array.dtype.newbyteorder("<"))
    return array.tobytes()


def encoded(array: Array) -> list[bytes]:
    """The elements of an array of text in C order, as UTF-8."""
    return [
        item if isinstance(item, bytes) else str(item).encode(errors="surrogateescape")
        for item in array.ravel()
    ]


def text(name: str, item: bytes) -> str:
    """An element of BYTES as engines take it.

    Raises:
        InputError: it is not UTF-8.
    """
    try:
        return item.decode()
    except UnicodeDecodeError:
        raise InputError(f"input {name!r}: expected elements of UTF-8, got other bytes") from None


def _texts(name: str, data: bytes) -> Array:
    items: list[str] = []
    place = 0
    while place < len(data):
        start = place + _LENGTH_BYTES
        end = start + int.from_bytes(data[place:start], "little")
        if end > len(data):
            raise InputError(
                f"input {name!r}: element {len(items)} of BYTES ends after the contents do"
            )
        items.append(text(name, data[start:end]))
        place = end
    array = np.empty(len(items), object)
    array[:] = items
    return array
