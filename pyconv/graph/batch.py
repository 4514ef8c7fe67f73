"""Sizes that may depend on the batch, which is known only when a program runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np


class BatchError(Exception):
    """A computation that cannot be expressed for every batch size at once.

    Never seen by a caller: the engine then compiles for the shapes that it is given.
    """


@dataclass(frozen=True, slots=True)
class Batch:
    """`factor` times the batch size N: what shape arithmetic makes of a free leading axis.

    Sums, multiples and exact quotients of such sizes are sizes again. Whatever else would depend
    on N's value (a comparison, a conversion to int) raises `BatchError`.
    """

    factor: int = 1

    def __mul__(self, other: Any) -> Dim:
        if isinstance(other, Batch):
            raise BatchError("the square of the batch")
        product = self.factor * int(other)
        return Batch(product) if product else 0

    __rmul__ = __mul__

    def __floordiv__(self, other: Any) -> Dim:
        divisor = other.factor if isinstance(other, Batch) else int(other)
        if divisor == 0 or self.factor % divisor:
            raise BatchError(f"{self} divided by {other}")
        quotient = self.factor // divisor
        return quotient if isinstance(other, Batch) else Batch(quotient)

    def __rfloordiv__(self, other: Any) -> Dim:
        raise BatchError(f"{other} divided by {self}")

    def __add__(self, other: Any) -> Dim:
        if not isinstance(other, Batch) and int(other) == 0:
            return self
        if not isinstance(other, Batch):
            raise BatchError(f"{self} plus {other}")
        total = self.factor + other.factor
        return Batch(total) if total else 0

    __radd__ = __add__

    def __sub__(self, other: Any) -> Dim:
        return self.__add__(other * -1)

    def __rsub__(self, other: Any) -> Dim:
        return Batch(-self.factor).__add__(other)

    def __lt__(self, other: object) -> bool:
        raise BatchError(f"{self} compared with {other}")

    __le__ = __gt__ = __ge__ = __lt__

    def __index__(self) -> int:
        raise BatchError(f"the value of {self}")

    __int__ = __index__

    def __float__(self) -> float:
        raise BatchError(f"the value of {self}")

    def __str__(self) -> str:
        return "n" if self.factor == 1 else f"{self.factor}n"


Dim: TypeAlias = int | Batch
"""The size of one axis."""

Shape: TypeAlias = tuple[Dim, ...]


def element_count(shape: Sequence[Dim]) -> Dim:
    """The number of elements of a shape.

    Raises:
        BatchError: it is no multiple of the batch.
    """
    count: Dim = 1
    for size in shape:
        count = size * count
    return count


def per_image(shape: Sequence[Dim]) -> int:
    """The number of elements of one image: of the whole shape where it has no batch."""
    count = element_count(shape)
    return count.factor if isinstance(count, Batch) else count


def has_batch(shape: Sequence[Dim]) -> bool:
    """Whether any axis depends on the batch."""
    return any(isinstance(size, Batch) for size in shape)


def fixed(size: Dim) -> int:
    """The size as an integer.

    Raises:
        BatchError: it depends on the batch.
    """
    return size if isinstance(size, int) else int(size)


def at_batch(size: Dim, batch: int) -> int:
    """The size for one batch size."""
    return size.factor * batch if isinstance(size, Batch) else size


def dims(values: np.ndarray[Any, Any]) -> Shape:
    """A known integer tensor as sizes."""
    return tuple(item if isinstance(item, Batch) else int(item) for item in values.reshape(-1))


def text(shape: Sequence[Dim]) -> str:
    """A shape as people write it: `(n, 28, 28, 1)`."""
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
