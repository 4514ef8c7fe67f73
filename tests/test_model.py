"""`pyconv.load` and `Model`: what pictures become, what comes out, on both engines."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

import pyconv
from pyconv.engines.base import EngineName
from pyconv.metadata import InputContract, Layer, Metadata, OutputContract

Write = Callable[..., Path]

ENGINES: tuple[EngineName, ...] = ("native", "onnxruntime")


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> EngineName:
    engine: EngineName = request.param
    return engine


@pytest.fixture
def model(small_classifier: Path, engine: EngineName) -> pyconv.Model:
    return pyconv.load(small_classifier, engine=engine)


def _images(count: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 6, 8), np.uint8)


def _tensors(path: Path, names: list[str], x: np.ndarray) -> list[np.ndarray]:
    """Tensors of a file as onnxruntime's own session computes them."""
    proto = onnx.load(path)
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    arrays: list[np.ndarray] = session.run(None, {session.get_inputs()[0].name: x})
    return arrays


def test_what_a_model_says_of_itself(model: pyconv.Model, engine: EngineName) -> None:
    assert model.engine == engine
    assert model.threads == 1
    assert list(model.labels) == ["left", "right", "flat"]
    assert list(model.layers) == ["conv2d", "flatten", "dense"]
    assert [(i.name, i.dtype, i.shape) for i in model.inputs] == [
        ("pixels", "float32", (None, 6, 8, 1))
    ]
    assert [(o.name, o.shape) for o in model.outputs] == [("scores", (None, 3))]
    assert f"small.onnx on {engine}" in repr(model)


def test_pixels_are_scaled_as_the_file_says(model: pyconv.Model, small_classifier: Path) -> None:
    images = _images()
    x = (images / 255.0).astype(np.float32)[..., None]
    (expected,) = _tensors(small_classifier, ["scores"], x)
    for same in (images, images[..., None], x, x[..., 0]):
        np.testing.assert_allclose(model.predict(same), expected, rtol=1e-5, atol=1e-6)


def test_classes_come_in_the_order_of_their_probabilities(model: pyconv.Model) -> None:
    images = _images(20)
    scores = model.predict(images)
    for row, predictions in zip(scores, model.classify(images, top=3), strict=True):
        assert [p.index for p in predictions] == list(np.argsort(-row, kind="stable"))
        assert [p.probability for p in predictions] == sorted(row.tolist(), reverse=True)
        assert [p.label for p in predictions] == [model.labels[p.index] for p in predictions]
    assert model.classify(images, top=2) == [row[:2] for row in model.classify(images, top=9)]


def test_of_classes_alike_the_first_comes_first(write_onnx: Write, engine: EngineName) -> None:
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("MatMul", ["flat", "zeros"], ["y"]),
    ]
    path = write_onnx(nodes, {"x": ["n", 2, 2, 1]}, {"zeros": np.zeros((4, 5), np.float32)})
    (row,) = pyconv.load(path, engine=engine).classify(np.zeros((1, 2, 2), np.float32), top=5)
    assert [(p.index, p.label) for p in row] == [(i, str(i)) for i in range(5)]


def test_logits_become_probabilities(write_onnx: Write, engine: EngineName) -> None:
    path = write_onnx(
        [helper.make_node("Flatten", ["x"], ["y"])], {"x": ["n", 1, 3, 1]}, outputs=["y"]
    )
    proto = onnx.load(path)
    facts = Metadata(
        input=InputContract("x", 1, 3), output=OutputContract("y", "logits"), labels=tuple("abc")
    )
    helper.set_model_props(proto, facts.to_props())
    onnx.save(proto, path)
    logits = np.array([[1, 2, 3], [1000, 0, 0], [-1000, -1000, -1000]], np.float32)
    scores = pyconv.load(path, engine=engine).predict(logits[:, None, :, None])
    e = np.exp([-2.0, -1.0, 0.0])
    np.testing.assert_allclose(scores, [e / e.sum(), [1, 0, 0], [1 / 3] * 3], atol=1e-6)


