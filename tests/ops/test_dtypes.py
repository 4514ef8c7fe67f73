"""Operators of other element types than float32, against NumPy and the reference."""

from __future__ import annotations

import itertools
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

Check = Callable[..., NDArray[Any]]
Draw = Callable[..., NDArray[np.float32]]

_INTEGERS = [dtype for dtype in DTYPES if "int" in dtype]
_QUANTIZED = ["int8", "uint8", "int16", "uint16"]


def _values(dtype: str, *shape: int, seed: int = 0) -> NDArray[Any]:
    """Elements over the whole range of a type, its ends included."""
    random = np.random.default_rng(seed)
    if dtype == "bool":
        return random.random(shape) < 0.5
    if dtype.startswith("float"):
        return random.normal(scale=100, size=shape).astype(dtype)
    info = np.iinfo(dtype)
    array = random.integers(info.min, info.max, shape, dtype, endpoint=True)
    array.flat[:2] = [info.min, info.max]
    return array


@pytest.mark.parametrize("dtype", DTYPES)
def test_moving_elements(dtype: str) -> None:
    x = _values(dtype, 2, 5, 4, 3)
    run = _core.run_operator
    moved = run("transpose", [x], {"permutation": [0, 3, 1, 2]})
    assert moved.dtype == dtype
    np.testing.assert_array_equal(moved, x.transpose(0, 3, 1, 2))
    part = {"starts": [0, 4, 1, 0], "sizes": [2, 3, 2, 3], "steps": [1, -2, 1, 1]}
    np.testing.assert_array_equal(run("slice", [x], part), x[:, ::-2, 1:3])
    np.testing.assert_array_equal(run("concat", [x, x], {"axis": 1}), np.concatenate([x, x], 1))
    np.testing.assert_array_equal(run("reshape", [x], {"shape": [10, 12]}), x.reshape(10, 12))
    pads = {"pads": [0, 1, 0, 0, 0, 0, 2, 0], "value": 1}
    widths = [(0, 0), (1, 0), (0, 2), (0, 0)]
    np.testing.assert_array_equal(
        run("pad", [x], pads), np.pad(x, widths, constant_values=np.ones((), dtype))
    )


@settings(deadline=None)
@given(data=st.data())
def test_take(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=5), "shape")
    axes = data.draw(st.lists(st.sampled_from(range(len(shape))), unique=True), "axes")
    places = [
        data.draw(st.lists(st.integers(0, shape[axis] - 1), max_size=7), "places") for axis in axes
    ]
    x = np.arange(np.prod(shape), dtype=data.draw(st.sampled_from(DTYPES[3:]))).reshape(shape)
    attributes = {
        "axes": axes,
        "sizes": [len(along) for along in places],
        "indices": [*itertools.chain(*places)],
    }
    expected = x
    for axis, along in zip(axes, places, strict=True):
        expected = expected.take(along, axis)
    np.testing.assert_array_equal(_core.run_operator("take", [x], attributes), expected)


@pytest.mark.parametrize(
    "attributes",
    [
        {"axes": [3], "sizes": [1], "indices": [0]},
        {"axes": [1], "sizes": [2], "indices": [0]},
        {"axes": [1], "sizes": [1], "indices": [0, 1]},
        {"axes": [1], "sizes": [1], "indices": [3]},
        {"axes": [1], "sizes": [1], "indices": [-1]},
        {"axes": [1], "sizes": [-1], "indices": []},
        {"axes": [1], "sizes": [], "indices": []},
    ],
    ids=str,
)
def test_take_of_what_is_not_there(attributes: dict[str, Any], uniform: Draw) -> None:
    with pytest.raises(InputError, match="take: "):
        _core.run_operator("take", [uniform(2, 3, 4)], attributes)


@pytest.mark.parametrize("kernel", [(1, 1), (2, 3), (5, 4)], ids=str)
@pytest.mark.parametrize("strides", [(1, 1), (2, 3)], ids=str)
@pytest.mark.parametrize("dilations", [(1, 1), (1, 2)], ids=str)
def test_patches(
    kernel: tuple[int, int],
    strides: tuple[int, int],
    dilations: tuple[int, int],
    check: Check,
    isa: str,
    uniform: Draw,
) -> None:
    attributes = {"kernel_size": kernel, "strides": strides, "dilations": dilations}
    y = check("patches", [uniform(2, 5, 8, 3)], attributes, isa=isa)
    assert y.shape[3:] == (*kernel, 3)


