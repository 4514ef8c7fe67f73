"""Arrays and engine names as the service's messages carry them: one place for both ends."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pyconv.engines.base import Array, EngineName, shape_text
from pyconv.errors import InputError
from pyconv.v1 import classifier_pb2 as pb

_ENGINES: dict[EngineName, pb.Engine] = {
    "native": pb.ENGINE_NATIVE,
    "onnxruntime": pb.ENGINE_ONNXRUNTIME,
}
_ENGINE_NAMES: dict[int, EngineName] = {number: name for name, number in _ENGINES.items()}

# Little-endian whatever the machine is.
_DTYPES: dict[int, np.dtype[Any]] = {
    pb.DATA_TYPE_UINT8: np.dtype("u1"),
    pb.DATA_TYPE_FLOAT32: np.dtype("<f4"),
}
_DATA_TYPES = {np.dtype("uint8"): pb.DATA_TYPE_UINT8, np.dtype("float32"): pb.DATA_TYPE_FLOAT32}


def engine_to_wire(name: EngineName | None) -> pb.Engine:
    """The enum value of an engine's name; None leaves the choice to the server.

    Raises:
        InputError: no engine has that name.
    """
    if name is None:
        return pb.ENGINE_UNSPECIFIED
    if name not in _ENGINES:
        raise InputError(f"engine: expected one of {sorted(_ENGINES)}, got {name!r}")
    return _ENGINES[name]


def engine_from_wire(value: int) -> EngineName | None:
    """The name of an enum value; None for the unspecified one.

    Raises:
        InputError: a number that this version does not know.
    """
    if value == pb.ENGINE_UNSPECIFIED:
        return None
    if value not in _ENGINE_NAMES:
        raise InputError(f"engine: expected 0 (any), 1 (native) or 2 (onnxruntime), got {value}")
    return _ENGINE_NAMES[value]


def tensor_to_wire(array: Array, name: str = "images") -> pb.Tensor:
    """The message of a uint8 or float32 array of any shape; any strides.

    Args:
        array: the values.
        name: what an error calls them.

    Raises:
        InputError: another dtype.
    """
    if array.dtype not in _DATA_TYPES:
        raise InputError(f"{name}: expected dtype uint8 or float32, got {array.dtype}")
    data_type = _DATA_TYPES[array.dtype]
    return pb.Tensor(
        shape=array.shape,
        dtype=data_type,
        data=array.astype(_DTYPES[data_type], copy=False).tobytes(),
    )


def tensor_from_wire(tensor: pb.Tensor) -> Array:
    """The array of a message: uint8 or float32, read-only, without a copy.

    Raises:
        InputError: the dtype is unknown, or the bytes are not as many as the shape needs.
    """
    dtype = _DTYPES.get(tensor.dtype)
    if dtype is None:
        raise InputError(f"tensor.dtype: expected 1 (uint8) or 2 (float32), got {tensor.dtype}")
    shape = tuple(tensor.shape)
    if any(size < 0 for size in shape):
        raise InputError(f"tensor.shape: expected no negative size, got {shape_text(shape)}")
    needed_bytes = math.prod(shape) * dtype.itemsize
    if len(tensor.data) != needed_bytes:
        raise InputError(
            f"tensor.data: {dtype.name} of shape {shape_text(shape)} takes {needed_bytes} bytes, "
            f"got {len(tensor.data)}"
        )
    try:
        array = np.frombuffer(tensor.data, dtype).reshape(shape)
    except ValueError as error:  # more axes, or larger ones, than NumPy can hold
        raise InputError(f"tensor.shape: {shape_text(shape)} is no shape: {error}") from None
    return array.astype(array.dtype.newbyteorder("="), copy=False)
