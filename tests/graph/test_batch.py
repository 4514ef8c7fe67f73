"""Arithmetic with a size that is known only when a program runs."""

from __future__ import annotations

import operator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyconv.graph.batch import Batch, BatchError, element_count, has_batch, per_image, text

FACTORS = st.integers(1, 50)


@given(FACTORS, FACTORS, st.integers(1, 9))
def test_arithmetic_agrees_with_numbers(a: int, b: int, n: int) -> None:
    def number(size: object) -> int:
        return size.factor * n if isinstance(size, Batch) else int(size)  # type: ignore[call-overload]

    assert number(Batch(a) + Batch(b)) == a * n + b * n
    assert number(Batch(a) - Batch(b)) == a * n - b * n
    assert number(Batch(a) * b) == number(b * Batch(a)) == a * b * n
    assert number(Batch(a * b) // b) == a * n
    assert number(Batch(a * b) // Batch(b)) == a
    assert number(Batch(a) + 0) == number(0 + Batch(a)) == number(Batch(a) - 0) == a * n
    assert number(0 - Batch(a)) == -a * n


@pytest.mark.parametrize(
    ("function", "a", "b"),
    [
        (operator.mul, Batch(), Batch()),
        (operator.floordiv, Batch(3), 2),
        (operator.floordiv, Batch(3), 0),
        (operator.floordiv, 6, Batch()),
        (operator.add, Batch(), 1),
        (operator.sub, 1, Batch()),
        (operator.lt, Batch(), 3),
        (operator.ge, Batch(), Batch(2)),
    ],
)
def test_what_depends_on_the_number_is_refused(function: object, a: object, b: object) -> None:
    with pytest.raises(BatchError):
        function(a, b)  # type: ignore[operator]


def test_a_batch_is_no_number() -> None:
    for convert in (int, float, operator.index):
        with pytest.raises(BatchError):
            convert(Batch())


def test_counts_of_elements() -> None:
    assert element_count((Batch(), 4, 5)) == Batch(20)
    assert element_count((Batch(), 0)) == 0
    assert per_image((Batch(), 4, 5)) == per_image((4, 5)) == 20
    assert has_batch((Batch(), 2))
    assert not has_batch((1, 2))
    assert text((Batch(), 28, 28)) == "(n, 28, 28)"
    assert text((Batch(2),)) == "(2n,)"


def test_numpy_multiplies_sizes() -> None:
    assert np.prod(np.array([Batch(), 3, 4], object)) == Batch(12)
