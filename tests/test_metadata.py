"""What a file says about itself: written, read back, and refused where it is broken."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import pyconv
from pyconv.errors import ModelError
from pyconv.metadata import InputContract, Layer, Metadata, OutputContract

_LAYER = {"name": "conv2d", "operator": "Conv2D", "tensor": "relu", "axes": [0, 2, 3, 1]}
_INPUT = {"tensor": "pixels", "height": 6, "width": 8}


def _changed(path: Path, folder: Path, key: str, value: str) -> Path:
    """A copy of a file with other metadata under one key."""
    model = onnx.load(str(path))
    props = {item.key: item.value for item in model.metadata_props}
    onnx.helper.set_model_props(model, {**props, key: value})
    onnx.save(model, folder / "changed.onnx")
    return folder / "changed.onnx"


def test_what_is_written_is_read_back() -> None:
    metadata = Metadata(
        labels=("ä", "b"),
        input=InputContract("x", 6, 8, 3, "NCHW", scale=1, offset=-1.5, picture="mnist"),
        output=OutputContract("y", "logits"),
        layers=(Layer("a b", "Conv2D", "t", (0, 2, 3, 1), (4, None, 6), 40),),
        provenance={"seed": 1},
    )
    assert Metadata.from_props(metadata.to_props(), Path("a.onnx")) == metadata
    assert Metadata.from_props({}, Path("a.onnx")) == Metadata()


def test_fields_of_a_newer_version_are_passed_over() -> None:
    text = json.dumps({**_INPUT, "later": [1]})
    assert Metadata.from_props({"pyconv.input": text}, Path("a")).input == InputContract(
        "pixels", 6, 8
    )


def test_bytes_that_are_no_utf8_name_file_and_key(small_classifier: Path, tmp_path: Path) -> None:
    contents = bytearray(small_classifier.read_bytes())
    contents[contents.index(b'"left"') + 1] = 0xFF
    path = tmp_path / "flipped.onnx"
    path.write_bytes(contents)
    message = rf"{re.escape(str(path))}: the metadata 'pyconv\.labels' is broken: expected UTF-8"
    with pytest.raises(ModelError, match=message):
        pyconv.load(path)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("labels", "[", "expected JSON"),
        ("labels", "[" * 100_000, "expected JSON"),
        ("labels", '["\\ud800"]', "expected JSON"),
        ("labels", "{}", "expected a JSON list, got {}"),
        ("labels", '["a", 1]', "expected a JSON string, got 1"),
        ("provenance", "[]", r"expected a JSON object, got \[\]"),
        ("output", '{"kind": "values"}', "expected 'tensor', got only"),
        ("output", '{"tensor": "t", "kind": "guess"}', "'kind' to be one of 'probabilities'"),
        ("input", {**_INPUT, "height": "6"}, "'height' to be an integer of at least 1, got \"6\""),
        ("input", {**_INPUT, "width": True}, "'width' to be an integer"),
        ("input", {**_INPUT, "scale": float("nan")}, "'scale' to be a number"),
        ("input", {**_INPUT, "scale": 10**400}, "'scale' to be a number"),
        ("input", {**_INPUT, "layout": []}, "'layout' to be one of 'NHWC', 'NCHW', got"),
        ("layers", [7], "expected a JSON object, got 7"),
        ("layers", [{**_LAYER, "shape": [4, "6"]}], "'shape' to be a list of sizes"),
        ("layers", [{**_LAYER, "shape": [4, 6, 4], "axes": [0, 2, 2, 1]}], "a permutation"),
        ("layers", [{**_LAYER, "shape": [4, 6, 4], "axes": [0, None]}], "a permutation"),
        ("layers", [{**_LAYER, "shape": [4, 6]}], "for each size of its shape"),
    ],
)
def test_what_is_broken_names_file_and_key(
    small_classifier: Path, tmp_path: Path, key: str, value: Any, expected: str
) -> None:
    text = value if isinstance(value, str) else json.dumps(value)
    path = _changed(small_classifier, tmp_path, f"pyconv.{key}", text)
    with pytest.raises(ModelError, match=expected) as caught:
        pyconv.load(path)
    assert str(caught.value).startswith(f"{path}: the metadata 'pyconv.{key}' is broken: ")


def test_axes_that_the_tensor_lacks_are_refused(small_classifier: Path, tmp_path: Path) -> None:
    layer = {**_LAYER, "shape": [4, 6], "axes": [0, 2, 1]}
    path = _changed(small_classifier, tmp_path, "pyconv.layers", json.dumps([layer]))
    message = r"'pyconv\.layers' is broken: expected a permutation of 4 axes .* got \[0, 2, 1\]"
    with pytest.raises(ModelError, match=message):
        pyconv.load(path)
    # onnxruntime does not tell the axes of a tensor before it has computed it.
    model = pyconv.load(path, engine="onnxruntime")
    with pytest.raises(ModelError, match=message):
        model.activations(np.zeros((1, 6, 8), np.uint8))
