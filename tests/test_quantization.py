"""Quantizing a file: what is in it, that both engines compute it, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import helper
from onnxruntime.quantization import CalibrationDataReader, quantize_static

import pyconv
from pyconv.data import Dataset
from pyconv.engines.base import EngineName
from pyconv.errors import ExportError, InputError, ModelError
from pyconv.quantization import LabelledImages, quantize

Write = Callable[..., Path]
ENGINES: tuple[EngineName, ...] = ("native", "onnxruntime")


def _images(count: int, *shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


@pytest.fixture(scope="session")
def quantized_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "digits-int8.onnx"
    quantize("digits", path, _images(200, 28, 28), source="noise")
    return path


def test_quantized_file_says_what_the_float32_file_said(quantized_digits: Path) -> None:
    before, after = pyconv.load("digits").metadata, pyconv.load(quantized_digits).metadata
    assert after.labels == before.labels
    assert after.input == before.input
    assert after.output == before.output
    assert after.layers == before.layers
    made = after.provenance["quantized"]
    assert (made["source"], made["images"]) == ("noise", 200)
    # The accuracy was that of another network.
    assert "accuracy" not in after.provenance
    assert made["float32_accuracy"] == before.provenance["accuracy"]


def test_quantized_file_is_standard_onnx_with_a_step_for_each_channel(
    quantized_digits: Path,
) -> None:
    model = onnx.load(str(quantized_digits))
    onnx.checker.check_model(model, full_check=True)
    assert {item.domain for item in model.opset_import} <= {"", "ai.onnx"}
    held = {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}
    weights = [item for item in held.values() if item.dtype == np.int8 and item.ndim > 1]
    assert sorted(item.shape for item in weights) == [(16, 1, 3, 3), (128, 10), (2704, 128)]
    # Of 7 bits: what a processor without VNNI adds in 16 bits does not saturate.
    assert all(abs(item.astype(int)).max() <= 64 for item in weights)
    scales = [item for name, item in held.items() if name.endswith("kernel_scale")]
    assert sorted(item.shape for item in scales) == [(10,), (16,), (128,)]


def test_quantized_file_is_small(quantized_digits: Path) -> None:
    before = pyconv.load("digits").path.stat().st_size
    assert quantized_digits.stat().st_size < 0.3 * before


@pytest.mark.parametrize("engine", ENGINES)
def test_layers_of_a_quantized_file_are_near_those_of_float32(
    engine: EngineName, quantized_digits: Path
) -> None:
    images = _images(20, 28, 28, seed=1)
    wanted = pyconv.load("digits").activations(images)
    got = pyconv.load(quantized_digits, engine=engine).activations(images)
    assert list(got) == list(wanted)
    for name, array in wanted.items():
        assert got[name].shape == array.shape
        assert np.abs(got[name] - array).max() < 0.1 * np.abs(array).max()


def test_native_multiplies_integers_and_rounds_nothing_else_than_it_must(
    quantized_digits: Path,
) -> None:
    steps = pyconv.load(quantized_digits).steps()
    assert [step.operator for step in steps] == [
        "activation",
        "conv2d",
        "dense",
        "dense",
        "softmax",
    ]
    assert steps[0].algorithm == "elementwise quantize"
    assert "fused max_pool2d" in steps[1].algorithm
    assert all("integer product" in step.algorithm for step in steps[2:4])


def _literally(path: Path, feeds: dict[str, Any], names: list[str]) -> list[NDArray[Any]]:
    """Every operator of the file by itself, as onnxruntime computes it without optimisations."""
    model = onnx.load(str(path))
    for name in names:
        if name not in [item.name for item in model.graph.output]:
            model.graph.output.append(onnx.ValueInfoProto(name=name))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options)
    arrays: list[NDArray[Any]] = session.run(names, feeds)
    return arrays


@pytest.mark.parametrize("batch", [1, 2, 7, 40])
def test_native_computes_what_the_file_says(batch: int, quantized_digits: Path) -> None:
    """Against each operator by itself.

    What is summed in another order may, halfway between two steps, be rounded to the other one.
    That is one step of one element of 2,704: of the first layer's output, everything is equal to
    float32's own rounding; behind it, nearly everything, and the rest by no more than such steps.
    """
    native = pyconv.load(quantized_digits)
    feeds = native.preprocess(_images(batch, 28, 28, seed=2))
    names = [layer.tensor for layer in native.metadata.layers]
    wanted = dict(zip(names, _literally(quantized_digits, feeds, names), strict=True))
    for got in (native.run(feeds, names), native.run(feeds)):
        for name, array in got.items():
            off = np.abs(array - wanted[name]) / np.abs(wanted[name]).max()
            if name in ("conv2d", "max_pooling2d", "flatten"):
                assert off.max() < 1e-5
            assert np.mean(off < 1e-5) > 0.9
            assert off.max() < 1e-2


def test_a_network_as_pytorch_writes_it(write_onnx: Write, tmp_path: Path) -> None:
    """Channels first, flattened, and Gemm with its matrix turned; two Gemms in a row."""
    random = np.random.default_rng(3)
    constants = {
        "w": random.normal(size=(8, 3, 3, 3)).astype(np.float32) / 5,
        "b": random.normal(size=8).astype(np.float32),
        "m": random.normal(size=(20, 8 * 4 * 5)).astype(np.float32) / 12,
        "c": random.normal(size=20).astype(np.float32),
        "k": random.normal(size=(20, 5)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "m", "c"], ["g"], transB=1),
        helper.make_node("Relu", ["g"], ["h"]),
        helper.make_node("Gemm", ["h", "k"], ["y"]),
    ]
    path = write_onnx(nodes, {"x": ["n", 3, 8, 10]}, constants)
    model = onnx.load(str(path))
    contract = '{"tensor": "x", "height": 8, "width": 10, "channels": 3, "layout": "NCHW"}'
    helper.set_model_props(model, {"pyconv.input": contract, "author": "me"})
    onnx.save(model, str(path))
    out = tmp_path / "out.onnx"
    result = quantize(path, out, _images(50, 8, 10, 3))
    assert result.agreement["native"] > 0.8
    assert result.apart is not None
    assert result.apart < 1e-3
    native = pyconv.load(out)
    dense = [step.algorithm for step in native.steps() if step.operator == "dense"]
    assert len(dense) == 2
    assert all("integer product" in algorithm for algorithm in dense)
    props = {item.key: item.value for item in onnx.load(str(out)).metadata_props}
    assert props["author"] == "me"


def test_an_operator_that_native_lacks_is_a_warning(write_onnx: Write, tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("MatMul", ["f", "m"], ["d"]),
        helper.make_node("QuickGelu", ["d"], ["y"], domain="com.microsoft"),
    ]
    path = write_onnx(
        nodes, {"x": ["n", 4, 4, 1]}, {"m": random.normal(size=(16, 3)).astype(np.float32)}
    )
    model = onnx.load(str(path))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    helper.set_model_props(model, {"pyconv.input": '{"tensor": "x", "height": 4, "width": 4}'})
    onnx.save(model, str(path))
    result = quantize(path, tmp_path / "out.onnx", _images(9, 4, 4))
    assert list(result.agreement) == ["onnxruntime"]
    assert result.apart is None
    (warning,) = result.warnings
    assert warning.startswith("native cannot run it")
    assert "QuickGelu" in warning


@pytest.mark.parametrize(
    ("nodes", "opset", "message"),
    [
        ([helper.make_node("Relu", ["x"], ["y"])], 18, "there is nothing to quantize.*got Relu"),
        ([helper.make_node("MatMul", ["x", "m"], ["y"])], 12, "set 12: expected 13 or later"),
        (
            [
                helper.make_node("QuantizeLinear", ["x", "s"], ["q"]),
                helper.make_node("DequantizeLinear", ["q", "s"], ["y"]),
            ],
            18,
            "quantized already",
        ),
    ],
)
def test_files_that_cannot_be_quantized(
    nodes: list[onnx.NodeProto], opset: int, message: str, write_onnx: Write, tmp_path: Path
) -> None:
    constants = {"m": np.ones((3, 3), np.float32), "s": np.float32(0.1).reshape(())}
    path = write_onnx(nodes, {"x": ["n", 4, 4, 3]}, constants, opset=opset)
    model = onnx.load(str(path))
    contract = '{"tensor": "x", "height": 4, "width": 4, "channels": 3}'
    helper.set_model_props(model, {"pyconv.input": contract})
    onnx.save(model, str(path))
    with pytest.raises(ExportError, match=message):
        quantize(path, tmp_path / "out.onnx", _images(2, 4, 4, 3))
    assert not (tmp_path / "out.onnx").exists()


def test_what_is_worse_than_allowed_leaves_the_file_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.onnx"
    out.write_text("as it was")
    images = _images(60, 28, 28)
    labels = pyconv.load("digits").predict(images).argmax(axis=1).astype(np.uint8)
    # Calibrated on black pictures, every step is far too small.
    black, test = np.zeros((1, 28, 28), np.uint8), LabelledImages(images, labels)
    with pytest.raises(ExportError, match=r"accuracy falls from 100.00% to \d+"):
        quantize("digits", out, black, test=test, most_lost=0.1)
    monkeypatch.setattr("pyconv.quantization.MOST_APART", -1.0)
    with pytest.raises(ExportError, match="the engines do not agree"):
        quantize("digits", out, images)
    assert out.read_text() == "as it was"
    assert list(tmp_path.iterdir()) == [out]


def test_images_that_do_not_fit_are_refused(tmp_path: Path, small_unexplained: Path) -> None:
    out = tmp_path / "out.onnx"
    with pytest.raises(InputError, match="at least one image"):
        quantize("digits", out, _images(0, 28, 28))
    with pytest.raises(InputError, match="expected shape"):
        quantize("digits", out, _images(1, 9, 9))
    with pytest.raises(InputError, match="does not say how uint8 pixels become its input"):
        quantize(small_unexplained, out, _images(1, 6, 8))
    with pytest.raises(InputError, match="most_lost"):
        quantize("digits", out, _images(1, 28, 28), most_lost=2)
    with pytest.raises(InputError, match="cannot be written"):
        quantize("digits", tmp_path / "none" / "out.onnx", _images(1, 28, 28))
    with pytest.raises(ModelError, match=r"nowhere\.onnx"):
        quantize(tmp_path / "nowhere.onnx", out, _images(1, 28, 28))
    assert not out.exists()


@pytest.mark.slow
@pytest.mark.data
def test_bundled_models_lose_at_most_a_third_of_a_point(
    tmp_path: Path, mnist: Dataset, fashion_mnist: Dataset
) -> None:
    for name, dataset in (("digits", mnist), ("fashion", fashion_mnist)):
        chosen = np.random.default_rng(0).permutation(60_000)[:1000]
        result = quantize(
            name,
            tmp_path / f"{name}.onnx",
            dataset.train_images[np.sort(chosen)],
            test=LabelledImages(dataset.test_images, dataset.test_labels),
            most_lost=0.003,
        )
        assert set(result.accuracy_after) == set(ENGINES)
        assert result.engines_agree is not None
        assert result.engines_agree > 0.999


class _Noise(CalibrationDataReader):  # type: ignore[misc]
    """One batch of pictures of digits' size."""

    def __init__(self) -> None:
        self.batches = [{"image": _images(50, 28, 28, 1).astype(np.float32) / 255}]

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return self.batches.pop() if self.batches else None


def test_files_with_every_tensor_rounded_keep_their_fused_steps(tmp_path: Path) -> None:
    """As onnxruntime's quantizer writes them by itself: around each operator, outputs too."""
    out = tmp_path / "out.onnx"
    model = onnx.load(str(pyconv.load("digits").path))
    quantize_static(model, str(out), _Noise(), per_channel=True, reduce_range=True)
    native, other = pyconv.load(out), pyconv.load(out, engine="onnxruntime")
    steps = [f"{step.operator}: {step.algorithm}" for step in native.steps()]
    assert any(s.startswith("conv2d") and "Winograd" in s and "max_pool2d" in s for s in steps)
    assert sum("integer product" in step for step in steps) == 2
    assert not [step for step in steps if step.startswith(("quantize", "dequantize"))]
    images = _images(30, 28, 28, seed=5)
    # The output is rounded to 256 steps itself; one of them is 0.4% of the largest.
    assert np.abs(native.predict(images) - other.predict(images)).max() < 0.02
