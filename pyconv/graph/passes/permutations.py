"""Arithmetic of axis permutations: `y = x.transpose(p)` has `y.shape[i] == x.shape[p[i]]`."""

from __future__ import annotations

from collections.abc import Sequence

from pyconv.graph.batch import Shape

Permutation = tuple[int, ...]


def composed(first: Sequence[int], then: Sequence[int]) -> Permutation:
    """One permutation for `x.transpose(first).transpose(then)`."""
    return tuple(first[axis] for axis in then)


def inverse(permutation: Sequence[int]) -> Permutation:
    """The permutation that undoes it."""
    return tuple(permutation.index(axis) for axis in range(len(permutation)))


def is_identity(permutation: Sequence[int]) -> bool:
    """Whether it leaves every axis where it is."""
    return list(permutation) == list(range(len(permutation)))


def moves_only_unit_axes(shape: Shape, permutation: Sequence[int]) -> bool:
    """Whether transposing a tensor of that shape leaves its elements in the same order."""
    moved = [axis for axis in permutation if shape[axis] != 1]
    return moved == sorted(moved)


def permuted(shape: Shape, permutation: Sequence[int]) -> Shape:
    """The shape after transposing."""
    return tuple(shape[axis] for axis in permutation)
