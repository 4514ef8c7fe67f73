"""NVIDIA's client, unchanged and in a process of its own, against a real server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import pyconv
from pyconv.server.background import BackgroundServer
from pyconv.server.settings import ModelSettings, ModelSpec, Settings

_HERE = Path(__file__).parent

_TYPES = {
    "BOOL": np.array([True, False, True]),
    "INT8": np.array([-128, 0, 127], "i1"),
    "INT16": np.array([-(1 << 15), 0, (1 << 15) - 1], "i2"),
    "INT32": np.array([-(1 << 31), 0, (1 << 31) - 1], "i4"),
    "INT64": np.array([-(1 << 63), 0, (1 << 63) - 1], "i8"),
    "UINT8": np.array([0, 1, 255], "u1"),
    "UINT16": np.array([0, 1, (1 << 16) - 1], "u2"),
    "UINT32": np.array([0, 1, (1 << 32) - 1], "u4"),
    "UINT64": np.array([0, 1, (1 << 64) - 1], "u8"),
    "FP16": np.array([0.5, -65504, 6e-8], "f2"),
    "FP32": np.array([0.5, -3e38, 1e-45], "f4"),
    "FP64": np.array([0.1, -1e308, 5e-324]),
    "BYTES": np.array(["", "boot", "鞋"]),
}


@pytest.fixture(scope="session")
def triton_python() -> str:
    """The Python of an environment with the client, made once below build/."""
    requirements = _HERE / "requirements-tritonclient.txt"
    folder = _HERE.parents[1] / "build" / "tritonclient"
    python = folder / "bin" / "python"
    stamp = folder / "installed"
    if not stamp.exists() or stamp.read_text() != requirements.read_text():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run([*pip, "-r", requirements], capture_output=True, text=True)
        if done.returncode:
            reason = f"tritonclient cannot be installed: {done.stderr.strip()[-300:]}"
            if os.environ.get("PYCONV_REQUIRE_CLIENTS"):
                pytest.fail(reason)
            pytest.skip(reason)
        stamp.write_text(requirements.read_text())
    return str(python)


@pytest.fixture(scope="module")
def server(
    settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """The usual models, and for every datatype one that gives back what it is given."""
    folder = tmp_path_factory.mktemp("types")
    models = list(settings.models)
    for name, values in _TYPES.items():
        kind = helper.np_dtype_to_tensor_dtype(
            values.dtype if name != "BYTES" else np.dtype(object)
        )
        graph = helper.make_graph(
            [helper.make_node("Identity", ["x"], ["y"])],
            name,
            [helper.make_tensor_value_info("x", kind, ["n"])],
            [helper.make_tensor_value_info("y", kind, ["n"])],
        )
        opsets = [helper.make_opsetid("", 18)]
        path = folder / f"same-{name}.onnx"
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
        models.append(ModelSpec(path.stem, str(path), own=ModelSettings(["onnxruntime"])))
    running = BackgroundServer(replace(settings, models=models, http_port=0))
    with running as address:
        yield {"grpc": address, "http": running.http_address}


@pytest.fixture(scope="module", params=["grpc", "http"])
def answers(
    request: pytest.FixtureRequest,
    server: dict[str, str],
    triton_python: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    """What the client was told, all of it at once: starting it is what takes the time."""
    file = tmp_path_factory.mktemp("client") / "arrays.npz"
    np.savez(file, images=_images(), datatypes=json.dumps(list(_TYPES)), **_TYPES)
    command = [
        triton_python,
        str(_HERE / "tritonclient_program.py"),
        request.param,
        server[request.param],
    ]
    done = subprocess.run([*command, str(file)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return {"protocol": request.param, **json.loads(done.stdout)}


def _images() -> Any:
    return np.random.default_rng(3).random((5, 6, 8, 1), np.float32)


def test_health(answers: dict[str, Any]) -> None:
    assert [answers[key] for key in ("live", "ready", "model_ready", "version_ready")] == [True] * 4
    assert answers["nobody_ready"] is False


def test_metadata(answers: dict[str, Any]) -> None:
    assert answers["server"]["name"] == "pyconv"
    assert "statistics" in answers["server"]["extensions"]
    assert answers["model"] == {
        "name": "small",
        "versions": ["1"],
        "platform": "onnx_pyconv",
        "inputs": [{"name": "pixels", "datatype": "FP32", "shape": _sizes(answers, -1, 6, 8, 1)}],
        "outputs": [{"name": "scores", "datatype": "FP32", "shape": _sizes(answers, -1, 3)}],
    }
    assert answers["layers"]["outputs"] == [
        {"name": "scores", "datatype": "FP32", "shape": _sizes(answers, -1, 3)},
        {"name": "conv2d", "datatype": "FP32", "shape": _sizes(answers, -1, 4, 6, 4)},
        {"name": "flatten", "datatype": "FP32", "shape": _sizes(answers, -1, 96)},
        {"name": "dense", "datatype": "FP32", "shape": _sizes(answers, -1, 3)},
    ]


def _sizes(answers: dict[str, Any], *sizes: int) -> list[Any]:
    """protobuf's JSON has int64 as text."""
    return [str(size) for size in sizes] if answers["protocol"] == "grpc" else list(sizes)


