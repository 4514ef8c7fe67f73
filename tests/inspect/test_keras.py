"""What is seen inside is what Keras has there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import pyconv
from pyconv import inspect
from pyconv.model import Model

pytestmark = pytest.mark.train


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Model]:
    """A network with most of what such networks have, in Keras and as a file."""
    keras = pytest.importorskip("keras")
    from pyconv.training import export

    keras.utils.set_random_seed(4)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((12, 10, 1)),
            layers.Conv2D(5, 3, padding="same", activation="relu", name="first"),
            layers.MaxPooling2D(2, name="pool"),
            layers.Conv2D(4, 3, strides=2, padding="same", name="second"),
            layers.BatchNormalization(name="norm"),
            layers.Activation("relu", name="active"),
            layers.Flatten(name="flat"),
            layers.Dense(6, activation="tanh", name="hidden"),
            layers.Dense(3, activation="softmax", name="answer"),
        ]
    )
    random = np.random.default_rng(0)
    model.get_layer("norm").set_weights(
        [random.uniform(0.5, 1.5, 4) for _ in range(2)] + [random.normal(size=4) / 9, np.ones(4)]
    )
    path = tmp_path_factory.mktemp("keras") / "model.onnx"
    export(model, path, engines=["native"])
    return model, pyconv.load(path)


@pytest.fixture(scope="module")
def residual(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Model]:
    """A network whose last maps are a sum, in Keras and as a file."""
    keras = pytest.importorskip("keras")
    from pyconv.training import export

    keras.utils.set_random_seed(7)
    layers = keras.layers
    pixels = keras.Input((12, 10, 1))
    before = layers.Conv2D(6, 3, padding="same", activation="relu", name="before")(pixels)
    inner = layers.Conv2D(6, 3, padding="same", activation="relu", name="inner")(before)
    inner = layers.BatchNormalization(name="norm")(layers.Conv2D(6, 3, padding="same")(inner))
    sum_ = layers.ReLU(name="out")(layers.Add(name="sum")([inner, before]))
    pooled = layers.GlobalAveragePooling2D(name="hidden")(sum_)
    model = keras.Model(pixels, layers.Dense(3, activation="softmax", name="answer")(pooled))
    path = tmp_path_factory.mktemp("keras") / "residual.onnx"
    export(model, path, engines=["native"])
    return model, pyconv.load(path)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(2).uniform(0, 1, (12, 10, 1)).astype(np.float32)


def test_activation_maps_are_kerass(network: tuple[Any, Model], image: np.ndarray) -> None:
    import keras

    reference, model = network
    names = ["first", "pool", "norm", "active", "flat", "hidden", "answer"]
    outputs = [reference.get_layer(name).output for name in names]
    expected = keras.Model(reference.inputs[0], outputs)(image[np.newaxis])
    found = inspect.activation_maps(model, image[np.newaxis], names)
    for name, values in zip(names, expected, strict=True):
        np.testing.assert_allclose(found.layers[name], values, atol=1e-5, err_msg=name)


def test_filters_are_kerass(network: tuple[Any, Model]) -> None:
    reference, model = network
    for name in ("first", "second"):
        kernel, _ = reference.get_layer(name).get_weights()
        assert inspect.filters(model, name).kernel.shape == kernel.shape
    np.testing.assert_allclose(
        inspect.filters(model, "first").kernel, reference.get_layer("first").get_weights()[0]
    )


def _check_grad_cam(
    reference: Any, model: Model, image: np.ndarray, layer: str, index: int
) -> None:
    """Grad-CAM of a layer against what TensorFlow's gradients give."""
    import keras
    import tensorflow as tf

    answer = reference.get_layer("answer")
    both = keras.Model(
        reference.inputs[0],
        [reference.get_layer(layer).output, reference.get_layer("hidden").output],
    )
    with tf.GradientTape() as tape:
        tape.watch(pixels := tf.constant(image[np.newaxis]))
        maps, hidden = both(pixels)
        kernel, bias = answer.weights
        score = (tf.linalg.matmul(hidden, kernel) + bias)[0, index]
    slopes = tape.gradient(score, maps)[0].numpy()
    weights = slopes.mean(axis=(0, 1))
    expected = np.maximum((maps[0].numpy() * weights).sum(axis=-1), 0)
    found = inspect.grad_cam(model, image, index, layer=layer)
    assert found.score == pytest.approx(float(score), abs=1e-5)
    np.testing.assert_allclose(found.gradient, slopes, atol=1e-5)
    np.testing.assert_allclose(found.map, expected, atol=1e-5)


@pytest.mark.parametrize("layer", ["first", "pool", "active"])
@pytest.mark.parametrize("index", [0, 2])
def test_grad_cam_is_that_of_kerass_gradients(
    network: tuple[Any, Model], image: np.ndarray, layer: str, index: int
) -> None:
    _check_grad_cam(*network, image, layer, index)
    assert inspect.grad_cam(network[1], image, index).layer == "active"


@pytest.mark.parametrize("layer", ["before", "inner", "norm", "out"])
def test_grad_cam_of_a_residual_network_is_that_of_kerass_gradients(
    residual: tuple[Any, Model], image: np.ndarray, layer: str
) -> None:
    _check_grad_cam(*residual, image, layer, 1)
    assert inspect.grad_cam(residual[1], image, 1).layer == "out"
