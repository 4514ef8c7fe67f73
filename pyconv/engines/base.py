"""What an engine is: something that runs an ONNX file's graph on arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from pyconv.errors import InputError

Array: TypeAlias = NDArray[Any]
EngineName: TypeAlias = Literal["native", "onnxruntime"]
WeightStorage: TypeAlias = Literal["float32", "bfloat16", "int8"]
"""How the native engine keeps the weights of dense layers."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A graph's input or output.

    Attributes:
        name: the tensor's name in the ONNX graph.
        dtype: NumPy's name of the element type, such as `"float32"`.
        shape: the axes; `None` where any size goes (the batch, as a rule), and the whole shape is
            `None` where the file does not even give the number of axes.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a compiled program: one call of one operator, whatever was fused into it.

    Attributes:
        name: the ONNX tensor that the step produces.
        operator: the native operator, such as `"conv2d"`.
        algorithm: how it is computed, such as `"direct, fused relu and max_pool2d"`.
        shape: the shape of what it produces, in the native layout (channels last); None for the
            batch.
        flops: floating-point operations for one image.
        tensors: the ONNX tensors whose computation the step does, `name` the last of them; the
            others were fused into it and are stored nowhere.
        arena_offset_bytes: where its output begins in the memory that the steps share; None where
            it is written straight into the array that the run returns.
    """

    name: str
    operator: str
    algorithm: str
    shape: tuple[int | None, ...]
    flops: int
    tensors: tuple[str, ...]
    arena_offset_bytes: int | None


class Engine(Protocol):
    """Runs one ONNX graph. Safe to call from many threads at once."""

    @property
    def name(self) -> EngineName:
        """The engine's name, as `pyconv.load` takes it."""

    @property
    def inputs(self) -> Sequence[TensorInfo]:
        """The graph's inputs, in the file's order, weights left out."""

    @property
    def outputs(self) -> Sequence[TensorInfo]:
        """The graph's outputs, in the file's order."""

    @property
    def threads(self) -> int:
        """How many threads one call may use."""

    def run(
        self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None
    ) -> dict[str, Array]:
        """Compute tensors of the graph.

        Args:
            inputs: an array for each graph input, in the ONNX shape and dtype.
            outputs: names of the tensors wanted, intermediate ones included; the graph's own
                outputs by default. Only what they need is computed where the engine can do so.

        Returns:
            The tensors by name, in the order asked for, in the ONNX shape. An array may be
            strided (an NCHW tensor that was computed channels last), and shares its memory neither
            with an input nor with another result.

        Raises:
            InputError: an input is missing, unknown or of the wrong shape or dtype, or an output
                does not exist.
            ModelError: the graph cannot be computed for these inputs.
        """

    def rank(self, tensor: str) -> int | None:
        """How many axes a tensor has; None where the engine knows it only once it has run."""

    def steps(self) -> Sequence[Step]:
        """The compiled program for the graph's own outputs; empty where the engine hides it."""


def check_inputs(expected: Sequence[TensorInfo], inputs: Mapping[str, Array]) -> None:
    """Refuse arrays that do not fit the graph's inputs.

    Raises:
        InputError: naming the input, what was expected and what came.
    """
    names = [info.name for info in expected]
    if not isinstance(inputs, Mapping):
        raise InputError(
            f"expected a dict of arrays for the inputs {names}, got {type(inputs).__name__}"
        )
    if set(inputs) != set(names):
        missing = [name for name in names if name not in inputs]
        unknown = [name for name in inputs if name not in names]
        raise InputError(
            f"the model takes the inputs {names}; "
            + "; ".join(
                part
                for part in (
                    f"missing: {missing}" if missing else "",
                    f"unknown: {unknown}" if unknown else "",
                )
                if part
            )
        )
    for info in expected:
        array = inputs[info.name]
        if not isinstance(array, np.ndarray):
            raise InputError(
                f"input {info.name!r}: expected a NumPy array, got {type(array).__name__}"
            )
        fits = info.shape is None or (
            array.ndim == len(info.shape)
            and all(
                want is None or want == got
                for want, got in zip(info.shape, array.shape, strict=True)
            )
        )
        if not fits or array.dtype != info.dtype:
            raise InputError(
                f"input {info.name!r}: expected {info.dtype} of shape {shape_text(info.shape)}, "
                f"got {array.dtype} of shape {shape_text(array.shape)}"
            )


def tensor_names(outputs: Sequence[str]) -> list[str]:
    """The names of tensors that were asked for.

    Raises:
        InputError: they are one text, whose letters would be taken for names, or no sequence.
    """
    if isinstance(outputs, str) or not isinstance(outputs, Iterable):
        raise InputError(f"expected a list of names, got {outputs!r}")
    return list(outputs)


def shape_text(shape: Sequence[int | None] | None) -> str:
    """A shape as people write it: `(n, 28, 28, 1)`; `?` for a free axis that is not the first."""
    if shape is None:
        return "(any)"
    axes = [
        str(size) if size is not None else ("n" if axis == 0 else "?")
        for axis, size in enumerate(shape)
    ]
    return f"({', '.join(axes)}{',' if len(axes) == 1 else ''})"


def create(
    name: str,
    path: Path,
    threads: int,
    exact: bool = False,
    weights: WeightStorage = "float32",
) -> Engine:
    """Load an ONNX file into the engine of that name.

    Raises:
        InputError: no engine has that name, or it cannot store weights so.
        ModelError: the file is missing or broken.
        UnsupportedOperatorError: the native engine lacks an operator of the graph.
    """

    # Each engine's library comes in when it is first asked for, and no sooner.
    def native() -> Callable[[Path, int, bool, WeightStorage], Engine]:
        from pyconv.engines.native import NativeEngine

        return NativeEngine

    def onnxruntime() -> Callable[[Path, int, bool, WeightStorage], Engine]:
        from pyconv.engines.onnxruntime import OnnxRuntimeEngine

        return OnnxRuntimeEngine

    engines = {"native": native, "onnxruntime": onnxruntime}
    if name not in engines:
        raise InputError(f"engine: expected one of {sorted(engines)}, got {name!r}")
    if weights not in get_args(WeightStorage):
        raise InputError(
            f"weights: expected one of {', '.join(get_args(WeightStorage))}, got {weights!r}"
        )
    return engines[name]()(path, threads, exact, weights)
