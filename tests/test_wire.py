from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pyconv.engines.base import Array
from pyconv.errors import InputError
from pyconv.v1 import classifier_pb2 as pb
from pyconv.wire import engine_from_wire, engine_to_wire, tensor_from_wire, tensor_to_wire

_shapes = hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=5)


@given(
    hnp.arrays(st.sampled_from([np.uint8, np.float32]), _shapes),
    st.booleans(),
)
def test_tensor_survives_the_wire(array: Array, transposed: bool) -> None:
    sent = array.T if transposed else array
    tensor = pb.Tensor.FromString(tensor_to_wire(sent).SerializeToString())
    received = tensor_from_wire(tensor)
    assert received.dtype == sent.dtype
    assert received.shape == sent.shape
    assert received.tobytes() == sent.tobytes()


def test_tensor_is_little_endian_and_in_c_order() -> None:
    array = np.array([[1, 2], [3, 4]], np.float32).T
    assert tensor_to_wire(array).data == np.array([1, 3, 2, 4], "<f4").tobytes()


@pytest.mark.parametrize("dtype", ["int64", "float64", ">f4"])
def test_tensor_of_another_dtype_is_refused(dtype: str) -> None:
    with pytest.raises(InputError, match=f"expected dtype uint8 or float32, got {dtype}"):
        tensor_to_wire(np.zeros(3, dtype))


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (pb.Tensor(shape=[2], data=b"12"), r"tensor\.dtype: expected 1 \(uint8\)"),
        (pb.Tensor(shape=[-1], dtype=pb.DATA_TYPE_UINT8), "no negative size"),
        (
            pb.Tensor(shape=[2, 3], dtype=pb.DATA_TYPE_FLOAT32, data=bytes(23)),
            r"shape \(2, 3\) takes 24 bytes, got 23",
        ),
        # The product is zero and the bytes fit, yet no array can have such a shape.
        (pb.Tensor(shape=[0, 1 << 62, 1 << 62], dtype=pb.DATA_TYPE_UINT8), "is no shape"),
        (pb.Tensor(shape=[1] * 100, dtype=pb.DATA_TYPE_UINT8, data=b"1"), "is no shape"),
    ],
)
def test_broken_tensor_is_refused(tensor: pb.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        tensor_from_wire(tensor)


@pytest.mark.parametrize("name", ["native", "onnxruntime", None])
def test_engine_survives_the_wire(name: str | None) -> None:
    assert engine_from_wire(engine_to_wire(name)) == name  # type: ignore[arg-type]


def test_unknown_engine_is_refused() -> None:
    with pytest.raises(InputError, match="got 9"):
        engine_from_wire(9)
    with pytest.raises(InputError, match="got 'gpu'"):
        engine_to_wire("gpu")  # type: ignore[arg-type]
