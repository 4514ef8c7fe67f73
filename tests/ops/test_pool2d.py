"""Pooling against the definition, over the edges of windows, maps and vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pyconv import _core
from pyconv.errors import InputError

FloatArray = NDArray[np.float32]
Draw = Callable[..., FloatArray]
Check = Callable[..., FloatArray]

POOLS = ["max_pool2d", "average_pool2d"]
CHANNELS = [*range(1, 34), 47, 48, 63, 64, 65]
ROUNDING = 2e-6  # means of at most a few dozen numbers below 1


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("name", POOLS)
def test_pool_of_any_channels(
    name: str, channels: int, isa: str, uniform: Draw, check: Check
) -> None:
    for window in (2, 3):
        attributes = {"kernel_size": [window, window], "strides": [2, 2], "pads": [1, 1, 1, 1]}
        check(name, [uniform(2, 7, 6, channels)], attributes, isa=isa, tolerance=ROUNDING)


@pytest.mark.parametrize(
    "attributes",
    [
        {"kernel_size": [1, 1]},
        {"kernel_size": [2, 2]},
        {"kernel_size": [2, 2], "strides": [2, 2]},
        {"kernel_size": [5, 3], "strides": [1, 4]},
        {"kernel_size": [2, 2], "strides": [3, 5]},
        {"kernel_size": [3, 2], "dilations": [2, 3], "strides": [2, 1]},
        {"kernel_size": [3, 3], "pads": [2, 0, 1, 2], "strides": [2, 2]},
        {"kernel_size": [3, 3], "pads": [0, 2, 2, 0], "dilations": [2, 2]},
        {"kernel_size": [2, 2], "strides": [2, 2], "ceil_mode": 1},
        {"kernel_size": [3, 3], "strides": [2, 2], "ceil_mode": 1, "pads": [1, 1, 1, 1]},
        {"kernel_size": [3, 4], "strides": [3, 3], "ceil_mode": 1, "pads": [0, 1, 2, 3]},
        {"kernel_size": [9, 11]},
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(9, 11), (10, 12), (11, 13)])
@pytest.mark.parametrize("name", POOLS)
def test_pool_of_any_window(
    name: str,
    size: tuple[int, int],
    attributes: dict[str, Any],
    isa: str,
    uniform: Draw,
    check: Check,
) -> None:
    for batch in (0, 1, 3):
        x = uniform(batch, *size, 5) - 2  # below 0, so that padding with 0 would show in a maximum
        check(name, [x], attributes, isa=isa, tolerance=ROUNDING)
        if name == "average_pool2d":
            padded = attributes | {"count_include_pad": 1}
            check(name, [x], padded, isa=isa, tolerance=ROUNDING)


@pytest.mark.parametrize("name", ["global_max_pool2d", "global_average_pool2d"])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1), (8, 9), (40, 41)])
def test_global_pool(
    name: str, size: tuple[int, int], isa: str, uniform: Draw, check: Check
) -> None:
    for channels in (1, 4, 15, 16, 17, 33):
        y = check(name, [uniform(3, *size, channels)], {}, isa=isa, tolerance=ROUNDING)
        assert y.shape == (3, 1, 1, channels)


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("name", ["max_pool2d", "global_max_pool2d"])
def test_nan_is_let_through_wherever_it_stands(
    name: str, place: int, isa: str, uniform: Draw
) -> None:
    for channels in (1, 16, 19):
        x = uniform(1, 2, 2, channels)
        x[0, place // 2, place % 2, -1] = np.nan
        attributes = {"kernel_size": [2, 2]} if name == "max_pool2d" else {}
        y = _core.run_operator(name, [x], attributes, isa=isa)
        np.testing.assert_array_equal(np.isnan(y[0, 0, 0]), [*[False] * (channels - 1), True])


@settings(print_blob=True, deadline=None, max_examples=150)
@given(data=st.data())
def test_pool_random_settings(data: st.DataObject) -> None:
    kernel = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5)), "kernel")
    dilations = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)), "dilations")
    extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    pads = [data.draw(st.integers(0, extents[i % 2] - 1), f"pads[{i}]") for i in range(4)]
    smallest = [max(1, e - pads[i] - pads[i + 2]) for i, e in enumerate(extents)]
    size = [least + data.draw(st.integers(0, 9), "size") for least in smallest]
    attributes = {
        "kernel_size": kernel,
        "dilations": dilations,
        "pads": pads,
        "strides": data.draw(st.tuples(st.integers(1, 6), st.integers(1, 6)), "strides"),
        "ceil_mode": data.draw(st.integers(0, 1), "ceil_mode"),
    }
    channels = data.draw(st.integers(1, 20), "channels")
    x = np.random.default_rng(0).uniform(-3, -1, (2, *size, channels)).astype(np.float32)
    for name, extra in [
        ("max_pool2d", {}),
        ("average_pool2d", {}),
        ("average_pool2d", {"count_include_pad": 1}),
    ]:
        expected = _core.reference_operator(name, [x], attributes | extra)
        for level in _core.isa_levels():
            got = _core.run_operator(name, [x], attributes | extra, isa=level)
            np.testing.assert_allclose(got, expected, atol=3 * ROUNDING)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"kernel_size": [0, 2]}, "two integers of at least 1"),
        ({"kernel_size": [2, 2, 2]}, "two integers of at least 1"),
        ({"kernel_size": [2, 2], "strides": [0, 1]}, "strides.*at least 1"),
        ({"kernel_size": [9, 2]}, "9 by 2"),
        ({"kernel_size": [2, 2], "pads": [0, -1, 0, 0]}, "pads"),
        ({"kernel_size": [2, 2], "size": [2, 2]}, "no attribute named size"),
    ],
)
@pytest.mark.parametrize("name", POOLS)
def test_pool_refuses_what_does_not_fit(
    name: str, attributes: dict[str, Any], message: str, uniform: Draw
) -> None:
    with pytest.raises(InputError, match=message):
        _core.run_operator(name, [uniform(1, 5, 5, 3)], attributes)
    with pytest.raises(InputError, match=r"x: expected shape \(n, height, width, channels\)"):
        _core.run_operator(name, [uniform(5, 5, 3)], {"kernel_size": [2, 2]})
