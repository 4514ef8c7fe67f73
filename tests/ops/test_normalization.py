"""Layer and local response normalisation, against naive loops in double precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pyconv import _core
from pyconv.errors import InputError

FloatArray = NDArray[np.float32]
Check = Callable[..., FloatArray]
Draw = Callable[..., FloatArray]


@pytest.mark.parametrize("channels", [1, 2, 3, 7, 9, 15, 16, 17, 33, 63, 65, 96, 1000, 2051])
def test_layer_normalization(channels: int, isa: str, check: Check, uniform: Draw) -> None:
    x = uniform(2, 3, channels) * 10 + 3
    check("layer_normalization", [x], {}, isa=isa, tolerance=1e-4)
    attributes = {"scale": uniform(channels, seed=1), "bias": uniform(channels, seed=2)}
    check("layer_normalization", [x], attributes, isa=isa, tolerance=1e-4)


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2])
def test_layer_normalization_of_more_axes(axis: int, isa: str, check: Check, uniform: Draw) -> None:
    x = uniform(3, 4, 5)
    shape = x.shape[axis:]
    attributes = {"axis": axis, "epsilon": 0.01, "scale": uniform(*shape, seed=1)}
    check("layer_normalization", [x], attributes, isa=isa, tolerance=1e-5)


def test_layer_normalization_of_equal_elements() -> None:
    y = _core.run_operator("layer_normalization", [np.full((2, 7), 3.0, np.float32)], {})
    np.testing.assert_array_equal(y, 0)


def test_layer_normalization_refuses(uniform: Draw) -> None:
    with pytest.raises(InputError, match=r"scale: expected shape \(3,\)"):
        _core.run_operator("layer_normalization", [uniform(2, 3)], {"scale": uniform(2)})


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 40])
@pytest.mark.parametrize("channels", [1, 2, 3, 8, 33])
def test_local_response_normalization(
    size: int, channels: int, isa: str, check: Check, uniform: Draw
) -> None:
    x = uniform(2, 3, channels) * 30
    attributes: dict[str, Any] = {"size": size}
    check("local_response_normalization", [x], attributes, isa=isa, relative=1e-5, tolerance=1e-6)
    attributes |= {"alpha": 0.5, "beta": 0.6, "bias": 2.0}
    check("local_response_normalization", [x], attributes, isa=isa, relative=1e-5, tolerance=1e-6)


def test_local_response_normalization_refuses(uniform: Draw) -> None:
    with pytest.raises(InputError, match="size: expected at least 1"):
        _core.run_operator("local_response_normalization", [uniform(2, 3)], {"size": 0})
    with pytest.raises(InputError, match="expected shape"):
        _core.run_operator("local_response_normalization", [uniform(3)], {})