def test_activations_are_the_layers_in_keras_layout(
    model: pyconv.Model, small_classifier: Path
) -> None:
    images = _images()
    x = (images / 255.0).astype(np.float32)[..., None]
    relu, flat, scores = _tensors(small_classifier, ["relu", "flat", "scores"], x)
    got = model.activations(images)
    expected = {"conv2d": relu.transpose(0, 2, 3, 1), "flatten": flat, "dense": scores}
    assert list(got) == list(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(got[name], array, rtol=1e-5, atol=1e-6)
    assert list(model.activations(images, ["dense", "conv2d"])) == ["dense", "conv2d"]
    # Any tensor of the graph will do, in its own layout.
    (some,) = model.activations(images, ["relu"]).values()
    np.testing.assert_allclose(some, relu, rtol=1e-5, atol=1e-6)


def test_a_file_without_a_layer_map_has_its_tensors(
    small_unexplained: Path, engine: EngineName
) -> None:
    model = pyconv.load(small_unexplained, engine=engine)
    assert list(model.layers) == ["nchw", "conv", "relu", "nhwc", "flat", "dense", "scores"]
    x = (_images() / 255.0).astype(np.float32)[..., None]
    got = model.activations(x)
    for name, expected in zip(got, _tensors(small_unexplained, list(got), x), strict=True):
        np.testing.assert_allclose(got[name], expected, rtol=1e-5, atol=1e-6)


def test_a_file_without_a_contract_takes_floats_alone(
    small_unexplained: Path, engine: EngineName
) -> None:
    model = pyconv.load(small_unexplained, engine=engine)
    with pytest.raises(pyconv.InputError, match="does not say how uint8 pixels"):
        model.predict(_images())


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)])
def test_a_silent_file_is_told_what_pixels_are(
    small_unexplained: Path, engine: EngineName, low: float, high: float
) -> None:
    model = pyconv.load(small_unexplained, engine=engine)
    floats = (low + _images() / 255.0 * (high - low)).astype(np.float32)
    got = model.taking_pixels(low, high).predict(_images())
    np.testing.assert_allclose(got, model.predict(floats), rtol=1e-4, atol=1e-5)
    assert model.metadata.input is None
    told = pyconv.load("digits")
    assert told.taking_pixels(low, high) is told
    with pytest.raises(pyconv.InputError, match="expected two finite numbers"):
        model.taking_pixels(low, float("nan"))


@pytest.mark.parametrize(
    ("layout", "shape"), [("NHWC", [None, 5, 6, 3]), ("NCHW", [None, 3, 5, 6])]
)
def test_the_layout_of_a_silent_file_is_seen_in_its_input(
    write_onnx: Write, engine: EngineName, layout: str, shape: list[int | None]
) -> None:
    path = write_onnx([helper.make_node("Relu", ["x"], ["y"])], {"x": shape})
    model = pyconv.load(path, engine=engine)
    contract = model.input_contract
    assert contract is not None
    assert (contract.layout, contract.height, contract.width, contract.channels) == (
        layout,
        5,
        6,
        3,
    )
    x = np.random.default_rng(0).random((2, 5, 6, 3), np.float32)
    expected = x if layout == "NHWC" else x.transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(model.predict(x), expected)


def test_an_input_of_rank_3_gets_no_channel(write_onnx: Write, engine: EngineName) -> None:
    path = write_onnx([helper.make_node("Relu", ["x"], ["y"])], {"x": ["n", 4, 5]})
    proto = onnx.load(path)
    facts = Metadata(input=InputContract("x", 4, 5, rank=3, scale=1.0, offset=-128.0))
    helper.set_model_props(proto, facts.to_props())
    onnx.save(proto, path)
    model = pyconv.load(path, engine=engine)
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 5), np.uint8)
    expected = np.maximum(images.astype(np.float32) - 128, 0)
    np.testing.assert_array_equal(model.predict(images), expected)
    np.testing.assert_array_equal(model.predict(images[..., None]), expected)


def test_no_images_give_no_rows(model: pyconv.Model) -> None:
    assert model.predict(np.zeros((0, 6, 8), np.uint8)).shape == (0, 3)
    assert model.classify(np.zeros((0, 6, 8), np.uint8)) == []
    assert model.activations(np.zeros((0, 6, 8), np.uint8))["conv2d"].shape == (0, 4, 6, 4)


