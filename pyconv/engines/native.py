"""The native engine: pyconv's own compiler and kernels."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from weakref import WeakSet

from pyconv.engines.base import (
    Array,
    EngineName,
    Step,
    TensorInfo,
    WeightStorage,
    check_inputs,
    tensor_names,
)
from pyconv.errors import InputError, ModelError, UnsupportedOperatorError
from pyconv.graph import importer, reader
from pyconv.graph.batch import Batch, BatchError, Shape, at_batch
from pyconv.graph.compiler import Compiled, compile_network
from pyconv.graph.importer import Network, ValuesNeeded

_Shapes = tuple[tuple[int, ...], ...]
_Key = tuple[frozenset[str], _Shapes | None, tuple[bytes, ...]]

MOST_VARIANTS = 64
"""Programs kept; beyond that, the one that was not used for longest goes."""


class NativeEngine:
    """Runs the graph with pyconv's kernels.

    One program serves every batch size where the images of a batch are independent of each other,
    which is so for networks as people train them. For what is left (free heights and widths, a
    batch that is moved or merged into another axis) a program is compiled for the shapes that come;
    and for the elements that come, of inputs that are a layer's weights or say what shape something
    is to have.

    Attributes:
        network: the graph in the IR for every batch size; None where there is no such thing.
    """

    name: EngineName = "native"

    def __init__(
        self,
        path: Path,
        threads: int = 1,
        exact: bool = False,
        weights: WeightStorage = "float32",
    ) -> None:
        self.threads = threads
        self._program_of = partial(compile_network, threads=threads, exact=exact, weights=weights)
        self._file = reader.read(path)
        self.inputs: Sequence[TensorInfo] = self._file.inputs
        self._output_names = tuple(info.name for info in self._file.outputs)
        self._lock = threading.Lock()
        _engines.add(self)
        self._steering: frozenset[str] = frozenset()  # inputs whose elements programs depend on
        # None: for these tensors there is no one program for every batch size.
        self._variants: OrderedDict[_Key, Compiled | None] = OrderedDict()
        self.network = self._import_for_any_batch()
        self._default: Compiled | None = None
        if self.network is not None:
            try:
                self._default = self._compile(self.network, self._output_names)
            except BatchError:
                self.network = None
        uses_all = self._default is not None and len(self._default.inputs) == len(self.inputs)
        self._direct = self._default if uses_all else None
        self.outputs: Sequence[TensorInfo] = [self._completed(i) for i in self._file.outputs]

    def run(
        self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None
    ) -> dict[str, Array]:
        """See `pyconv.engines.base.Engine.run`."""
        try:
            return self._run(inputs, outputs)
        except MemoryError as error:
            raise ModelError(f"{self._file.path}: {error}") from error

    def _run(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None) -> dict[str, Array]:
        if outputs is None and self._direct is not None:
            # The program checks its inputs itself; what does not fit is explained below.
            try:
                if len(inputs) == len(self.inputs):
                    return self._direct.run(inputs)
            except (InputError, KeyError, TypeError):
                pass
        check_inputs(self.inputs, inputs)
        names = self._output_names if outputs is None else tensor_names(outputs)
        results = self._compute(inputs, tuple(dict.fromkeys(names)))
        return {name: results[name] for name in names}

    def rank(self, tensor: str) -> int | None:
        """See `pyconv.engines.base.Engine.rank`."""
        shape = self.network.shape(tensor) if self.network is not None else None
        return None if shape is None else len(shape)

    def steps(self) -> Sequence[Step]:
        """See `pyconv.engines.base.Engine.steps`; empty where programs wait for shapes."""
        return self._default.steps if self._default is not None else ()

    def time_steps(self, inputs: Mapping[str, Array]) -> list[float]:
        """Run once for the seconds that each of `steps()` takes; all threads share every step.

        Raises:
            InputError: an input is missing, unknown or of the wrong shape or dtype.
        """
        check_inputs(self.inputs, inputs)
        return self._default.time_steps(inputs) if self._default is not None else []

    def _compute(self, inputs: Mapping[str, Array], names: tuple[str, ...]) -> dict[str, Array]:
        program = None
        if self.network is not None and self._same_batch(inputs):
            program = self._variant(names, None)
        if program is None:
            program = self._variant(names, inputs)
        assert program is not None
        return program.run(inputs)

    def _same_batch(self, inputs: Mapping[str, Array]) -> bool:
        return len({len(inputs[i.name]) for i in self.inputs if i.shape and i.shape[0] is None}) < 2

    def _variant(
        self, names: tuple[str, ...], inputs: Mapping[str, Array] | None
    ) -> Compiled | None:
        """The program for some tensors, from the cache or compiled now.

        Args:
            names: the tensors.
            inputs: what to compile for; None for every batch size.

        Returns:
            The program; None where there is none for every batch size.
        """
        with self._lock:
            key = self._key(names, inputs)
            if key not in self._variants:
                network = self.network if inputs is None else self._import_for(inputs)
                assert network is not None  # or `inputs` would have been given
                key = self._key(names, inputs)  # by now it is known what steers the network
                try:
                    self._variants[key] = self._compile(network, names)
                except BatchError:
                    self._variants[key] = None
            self._variants.move_to_end(key)
            if len(self._variants) > MOST_VARIANTS:
                self._variants.popitem(last=False)
            return self._variants[key]

    def _compile(self, network: Network, names: Sequence[str]) -> Compiled:
        try:
            return self._program_of(network, names)
        except ModelError as error:
            raise ModelError(f"{self._file.path}: {error}") from error

    def _key(self, names: tuple[str, ...], inputs: Mapping[str, Array] | None) -> _Key:
        if inputs is None:
            return frozenset(names), None, ()
        shapes = tuple(inputs[info.name].shape for info in self.inputs)
        elements = tuple(
            hashlib.sha256(inputs[name].tobytes()).digest() for name in sorted(self._steering)
        )
        return frozenset(names), shapes, elements

    def _import_for_any_batch(self) -> Network | None:
        try:
            shapes = importer.batch_shapes(self._file)
        except BatchError:
            importer.refuse_missing_operators(self._file)
            return None
        try:
            return importer.build(self._file, shapes)
        except (BatchError, ValuesNeeded):
            self._refuse_what_every_run_lacks(shapes)
            return None

    def _refuse_what_every_run_lacks(self, shapes: Mapping[str, Shape]) -> None:
        """Import for one image, so that what is unsupported is said at load."""
        one = {name: tuple(at_batch(size, 1) for size in shape) for name, shape in shapes.items()}
        try:
            importer.build(self._file, one)
        except UnsupportedOperatorError:
            raise
        except (ModelError, ValuesNeeded):
            pass  # other inputs may fit; the run that comes with some says what does not

    def _import_for(self, inputs: Mapping[str, Array]) -> Network:
        """The graph in the IR for arrays that came."""
        shapes = {name: array.shape for name, array in inputs.items()}
        while True:
            given = {name: inputs[name] for name in self._steering}
            try:
                return importer.build(self._file, shapes, given)
            except ValuesNeeded as needed:
                self._steering |= needed.names

    def _completed(self, info: TensorInfo) -> TensorInfo:
        """An output's shape as the compiler found it, where the file does not give it."""
        shape = self.network.shape(info.name) if self.network is not None else None
        if shape is None:
            return info
        sizes = tuple(None if isinstance(size, Batch) else size for size in shape)
        return TensorInfo(info.name, info.dtype, sizes)


_engines: WeakSet[NativeEngine] = WeakSet()


def _open_locks() -> None:
    """In a forked child nobody is left to release what another thread of its parent had locked."""
    for engine in _engines:
        engine._lock = threading.Lock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_open_locks)
