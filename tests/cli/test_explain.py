from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from onnx import helper

from pyconv.cli import main
from pyconv.graph.explanation import explain
from pyconv.graph.passes import PASSES


def test_explain_tells_passes_and_program(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "digits"]) == 0
    text = capsys.readouterr().out
    assert "cancel_transposes: Merge transposes of transposes" in text
    assert "  16 → 15 nodes: transpose 5 → 4" in text
    assert "activation=relu" in text
    assert "program  4 steps, 889,522 FLOPs an image" in text
    assert "fused relu, fused max_pool2d" in text
    assert "Batch(" not in text


def test_explain_briefly_leaves_nodes_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "digits", "--brief"]) == 0
    brief = capsys.readouterr().out
    assert "cancel_transposes: " in brief
    assert "  - " not in brief
    assert "  + " not in brief


def test_explain_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "digits", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [rewrite["name"] for rewrite in report["rewrites"]] == [p.__name__ for p in PASSES]
    # Each pass begins where the one before it ended, and the last ends in the program.
    for first, second in zip(report["rewrites"], report["rewrites"][1:], strict=False):
        assert first["after"] == second["before"]
    left = report["rewrites"][-1]["after"]
    operators = [step["operator"] for step in report["steps"]]
    assert {name: operators.count(name) for name in left if name != "reshape"} == {
        name: count for name, count in left.items() if name != "reshape"
    }
    assert sum(step["flops"] for step in report["steps"]) == 889_522
    assert report["steps"][-1]["arena_offset_bytes"] is None
    assert all(step["arena_offset_bytes"] % 64 == 0 for step in report["steps"][:-1])
    assert report["memory"]["arena_bytes"] > 0


def test_explain_for_other_tensors(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "digits", "--outputs", "conv2d", "--brief"]) == 0
    text = capsys.readouterr().out
    assert "digits.onnx, for conv2d" in text
    assert "program  1 step," in text
    assert main(["explain", "digits", "--outputs", "conv3d"]) == 1
    assert "did you mean 'conv2d" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["digits", "fashion"])
def test_bundled_networks_run_channels_last_from_end_to_end(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", name, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["imported"]["transpose"] > 0
    assert not [step for step in report["steps"] if step["operator"] in ("transpose", "reshape")]


def test_explain_of_a_network_that_waits_for_shapes(
    write_onnx: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_onnx([helper.make_node("Relu", ["x"], ["y"])], {"x": ["n", 3, "height", 5]})
    assert main(["explain", str(path)]) == 1
    assert "axis 2 of the input 'x' may have any size" in capsys.readouterr().err


def test_explain_counts_what_is_known_beforehand(write_onnx: Callable[..., Path]) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Reshape", ["x", "s"], ["r"]),
        helper.make_node("Softmax", ["r"], ["y"]),
    ]
    explanation = explain(write_onnx(nodes, {"x": ["n", 3]}))
    assert (explanation.onnx_nodes, explanation.known_nodes) == (3, 1)
    assert [step.operator for step in explanation.steps] == ["softmax"]


def test_explain_and_summary_of_a_network_that_waits_for_its_weights(
    write_onnx: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = {"x": [1, 2, 6, 6], "w": [4, 2, 3, 3]}
    path = write_onnx([helper.make_node("Conv", ["x", "w"], ["y"])], inputs)
    assert main(["explain", str(path)]) == 1
    assert "it needs the elements of w" in capsys.readouterr().err
    assert main(["summary", str(path)]) == 0
