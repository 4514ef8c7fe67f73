"""The transposed convolution, against naive loops in double precision."""

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
Check = Callable[..., FloatArray]
Draw = Callable[..., FloatArray]

_LEVELS = _core.isa_levels()


@pytest.mark.parametrize("kernel", [(1, 1), (2, 2), (3, 3), (4, 4), (2, 5)], ids=str)
@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (3, 2), (5, 6)], ids=str)
@pytest.mark.parametrize("size", [(1, 1), (4, 5), (7, 3)], ids=str)
def test_kernels_and_strides(
    kernel: tuple[int, int],
    strides: tuple[int, int],
    size: tuple[int, int],
    isa: str,
    check: Check,
    uniform: Draw,
    product_tolerance: Callable[..., float],
) -> None:
    attributes = {
        "kernel": uniform(*kernel, 3, 5, seed=1),
        "bias": uniform(5, seed=2),
        "strides": strides,
    }
    tolerance = product_tolerance(kernel[0] * kernel[1] * 3)
    check("conv2d_transpose", [uniform(2, *size, 3)], attributes, isa=isa, tolerance=tolerance)


@pytest.mark.parametrize("isa", _LEVELS)
@settings(deadline=None)
@given(data=st.data())
def test_any_geometry(
    data: st.DataObject,
    isa: str,
    check: Check,
    uniform: Draw,
    product_tolerance: Callable[..., float],
) -> None:
    def pair(least: int, most: int, what: str) -> list[int]:
        return data.draw(st.lists(st.integers(least, most), min_size=2, max_size=2), what)

    groups = data.draw(st.integers(1, 3), "groups")
    depth, filters = data.draw(st.integers(1, 4), "depth"), data.draw(st.integers(1, 9), "filters")
    kernel, strides, dilations = (
        pair(1, 4, "kernel"),
        pair(1, 4, "strides"),
        pair(1, 3, "dilations"),
    )
    size = pair(1, 5, "size")
    whole = [(size[i] - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1 for i in range(2)]
    begins = [data.draw(st.integers(-2, whole[i] - 1), "begin") for i in range(2)]
    ends = [data.draw(st.integers(-2, whole[i] - 1 - max(0, begins[i])), "end") for i in range(2)]
    attributes = {
        "kernel": uniform(*kernel, depth, groups * filters, seed=1),
        "strides": strides,
        "dilations": dilations,
        "groups": groups,
        "pads": begins + ends,
        "output_padding": pair(0, 3, "output_padding"),
        "activation": data.draw(st.sampled_from(["linear", "relu", "tanh"]), "activation"),
    }
    x = uniform(2, *size, groups * depth)
    tolerance = product_tolerance(kernel[0] * kernel[1] * depth)
    check("conv2d_transpose", [x], attributes, isa=isa, tolerance=tolerance + 1e-6)


@pytest.mark.parametrize("filters", [1, 7, 8, 9, 16, 17, 33])
@pytest.mark.parametrize("width", [1, 7, 33, 70])
def test_tile_edges(
    filters: int,
    width: int,
    isa: str,
    check: Check,
    uniform: Draw,
    product_tolerance: Callable[..., float],
) -> None:
    attributes = {"kernel": uniform(3, 3, 2, filters, seed=1), "strides": [2, 2]}
    x = uniform(1, 3, width, 2)
    check("conv2d_transpose", [x], attributes, isa=isa, tolerance=product_tolerance(18))


def test_a_lone_pixel_minds_no_stride(isa: str, check: Check, uniform: Draw) -> None:
    attributes = {"kernel": uniform(3, 2, 2, 4), "strides": [2**29, 2**29], "pads": [1, 0, 0, 0]}
    check("conv2d_transpose", [uniform(2, 1, 1, 2)], attributes, isa=isa, tolerance=1e-6)


def test_threads_share_an_image(uniform: Draw) -> None:
    attributes = {"kernel": uniform(4, 4, 8, 8, seed=1), "strides": [2, 2], "activation": "swish"}
    results = []
    for threads in (1, 2):
        builder = _core.ProgramBuilder()
        x = builder.input("x", [-1, 9, 11, 8])
        y = builder.add("conv2d_transpose", [x], attributes)
        results.append(builder.build([y], threads=threads).run([uniform(1, 9, 11, 8)])[0])
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize(
    ("shape", "changed", "message"),
    [
        ((2, 3, 4), {}, "expected shape"),
        ((1, 3, 4, 3), {}, "kernel: expected in / groups"),
        ((1, 3, 4, 2), {"kernel": np.zeros((3, 3, 2), np.float32)}, "kernel: expected shape"),
        ((1, 3, 4, 2), {"bias": np.zeros(3, np.float32)}, "bias: expected shape"),
        ((1, 3, 4, 2), {"strides": [0, 1]}, "strides"),
        ((1, 3, 4, 2), {"pads": [3, 0, 3, 0]}, "pads: expected pads that leave something"),
        ((1, 3, 4, 2), {"pads": [3, 0]}, "pads"),
        ((1, 3, 4, 2), {"output_padding": [2**40, 0]}, "pads"),
        ((1, 0, 4, 2), {}, "pads: expected pads that leave something"),
        ((1, 3, 4, 2), {"groups": 2}, "kernel"),
        ((1, 3, 4, 2), {"strides": [300, 300]}, "strides: expected a product"),
    ],
)
def test_refuses(
    shape: tuple[int, ...], changed: dict[str, Any], message: str, uniform: Draw
) -> None:
    attributes = {"kernel": uniform(3, 3, 2, 4), **changed}
    with pytest.raises(InputError, match=message):
        _core.run_operator("conv2d_transpose", [uniform(*shape)], attributes)
