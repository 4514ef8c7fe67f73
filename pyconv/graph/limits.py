"""How much one file may ask for.

A few bytes of a file can ask for any amount of memory or time: a shape of 2⁴⁰ elements, a function
that calls another twice, which calls another twice. The bounds here lie far beyond the networks
that people train, and keep what a crafted file costs in proportion to its size.
"""

from __future__ import annotations

import os

from pyconv.errors import ModelError

MOST_FILE_BYTES = 2**31 - 1
"""Protobuf's own limit on a message."""

MOST_NODES = 2**15
"""Nodes of a graph, those of functions counted wherever they are called. NASNetLarge has 4,000."""

MOST_OPERANDS = 2**18
"""Inputs and outputs of all nodes together."""

MOST_CALLS = 64
"""Functions that call one another, one inside the other."""

MOST_ELEMENTS = 2**31
"""Elements of one tensor, for one image."""

MOST_NUMBERS = 2**22
"""Integers in the settings of one network's native operators."""

MOST_PLACES = 2**20
"""Places of an axis that an operator takes one by one, as Expand, Tile and Resize do."""

MOST_FOLDED = 2**26
"""Elements of constants that the engine computes from others beforehand, in all."""

LONGEST_TEXT = 400
"""Characters of somebody else's message, or of a name in the file, that an error repeats."""


class Allowance:
    """What the constants that are computed while a file is read may cost in all.

    Args:
        constant_bytes: the file's own constants. A network that computes on its weights (casts,
            scales or transposes them) does it a few times to each.
    """

    def __init__(self, constant_bytes: int) -> None:
        self._made = 2**28 + 2 * constant_bytes
        self._read = 2**31 + 16 * constant_bytes

    def spend(self, read: int, made: int) -> None:
        """Account for a computation before it is done.

        Args:
            read: elements that it goes through.
            made: elements that it puts out.

        Raises:
            ModelError: it is too much.
        """
        self._made -= made
        self._read -= read + made
        if self._made < 0 or self._read < 0:
            raise ModelError(
                f"its {made:,} elements are more than a file of this size may have computed when "
                "it is loaded"
            )


def check_memory(what: str, needed_bytes: int) -> None:
    """Refuse what this machine's memory does not hold.

    Raises:
        ModelError: more than half of it would be taken.
    """
    there_bytes = memory_bytes()
    if needed_bytes > there_bytes // 2:
        raise ModelError(
            f"{what} would take {needed_bytes / 2**30:,.1f} GiB, more than half of the "
            f"{there_bytes / 2**30:,.1f} GiB of this machine"
        )


def memory_bytes() -> int:
    """The memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def brief(text: object) -> str:
    """Somebody else's text on one line, and of a length that people read."""
    line = " ".join(str(text).split())
    return line if len(line) <= LONGEST_TEXT else f"{line[:LONGEST_TEXT]}…"
