from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pyconv.bench.machine import Machine
from pyconv.bench.measure import Budget, Spread
from pyconv.bench.report import Cell, Refusal, Report, Subject, Timing


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small convolutional network, `small.onnx`: (n, 1, 8, 8) to (n, 4, 6, 6)."""
    rng = np.random.default_rng(0)
    kernel = numpy_helper.from_array(rng.standard_normal((4, 1, 3, 3)).astype("float32"), "kernel")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "kernel"], ["a"]), helper.make_node("Relu", ["a"], ["y"])],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4, 6, 6])],
        [kernel],
    )
    path = tmp_path_factory.mktemp("bench") / "small.onnx"
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


@pytest.fixture
def report() -> Report:
    """A report with round figures: native takes 1 ms, onnxruntime 3 ms."""

    def cell(batch: int, threads: int) -> Cell:
        def timing(seconds: float) -> Timing:
            rate = batch / seconds
            spread = Spread(seconds * 0.99, seconds, seconds * 1.02)
            return Timing(spread, rate, rate * 1e7 / 1e9, rate * 1e7 / 1e9 / 200 / threads)

        return Cell(
            subject=Subject("small", batch, threads),
            flops_per_image=10_000_000,
            difference=1e-7,
            rounds=50,
            timings={"native": timing(0.001), "onnxruntime": timing(0.003)},
            ratios={"onnxruntime": Spread(2.9, 3.0, 3.1)},
        )

    return Report(
        created="2026-11-24T12:00:00+00:00",
        machine=Machine("A CPU", 2, "Linux x86_64", "avx2", 200.0, {"python": "3.11.0"}),
        budget=Budget(1.0, 20),
        tolerance=1e-4,
        cells=[cell(batch, threads) for threads in (1, 2) for batch in (1, 16)],
        refusals=[Refusal(Subject("odd", 1, 1), "not timed: they differ")],
        notes=["The machine was too noisy."],
    )
