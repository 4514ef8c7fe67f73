from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from pyconv.bench import Budget, compare
from pyconv.bench.contestants import CONTESTANTS, Contestant, Runner
from pyconv.bench.report import Subject
from pyconv.engines.base import Array
from pyconv.errors import InputError, ModelError

_BRIEF = Budget(seconds=0.001, rounds=3)


def _changing(change: float | Array, calls: list[int]) -> dict[str, Contestant]:
    """onnxruntime, and another that adds something to its outputs."""
    real = CONTESTANTS["onnxruntime"]

    def load(path: Path, threads: int) -> Runner:
        runner = real.load(path, threads)

        def call(inputs: dict[str, Array]) -> dict[str, Array]:
            calls.append(1)
            return {name: out + change for name, out in runner.outputs(runner.call(inputs)).items()}

        return Runner(call, dict)

    return {"changed": Contestant("pyconv", load), "onnxruntime": real}


def test_compare_gives_consistent_figures_for_both_engines(network: Path) -> None:
    report = compare([network], [1, 5], [1], _BRIEF)
    assert not report.refusals
    assert [cell.subject for cell in report.cells] == [Subject("small", n, 1) for n in (1, 5)]
    for cell in report.cells:
        assert cell.flops_per_image >= 2 * 9 * 4 * 6 * 6
        assert cell.difference < 1e-6
        assert cell.rounds >= 3
        assert list(cell.timings) == ["native", "onnxruntime"]
        assert list(cell.ratios) == ["onnxruntime"]
        for timing in cell.timings.values():
            assert timing.seconds.q1 <= timing.seconds.median <= timing.seconds.q3
            rate = cell.subject.batch / timing.seconds.median
            assert timing.images_per_second == pytest.approx(rate)
            assert timing.gflops == pytest.approx(rate * cell.flops_per_image / 1e9)
            assert timing.peak_share == pytest.approx(timing.gflops / report.machine.peak_gflops)


def test_layers_account_for_the_time_of_a_call() -> None:
    report = compare(["fashion"], [64], [1], Budget(seconds=0.1, rounds=10), layers=True)
    (cell,) = report.cells
    assert [step.operator for step in cell.steps] == [
        *("conv2d", "conv2d", "dense", "dense", "softmax")
    ]
    assert sum(step.share for step in cell.steps) == pytest.approx(1.0)
    assert all(step.timing.seconds.median > 0 for step in cell.steps)
    counted = sum(step.timing.gflops * step.timing.seconds.median for step in cell.steps)
    assert counted == pytest.approx(cell.flops_per_image * 64 / 1e9, rel=0.02)
    assert not compare(["fashion"], [1], [1], _BRIEF).cells[0].steps


def test_compare_counts_the_peak_of_every_core_that_a_call_may_use(network: Path) -> None:
    report = compare([network], [4], [2], _BRIEF)
    peak = report.machine.peak_gflops * min(2, report.machine.cores)
    timing = report.cells[0].timings["native"]
    assert timing.peak_share == pytest.approx(timing.gflops / peak)


def test_compare_refuses_to_time_outputs_that_differ(network: Path) -> None:
    calls: list[int] = []
    report = compare([network], [2], [1], _BRIEF, contestants=_changing(0.01, calls))
    assert not report.cells
    assert len(calls) == 1
    (refusal,) = report.refusals
    assert refusal.subject == Subject("small", 2, 1)
    assert "changed and onnxruntime differ by" in refusal.reason
    assert "'y'" in refusal.reason


def test_compare_refuses_outputs_that_are_not_numbers(network: Path) -> None:
    report = compare([network], [2], [1], _BRIEF, contestants=_changing(np.float32("nan"), []))
    assert "differ by inf" in report.refusals[0].reason


def test_compare_accepts_rounding_and_says_how_much(network: Path) -> None:
    report = compare([network], [2], [1], _BRIEF, contestants=_changing(1e-6, []))
    assert not report.refusals
    assert 0 < report.cells[0].difference < 1e-5


def test_compare_goes_on_past_a_model_that_native_lacks_an_operator_for(
    network: Path, tmp_path: Path
) -> None:
    graph = helper.make_graph(
        [helper.make_node("Det", ["x"], ["y"])],
        "determinant",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
    )
    path = tmp_path / "determinant.onnx"
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    report = compare([path, network], [1], [1], _BRIEF)
    assert [cell.subject.model for cell in report.cells] == ["small"]
    assert [refusal.subject.model for refusal in report.refusals] == ["determinant"]
    assert "Det" in report.refusals[0].reason


def test_compare_tells_files_of_one_name_apart(network: Path, tmp_path: Path) -> None:
    twin = tmp_path / "small.onnx"
    shutil.copy(network, twin)
    report = compare([network, twin], [1], [1], _BRIEF)
    assert [cell.subject.model for cell in report.cells] == [str(network), str(twin)]


def test_compare_tells_its_progress(network: Path) -> None:
    told: list[tuple[str, float]] = []
    compare([network], [1, 2], [1], _BRIEF, progress=lambda *news: told.append(news))
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert told[0] == ("small, batch 1, 1 thread", 0.0)
    assert "small, batch 2, 1 thread" in [text for text, _ in told]


@pytest.mark.parametrize(
    ("batches", "threads", "budget", "message"),
    [
        ([0], [1], _BRIEF, "batch: expected at least 1, got 0"),
        ([1], [0], _BRIEF, "threads: expected at least 1, got 0"),
        ([1], [1], Budget(0.0, 3), "seconds: expected more than 0"),
        ([1], [1], Budget(float("nan"), 3), "seconds: expected more than 0"),
        ([1], [1], Budget(float("inf"), 3), "seconds: expected more than 0"),
        ([1], [1], Budget(1.0, 0), "rounds: expected at least 1"),
    ],
)
def test_compare_refuses_numbers_that_make_no_sense(
    network: Path, batches: list[int], threads: list[int], budget: Budget, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        compare([network], batches, threads, budget)


def test_compare_refuses_a_model_that_does_not_exist() -> None:
    with pytest.raises(ModelError, match="there is no model 'nowhere'"):
        compare(["nowhere"], [1], [1], _BRIEF)
