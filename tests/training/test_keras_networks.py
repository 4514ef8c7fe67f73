"""One of Keras' own networks on small pictures; `tools/keras_networks.py` runs them all."""

from __future__ import annotations

import importlib.util
import re
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyconv.errors import PyconvError

pytestmark = [
    pytest.mark.train,
    pytest.mark.skipif(
        importlib.util.find_spec("tensorflow") is None, reason="TensorFlow is not installed"
    ),
]

TOOL = Path(__file__).parents[2] / "tools" / "keras_networks.py"


@pytest.fixture(scope="module")
def tool() -> dict[str, Any]:
    return runpy.run_path(str(TOOL))


@pytest.fixture(scope="module", params=["MobileNetV2"])
def network(request: pytest.FixtureRequest, tool: dict[str, Any], tmp_path_factory: Any) -> Any:
    return tool["examine"](request.param, 32, tmp_path_factory.mktemp("networks"))


def test_network_agrees_everywhere(network: Any) -> None:
    engines = network.engines
    assert engines.tensors == network.nodes > 30
    assert network.from_keras.relative <= 1e-4
    assert engines.worst.relative <= 1e-4
    assert engines.logits.relative <= engines.worst.relative * 10
    # Calibrated: neither vanished nor saturated.
    assert 1e-2 < engines.worst.scale < 1e2
    assert 0.5 < engines.logits.scale < 50


def test_network_has_a_line_in_the_table(network: Any, tool: dict[str, Any]) -> None:
    folder = network.path.parent
    tool["_learn"](network.name, folder, tool["agreement_columns"](network))
    tool["_time"](network.name, [1, 2], 0.01, folder)
    header, _, line, unknown = tool["table"]([network.name, "VGG16"], folder).splitlines()
    header, line = header.strip("| "), line.strip("| ")
    cells = dict(zip(header.split(" | "), line.split(" | "), strict=True))
    assert line.startswith(f"{network.name} | 32² | {network.nodes} |")
    for threads in ("1 thread, ms", "2 threads, ms"):
        figures = re.findall(r"[\d.]+", cells[threads])  # native, onnxruntime, ratio
        assert [float(figure) > 0 for figure in figures] == [True] * 3
        memory = re.findall(r"[\d.]+", cells[threads.replace("ms", "MB")])
        assert [float(figure) > 0 for figure in memory] == [True] * 2
    assert unknown == "| VGG16 |" + " - |" * 9


def test_network_that_is_off_is_refused(
    network: Any, tool: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    native = tool["NativeEngine"]
    run = native.run

    def off_by_little(engine: Any, inputs: Any, outputs: Any = None) -> Any:
        results = run(engine, inputs, outputs)
        name = list(results)[len(results) // 2]
        results[name] = results[name] + 1e-3 * np.abs(results[name]).max()
        return results

    monkeypatch.setattr(native, "run", off_by_little)
    agreed = tool["agreement"](network.path)
    assert agreed.worst.relative == pytest.approx(1e-3, rel=0.1)
    with pytest.raises(PyconvError, match=r"differ at .* by 1\.0e-03"):
        tool["require"](agreed)
