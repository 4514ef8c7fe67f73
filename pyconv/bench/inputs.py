"""The arrays that a benchmark feeds a network: random, and the same in every run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pyconv.engines.base import Array, TensorInfo, shape_text
from pyconv.errors import InputError


def random_inputs(expected: Sequence[TensorInfo], batch: int, seed: int = 0) -> dict[str, Array]:
    """An array for every input of a graph.

    Args:
        expected: the graph's inputs. The first axis is the batch where the file leaves it free.
        batch: images in the batch.
        seed: of the random numbers.

    Returns:
        By name: floats uniform in [0, 1), integers in [0, 128), booleans, in the input's dtype.

    Raises:
        InputError: an input has another free axis, a fixed batch that is not `batch`, or a dtype
            that numbers cannot fill.
    """
    rng = np.random.default_rng(seed)
    return {info.name: _random(info, batch, rng) for info in expected}


def _random(info: TensorInfo, batch: int, rng: np.random.Generator) -> Array:
    if info.shape is None or None in info.shape[1:]:
        raise InputError(
            f"input {info.name!r} has the shape {shape_text(info.shape)}: only the first axis may "
            "be free in a benchmark; fix the others in the file"
        )
    if info.shape and info.shape[0] not in (None, batch):
        raise InputError(
            f"input {info.name!r} has the shape {shape_text(info.shape)}, fixed in the file: "
            f"there is no batch of {batch}; pass --batch {info.shape[0]}"
        )
    shape = [batch if size is None else size for size in info.shape]
    kind = np.dtype(info.dtype).kind
    if kind == "f":
        return rng.random(shape, dtype=np.float32).astype(info.dtype, copy=False)
    if kind in "iu":
        return rng.integers(0, 128, shape).astype(info.dtype)
    if kind == "b":
        return rng.random(shape) < 0.5
    raise InputError(f"input {info.name!r} is of type {info.dtype}: a benchmark cannot fill it")
