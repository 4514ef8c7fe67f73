"""Maps of any number of spatial axes, and the windows that slide over them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pyconv.errors import ModelError
from pyconv.graph.batch import fixed
from pyconv.graph.operators.context import Context
from pyconv.graph.operators.registry import Unsupported


def channels_last(context: Context, index: int = 0) -> str:
    """An input (n, c, spatial…) → (n, spatial…, c), of one to three spatial axes."""
    x = context.value(index)
    spatial = len(context.shape(x)) - 2
    if spatial not in (1, 2, 3):
        raise Unsupported(f"{context.node.operator} in {spatial} dimensions")
    return context.emit("transpose", x, permutation=(0, *range(2, 2 + spatial), 1))


def channels_first(context: Context, y: str, output: int = 0) -> None:
    """(n, spatial…, c) → an output (n, c, spatial…)."""
    last = len(context.shape(y)) - 1
    context.emit("transpose", y, output=output, permutation=(0, last, *range(1, last)))


@dataclass(frozen=True, slots=True)
class Window:
    """A sliding window, one number for each axis that it slides along."""

    kernel: Sequence[int]
    strides: Sequence[int]
    dilations: Sequence[int]
    begins: Sequence[int]
    ends: Sequence[int]

    def axis(self, axis: int, size: int) -> tuple[int, int, int, int, tuple[int, int]]:
        """What `window_output` takes, for an axis of so many places."""
        pads = (self.begins[axis], self.ends[axis])
        return size, self.kernel[axis], self.strides[axis], self.dilations[axis], pads

    def last(self, count: int) -> Window:
        """The window along its last axes alone."""
        return self._axes(slice(-count, None))

    def first(self) -> Window:
        """The window along its first axis alone, as the height of a plane."""
        along = self._axes(slice(1))
        ones, zeros = (1,), (0,)
        return Window(
            (*along.kernel, *ones),
            (*along.strides, *ones),
            (*along.dilations, *ones),
            (*along.begins, *zeros),
            (*along.ends, *zeros),
        )

    def plane(self) -> Window:
        """The window over two axes: a lone one is the width."""
        if len(self.kernel) == 2:
            return self
        ones, zeros = (1,), (0,)
        return Window(
            (*ones, *self.kernel),
            (*ones, *self.strides),
            (*ones, *self.dilations),
            (*zeros, *self.begins),
            (*zeros, *self.ends),
        )

    def attributes(self) -> dict[str, Any]:
        """As the native operators take it, but for the kernel."""
        return {
            "strides": list(self.strides),
            "dilations": list(self.dilations),
            "pads": [*self.begins, *self.ends],
        }

    def taps(self) -> int:
        """How many elements it covers."""
        return math.prod(self.kernel)

    def _axes(self, chosen: slice) -> Window:
        return Window(
            self.kernel[chosen],
            self.strides[chosen],
            self.dilations[chosen],
            self.begins[chosen],
            self.ends[chosen],
        )


def given_window(
    context: Context, x: str, kernel: Sequence[int], *, transposed: bool = False
) -> Window:
    """The window that a node's attributes describe.

    Args:
        context: the node.
        x: what it slides over, (n, spatial…, c).
        kernel: its size.
        transposed: whether the node is the transpose of a convolution, whose `auto_pad` is not
            about what it reads.

    Raises:
        ModelError: the attributes do not go together.
        Unsupported: pads are negative.
    """
    spatial = len(context.shape(x)) - 2
    strides = context.attribute("strides") or [1] * spatial
    dilations = context.attribute("dilations") or [1] * spatial
    pads = context.attribute("pads") or [0] * 2 * spatial
    if not len(strides) == len(dilations) == len(kernel) == spatial or len(pads) != 2 * spatial:
        raise ModelError(
            f"expected a kernel, strides and dilations of {spatial} values and pads of "
            f"{2 * spatial}, got {list(kernel)}, {strides}, {dilations} and {pads}"
        )
    if min(strides) < 1 or min(dilations) < 1 or min(kernel) < 1:
        raise ModelError(
            f"expected a kernel, strides and dilations of at least 1, got {list(kernel)}, "
            f"{strides} and {dilations}"
        )
    if min(pads) < 0:
        raise Unsupported(f"{context.node.operator} with negative pads")
    begins, ends = pads[:spatial], pads[spatial:]
    auto_pad = context.attribute("auto_pad", "NOTSET")
    if auto_pad not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise ModelError(
            f"expected auto_pad NOTSET, VALID, SAME_UPPER or SAME_LOWER, got {auto_pad}"
        )
    if auto_pad != "NOTSET":
        begins, ends = [0] * spatial, [0] * spatial
    if auto_pad.startswith("SAME") and not transposed:
        for axis, size in enumerate(context.shape(x)[1:-1]):
            outputs = -(-fixed(size) // strides[axis])
            extent = (kernel[axis] - 1) * dilations[axis] + 1
            total = max(0, (outputs - 1) * strides[axis] + extent - fixed(size))
            small, large = total // 2, total - total // 2
            begins[axis] = small if auto_pad == "SAME_UPPER" else large
            ends[axis] = large if auto_pad == "SAME_UPPER" else small
    return Window(list(kernel), list(strides), list(dilations), begins, ends)
