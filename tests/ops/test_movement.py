"""Operators that only move elements, against NumPy."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pyconv import _core
from pyconv.errors import InputError

FloatArray = NDArray[np.float32]
Draw = Callable[..., FloatArray]


@pytest.mark.parametrize("permutation", list(itertools.permutations(range(4))), ids=str)
def test_transpose(permutation: tuple[int, ...], uniform: Draw) -> None:
    for shape in [(2, 3, 4, 5), (1, 17, 1, 16), (3, 0, 2, 1)]:
        x = uniform(*shape)
        y = _core.run_operator("transpose", [x], {"permutation": permutation})
        np.testing.assert_array_equal(y, x.transpose(permutation))


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_concat(axis: int, uniform: Draw) -> None:
    shape = [2, 3, 5]
    parts = []
    for place, size in enumerate((1, 4, 0, 17)):
        shape[axis] = size
        parts.append(uniform(*shape, seed=place))
    y = _core.run_operator("concat", parts, {"axis": axis})
    np.testing.assert_array_equal(y, np.concatenate(parts, axis))


@pytest.mark.parametrize("shape", [[24], [2, -1], [-1, 1, 6], [4, 3, 2], [1, 24, 1]], ids=str)
def test_reshape(shape: list[int], uniform: Draw) -> None:
    x = uniform(2, 3, 4)
    np.testing.assert_array_equal(
        _core.run_operator("reshape", [x], {"shape": shape}), x.reshape(shape)
    )


@given(data=st.data())
def test_slice(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=4), "shape")
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    starts, sizes, steps, places = [], [], [], []
    for size in shape:
        start = data.draw(st.integers(0, size - 1), "start")
        step = data.draw(st.sampled_from([-3, -2, -1, 1, 2, 3]), "step")
        stop = size if step > 0 else -1
        most = len(range(start, stop, step))
        count = data.draw(st.integers(0, most), "size")
        starts.append(start)
        sizes.append(count)
        steps.append(step)
        places.append(list(range(start, stop, step))[:count])
    y = _core.run_operator("slice", [x], {"starts": starts, "sizes": sizes, "steps": steps})
    np.testing.assert_array_equal(y, x[np.ix_(*places)])


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
@pytest.mark.parametrize("pads", [[0, 0, 0, 0], [1, 2, 3, 0], [0, 3, 2, 1], [2, 0, 0, 3]], ids=str)
def test_pad(mode: Any, pads: list[int], uniform: Draw) -> None:
    x = uniform(5, 4)
    attributes = {"pads": pads, "mode": mode} | ({"value": -3.5} if mode == "constant" else {})
    widths = list(zip(pads[:2], pads[2:], strict=True))
    extra = {"constant_values": -3.5} if mode == "constant" else {}
    expected = np.pad(x, widths, mode, **extra)
    np.testing.assert_array_equal(_core.run_operator("pad", [x], attributes), expected)


def test_negative_pads_cut(uniform: Draw) -> None:
    x = uniform(6, 7)
    y = _core.run_operator("pad", [x], {"pads": [-1, 2, -2, -3]})
    np.testing.assert_array_equal(y, np.pad(x[1:-2, :-3], [(0, 0), (2, 0)]))


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("reshape", {"shape": [5, 5]}),
        ("reshape", {"shape": [-1, -1]}),
        ("reshape", {"shape": [-1, 0]}),
        ("reshape", {"shape": [-2, 3]}),
        ("reshape", {"shape": [-1, 4, 2**62 + 1]}),
        ("reshape", {"shape": [2**63 - 1, 2**63 - 1, 2]}),
        ("transpose", {"permutation": [0, 0, 1]}),
        ("transpose", {"permutation": [0, 1]}),
        ("slice", {"starts": [0, 0, 0], "sizes": [9, 1, 1]}),
        ("slice", {"starts": [0, 0, 0], "sizes": [2, 1, 1], "steps": [2**61, 1, 1]}),
        ("slice", {"starts": [0, 0, 0], "sizes": [2, 1, 1], "steps": [-(2**63), 1, 1]}),
        ("slice", {"starts": [2**62, 0, 0], "sizes": [1, 1, 1]}),
        ("slice", {"starts": [0, 0], "sizes": [1, 1]}),
        ("pad", {"pads": [0, 0, 0]}),
        ("pad", {"pads": [0, 0, 0, 0, 0, 0], "mode": "mirror"}),
        ("pad", {"pads": [-3, 0, 0, 0, 0, 0]}),
        ("concat", {"axis": 3}),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(name: str, attributes: dict[str, Any], uniform: Draw) -> None:
    with pytest.raises(InputError, match=name if name != "reshape" else "shape"):
        _core.run_operator(name, [uniform(2, 3, 4)], attributes)


def test_concat_of_shapes_that_differ_is_refused(uniform: Draw) -> None:
    with pytest.raises(InputError, match="concat"):
        _core.run_operator("concat", [uniform(2, 3), uniform(3, 4)], {"axis": 0})
