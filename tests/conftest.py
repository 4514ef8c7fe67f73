"""Fixtures that several folders of tests share."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import settings
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from pyconv import data
from pyconv.data import Dataset
from pyconv.metadata import InputContract, Layer, Metadata, OutputContract

# h5py, which Keras loads, brings a libcurl of its own, and whichever comes first serves both:
# pycurl's is the newer one, and pycurl refuses an older one.
with contextlib.suppress(ModuleNotFoundError):
    import pycurl  # noqa: F401

# How long a drawn case takes says nothing here: another process may have the machine.
# CI draws the same examples in every run: what chance finds is no fault of the change at hand.
_SAME = bool(os.environ.get("PYCONV_SAME_EXAMPLES"))
settings.register_profile("pyconv", deadline=None, print_blob=True, derandomize=_SAME)
settings.load_profile("pyconv")

_LABELS = ("left", "right", "flat")


def _write_small_network(path: Path, *, metadata: bool = True, classifier: bool = True) -> Path:
    """(n, 6, 8, 1) → conv2d of 4 filters → (n, 4, 6, 4) → dense → (n, 3), seeded weights."""
    random = np.random.default_rng(13)
    weights = {
        "kernel": random.normal(size=(4, 1, 3, 3)),
        "bias": random.normal(size=4) / 8,
        "matrix": random.normal(size=(4 * 6 * 4, 3)),
    }
    nodes = [
        helper.make_node("Transpose", ["pixels"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["nchw", "kernel", "bias"], ["conv"]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("Transpose", ["relu"], ["nhwc"], perm=[0, 2, 3, 1]),
        helper.make_node("Flatten", ["nhwc"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], ["dense"]),
        helper.make_node("Softmax", ["dense"], ["scores"], axis=-1),
    ]
    output = "scores" if classifier else "relu"
    shape: list[str | int] = ["n", 3] if classifier else ["n", 4, 4, 6]
    graph = helper.make_graph(
        nodes if classifier else nodes[:3],
        "small",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 6, 8, 1])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
        [
            numpy_helper.from_array(value.astype(np.float32), name)
            for name, value in weights.items()
            if classifier or name != "matrix"
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    if metadata:
        layers = (
            Layer("conv2d", "Conv2D", "relu", (0, 2, 3, 1), (4, 6, 4), 40),
            Layer("flatten", "Flatten", "flat", (0, 1), (96,)),
            Layer("dense", "Dense", "scores", (0, 1), (3,), 288),
        )
        facts = Metadata(
            labels=_LABELS if classifier else (),
            input=InputContract("pixels", 6, 8),
            output=OutputContract(output, "probabilities" if classifier else "values"),
            layers=layers if classifier else layers[:1],
            provenance={"data": "made up", "seed": 7},
        )
        helper.set_model_props(model, facts.to_props())
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


@pytest.fixture(scope="session")
def small_classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that explains itself: layers conv2d, flatten, dense; labels left, right, flat."""
    return _write_small_network(tmp_path_factory.mktemp("models") / "small.onnx")


@pytest.fixture(scope="session")
def small_unexplained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network in a file without pyconv's metadata."""
    return _write_small_network(tmp_path_factory.mktemp("models") / "plain.onnx", metadata=False)


@pytest.fixture(scope="session")
def small_maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its first layer alone, which is no classifier: it puts out (n, 4, 4, 6)."""
    return _write_small_network(tmp_path_factory.mktemp("models") / "maps.onnx", classifier=False)


@pytest.fixture(scope="session")
def make_png() -> Callable[..., bytes]:
    """Makes the bytes of a PNG file: grey noise of a given height, width and seed."""

    def make(height: int = 6, width: int = 8, seed: int = 0) -> bytes:
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue()

    return make


def _whole(name: str) -> Dataset:
    if data.locate(name) is None:
        pytest.skip(f"{name} is not on this machine: set PYCONV_DATA_DIR, or pyconv data fetch")
    return data.load(name)


@pytest.fixture(scope="session")
def mnist() -> Dataset:
    """All of MNIST, for tests marked `data`; nothing is downloaded."""
    return _whole("mnist")


@pytest.fixture(scope="session")
def fashion_mnist() -> Dataset:
    """All of Fashion-MNIST, for tests marked `data`; nothing is downloaded."""
    return _whole("fashion-mnist")


@pytest.fixture
def write_onnx(tmp_path: Path) -> Callable[..., Path]:
    """Writes a network: nodes, inputs with shapes, weights, opset → the file.

    Inputs and outputs are of float32 but for those in `dtypes`.
    """

    def write(
        nodes: list[onnx.NodeProto],
        inputs: dict[str, list[int | str | None]],
        constants: dict[str, np.ndarray] | None = None,
        outputs: list[str] | None = None,
        opset: int = 18,
        dtypes: dict[str, str] | None = None,
    ) -> Path:
        def dtype(name: str) -> int:
            numpy = np.dtype((dtypes or {}).get(name, "float32"))
            return helper.np_dtype_to_tensor_dtype(numpy)

        graph = helper.make_graph(
            nodes,
            "test",
            [
                helper.make_tensor_value_info(name, dtype(name), shape)
                for name, shape in inputs.items()
            ],
            [
                helper.make_tensor_value_info(name, dtype(name), None)
                for name in outputs or [nodes[-1].output[0]]
            ],
            [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
        )
        opsets = [helper.make_opsetid("", opset)]
        path = tmp_path / f"network-{len(list(tmp_path.iterdir()))}.onnx"
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
        return path

    return write


def _quarters(count: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Noise with one bright quarter, which is the class."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 120, (count, 12, 12), np.uint8)
    labels = random.integers(0, 4, count).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(int(label), 2)
        image[6 * row : 6 * row + 6, 6 * column : 6 * column + 6] += 120
    return images, labels


@pytest.fixture
def quarters(monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """A small data set of four classes, which `data.load` gives for any name."""
    dataset = Dataset(*_quarters(96, 1), *_quarters(40, 2), ("nw", "ne", "sw", "se"))
    monkeypatch.setattr(data, "load", lambda name, folder=None: dataset)
    monkeypatch.setattr(data, "image_size", lambda name: (12, 12))
    return dataset
