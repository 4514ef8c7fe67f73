"""Functions of one number and of two, softmax and reductions, against the definition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pyconv import _core
from pyconv.errors import InputError

FloatArray = NDArray[np.float32]
Draw = Callable[..., FloatArray]
Check = Callable[..., FloatArray]

ACTIVATIONS: list[tuple[str, dict[str, float]]] = [
    *[
        (name, {})
        for name in [
            *("linear", "relu", "relu6", "sigmoid", "tanh", "softplus", "softsign", "swish"),
            *("hard_swish", "gelu", "gelu_tanh", "mish", "exp", "abs", "negative", "erf"),
        ]
    ],
    ("clip", {"alpha": -0.5, "beta": 0.25}),
    ("leaky_relu", {"alpha": 0.3}),
    ("elu", {"alpha": 0.7}),
    ("selu", {"alpha": 1.6733, "beta": 1.0507}),
    ("hard_sigmoid", {"alpha": 0.2, "beta": 0.5}),
]
POSITIVE = ["log", "sqrt", "reciprocal"]
BINARY = ["add", "subtract", "multiply", "divide", "maximum", "minimum"]


def _range() -> FloatArray:
    """Where activations bend and where they end, densely."""
    near = np.linspace(-12, 12, 2401)
    far = np.geomspace(1e-6, 80, 200)
    return np.concatenate([near, far, -far, [0.0, -0.0]]).astype(np.float32)


@pytest.mark.parametrize(("name", "parameters"), ACTIVATIONS, ids=lambda value: str(value))
def test_activation(name: str, parameters: dict[str, float], isa: str, check: Check) -> None:
    attributes = {"activation": name, **parameters}
    check("activation", [_range()], attributes, isa=isa, tolerance=6e-7, relative=6e-7)


@pytest.mark.parametrize("name", POSITIVE)
def test_activation_of_positive_numbers(name: str, isa: str, check: Check) -> None:
    x = np.geomspace(1e-30, 1e30, 999).astype(np.float32)
    check("activation", [x], {"activation": name}, isa=isa, tolerance=0, relative=3e-7)


@pytest.mark.parametrize("count", [*range(35), 63, 64, 65])
@pytest.mark.parametrize("name", ["relu", "tanh"])
def test_activation_of_any_length(
    name: str, count: int, isa: str, uniform: Draw, check: Check
) -> None:
    check("activation", [uniform(count)], {"activation": name}, isa=isa, tolerance=3e-7)


@pytest.mark.parametrize("name", [name for name, _ in ACTIVATIONS] + POSITIVE)
def test_activation_of_nan_is_nan(name: str, isa: str) -> None:
    parameters = dict(ACTIVATIONS).get(name, {})
    for count in (1, 16, 17):
        x = np.full(count, np.nan, np.float32)
        y = _core.run_operator("activation", [x], {"activation": name, **parameters}, isa=isa)
        assert np.isnan(y).all()


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        *[("relu", 0, np.inf), ("relu6", 0, 6), ("sigmoid", 0, 1), ("tanh", -1, 1)],
        *[("exp", 0, np.inf), ("softplus", 0, np.inf), ("erf", -1, 1), ("elu", -1, np.inf)],
    ],
)
def test_activation_of_infinity(name: str, low: float, high: float, isa: str) -> None:
    x = np.array([-np.inf, np.inf] * 9, np.float32)
    parameters = {"alpha": 1.0} if name == "elu" else {}
    y = _core.run_operator("activation", [x], {"activation": name, **parameters}, isa=isa)
    np.testing.assert_allclose(y, np.array([low, high] * 9), atol=1e-7)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        *[((37,), (37,)), ((2, 3, 17), (17,)), ((17,), (2, 3, 17)), ((2, 3, 17), ())],
        *[((), (5,)), ((4, 1, 5), (1, 6, 5)), ((4, 6, 1), (4, 1, 9)), ((1, 3, 1), (2, 1, 20))],
        *[((0, 3), (3,)), ((2, 1), (1, 0)), ((3, 1, 1, 40), (3, 2, 1, 1)), ((), ())],
    ],
    ids=str,
)
@pytest.mark.parametrize("name", BINARY)
def test_arithmetic_broadcasts(
    name: str, a: tuple[int, ...], b: tuple[int, ...], isa: str, uniform: Draw, check: Check
) -> None:
    left, right = uniform(*a), uniform(*b, seed=1)
    right = np.where(np.abs(right) < 0.1, np.float32(0.5), right).astype(np.float32)
    y = check(name, [left, right], {}, isa=isa, relative=2e-7)
    assert y.shape == np.broadcast_shapes(a, b)


def test_power(isa: str, uniform: Draw, check: Check) -> None:
    base = np.abs(uniform(3, 17)) + 0.1
    for exponent in (uniform(3, 17, seed=1), np.float32([2]), np.float32([0.5])):
        check("power", [base, exponent], {}, isa=isa, relative=1e-6)


@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_nan_on_either_side_is_nan(name: str, isa: str, uniform: Draw) -> None:
    x = uniform(19)
    nan = np.full(19, np.nan, np.float32)
    for pair in ([x, nan], [nan, x], [nan[:1], x], [x, nan[:1]]):
        assert np.isnan(_core.run_operator(name, pair, {}, isa=isa)).all()


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("axis", [-1, 0, 1, 2])
def test_softmax(name: str, axis: int, isa: str, uniform: Draw, check: Check) -> None:
    for shape in [(3, 4, 10), (2, 17, 33), (1, 1, 1), (5, 2, 16)]:
        for scale in (1, 30, 200):  # e^200 would overflow
            x = uniform(*shape) * np.float32(scale)
            y = check(name, [x], {"axis": axis}, isa=isa, tolerance=1e-6, relative=1e-6)
            if name == "softmax":
                np.testing.assert_allclose(y.sum(axis=axis), 1, rtol=1e-6)


@pytest.mark.parametrize("function", ["mean", "sum", "max", "min"])
@pytest.mark.parametrize("axes", [[0], [1], [-1], [0, 2], [1, 2], [0, 1, 2, 3], [3, 1]], ids=str)
@pytest.mark.parametrize("keepdims", [0, 1])
def test_reduce(
    function: str, axes: list[int], keepdims: int, isa: str, uniform: Draw, check: Check
) -> None:
    attributes = {"function": function, "axes": axes, "keepdims": keepdims}
    check("reduce", [uniform(3, 5, 2, 19)], attributes, isa=isa, tolerance=3e-5, relative=1e-6)


@pytest.mark.parametrize("function", ["max", "min"])
@pytest.mark.parametrize("size", [1, 7, 8, 9, 40])
@pytest.mark.parametrize("axes", [[1], [2], [1, 2]], ids=str)
def test_extremes_of_nan_and_infinity(function: str, size: int, axes: list[int]) -> None:
    """A NaN wins wherever it stands, an infinity as any number does."""
    x = np.random.default_rng(size).normal(size=(4, size, size)).astype(np.float32)
    x[0] = -np.inf
    x[1] = np.inf
    x[2, size // 2, size - 1] = np.nan
    x[3, size - 1, 0] = -np.nan
    y = _core.run_operator("reduce", [x], {"function": function, "axes": axes, "keepdims": 0})
    np.testing.assert_array_equal(y, getattr(np, function)(x, axis=tuple(axes)))


@pytest.mark.parametrize("function", ["mean", "sum", "max", "min"])
@pytest.mark.parametrize("rows", [1, 16, 35])
def test_reduce_of_rows_of_every_length(
    function: str, rows: int, isa: str, uniform: Draw, check: Check
) -> None:
    attributes = {"function": function, "axes": [1], "keepdims": 0}
    for count in [*range(1, 36), 47, 48, 49, 63, 64, 65, 80, 96, 127, 128, 129, 1023, 1025, 2100]:
        check("reduce", [uniform(rows, count)], attributes, isa=isa, tolerance=1e-7 * count)


@pytest.mark.parametrize("function", ["max", "min"])
@pytest.mark.parametrize("count", [1, 3, 8, 15, 16, 17, 31, 33, 48, 50, 65, 70])
def test_a_nan_wins_at_every_place_of_a_row(function: str, count: int, isa: str) -> None:
    x = np.random.default_rng(count).normal(size=(count + 1, count)).astype(np.float32)
    x[np.arange(count), np.arange(count)] = np.nan
    attributes = {"function": function, "axes": [1], "keepdims": 0}
    y = _core.run_operator("reduce", [x], attributes, isa=isa)
    np.testing.assert_array_equal(y, getattr(np, function)(x, axis=1))


@pytest.mark.parametrize("count", [3, 7, 16, 33])
def test_the_sum_of_a_row_does_not_depend_on_how_many_there_are(count: int, isa: str) -> None:
    x = np.random.default_rng(0).normal(size=(40, count)).astype(np.float32)
    attributes = {"function": "sum", "axes": [1], "keepdims": 0}
    alone = [_core.run_operator("reduce", [row[None]], attributes, isa=isa)[0] for row in x]
    np.testing.assert_array_equal(_core.run_operator("reduce", [x], attributes, isa=isa), alone)


@pytest.mark.parametrize("axes", [[1], [2], [1, 2], [0, 1, 2]], ids=str)
def test_reduce_of_many(axes: list[int], isa: str, uniform: Draw, check: Check) -> None:
    """Long sums lose nothing: a float32 alone would be off by far more."""
    x = uniform(2, 150, 1100) + np.float32(100)
    attributes = {"function": "mean", "axes": axes}
    check("reduce", [x], attributes, isa=isa, relative=3e-7)


@pytest.mark.parametrize(
    ("name", "inputs", "attributes", "message"),
    [
        ("activation", 1, {"activation": "rely"}, "one of.*relu.*got 'rely'"),
        ("add", 1, {}, "inputs: expected 2, got 1"),
        ("add", 3, {}, "inputs: expected 2, got 3"),
        ("softmax", 1, {"axis": 2}, "axis"),
        ("reduce", 1, {"function": "product", "axes": [0]}, "function"),
        ("reduce", 1, {"function": "sum", "axes": [5]}, "axes"),
        ("no_such", 1, {}, "there is no operator 'no_such'"),
    ],
)
def test_what_does_not_fit_is_refused(
    name: str, inputs: int, attributes: dict[str, Any], message: str, uniform: Draw
) -> None:
    with pytest.raises(InputError, match=message):
        _core.run_operator(name, [uniform(2, 3)] * inputs, attributes)


def test_shapes_that_do_not_broadcast_are_refused(uniform: Draw) -> None:
    with pytest.raises(InputError, match="broadcast"):
        _core.run_operator("add", [uniform(2, 3), uniform(4)], {})
