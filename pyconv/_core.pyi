"""pyconv's engine in C++; use it through the package pyconv.

Arrays are channels last; other layouts in memory are copied. Most operators take float32 and
nothing else. What does not fit raises `pyconv.InputError`. The operators, their inputs, the dtypes
of these and their attributes are the table in docs/architecture.md, "The native operators".
"""

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

def isa() -> str:
    """The ISA level in use: PYCONV_ISA's, or the best that this CPU runs."""

def isa_levels() -> list[str]:
    """The ISA levels that this build holds and this CPU runs, the best last."""

def peak_gflops(seconds: float = 0.1, isa: str | None = None) -> float:
    """Measure the float32 peak of one core, in 10^9 operations a second.

    A fused multiply-add counts as two.

    Args:
        seconds: how long to measure, about.
        isa: the level to measure; None is the one in use.
    """

def operators() -> list[str]:
    """The names of the operators."""

def run_operator(
    name: str,
    inputs: Sequence[NDArray[Any]],
    attributes: Mapping[str, Any],
    isa: str | None = None,
) -> NDArray[Any]:
    """Run one operator on arrays, channels last; raises InputError for what does not fit.

    Args:
        name: one of `operators()`.
        inputs: its operands.
        attributes: its settings by name; a None is as if it had not been given.
        isa: the level to run at; None is the one in use.
    """

def reference_operator(
    name: str, inputs: Sequence[NDArray[Any]], attributes: Mapping[str, Any]
) -> NDArray[np.float64]:
    """The same by naive loops in double precision: the oracle of the tests."""

@final
class Step:
    """One step of a program."""

    @property
    def name(self) -> str:
        """The name of what it produces."""
    @property
    def operator(self) -> str:
        """The operator's name."""
    @property
    def algorithm(self) -> str:
        """How it is computed, and what is fused into it."""
    @property
    def shape(self) -> list[int]:
        """The shape of what it produces; -1 is the batch."""
    @property
    def flops(self) -> int:
        """Floating-point operations for one image."""
    @property
    def arena_offset_bytes(self) -> int:
        """Where its output begins in the arena; -1 where it is an output of the program."""

@final
class Program:
    """A compiled network; safe to run from many threads at once."""

    def run(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Compute the outputs from arrays, in the order of the builder's inputs."""
    def time_steps(self, inputs: Sequence[NDArray[Any]]) -> list[float]:
        """Run once and return the seconds that each step took; the threads share every step."""
    def steps(self) -> list[Step]:
        """What was compiled, in order."""
    @property
    def threads(self) -> int:
        """How many threads a run uses."""
    @property
    def arena_bytes(self) -> int:
        """Bytes that one thread holds for a run: what lies between steps, and scratch."""
    @property
    def chunk(self) -> int:
        """How many images go through the steps together."""

@final
class ProgramBuilder:
    """Builds a program value by value; a value is known by the integer that its maker returned."""

    def __init__(self, isa: str | None = None) -> None:
        """Begin a program for an ISA level; None is the one in use."""
    def input(self, name: str, shape: Sequence[int], dtype: str = "float32") -> int:
        """A tensor given at each run; -1 in axis 0 is the batch."""
    def constant(self, array: NDArray[Any]) -> int:
        """A tensor that never changes; copied."""
    def add(
        self, operator: str, inputs: Sequence[int], attributes: Mapping[str, Any], name: str = ""
    ) -> int:
        """What an operator makes of other values."""
    def shape(self, value: int) -> list[int]:
        """A value's shape; -1 is the batch."""
    def dtype(self, value: int) -> str:
        """A value's dtype, as NumPy names it."""
    def build(self, outputs: Sequence[int], threads: int = 1) -> Program:
        """The program that computes these values; the builder is empty afterwards."""
