from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import NodeProto
from onnx.helper import make_node as node

import pyconv
from pyconv.errors import InputError
from pyconv.inspect import Box, ReceptiveField, receptive_fields

_HEIGHT, _WIDTH = 11, 9

Write = Callable[..., Path]


def _seen(path: Path, layer: str) -> np.ndarray:
    """Of every value of a layer, which pixels change it: (height, width, *layer), by trying each.

    Weights and pixels are positive, so that what one pixel adds is never hidden, not by relu and,
    as it adds far more than the others hold, not by a maximum either.
    """
    model = pyconv.load(path, engine="onnxruntime")
    image = np.random.default_rng(1).uniform(1, 2, (1, _HEIGHT, _WIDTH, 1)).astype(np.float32)
    images = np.repeat(image, _HEIGHT * _WIDTH, axis=0)
    for place, (row, column) in enumerate(np.ndindex(_HEIGHT, _WIDTH)):
        images[place, row, column] += 1000
    whole = model.activations(image, [layer])[layer]
    changed = model.activations(images, [layer])[layer] != whole
    return changed.reshape(_HEIGHT, _WIDTH, *whole.shape[1:])


def _boxes(seen: np.ndarray) -> np.ndarray:
    """The smallest rectangles: (4, *layer)."""
    boxes = []
    for axis in (0, 1):
        along = seen.any(axis=1 - axis)
        last = along.shape[0] - along[::-1].argmax(axis=0)
        boxes.append((along.argmax(axis=0), np.where(along.any(axis=0), last, 0)))
    (top, bottom), (left, right) = boxes
    return np.stack([top, left, bottom, right])


def _assert_matches(field: ReceptiveField, path: Path, layer: str) -> None:
    expected = np.moveaxis(_boxes(_seen(path, layer)), 1, -1)  # channels last
    assert field.shape == expected.shape[1:]
    np.testing.assert_array_equal(np.broadcast_to(field.boxes, expected.shape), expected)


def _conv(source: str, to: str, kernel: str, **attributes: object) -> NodeProto:
    return node("Conv", [source, kernel], [to], **attributes)


_INTO = node("Transpose", ["pixels"], ["x"], perm=[0, 3, 1, 2])

