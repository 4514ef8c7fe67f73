"""The networks that are made for measuring: every one runs, alike on both engines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import pyconv
from pyconv.bench import workloads
from pyconv.cli import bench


def test_workloads_are_those_that_the_command_takes() -> None:
    assert tuple(workloads.WORKLOADS) == bench.WORKLOADS


def test_lesson_networks_have_the_lesson_s_parameters(tmp_path: Path) -> None:
    parameters = {}
    for path in workloads.write("lesson", tmp_path):
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        counts = [np.prod(one.dims) for one in model.graph.initializer if one.data_type == 1]
        parameters[path.stem.removeprefix("lesson-")] = sum(counts)
    # By hand: a convolution has 9 · in · out + out, a dense layer in · out + out.
    assert parameters["dense"] == 784 * 128 + 128 + 1290
    assert parameters["16"] == 160 + 13 * 13 * 16 * 128 + 128 + 1290
    assert parameters["64-64"] == 640 + 36_928 + 25 * 64 * 128 + 128 + 1290
    assert parameters["32-32-32"] == 320 + 2 * 9_248 + 32 * 128 + 128 + 1290


@pytest.mark.parametrize("workload", workloads.WORKLOADS)
def test_workloads_run_alike_on_both_engines(workload: str, tmp_path: Path) -> None:
    for path in workloads.write(workload, tmp_path):
        native = pyconv.load(path)
        other = pyconv.load(path, engine="onnxruntime")
        (tensor,) = native.inputs
        assert tensor.shape is not None
        shape = [2 if size is None else size for size in tensor.shape]
        x = np.random.default_rng(0).random(shape, dtype=np.float32)
        ((name, got),) = native.run({tensor.name: x}).items()
        expected = other.run({tensor.name: x})[name]
        assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max(), path.stem