@pytest.mark.parametrize("source", DTYPES)
@pytest.mark.parametrize("target", DTYPES)
def test_cast(source: str, target: str) -> None:
    x = _values(source, 3, 1000)
    y = _core.run_operator("cast", [x], {"dtype": target})
    assert y.dtype == target
    if source.startswith("float") and "int" in target:
        info = np.iinfo(target)  # NumPy leaves open what lies outside
        inside = (x > info.min - 1.0) & (x < info.max + 1.0)
        np.testing.assert_array_equal(y[inside], x[inside].astype(target))
        np.testing.assert_array_equal(y[~inside], np.where(x > 0, info.max, info.min)[~inside])
    else:
        np.testing.assert_array_equal(y, x.astype(target))


@pytest.mark.parametrize("target", _INTEGERS)
def test_cast_of_what_no_integer_is(target: str) -> None:
    info = np.iinfo(target)
    numbers = [np.nan, np.inf, -np.inf, 1e30, -1e30, info.max, info.min, -0.9, 0.9]
    y = _core.run_operator("cast", [np.array(numbers, np.float32)], {"dtype": target})
    ends = [info.max, info.min]
    assert [*y] == [0, *ends, *ends, *ends, 0, 0]


def test_an_unknown_dtype(uniform: Draw) -> None:
    with pytest.raises(InputError, match=r"dtype: expected one of float32, .*, got 'float16'"):
        _core.run_operator("cast", [uniform(3)], {"dtype": "float16"})
    with pytest.raises(InputError, match="expected dtype float32, got float16"):
        _core.run_operator("cast", [uniform(3).astype(np.float16)], {"dtype": "float32"})
    with pytest.raises(InputError, match="softmax: input 0: expected dtype float32, got int8"):
        _core.run_operator("softmax", [np.zeros((2, 3), np.int8)], {})


_ARITHMETIC = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "maximum": np.maximum,
    "minimum": np.minimum,
}
_SHAPES = [((3, 4, 5), (3, 4, 5)), ((3, 4, 5), (5,)), ((4, 1), (2, 1, 5)), ((), (3,)), ((0, 2), ())]


@pytest.mark.parametrize("shapes", _SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [*_INTEGERS, "float64"])
def test_arithmetic(dtype: str, shapes: Any) -> None:
    a, b = (_numbers(dtype, shape, seed) for seed, shape in enumerate(shapes))
    for name, function in _ARITHMETIC.items():
        y = _core.run_operator(name, [a, b], {})
        assert y.dtype == dtype
        np.testing.assert_array_equal(y, function(a, b))  # integers wrap around in both


def _numbers(dtype: str, shape: tuple[int, ...], seed: int) -> NDArray[Any]:
    array = _values(dtype, max(2, int(np.prod(shape))), seed=seed)
    return array[: int(np.prod(shape))].reshape(shape)


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "uint8"])
def test_integers_are_divided_towards_zero(dtype: str) -> None:
    a = np.array([7, -7, 7, -7, 5, 0, -128], "int64").astype(dtype)
    b = np.array([2, 2, -2, -2, 0, 0, -1], "int64").astype(dtype)
    y = _core.run_operator("divide", [a, b], {})
    truncated = [int(p / q) if q else 0 for p, q in zip(a.tolist(), b.tolist(), strict=True)]
    np.testing.assert_array_equal(y, np.array(truncated).astype(dtype))


_COMPARISONS = {
    "equal": np.equal,
    "less": np.less,
    "less_or_equal": np.less_equal,
    "greater": np.greater,
    "greater_or_equal": np.greater_equal,
}


@pytest.mark.parametrize("shapes", _SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "int8", "int64"])
def test_comparisons(dtype: str, shapes: Any) -> None:
    a, b = (
        np.random.default_rng(seed).integers(0, 3, shape).astype(dtype)
        for seed, shape in enumerate(shapes)
    )
    for name, function in _COMPARISONS.items():
        y = _core.run_operator(name, [a, b], {})
        assert y.dtype == bool
        np.testing.assert_array_equal(y, function(a, b))


def test_nan_is_not_equal_to_itself() -> None:
    x = np.array([np.nan, 1], np.float32)
    assert [*_core.run_operator("equal", [x, x], {})] == [False, True]


@pytest.mark.parametrize("name", ["and", "or", "xor"])
def test_logic(name: str) -> None:
    a, b = np.array([[0, 0, 1, 1], [0, 1, 0, 1]], bool)
    y = _core.run_operator(f"logical_{name}", [a, b], {})
    np.testing.assert_array_equal(y, getattr(np, f"logical_{name}")(a, b))
    with pytest.raises(InputError, match="expected dtype bool, got int8"):
        _core.run_operator(f"logical_{name}", [a.astype(np.int8), b.astype(np.int8)], {})


def test_operands_of_two_dtypes_are_refused(uniform: Draw) -> None:
    with pytest.raises(InputError, match="add: b: expected dtype float32 as of a, got float64"):
        _core.run_operator("add", [uniform(3), uniform(3).astype(np.float64)], {})
    with pytest.raises(InputError, match="concat: inputs: expected one dtype"):
        _core.run_operator("concat", [uniform(3), np.zeros(3, np.int8)], {})


