from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pyconv.bench import workloads
from pyconv.bench.memory import call_bytes
from pyconv.errors import PyconvError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a process's peak is asked for")


def test_memory_of_a_call_holds_at_least_its_result(tmp_path: Path) -> None:
    # (8, 64, 112, 112) float32 out of (8, 32, 112, 112): 25.7 MB that no allocator has at hand.
    path = {p.stem: p for p in workloads.write("conv1x1", tmp_path)}["conv1x1-32-64-112"]
    result = 8 * 64 * 112 * 112 * 4
    for engine in ("native", "onnxruntime"):
        assert result <= call_bytes(engine, path, 8, 1) < 4 * result, engine


def test_memory_says_why_a_file_cannot_be_run(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"not ONNX")
    with pytest.raises(PyconvError, match=r"native cannot be asked for its memory.*broken\.onnx"):
        call_bytes("native", path, 1, 1)
