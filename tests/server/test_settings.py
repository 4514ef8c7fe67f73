from __future__ import annotations

from pathlib import Path

import pytest

from pyconv.errors import InputError
from pyconv.server.settings import ModelSettings, ModelSpec, Settings

_MODELS = [ModelSpec("a", "a.onnx")]


@pytest.mark.parametrize(
    ("text", "name", "source"),
    [
        ("runs/7/shoes.onnx", "shoes", "runs/7/shoes.onnx"),
        ("shoes=runs/7/model.onnx", "shoes", "runs/7/model.onnx"),
        ("shoes=fashion", "shoes", "fashion"),
        ("a=b=c.onnx", "a", "b=c.onnx"),
    ],
)
def test_spec_of_a_text(text: str, name: str, source: str) -> None:
    assert ModelSpec.parse(text) == ModelSpec(name, source)


def test_spec_of_a_file_whose_name_holds_the_sign(tmp_path: Path) -> None:
    path = tmp_path / "rate=0.1.onnx"
    path.touch()
    assert ModelSpec.parse(str(path)) == ModelSpec("rate=0.1", str(path))


def test_spec_with_settings_of_its_own() -> None:
    text = "shoes=a.onnx;engine=both;max_batch=16;max_wait_ms=2.5"
    spec = ModelSpec.parse(text)
    engines = ("native", "onnxruntime")
    assert spec == ModelSpec("shoes", "a.onnx", own=ModelSettings(engines, 16, 2.5))
    assert spec.text == text
    assert ModelSpec.parse("fashion;engine=onnxruntime").text == "fashion;engine=onnxruntime"
    assert ModelSpec.parse("runs/shoes.onnx").text == "runs/shoes.onnx"
    assert ModelSpec.parse("root=/").text == "root=/"


@pytest.mark.parametrize("setting", ["engine=fast", "max_batch=0", "max_batch=x", "max_wait_ms=-1"])
def test_spec_with_a_senseless_setting_is_refused(setting: str) -> None:
    with pytest.raises(InputError, match=r"model 'shoes': .*expected"):
        ModelSpec.parse(f"shoes=a.onnx;{setting}")


@pytest.mark.parametrize("text", ["=model.onnx", "shoes="])
def test_spec_without_a_part_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="expected NAME=PATH"):
        ModelSpec.parse(text)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"models": []}, "models: expected at least one"),
        ({"models": [*_MODELS, ModelSpec("a", "b.onnx")]}, "the name 'a' is given twice"),
        ({"engines": []}, "engines: expected"),
        ({"engines": ["native", "native"]}, "engines: expected"),
        ({"port": 65536}, "port: expected 0 to 65535, got 65536"),
        ({"port": -1}, "port: expected"),
        ({"threads": 0}, "threads: expected at least 1, got 0"),
        ({"concurrency": 0}, "concurrency: expected at least 1"),
        ({"max_batch": 0}, "max_batch: expected at least 1"),
        ({"max_wait_ms": -1}, "max_wait_ms: expected 0 or more"),
        ({"max_queue": 0}, "max_queue: expected at least 1"),
        ({"max_images": 0}, "max_images: expected at least 1"),
        ({"max_pixels": 0}, "max_pixels: expected at least 1"),
        ({"max_outputs": 0}, "max_outputs: expected at least 1"),
        ({"max_streams": 0}, "max_streams: expected at least 1"),
        ({"max_heat_maps": 0}, "max_heat_maps: expected at least 1"),
        ({"max_message_bytes": 0}, "max_message_bytes: expected at least 1"),
        ({"max_message_bytes": 1 << 31}, "less than 2 GiB"),
        ({"grace_seconds": -1}, "grace_seconds: expected 0 or more"),
        ({"grace_seconds": float("nan")}, "grace_seconds: expected 0 or more"),
        ({"grace_seconds": float("inf")}, "grace_seconds: expected 0 or more"),
        ({"replica_cpus": 0}, "replica_cpus: expected more than 0"),
        ({"min_replicas": 3, "max_replicas": 2}, r"max_replicas: expected at least min_replicas"),
        ({"ray": True}, "host: Ray's proxies listen on every address"),
        ({"host": "[::1]"}, "host: expected an address without brackets, got"),
        ({"ray": True, "host": "0.0.0.0", "workers": 2}, "workers: not with ray"),
        ({"ray": True, "host": "0.0.0.0", "http_port": 80}, "http_port: not with ray"),
    ],
)
def test_senseless_settings_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Settings(**{"models": _MODELS, **values})  # type: ignore[arg-type]