def test_config(answers: dict[str, Any]) -> None:
    config = answers["config"]
    config = config.get("config", config)
    assert (config["name"], config["max_batch_size"]) == ("small", 64)
    assert config["input"][0]["data_type"] == "TYPE_FP32"
    assert [int(size) for size in config["input"][0]["dims"]] == [6, 8, 1]
    assert [int(size) for size in config["output"][0]["dims"]] == [3]
    assert "dynamic_batching" in config


def test_index(answers: dict[str, Any]) -> None:
    index = answers["index"]
    models = index if isinstance(index, list) else index["models"]
    assert {"name": "small", "version": "1", "state": "READY"} in [
        {key: item[key] for key in ("name", "version", "state")} for item in models
    ]
    assert len(models) == 3 + len(_TYPES)


def test_outputs_layers_and_tensors(answers: dict[str, Any], settings: Settings) -> None:
    model = pyconv.load(settings.models[0].source)
    scores = model.predict(_images())
    np.testing.assert_allclose(answers["scores"], scores, rtol=1e-6)
    np.testing.assert_allclose(answers["onnxruntime"], scores, rtol=1e-5)
    relu = model.run(model.preprocess(_images()), ["relu"])["relu"]
    np.testing.assert_allclose(answers["tensor"], relu, rtol=1e-6)
    np.testing.assert_allclose(answers["layer"], relu.transpose(0, 2, 3, 1), rtol=1e-6)
    response = answers["response"]
    assert (response["id"], response["model_name"]) == ("seven", "small")
    best = [[f"{item.index}:{item.label}" for item in row] for row in model.classify(_images(), 2)]
    assert [[item.partition(":")[2] for item in row] for row in answers["classes"]] == best


def test_every_datatype_comes_back_as_it_went(answers: dict[str, Any]) -> None:
    for datatype, values in _TYPES.items():
        assert answers["types"][datatype] == values.tolist(), datatype


def test_refusals(answers: dict[str, Any]) -> None:
    codes = {
        "model": ("StatusCode.NOT_FOUND", "404"),
        "version": ("StatusCode.NOT_FOUND", "404"),
        "output": ("StatusCode.NOT_FOUND", "404"),
        "shape": ("StatusCode.INVALID_ARGUMENT", "400"),
        "datatype": ("StatusCode.INVALID_ARGUMENT", "400"),
        "unload": ("StatusCode.NOT_FOUND", "404"),
    }
    place = 0 if answers["protocol"] == "grpc" else 1
    assert {key: status for key, (status, _) in answers["refused"].items()} == {
        key: both[place] for key, both in codes.items()
    }
    said = {key: message for key, (_, message) in answers["refused"].items()}
    assert "there is no model 'smal'; did you mean 'small'" in said["model"]
    assert "there is no version of model 'small' '9'" in said["version"]
    assert "did you mean 'conv2d'" in said["output"]
    assert "expected float32 of shape (n, 6, 8, 1), got float32 of shape (5, 5, 8" in said["shape"]
    assert "got float64" in said["datatype"]


def test_stream_answers_in_order_and_survives_a_failure(
    answers: dict[str, Any], settings: Settings
) -> None:
    if answers["protocol"] != "grpc":
        pytest.skip("HTTP has no streams")
    expected = [str(number) for number in range(20)]
    assert answers["stream"][:7] + answers["stream"][8:] == expected[:7] + expected[8:]
    assert "there is no model 'smal'" in answers["stream"][7]
    scores = pyconv.load(settings.models[0].source).predict(_images()[:1])
    np.testing.assert_allclose(answers["streamed"], scores, rtol=1e-6)


def test_unload_and_load(answers: dict[str, Any]) -> None:
    assert (answers["unloaded"], answers["loaded"]) == (False, True)


def test_statistics(answers: dict[str, Any]) -> None:
    (stats,) = answers["statistics"]["model_stats"]
    assert (stats["name"], stats["version"]) == ("small", "1")
    succeeded = int(stats["inference_stats"]["success"]["count"])
    assert succeeded >= 4
    assert int(stats["inference_count"]) >= 5 * 4
    assert int(stats["execution_count"]) <= succeeded
    assert int(stats["last_inference"]) > 1_700_000_000_000