_NO_IMAGE = np.zeros((1, 6, 8), np.uint8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.predict(_NO_IMAGE[:, :5]), r"expected shape \(n, 6, 8, 1\) or \(n, 6, 8\)"),
        (lambda m: m.predict(_NO_IMAGE[0]), r"got \(6, 8\)"),
        (lambda m: m.predict(None), r"got \(\)"),
        (lambda m: m.predict(_NO_IMAGE.astype(np.int64)), "uint8 or float32, got int64"),
        (lambda m: m.classify(_NO_IMAGE, top=0), "top: expected an integer of at least 1, got 0"),
        (lambda m: m.classify(_NO_IMAGE, top="3"), "top: .* got '3'"),
        (lambda m: m.activations(_NO_IMAGE, ["conv2"]), "no layer 'conv2'; did you mean 'conv2d'"),
        (lambda m: m.activations(_NO_IMAGE, "conv2d"), "expected a list of names, got 'conv2d'"),
        (lambda m: m.activations(_NO_IMAGE, [None]), "there is no layer None"),
        (lambda m: m.run({}), r"missing: \['pixels'\]"),
        (lambda m: m.run({"x": _NO_IMAGE}), r"unknown: \['x'\]"),
        (lambda m: m.run(None), "expected a dict of arrays"),
        (lambda m: m.run([1]), "expected a dict of arrays"),
        (lambda m: m.run({"pixels": [1.0]}), "expected a NumPy array, got list"),
        (lambda m: m.run({"pixels": _NO_IMAGE[..., None]}), "expected float32 of shape .* uint8"),
        (
            lambda m: m.run({"pixels": np.zeros((1, 8, 6, 1), np.float32)}),
            r"expected float32 of shape \(n, 6, 8, 1\), got float32 of shape \(1, 8, 6, 1\)",
        ),
        (lambda m: m.run({"pixels": np.float32(0)}, ["scores"]), "expected a NumPy array"),
        (lambda m: m.run(_feed(), ["score"]), "no tensor 'score'; did you mean 'scores'"),
        (lambda m: m.run(_feed(), "scores"), "expected a list of names, got 'scores'"),
        (lambda m: m.run(_feed(), [None]), "there is no tensor None"),
    ],
)
def test_what_does_not_fit_is_said(
    model: pyconv.Model, call: Callable[[pyconv.Model], Any], message: str
) -> None:
    with pytest.raises(pyconv.InputError, match=message):
        call(model)
    assert model.predict(_NO_IMAGE).shape == (1, 3)  # and nothing is broken by it


def _feed() -> dict[str, np.ndarray]:
    return {"pixels": np.zeros((1, 6, 8, 1), np.float32)}


@pytest.mark.parametrize("threads", [0, -1, 1025, 2**40, 1.5, "2", None])
def test_threads_that_cannot_be(small_classifier: Path, engine: EngineName, threads: Any) -> None:
    with pytest.raises(pyconv.InputError, match="threads: expected an integer from 1 to 1024, got"):
        pyconv.load(small_classifier, engine=engine, threads=threads)


def test_an_unknown_engine(small_classifier: Path) -> None:
    with pytest.raises(pyconv.InputError, match=r"expected one of \['native', 'onnxruntime'\]"):
        pyconv.load(small_classifier, engine="nativ")  # type: ignore[arg-type]


def test_a_file_that_is_none(tmp_path: Path, engine: EngineName) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"this is no protobuf")
    with pytest.raises(pyconv.ModelError, match=f"{broken}: not an ONNX file"):
        pyconv.load(broken, engine=engine)
    with pytest.raises(pyconv.ModelError, match=r"missing\.onnx"):
        pyconv.load(tmp_path / "missing.onnx", engine=engine)
    with pytest.raises(pyconv.PyconvError):
        pyconv.load(tmp_path, engine=engine)


