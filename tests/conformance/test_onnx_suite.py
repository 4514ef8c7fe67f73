"""ONNX's own backend tests on the native engine, by the names listed beside this file."""

from __future__ import annotations

import unittest
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.backend.test import BackendTest

from pyconv import onnx_backend
from pyconv.errors import InputError, ModelError
from pyconv.graph import constants

SUITES = {
    "node-tests": "OnnxBackendNodeModelTest",
    "node-tests-extra": "OnnxBackendNodeModelTest",
    "pytorch-converted-tests": "OnnxBackendPyTorchConvertedModelTest",
    "pytorch-operator-tests": "OnnxBackendPyTorchOperatorModelTest",
}
"""By the list of names, the class of onnx's suite that has them."""

FOLDS = {"test_constant"}
"""The node tests without any input: what is known at load is no work for a kernel."""


def _names(suite: str) -> list[str]:
    return (Path(__file__).parent / f"{suite}.txt").read_text("utf-8").split()


@pytest.fixture(scope="module")
def cases() -> dict[str, type[unittest.TestCase]]:
    """The suite's own test cases; making them computes every expected output."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: dict[str, type[unittest.TestCase]] = BackendTest(
            onnx_backend.PyconvBackend, __name__
        ).test_cases
    return found


@pytest.fixture
def without_evaluator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be computed by ONNX's reference evaluator instead of the engine."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("computed by the reference evaluator")

    monkeypatch.setattr(constants, "ReferenceEvaluator", refuse)


def _run(
    cases: dict[str, type[unittest.TestCase]],
    suite: str,
    name: str,
    record_property: Callable[[str, object], None],
) -> None:
    record_property("suite", suite)
    case = cases[SUITES[suite]]
    assert hasattr(case, f"{name}_cpu"), f"onnx {onnx.__version__} has no test of that name"
    case(f"{name}_cpu").debug()


@pytest.mark.parametrize("name", [name for name in _names("node-tests") if name not in FOLDS])
@pytest.mark.usefixtures("without_evaluator")
def test_node(
    name: str,
    cases: dict[str, type[unittest.TestCase]],
    record_property: Callable[[str, object], None],
) -> None:
    _run(cases, "node-tests", name, record_property)


@pytest.mark.parametrize("name", sorted(FOLDS))
def test_node_without_inputs(
    name: str,
    cases: dict[str, type[unittest.TestCase]],
    record_property: Callable[[str, object], None],
) -> None:
    assert name in _names("node-tests")
    _run(cases, "node-tests", name, record_property)


@pytest.mark.parametrize("name", _names("node-tests-extra"))
@pytest.mark.usefixtures("without_evaluator")
def test_extra_node(
    name: str,
    cases: dict[str, type[unittest.TestCase]],
    record_property: Callable[[str, object], None],
) -> None:
    _run(cases, "node-tests-extra", name, record_property)


@pytest.mark.parametrize(
    ("suite", "name"),
    [
        (suite, name)
        for suite in ("pytorch-converted-tests", "pytorch-operator-tests")
        for name in _names(suite)
    ],
)
def test_pytorch(
    suite: str,
    name: str,
    cases: dict[str, type[unittest.TestCase]],
    record_property: Callable[[str, object], None],
) -> None:
    _run(cases, suite, name, record_property)


def _relu() -> onnx.ModelProto:
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    info = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 2]) for name in "xy"
    ]
    graph = onnx.helper.make_graph([node], "relu", info[:1], info[1:])
    opsets = [onnx.helper.make_opsetid("", 18)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)


def test_a_wrong_result_fails(cases: dict[str, type[unittest.TestCase]]) -> None:
    """The suite compares: another operator than the test's is caught."""
    run = onnx_backend.PyconvRep.run
    with pytest.MonkeyPatch.context() as patch:

        def off(self: onnx_backend.PyconvRep, inputs: object) -> tuple[np.ndarray, ...]:
            return tuple(array + 1 for array in run(self, inputs))

        patch.setattr(onnx_backend.PyconvRep, "run", off)
        with pytest.raises(AssertionError):
            cases["OnnxBackendNodeModelTest"]("test_relu_cpu").debug()


@pytest.mark.parametrize("form", [lambda x: x, lambda x: [x], lambda x: {"x": x}])
def test_forms_of_inputs(form: Callable[[np.ndarray], object]) -> None:
    x = np.array([[-1, 2], [3, -4]], np.float32)
    outputs = onnx_backend.prepare(_relu()).run(form(x))
    assert outputs["y"] is outputs[0]
    np.testing.assert_array_equal(outputs.y, [[0, 2], [3, 0]])
    np.testing.assert_array_equal(onnx_backend.run_model(_relu(), [x])[0], [[0, 2], [3, 0]])


def test_run_node() -> None:
    node = onnx.helper.make_node("Add", ["a", "b"], ["y"])
    a, b = np.arange(3), np.array([10])
    np.testing.assert_array_equal(onnx_backend.run_node(node, [a, b])[0], [10, 11, 12])


def test_what_is_no_backend_of_ours() -> None:
    assert onnx_backend.supports_device("CPU:0")
    assert not onnx_backend.supports_device("CUDA")
    with pytest.raises(InputError, match="device: expected 'CPU', got 'CUDA'"):
        onnx_backend.prepare(_relu(), "CUDA")
    with pytest.raises(InputError, match="no setting"):
        onnx_backend.prepare(_relu(), fast=True)
    with pytest.raises(InputError, match="no settings"):
        onnx_backend.prepare(_relu()).run([], fast=True)
    with pytest.raises(InputError, match=r"expected arrays for the inputs \['x'\], got 2"):
        onnx_backend.prepare(_relu()).run([1, 2])
    with pytest.raises(ModelError):
        onnx_backend.prepare(onnx.ModelProto())
    assert onnx_backend.is_compatible(_relu())
    broken = _relu()
    broken.graph.node[0].op_type = "Cos"
    assert not onnx_backend.is_compatible(broken)
