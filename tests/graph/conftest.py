"""Fixtures for the compiler's tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pyconv import _core
from pyconv.engines.native import NativeEngine
from pyconv.engines.onnxruntime import OnnxRuntimeEngine
from pyconv.graph import importer, reader
from pyconv.graph.batch import Batch
from pyconv.graph.importer import Network
from pyconv.graph.ir import Graph

Arrays = dict[str, np.ndarray]


def _concrete(value: object, batch: int) -> object:
    if isinstance(value, list | tuple):
        return [item.factor * batch if isinstance(item, Batch) else item for item in value]
    return value


def _elements(random: np.random.Generator, dtype: str, shape: list[int]) -> np.ndarray:
    """Normal numbers, or small integers from 0 on that may be indices as well."""
    if dtype.startswith("float"):
        return random.normal(size=shape).astype(dtype)
    return random.integers(0, 3, shape).astype(dtype)


@pytest.fixture
def interpret() -> Callable[[Graph, Arrays], Arrays]:
    """Computes a graph's outputs node by node, each an operator run at once: nothing is planned."""

    def run(graph: Graph, feeds: Arrays) -> Arrays:
        values: Arrays = {**graph.constants, **feeds}
        batch = len(next(iter(feeds.values())))
        for node in graph.nodes:
            operands = [values[name] for name in node.inputs]
            if node.op == "identity":
                (values[node.output],) = operands
                continue
            attributes = {key: _concrete(item, batch) for key, item in node.attributes.items()}
            values[node.output] = _core.run_operator(node.op, operands, attributes)
            assert list(values[node.output].shape) == _concrete(graph.shape(node.output), batch)
        return {
            out.name: values[out.value].transpose(out.permutation)
            if out.permutation
            else values[out.value]
            for out in graph.outputs
        }

    return run


@pytest.fixture
def import_network() -> Callable[[Path], Network]:
    """The network of a file in the IR, for every batch size."""

    def run(path: Path) -> Network:
        file = reader.read(path)
        return importer.build(file, importer.batch_shapes(file))

    return run


@pytest.fixture
def assert_agrees() -> Callable[..., NativeEngine]:
    """Compares every tensor of a file on both engines, for several batches; returns the native."""

    def check(path: Path, batches: tuple[int, ...] = (1, 2, 7), seed: int = 0) -> NativeEngine:
        native, other = NativeEngine(path), OnnxRuntimeEngine(path)
        names = reader.read(path).tensors()
        random = np.random.default_rng(seed)
        for batch in batches:
            feeds = {
                info.name: _elements(
                    random,
                    info.dtype,
                    [batch if size is None else size for size in info.shape or ()],
                )
                for info in native.inputs
            }
            for wanted in (None, names):
                got, want = native.run(feeds, wanted), other.run(feeds, wanted)
                assert list(got) == list(want)
                for name in want:
                    assert got[name].shape == want[name].shape, name
                    assert got[name].dtype == want[name].dtype, name
                    finite = want[name][np.isfinite(want[name])]
                    scale = max(1.0, float(np.abs(finite).max(initial=0)))
                    np.testing.assert_allclose(
                        got[name], want[name], rtol=1e-5, atol=1e-5 * scale, err_msg=name
                    )
        return native

    return check
