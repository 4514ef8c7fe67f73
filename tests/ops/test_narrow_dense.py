"""Dense layers whose weights are stored in fewer bits, against the definition and against NumPy."""

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

STORAGES: dict[str, dict[str, Any]] = {
    "bfloat16": {"storage": "bfloat16"},
    "int8": {"storage": "int8"},
    # 1/256 and 90: x goes down to -90/256 and up to 165/256, so some of it is clamped.
    "integer": {"storage": "int8", "x_scale": 1 / 256, "x_below": 90},
}
EDGES = [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 130]

storages = pytest.mark.parametrize("storage", STORAGES)


def _attributes(draw: Draw, ins: int, outs: int, storage: str, **more: Any) -> dict[str, Any]:
    weights, bias = draw(ins, outs, seed=1), draw(outs, seed=2)
    return {"weights": weights, "bias": bias, **STORAGES[storage], **more}


@storages
@pytest.mark.parametrize("rows", [0, *range(1, 10), 31, 32, 33, 70])
def test_narrow_dense_of_any_rows(
    rows: int,
    storage: str,
    isa: str,
    uniform: Draw,
    check: Check,
    product_tolerance: Callable[..., float],
) -> None:
    for outs in (3, 17, 40):
        attributes = _attributes(uniform, 9, outs, storage)
        check("dense", [uniform(rows, 9)], attributes, isa=isa, tolerance=product_tolerance(9))


@storages
@pytest.mark.parametrize("size", EDGES)
def test_narrow_dense_of_any_width(
    size: int,
    storage: str,
    isa: str,
    uniform: Draw,
    check: Check,
    product_tolerance: Callable[..., float],
) -> None:
    for rows in (1, 7):
        for ins, outs in ((size, 10), (10, size)):
            attributes = _attributes(uniform, ins, outs, storage)
            tolerance = product_tolerance(ins)
            check("dense", [uniform(rows, ins)], attributes, isa=isa, tolerance=tolerance)


@storages
@pytest.mark.parametrize("shape", [(5,), (2, 5), (2, 0, 5), (2, 3, 4, 5)])
def test_narrow_dense_works_on_the_last_axis(
    shape: tuple[int, ...], storage: str, isa: str, uniform: Draw, check: Check
) -> None:
    attributes = _attributes(uniform, 5, 7, storage)
    y = check("dense", [uniform(*shape)], attributes, isa=isa, tolerance=2e-6)
    assert y.shape == (*shape[:-1], 7)


@storages
@pytest.mark.parametrize("activation", ["relu", "relu6", "sigmoid", "gelu"])
def test_narrow_dense_with_an_activation(
    activation: str, storage: str, isa: str, uniform: Draw, check: Check
) -> None:
    attributes = _attributes(uniform, 30, 70, storage, activation=activation)
    check("dense", [uniform(6, 30)], attributes | {"bias": None}, isa=isa, tolerance=1e-5)


@storages
def test_narrow_dense_gives_a_row_the_same_in_any_company(
    storage: str, isa: str, uniform: Draw
) -> None:
    attributes, x = _attributes(uniform, 129, 90, storage), uniform(43, 129)
    together = _core.run_operator("dense", [x], attributes, isa=isa)
    alone = [_core.run_operator("dense", [row[None]], attributes, isa=isa) for row in x]
    np.testing.assert_array_equal(together, np.concatenate(alone))


@storages
def test_narrow_dense_on_threads(storage: str, uniform: Draw) -> None:
    x = uniform(1, 50)
    results = []
    for threads in (1, 2, 3):
        builder = _core.ProgramBuilder()
        value = builder.input("x", [-1, 50])
        y = builder.add("dense", [value], _attributes(uniform, 50, 200, storage))
        (result,) = builder.build([y], threads=threads).run([x])
        results.append(result)
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_integer_products_are_exact(isa: str) -> None:
    """The largest factors and the most terms: a sum that float32 could not hold step by step."""
    ins, outs = 65_000, 3
    steps = np.full((2, ins), 255, np.float32)
    weights = np.full((ins, outs), 127, np.float32)
    weights[::3] = -126
    steps[1, 5::7] = 3
    scales = np.ones(outs, np.float32)
    attributes = {"storage": "int8", "x_scale": 1.0, "x_below": 0, "weight_scales": scales}
    y = _core.run_operator("dense", [steps], {"weights": weights, **attributes}, isa=isa)
    exact = steps.astype(np.int64) @ weights.astype(np.int64)
    np.testing.assert_array_equal(y, exact.astype(np.float32))
    assert exact.max() < 2**31


