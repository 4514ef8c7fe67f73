"""Other runtimes in the benchmark: each computes what native does, or says why it is left out."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from pyconv import bundled
from pyconv.bench.peers import PEERS, installed
from pyconv.bench.peers.translation import Translation
from pyconv.cli import main
from pyconv.errors import MissingExtraError, UnsupportedOperatorError
from pyconv.model import load

_INSTALLED = {
    name
    for name, module in {
        "openvino": "openvino",
        "torch": "torch",
        "xla": "tensorflow",
        "litert": "ai_edge_litert",
    }.items()
    if importlib.util.find_spec(module)
}


@pytest.mark.train
@pytest.mark.parametrize("peer", PEERS)
def test_peer_takes_part(peer: str, tmp_path: Path) -> None:
    if peer not in _INSTALLED:
        pytest.skip(f"{peer} is not installed")
    # In a process of its own: these libraries set up threads once and for all.
    target = tmp_path / "bench.json"
    command = ["bench", "fashion", "--peers", peer, "--batch", "3", "--threads", "1"]
    brief = ["--seconds", "0.01", "--rounds", "2", "--json", str(target)]
    subprocess.run([sys.executable, "-m", "pyconv", *command, *brief], check=True)
    (cell,) = json.loads(target.read_text(encoding="utf-8"))["cells"]
    # Outputs are compared before anything is timed, so to be here is to be right.
    assert list(cell["timings"]) == ["native", "onnxruntime", peer]


def test_translation_computes_the_network() -> None:
    def conv2d(attributes: dict, x: np.ndarray) -> np.ndarray:
        windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))
        y = np.einsum("nijcuv,uvcf->nijf", windows, attributes["kernel"]) + attributes["bias"]
        n, height, width, filters = y.shape
        y = y[:, : height // 2 * 2, : width // 2 * 2]
        pooled = y.reshape(n, height // 2, 2, width // 2, 2, filters).max(axis=(2, 4))
        return np.maximum(pooled, 0)

    def dense(attributes: dict, x: np.ndarray) -> np.ndarray:
        y = x @ attributes["weights"] + attributes["bias"]
        return np.maximum(y, 0) if attributes.get("activation") == "relu" else y

    def softmax(_: dict, x: np.ndarray) -> np.ndarray:
        powers = np.exp(x - x.max(axis=-1, keepdims=True))
        return powers / powers.sum(axis=-1, keepdims=True)

    path = bundled.resolve("fashion")
    functions = {"conv2d": conv2d, "dense": dense, "softmax": softmax}
    functions["reshape"] = lambda attributes, x: x.reshape(attributes["shape"])
    network = Translation(path, "NumPy", functions)
    network.constants(np.asarray)
    images = np.random.default_rng(0).random((2, 28, 28, 1), np.float32)
    expected = load(path, engine="onnxruntime").run({network.input: images})[network.output]
    np.testing.assert_allclose(network(images), expected, atol=1e-5)


def test_what_is_not_translated_is_named(network: Path) -> None:
    with pytest.raises(UnsupportedOperatorError, match="does not translate conv2d, reshape for"):
        Translation(network, "NumPy", {})


def test_two_inputs_are_not_translated(tmp_path: Path) -> None:
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 3]) for n in "aby"]
    graph = helper.make_graph(
        [helper.make_node("Add", ["a", "b"], ["y"])], "g", infos[:2], infos[2:]
    )
    path = tmp_path / "two.onnx"
    opsets = [helper.make_opsetid("", 18)]
    path.write_bytes(
        helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    )
    with pytest.raises(UnsupportedOperatorError, match="one input and one output"):
        Translation(path, "NumPy", {})


def test_missing_peer_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        MissingExtraError, match=r"comparing with torch needs torch.*pyconv\[peers\]"
    ):
        installed(["torch"])


def test_unknown_peer_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["bench", "--peers", "caffe"])
    assert stop.value.code == 2
    assert "openvino" in capsys.readouterr().err