_NETWORKS = {
    "valid": [_conv("x", "a", "k13"), node("Relu", ["a"], ["b"]), _conv("b", "y", "k33")],
    "unequal pads and strides": [
        _conv("x", "a", "k13", pads=[0, 1, 2, 1], strides=[2, 1]),
        _conv("a", "y", "k33", pads=[1, 1, 1, 1], strides=[1, 2]),
    ],
    "dilations": [_conv("x", "y", "k13", dilations=[2, 3], pads=[1, 0, 3, 0])],
    "pools": [
        _conv("x", "a", "k13"),
        node("MaxPool", ["a"], ["b"], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
        node("AveragePool", ["b"], ["y"], kernel_shape=[2, 3], pads=[1, 1, 0, 0]),
    ],
    "transposed": [
        _conv("x", "a", "k13", strides=[3, 3]),
        node("ConvTranspose", ["a", "t33"], ["y"], strides=[2, 2], pads=[1, 0, 0, 1]),
    ],
    "branches": [
        _conv("x", "a", "k13", pads=[1, 1, 1, 1]),
        _conv("x", "b", "k15", pads=[2, 2, 2, 2]),
        node("Concat", ["a", "b"], ["c"], axis=1),
        node("Add", ["c", "x"], ["y"]),
    ],
    "flattened": [
        _conv("x", "a", "k13", strides=[2, 2]),
        node("MaxPool", ["a"], ["b"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", ["b"], ["y"]),
    ],
    "dense": [
        _conv("x", "a", "k13", strides=[2, 2]),
        node("MaxPool", ["a"], ["b"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", ["b"], ["c"]),
        node("MatMul", ["c", "matrix"], ["y"]),
    ],
    "dense over pixels": [
        _conv("x", "a", "k13", strides=[2, 2]),
        node("Reshape", ["a", "pixel rows"], ["b"]),
        node("MatMul", ["b", "pixel matrix"], ["c"]),
        node("Reshape", ["c", "pixel maps"], ["y"]),
    ],
    "global pool": [
        _conv("x", "a", "k13", strides=[4, 4]),
        node("GlobalAveragePool", ["a"], ["y"]),
    ],
    "mean of rows": [_conv("x", "a", "k13"), node("ReduceMean", ["a", "rows"], ["y"], keepdims=0)],
    "crop and reflection": [
        node("Slice", ["x", "starts", "ends", "axes", "steps"], ["a"]),
        node("Pad", ["a", "pads"], ["b"], mode="reflect"),
        _conv("b", "y", "k13"),
    ],
    "constant border": [node("Pad", ["x", "pads"], ["a"]), _conv("a", "y", "k13")],
    "resized": [
        node("Resize", ["x", "", "scales"], ["a"], mode="linear"),
        _conv("a", "y", "k13"),
    ],
    "resized to the corners": [
        node(
            "Resize",
            ["x", "", "", "sizes"],
            ["y"],
            mode="linear",
            axes=[2, 3],
            coordinate_transformation_mode="align_corners",
        )
    ],
    "nearest": [node("Resize", ["x", "", "scales"], ["y"], mode="nearest")],
}


@pytest.mark.parametrize("nodes", _NETWORKS.values(), ids=_NETWORKS)
def test_receptive_field_is_what_changes_with_the_pixels(
    nodes: list[NodeProto], write_onnx: Write
) -> None:
    random = np.random.default_rng(2)
    constants = {
        "k13": random.uniform(1, 2, (3, 1, 3, 3)).astype(np.float32),
        "k15": random.uniform(1, 2, (3, 1, 5, 5)).astype(np.float32),
        "k33": random.uniform(1, 2, (2, 3, 3, 3)).astype(np.float32),
        "t33": random.uniform(1, 2, (3, 2, 3, 3)).astype(np.float32),
        "matrix": random.uniform(1, 2, (3 * 2 * 2, 5)).astype(np.float32),
        "pixel rows": np.array([-1, 4]),
        "pixel matrix": random.uniform(1, 2, (4, 2)).astype(np.float32),
        "pixel maps": np.array([-1, 3, 10]),
        "rows": np.array([2]),
        "starts": np.array([1, 8]),
        "ends": np.array([9, -8]),
        "axes": np.array([2, 3]),
        "steps": np.array([1, -2]),
        "pads": np.array([0, 0, 2, 1, 0, 0, 0, 3]),
        "sizes": np.array([2 * _HEIGHT - 1, _WIDTH]),
        "scales": np.array([1, 1, 1.5, 2], np.float32),
    }
    nodes = [_INTO, *nodes]
    used = {name: value for name, value in constants.items() if any(name in n.input for n in nodes)}
    path = write_onnx(nodes, {"pixels": ["n", _HEIGHT, _WIDTH, 1]}, used, ["y"])
    _assert_matches(receptive_fields(pyconv.load(path))["y"], path, "y")


def test_receptive_field_comes_in_keras_layout(small_classifier: Path) -> None:
    fields = receptive_fields(pyconv.load(small_classifier))
    assert list(fields) == ["conv2d", "flatten", "dense"]
    assert fields["conv2d"].shape == (4, 6, 4)
    assert fields["conv2d"].box(1, 2) == Box(1, 2, 4, 5)
    assert fields["conv2d"].box(1, 2, 3) == Box(1, 2, 4, 5)
    assert (fields["conv2d"].size, fields["conv2d"].stride) == ((3, 3), (1, 1))
    assert (fields["dense"].size, fields["dense"].stride) == ((6, 8), None)


@pytest.mark.parametrize("name", ["digits", "fashion"])
def test_receptive_field_of_bundled_models(name: str) -> None:
    model = pyconv.load(name, engine="onnxruntime")
    fields = receptive_fields(model)
    assert list(fields) == list(model.layers)
    blank = np.zeros((1, 28, 28), np.float32)
    values = model.activations(blank)
    for layer, field in fields.items():
        assert field.shape == values[layer].shape[1:]
    # What lies outside of a box changes nothing there.
    noise = np.random.default_rng(0).uniform(0, 1, (1, 28, 28)).astype(np.float32)
    last = [layer for layer in fields if len(fields[layer].shape) == 3][-1]
    for row, column in ((0, 0), (2, 3), (4, 4)):
        top, left, bottom, right = fields[last].box(row, column)
        patch = np.zeros_like(noise)
        patch[:, top:bottom, left:right] = noise[:, top:bottom, left:right]
        np.testing.assert_allclose(
            model.activations(patch, [last])[last][0, row, column],
            model.activations(noise, [last])[last][0, row, column],
            atol=1e-5,
        )


def test_receptive_fields_of_all_tensors_are_those_of_each(
    small_unexplained: Path, write_onnx: Write
) -> None:
    nodes = [
        _conv("x", "a", "k"),
        node("Relu", ["a"], ["b"]),
        node("GlobalAveragePool", ["b"], ["c"]),
        node("Flatten", ["c"], ["y"]),
    ]
    kernel = np.ones((4, 3, 3, 3), np.float32)
    colour = write_onnx(nodes, {"x": ["n", 3, 8, 9]}, {"k": kernel})
    for path in (small_unexplained, colour):
        model = pyconv.load(path)
        for layer, field in receptive_fields(model).items():
            alone = receptive_fields(model, [layer])[layer]
            np.testing.assert_array_equal(field.boxes, alone.boxes)
            assert field.size != (0, 0)


def test_receptive_field_follows_a_product_of_rows(write_onnx: Write) -> None:
    kernel = np.ones((1, 1, 3, 3), np.float32)
    nodes = [_conv("x", "y", "kernel"), node("MatMul", ["y", "m"], ["z"])]
    path = write_onnx(
        nodes, {"x": [1, 1, 6, 7]}, {"kernel": kernel, "m": np.ones((5, 5), np.float32)}, ["z"]
    )
    field = receptive_fields(pyconv.load(path))["z"]
    assert field.shape == (4, 5, 1)
    assert field.box(2, 3) == Box(2, 0, 5, 7)


def test_receptive_field_needs_pictures_and_known_layers(
    small_classifier: Path, write_onnx: Write
) -> None:
    with pytest.raises(InputError, match="did you mean 'conv2d'"):
        receptive_fields(pyconv.load(small_classifier), ["conv2"])
    rows = write_onnx([node("Relu", ["x"], ["y"])], {"x": ["n", 5]})
    with pytest.raises(InputError, match="takes no pictures"):
        receptive_fields(pyconv.load(rows))