def test_maps_are_no_classes(small_maps: Path, engine: EngineName) -> None:
    model = pyconv.load(small_maps, engine=engine)
    assert model.predict(_images()).shape == (5, 4, 4, 6)
    with pytest.raises(pyconv.ModelError, match=r"\(n, classes\).*\(5, 4, 4, 6\)"):
        model.classify(_images())


@pytest.mark.parametrize("labels", [("left", "right"), ("left", "right", "flat", "round")])
def test_labels_that_do_not_fit_the_output_are_said(
    small_classifier: Path, tmp_path: Path, engine: EngineName, labels: tuple[str, ...]
) -> None:
    proto = onnx.load(small_classifier)
    props = {item.key: item.value for item in proto.metadata_props}
    helper.set_model_props(proto, {**props, **Metadata(labels=labels).to_props()})
    path = tmp_path / "labels.onnx"
    onnx.save(proto, path)
    model = pyconv.load(path, engine=engine)
    assert model.predict(_images()).shape == (5, 3)
    with pytest.raises(
        pyconv.ModelError, match=f"'pyconv.labels' is broken: .* 3 numbers, got {len(labels)}"
    ):
        model.classify(_images())


def test_several_inputs_are_for_run(write_onnx: Write, engine: EngineName) -> None:
    nodes = [helper.make_node("Add", ["a", "b"], ["y"])]
    path = write_onnx(nodes, {"a": ["n", 3], "b": ["n", 3]})
    model = pyconv.load(path, engine=engine)
    ones = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(model.run({"a": ones, "b": ones})["y"], 2 * ones)
    with pytest.raises(pyconv.InputError, match=r"a float32 \(n, 3\), b float32 \(n, 3\); use run"):
        model.predict(ones)


def test_an_input_that_nothing_uses_has_to_be_given_all_the_same(
    write_onnx: Write, engine: EngineName
) -> None:
    path = write_onnx([helper.make_node("Relu", ["a"], ["y"])], {"a": ["n"], "unused": ["n"]})
    model = pyconv.load(path, engine=engine)
    one = np.ones(1, np.float32)
    assert model.run({"a": one, "unused": one})["y"] == 1
    for outputs in (None, ["y"]):
        with pytest.raises(pyconv.InputError, match=r"missing: .*unused"):
            model.run({"a": one}, outputs)


def test_axes_of_a_layer_are_its_tensors(small_classifier: Path, tmp_path: Path) -> None:
    """A file whose map gives a tensor's axes another order shows them in that order."""
    proto = onnx.load(small_classifier)
    props = {item.key: item.value for item in proto.metadata_props}
    layer = Layer("conv2d", "Conv2D", "relu", (0, 3, 2, 1), (6, 4, 4))
    facts = Metadata(layers=(layer,))
    helper.set_model_props(proto, {**props, **facts.to_props()})
    path = tmp_path / "turned.onnx"
    onnx.save(proto, path)
    images = _images()
    turned = pyconv.load(path).activations(images.astype(np.float32))["conv2d"]
    plain = pyconv.load(small_classifier).activations(images.astype(np.float32))["conv2d"]
    np.testing.assert_array_equal(turned, plain.transpose(0, 2, 1, 3))


@pytest.mark.parametrize("threads", [1, 2])
def test_one_model_serves_many_threads_at_once(threads: int) -> None:
    # Batches of every size, and layers whose programs are compiled meanwhile.
    model, alone = pyconv.load("digits", threads=threads), pyconv.load("digits")
    images = np.random.default_rng(0).integers(0, 256, (40, 28, 28), np.uint8)
    expected = alone.predict(images)
    layers = {name: alone.activations(images, [name])[name] for name in alone.layers}

    def work(worker: int) -> int:
        wrong = 0
        for turn in range(25):
            first, count = (worker + turn) % 8, 1 + (7 * worker + 5 * turn) % 32
            chosen = slice(first, first + count)
            wrong += not np.array_equal(model.predict(images[chosen]), expected[chosen])
            name = model.layers[(worker + turn) % len(model.layers)]
            got = model.activations(images[chosen], [name])[name]
            wrong += not np.array_equal(got, layers[name][chosen])
        return wrong

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(work, range(8))) == 0
