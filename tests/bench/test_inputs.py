from __future__ import annotations

import numpy as np
import pytest

from pyconv.bench.inputs import random_inputs
from pyconv.engines.base import TensorInfo
from pyconv.errors import InputError


def test_random_inputs_fill_the_batch_and_are_the_same_every_time() -> None:
    expected = [TensorInfo("x", "float32", (None, 3, 4)), TensorInfo("k", "int64", (None, 2))]
    first, second = random_inputs(expected, 5), random_inputs(expected, 5)
    assert first["x"].shape == (5, 3, 4)
    assert first["x"].dtype == np.float32
    assert first["k"].shape == (5, 2)
    assert first["k"].dtype == np.int64
    for name in ("x", "k"):
        np.testing.assert_array_equal(first[name], second[name])
    assert first["x"].std() > 0.1


@pytest.mark.parametrize("dtype", ["float16", "float64", "uint8", "int8", "bool"])
def test_random_inputs_have_the_dtype_asked_for(dtype: str) -> None:
    array = random_inputs([TensorInfo("x", dtype, (None, 50))], 2)["x"]
    assert array.dtype == dtype
    assert len(np.unique(array)) > 1


@pytest.mark.parametrize(
    ("info", "message"),
    [
        (TensorInfo("x", "float32", (None, None, 4)), "only the first axis"),
        (TensorInfo("x", "float32", None), "only the first axis"),
        (TensorInfo("x", "float32", (1, 4)), "--batch 1"),
        (TensorInfo("x", "object", (None, 4)), "cannot fill"),
    ],
)
def test_random_inputs_refuse_what_they_cannot_make(info: TensorInfo, message: str) -> None:
    with pytest.raises(InputError, match=message):
        random_inputs([info], 16)
