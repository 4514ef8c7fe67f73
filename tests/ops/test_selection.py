"""Operators that indices, conditions or extremes steer, and products of computed matrices."""

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
from pyconv.graph.native_operators import DTYPES

FloatArray = NDArray[np.float32]
Check = Callable[..., NDArray[Any]]
Draw = Callable[..., FloatArray]


@pytest.mark.parametrize("dtype", ["int32", "int64"])
@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 4)], ids=str)
def test_gather(axis: int, shape: tuple[int, ...], dtype: str) -> None:
    for elements in DTYPES:
        x = np.arange(60).reshape(3, 4, 5).astype(elements)
        indices = np.random.default_rng(0).integers(-3, 3, shape).astype(dtype)
        y = _core.run_operator("gather", [x, indices], {"axis": axis})
        assert y.dtype == elements
        np.testing.assert_array_equal(y, np.take(x, indices, axis))


def test_gather_outside_takes_the_nearest() -> None:
    x = np.arange(5, dtype=np.float32)
    indices = np.array([7, -9, 4, -5, 2**62])
    assert [*_core.run_operator("gather", [x, indices], {})] == [4, 0, 4, 0, 4]
    np.testing.assert_array_equal(
        _core.reference_operator("gather", [x, indices], {}), [4, 0, 4, 0, 4]
    )


def test_gather_of_a_batch() -> None:
    """A table of rows, and a batch of indices into it."""
    table = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    builder = _core.ProgramBuilder()
    indices = builder.input("i", [-1, 2], "int64")
    y = builder.add("gather", [builder.constant(table), indices], {"axis": 0})
    assert builder.shape(y) == [-1, 2, 3]
    batch = np.random.default_rng(1).integers(0, 10, (50, 2))
    np.testing.assert_array_equal(builder.build([y]).run([batch])[0], table[batch])


def test_gather_refuses(uniform: Draw) -> None:
    with pytest.raises(InputError, match="indices: expected dtype int32 or int64"):
        _core.run_operator("gather", [uniform(3), uniform(3)], {})
    with pytest.raises(InputError, match="expected an axis with places"):
        _core.run_operator("gather", [uniform(0, 3), np.zeros(1, np.int64)], {})


@pytest.mark.parametrize(
    "shapes",
    [((3, 4), (3, 4), (3, 4)), ((4,), (3, 1), ()), ((2, 1, 4), (3, 4), (1, 3, 1))],
    ids=str,
)
def test_where(shapes: Any) -> None:
    random = np.random.default_rng(0)
    condition = random.random(shapes[0]) < 0.5
    for dtype in DTYPES:
        a, b = (random.integers(0, 100, shape).astype(dtype) for shape in shapes[1:])
        y = _core.run_operator("where", [condition, a, b], {})
        assert y.dtype == dtype
        np.testing.assert_array_equal(y, np.where(condition, a, b))


def test_where_refuses(uniform: Draw) -> None:
    with pytest.raises(InputError, match="condition: expected dtype bool"):
        _core.run_operator("where", [uniform(3)] * 3, {})
    with pytest.raises(InputError, match="b: expected dtype float32 as of a"):
        _core.run_operator("where", [np.ones(3, bool), uniform(3), np.ones(3, np.int8)], {})


@pytest.mark.parametrize("name", ["arg_max", "arg_min"])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("keep", [0, 1])
def test_arg_extreme(name: str, axis: int, last: int, keep: int, isa: str, check: Check) -> None:
    x = np.random.default_rng(0).integers(0, 3, (4, 5, 6)).astype(np.float32)  # with many ties
    attributes = {"axis": axis, "select_last_index": last, "keepdims": keep}
    got = _core.run_operator(name, [x], attributes, isa=isa)
    assert got.dtype == np.int64
    np.testing.assert_array_equal(got, _core.reference_operator(name, [x], attributes))
    if not last:
        numpy = getattr(np, name.replace("_", ""))
        np.testing.assert_array_equal(got, numpy(x, axis, keepdims=bool(keep)))


def test_arg_extreme_of_nan() -> None:
    x = np.array([[1, np.nan, 3, np.nan], [1, 2, 3, 0]], np.float32)
    for name in ("arg_max", "arg_min"):
        y = _core.run_operator(name, [x], {"axis": 1, "keepdims": 0})
        np.testing.assert_array_equal(y, getattr(np, name.replace("_", ""))(x, 1))
    y = _core.run_operator("arg_max", [x], {"axis": 1, "keepdims": 0, "select_last_index": 1})
    assert y[0] == 3


@pytest.mark.parametrize("storage_order", [0, 1])
@settings(deadline=None)
@given(data=st.data())
def test_max_pool2d_indices(data: st.DataObject, storage_order: int) -> None:
    def pair(most: int, what: str) -> list[int]:
        return data.draw(st.lists(st.integers(1, most), min_size=2, max_size=2), what)

    kernel, strides, dilations = pair(3, "kernel"), pair(3, "strides"), pair(2, "dilations")
    x = np.random.default_rng(0).integers(0, 5, (2, *pair(7, "size"), 3)).astype(np.float32)
    pads = [data.draw(st.integers(0, kernel[i % 2] - 1), "pad") for i in range(4)]
    attributes = {
        "kernel_size": kernel,
        "strides": strides,
        "dilations": dilations,
        "pads": pads,
        "ceil_mode": data.draw(st.integers(0, 1), "ceil_mode"),
    }
    try:
        maxima = _core.run_operator("max_pool2d", [x], attributes)
    except InputError:
        return  # the window does not fit
    attributes["storage_order"] = storage_order
    places = _core.run_operator("max_pool2d_indices", [x], attributes)
    expected = _core.reference_operator("max_pool2d_indices", [x], attributes)
    reached = np.isfinite(maxima)  # a window may cover nothing but padding
    np.testing.assert_array_equal(places[reached], expected[reached])
    stored = x.transpose(0, 3, 2, 1) if storage_order else x.transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(stored.reshape(-1)[places[reached]], maxima[reached])


