"""The pieces of making a graph lean that need no Keras."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyconv.training.lean import unit_axes_permutation

_SIZES = st.integers(1, 3)


@given(st.lists(_SIZES, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_unit_axes_permutation_is_the_reshape(sizes: list[int], random: object) -> None:
    before = (2, *sizes)
    # Another order of the axes that leaves those longer than 1 in theirs.
    after_sizes = [size for size in sizes if size != 1]
    for _ in range(sizes.count(1)):
        after_sizes.insert(random.randint(0, len(after_sizes)), 1)  # type: ignore[attr-defined]
    after = (2, *after_sizes)
    permutation = unit_axes_permutation((None, *before[1:]), (None, *after[1:]))
    assert permutation is not None
    array = np.arange(np.prod(before)).reshape(before)
    np.testing.assert_array_equal(array.transpose(permutation), array.reshape(after))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((None, 2, 3), (None, 3, 2)),
        ((None, 2, 3), (None, 6)),
        ((None, 1, None), (None, None, 1)),
        ((2, 3, 1), (None, 3, 1)),
        (None, (None, 1)),
        ((), ()),
    ],
)
def test_reshape_that_does_more_is_no_permutation(
    before: tuple[int | None, ...] | None, after: tuple[int | None, ...]
) -> None:
    assert unit_axes_permutation(before, after) is None