@pytest.mark.parametrize("dtype", _QUANTIZED)
@pytest.mark.parametrize("shape", [(), (1, 5, 1), (7,), (3, 5, 7)], ids=str)
def test_quantize(dtype: str, shape: tuple[int, ...], check: Callable[..., Any]) -> None:
    random = np.random.default_rng(3)
    scale = random.uniform(0.25, 2, shape).astype(np.float32)
    zero_point = random.integers(-20 if dtype[0] == "i" else 0, 20, shape).astype(dtype)
    # Halves, which round to even, and numbers far outside.
    halves = np.arange(-52, 53, dtype=np.float32).reshape(3, 5, 7) / 2 * scale
    for x in (halves, halves * 1000, random.normal(scale=200, size=(3, 5, 7)).astype(np.float32)):
        y = _core.run_operator("quantize", [x, scale, zero_point], {})
        assert y.dtype == dtype
        np.testing.assert_array_equal(
            y, _core.reference_operator("quantize", [x, scale, zero_point], {})
        )
        back = _core.run_operator("dequantize", [y, scale, zero_point], {})
        assert back.dtype == np.float32
        expected = _core.reference_operator("dequantize", [y, scale, zero_point], {})
        np.testing.assert_allclose(back, expected, rtol=1e-6)


def test_quantize_of_what_no_number_is() -> None:
    x = np.array([np.inf, -np.inf, 1e38, -1e38], np.float32)
    y = _core.run_operator("quantize", [x, np.array(1e-3, np.float32), np.array(3, np.int8)], {})
    assert [*y] == [127, -128, 127, -128]


def test_dequantize_of_sums() -> None:
    x = np.array([-(2**31), 0, 2**31 - 1, 5], np.int32)
    scale, zero_point = np.array(0.5, np.float32), np.array(-1, np.int32)
    y = _core.run_operator("dequantize", [x, scale, zero_point], {})
    np.testing.assert_array_equal(y, ((x.astype(np.int64) + 1) * 0.5).astype(np.float32))


@pytest.mark.parametrize(
    ("name", "x", "scale", "zero_point", "message"),
    [
        ("quantize", np.zeros(3, np.int8), np.ones(()), np.zeros((), np.int8), "x: expected dtype"),
        ("quantize", np.zeros(3), np.ones(3), np.zeros((), np.int8), "zero_point: expected shape"),
        (
            "quantize",
            np.zeros(3),
            np.ones(()),
            np.zeros((), np.int32),
            "zero_point: expected",
        ),
        ("quantize", np.zeros(3), np.ones(2), np.zeros(2, np.int8), "broadcasts"),
        ("quantize", np.zeros(1), np.ones(2), np.zeros(2, np.int8), "scale: expected a shape that"),
        ("dequantize", np.zeros(3), np.ones(()), np.zeros((), np.int8), "x: expected an integer"),
        (
            "dequantize",
            np.zeros(3, np.int8),
            np.ones(()),
            np.zeros((), np.uint8),
            "zero_point: expected dtype int8",
        ),
    ],
)
def test_quantization_refuses(
    name: str, x: NDArray[Any], scale: NDArray[Any], zero_point: NDArray[Any], message: str
) -> None:
    x = x.astype(np.float32) if x.dtype == np.float64 else x
    with pytest.raises(InputError, match=message):
        _core.run_operator(name, [x, scale.astype(np.float32), zero_point], {})


def test_a_program_of_several_dtypes() -> None:
    """Every value has room for its elements, whole and in pieces of a batch."""
    builder = _core.ProgramBuilder()
    x = builder.input("x", [-1, 3, 5], "uint8")
    wide = builder.add("cast", [x], {"dtype": "int64"})
    seven = builder.constant(np.array(7, np.int64))
    product = builder.add("multiply", [wide, seven], {})
    turned = builder.add("transpose", [product], {"permutation": [0, 2, 1]})
    small = builder.add("cast", [turned], {"dtype": "int16"})
    assert builder.dtype(small) == "int16"
    program = builder.build([small, product, x])
    batch = np.random.default_rng(0).integers(0, 256, (100, 3, 5), np.uint8)
    results = program.run([batch])
    expected = batch.astype(np.int64) * 7
    assert [array.dtype for array in results] == [np.int16, np.int64, np.uint8]
    np.testing.assert_array_equal(results[0], expected.transpose(0, 2, 1))
    np.testing.assert_array_equal(results[1], expected)
    np.testing.assert_array_equal(results[2], batch)
    with pytest.raises(InputError, match="input 0: expected dtype uint8, got int8"):
        program.run([batch.astype(np.int8)])