def test_weight_scales_keep_a_file_s_own_integers(isa: str) -> None:
    random = np.random.default_rng(0)
    integers = random.integers(-128, 128, (33, 20)).astype(np.float32)
    scales = random.uniform(0.001, 0.1, 20).astype(np.float32)
    attributes = {"weights": integers * scales, "storage": "int8", "weight_scales": scales}
    y = _core.run_operator("dense", [np.eye(33, dtype=np.float32)], attributes, isa=isa)
    np.testing.assert_array_equal(y, integers * scales)


def test_bfloat16_is_rounded_to_nearest_even(isa: str) -> None:
    # 1 + 2^-8 lies between two bfloat16 numbers, as does 1 + 3 · 2^-8; the even one is taken.
    weights = np.array([[1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8 - 2**-20, 3e38, 0]], np.float32)
    y = _core.run_operator(
        "dense", [np.ones((1, 1), np.float32)], {"weights": weights, "storage": "bfloat16"}, isa=isa
    )
    assert y[0, :3].tolist() == [1, 1 + 2**-6, -1 - 2**-7]
    assert abs(y[0, 3] - 3e38) < 3e38 * 2**-8
    assert y[0, 4] == 0


def test_quantize_is_onnx_s_pair_of_operators(isa: str, uniform: Draw) -> None:
    """Steps of 1/8 about 100: halves between steps go to the even one; far values are clamped."""
    x = np.concatenate([uniform(1000) * 40, np.arange(-400, 400, dtype=np.float32) / 16])
    x = np.append(x, [np.inf, -np.inf, 1e30, -1e30]).astype(np.float32)
    for below in (0, 100, 255):
        attributes = {"activation": "quantize", "alpha": 0.125, "beta": float(below)}
        y = _core.run_operator("activation", [x], attributes, isa=isa)
        steps = np.clip(np.rint(x / np.float32(0.125)) + below, 0, 255)
        np.testing.assert_array_equal(y, (steps - below).astype(np.float32) * np.float32(0.125))
        np.testing.assert_array_equal(y, _core.reference_operator("activation", [x], attributes))


def test_quantize_of_nan_is_nan(isa: str) -> None:
    x = np.array([np.nan], np.float32)
    assert np.isnan(_core.run_operator("activation", [x], {"activation": "quantize"}, isa=isa))


def test_narrow_dense_refuses_what_does_not_fit(uniform: Draw) -> None:
    weights = {"weights": uniform(3, 5)}
    long = {"weights": np.zeros((65_001, 1), np.float32)}
    for x, attributes, message in [
        (uniform(2, 3), {"storage": "int4"}, "expected float32, bfloat16 or int8, got 'int4'"),
        (uniform(2, 4), {"storage": "int8"}, r"weights: expected shape \(4, out\)"),
        (uniform(2, 3), {"storage": "bfloat16", "x_scale": 1.0}, "x_scale"),
        (uniform(2, 3), {"storage": "int8", "x_scale": 0.0}, "x_scale: expected a number above 0"),
        (uniform(2, 3), {"storage": "int8", "x_scale": 1.0, "x_below": 256}, "x_below"),
        (uniform(2, 3), {"storage": "int8", "weight_scales": uniform(4)}, "weight_scales"),
        (uniform(2, 3), {"storage": "int8", "weight_scales": -np.ones(5, np.float32)}, "above 0"),
        (uniform(2, 3), {"storage": "bfloat16", "weight_scales": uniform(5)}, "weight_scales"),
        (uniform(2, 3), {"x_scale": 1.0}, "no attribute named x_scale"),
        (uniform(1, 65_001), {"storage": "int8", "x_scale": 1.0, **long}, "at most 65000 inputs"),
    ]:
        with pytest.raises(InputError, match=message):
            _core.run_operator("dense", [x], weights | attributes)