_MATRICES = [
    ((3, 4), (4, 5)),
    ((2, 3, 4), (4, 5)),
    ((2, 1, 3, 4), (6, 4, 5)),
    ((3, 4), (2, 4, 5)),
    ((1, 3, 0), (2, 0, 5)),
    ((0, 4), (4, 5)),
    ((2, 9, 33), (2, 33, 41)),
    ((3, 1, 7, 4), (2, 4, 16)),
]


@pytest.mark.parametrize("shapes", _MATRICES, ids=str)
def test_matmul(shapes: Any, isa: str, check: Check, uniform: Draw) -> None:
    a, b = (uniform(*shape, seed=seed) for seed, shape in enumerate(shapes))
    y = check("matmul", [a, b], {}, isa=isa, tolerance=1e-5)
    np.testing.assert_allclose(y, a @ b, atol=1e-5)
    p, q = ((array * 10).astype(np.int32) for array in (a, b))
    y = _core.run_operator("matmul", [p, q], {}, isa=isa)
    assert y.dtype == np.int32
    np.testing.assert_array_equal(y, p @ q)


def test_matmul_of_integers_wraps_around() -> None:
    a = np.full((1, 2), 2**30, np.int32)
    np.testing.assert_array_equal(_core.run_operator("matmul", [a, a.T.copy()], {}), 0)


def test_matmul_of_a_batch(uniform: Draw) -> None:
    builder = _core.ProgramBuilder()
    x = builder.input("x", [-1, 4])
    y = builder.add("matmul", [x, builder.constant(uniform(4, 5))], {})
    z = builder.input("z", [-1, 3, 2])
    batches = builder.add(
        "matmul", [z, builder.add("transpose", [z], {"permutation": [0, 2, 1]})], {}
    )
    assert [builder.shape(y), builder.shape(batches)] == [[-1, 5], [-1, 3, 3]]
    program = builder.build([y, batches])
    left, right = uniform(9, 4, seed=1), uniform(9, 3, 2, seed=2)
    results = program.run([left, right])
    np.testing.assert_allclose(results[0], left @ uniform(4, 5), atol=1e-6)
    np.testing.assert_allclose(results[1], right @ right.transpose(0, 2, 1), atol=1e-6)


def test_matmul_refuses(uniform: Draw) -> None:
    with pytest.raises(InputError, match="a and b: expected shapes"):
        _core.run_operator("matmul", [uniform(3, 4), uniform(3, 4)], {})
    with pytest.raises(InputError, match="a and b: expected both of float32 or both of int32"):
        _core.run_operator("matmul", [uniform(3, 4), np.zeros((4, 3), np.int32)], {})


@pytest.mark.parametrize("shape", [(), (1,), (5,), (4, 1), (3, 4, 5), (1, 1, 5)], ids=str)
def test_prelu(shape: tuple[int, ...], isa: str, check: Check, uniform: Draw) -> None:
    x, slope = uniform(3, 4, 5), uniform(*shape, seed=1)
    check("prelu", [x, slope], {}, isa=isa, relative=1e-6)


def test_prelu_refuses_more_slopes_than_elements(uniform: Draw) -> None:
    with pytest.raises(InputError, match="slope: expected a shape that broadcasts"):
        _core.run_operator("prelu", [uniform(1), uniform(3)], {})


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("taps", [1, 2, 3, 4, 7])
def test_resample(axis: int, taps: int, isa: str, check: Check, uniform: Draw) -> None:
    x = uniform(3, 4, 5)
    random = np.random.default_rng(taps)
    indices = random.integers(0, x.shape[axis], (6, taps))
    indices[2] = -1
    weights = uniform(6, taps, seed=1)
    weights[3] = 0
    attributes = {
        "axis": axis,
        "indices": [int(i) for i in indices.flat],
        "weights": weights,
        "fill": 0.5,
    }
    check("resample", [x], attributes, isa=isa, tolerance=1e-6)


def test_resample_leaves_out_what_has_no_weight() -> None:
    x = np.array([1, np.inf, 2, np.nan], np.float32)
    for weights in ([1, 0, 0.5, 0], [0.5, 0, 1, 0]):
        attributes = {
            "axis": 0,
            "indices": [0, 1, 2, 3],
            "weights": np.array([weights], np.float32),
        }
        y = _core.run_operator("resample", [x], attributes)
        assert y[0] == weights[0] + 2 * weights[2]


@pytest.mark.parametrize(
    "attributes",
    [
        {"indices": [0, 1], "weights": np.ones((1, 1), np.float32)},
        {"indices": [5], "weights": np.ones((1, 1), np.float32)},
        {"indices": [0, -1], "weights": np.ones((1, 2), np.float32)},
        {"indices": [0], "weights": np.ones(1, np.float32)},
    ],
)
def test_resample_refuses(attributes: dict[str, Any], uniform: Draw) -> None:
    with pytest.raises(InputError, match="resample: "):
        _core.run_operator("resample", [uniform(2, 5)], attributes)
