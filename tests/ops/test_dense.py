"""Dense layers against the definition, over the edges of tiles and panels."""

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
EDGES = [*range(1, 20), 31, 32, 33, 47, 48, 49, 63, 64, 65, 130]


def _attributes(draw: Draw, ins: int, outs: int, **more: Any) -> dict[str, Any]:
    return {"weights": draw(ins, outs, seed=1), "bias": draw(outs, seed=2), **more}


@pytest.mark.parametrize("rows", [0, *EDGES])
def test_dense_of_any_rows(
    rows: int, isa: str, uniform: Draw, check: Check, product_tolerance: Callable[..., float]
) -> None:
    for outs in (3, 17, 40):
        attributes = _attributes(uniform, 9, outs)
        tolerance = product_tolerance(9)
        check("dense", [uniform(rows, 9)], attributes, isa=isa, tolerance=tolerance)


@pytest.mark.parametrize("size", EDGES)
def test_dense_of_any_width(
    size: int, isa: str, uniform: Draw, check: Check, product_tolerance: Callable[..., float]
) -> None:
    for rows in (1, 9):
        for ins, outs in ((size, 10), (10, size)):
            attributes = _attributes(uniform, ins, outs)
            tolerance = product_tolerance(ins)
            check("dense", [uniform(rows, ins)], attributes, isa=isa, tolerance=tolerance)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_dense_of_any_panels(
    rows: int, isa: str, uniform: Draw, check: Check, product_tolerance: Callable[..., float]
) -> None:
    # One row goes over four panels at once, two rows over two: every number of panels that is left
    # over at every level, with a narrow panel behind them, a cut one, or none.
    for outs in [width * panels for width in (8, 16, 32) for panels in range(2, 10)]:
        for more in (0, 1, 5):
            for ins in (1, 7):
                attributes = _attributes(uniform, ins, outs + more, activation="relu")
                tolerance = product_tolerance(ins)
                check("dense", [uniform(rows, ins)], attributes, isa=isa, tolerance=tolerance)


@pytest.mark.parametrize("shape", [(5,), (2, 5), (2, 3, 5), (2, 0, 5), (2, 3, 4, 1, 5)])
def test_dense_works_on_the_last_axis(
    shape: tuple[int, ...], isa: str, uniform: Draw, check: Check
) -> None:
    y = check("dense", [uniform(*shape)], _attributes(uniform, 5, 7), isa=isa, tolerance=2e-6)
    assert y.shape == (*shape[:-1], 7)


@pytest.mark.parametrize("activation", ["relu", "relu6", "elu", "sigmoid", "tanh", "gelu"])
@pytest.mark.parametrize("bias", [True, False])
def test_dense_with_an_activation(
    activation: str, bias: bool, isa: str, uniform: Draw, check: Check
) -> None:
    attributes = _attributes(uniform, 30, 21, activation=activation)
    if not bias:
        attributes["bias"] = None
    check("dense", [uniform(6, 30)], attributes, isa=isa, tolerance=1e-5)


def test_dense_refuses_what_does_not_fit(uniform: Draw) -> None:
    for x, attributes, message in [
        (uniform(2, 3), {"weights": uniform(4, 5)}, r"weights: expected shape \(3, out\)"),
        (uniform(2, 3), {"weights": uniform(3, 0)}, "weights"),
        (uniform(2, 3), {"weights": uniform(3)}, "weights"),
        (uniform(2, 3), {"weights": uniform(3, 5), "bias": uniform(4)}, "bias"),
        (uniform(2, 3), {}, "weights: expected a float32 array, got nothing"),
    ]:
        with pytest.raises(InputError, match=message):
            _core.run_operator("dense", [x], attributes)
