"""OpenVINO, which reads ONNX files itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyconv.bench.contestants import Runner
from pyconv.engines.base import Array


def load(path: Path, threads: int) -> Runner:
    """Compile a file for the CPU, in float32, for the least time a call."""
    import openvino

    core = openvino.Core()
    model = core.compile_model(
        core.read_model(path),
        "CPU",
        {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        },
    )
    names = [port.get_any_name() for port in model.inputs]
    request = model.create_infer_request()

    def call(inputs: dict[str, Array]) -> Any:
        return request.infer([inputs[name] for name in names], share_inputs=True)

    def outputs(result: Any) -> dict[str, Array]:
        return {port.get_any_name(): result[port] for port in model.outputs}

    return Runner(call, outputs)
