"""The oracle's judgement, and the ISA levels of the machine."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pyconv import _core

_LEVELS = _core.isa_levels()
assert _LEVELS, "there is no ISA level to test"

# Half of the distance between 1 and the next float32: the relative error of one rounding.
ROUNDING = 2.0**-24

FloatArray = NDArray[np.float32]
Check = Callable[..., FloatArray]


@pytest.fixture(params=_LEVELS)
def isa(request: pytest.FixtureRequest) -> str:
    """Each ISA level that this machine runs, in turn."""
    level: str = request.param
    return level


@pytest.fixture(scope="session")
def uniform() -> Callable[..., FloatArray]:
    """Random numbers between -1 and 1, the same for the same shape and seed."""

    def draw(*shape: int, seed: int = 0) -> FloatArray:
        random = np.random.default_rng([seed, *shape])
        return random.uniform(-1, 1, shape).astype(np.float32)

    return draw


@pytest.fixture(scope="session")
def product_tolerance() -> Callable[..., float]:
    """How far a sum of `terms` products may be off, where no factor is above 1 in size.

    With u the rounding, a float32 sum of K products x w is off by at most about K u sum |x w|, and
    with roundings that are independent by a few sqrt(K) u sum |x w| (N. Higham and T. Mary, "A new
    approach to probabilistic rounding error analysis", 2019). For factors uniform in [-1, 1],
    sum |x w| is about K / 4; we allow four times sqrt(K) u K / 4. Two terms more stand for the bias
    and the result's own rounding.

    Winograd's convolutions multiply sums of inputs by sums of weights. What they are held to is
    what pyconv promises of them: 1e-5 of the output's scale, which is three times the deviation of
    such a sum, or sqrt(K).
    """

    def tolerance(terms: int, algorithm: str = "") -> float:
        if "Winograd" in algorithm:
            return 1e-5 * math.sqrt(terms + 2)
        return ROUNDING * math.pow(terms + 2, 1.5)

    return tolerance


@pytest.fixture(scope="session")
def check() -> Check:
    """Run an operator, hold it against the naive loops in double precision; return its output."""

    def run_and_compare(
        name: str,
        inputs: list[FloatArray],
        attributes: dict[str, Any],
        *,
        isa: str,
        tolerance: float = 0.0,
        relative: float = 0.0,
    ) -> FloatArray:
        got = _core.run_operator(name, inputs, attributes, isa=isa)
        expected = _core.reference_operator(name, inputs, attributes)
        assert got.dtype == np.float32
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, rtol=relative, atol=tolerance, strict=False)
        return got

    return run_and_compare
