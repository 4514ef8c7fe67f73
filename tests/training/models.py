"""Small Keras models, each with something that exporting has stumbled over."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import keras

Make = Callable[[], "keras.Model"]


def _keras() -> Any:
    from pyconv.training.backend import import_keras

    return import_keras("these tests")


def _functional(shape: tuple[int, ...], body: Callable[[Any, Any], Any]) -> keras.Model:
    keras = _keras()
    image = keras.Input(shape, name="image")
    return shaken(keras.Model(image, body(keras.layers, image)))


def shaken(model: keras.Model) -> keras.Model:
    """The model with weights that are neither zero nor one: biases and statistics count too."""
    random = np.random.default_rng(3)
    for weight in model.weights:
        if "seed" not in weight.path:
            value = random.uniform(0.1, 0.6, weight.shape) * random.choice([-1, 1], weight.shape)
            weight.assign(np.abs(value) if "variance" in weight.path else value)
    return model


def lesson() -> keras.Model:
    keras = _keras()
    layers = keras.layers
    return shaken(
        keras.Sequential(
            [
                keras.Input((14, 14, 1)),
                layers.Conv2D(4, 3, activation="relu", name="conv2d"),
                layers.MaxPooling2D(2, name="max_pooling2d"),
                layers.Conv2D(4, 3, activation="relu", name="conv2d_1"),
                layers.MaxPooling2D(2, name="max_pooling2d_1"),
                layers.Flatten(name="flatten"),
                layers.Dense(8, activation="relu", name="dense"),
                layers.Dense(3, activation="softmax", name="dense_1"),
            ]
        )
    )


def dense() -> keras.Model:
    """An input without an axis for channels."""
    keras = _keras()
    layers = keras.layers
    return shaken(
        keras.Sequential(
            [keras.Input((9, 7)), layers.Flatten(), layers.Dense(6, "relu"), layers.Dense(3)]
        )
    )


def strided_same() -> keras.Model:
    return _functional(
        (11, 8, 3),
        lambda k, x: k.Conv2D(4, 3, strides=2, padding="same", activation="relu")(
            k.Conv2D(5, 3, strides=2, padding="same")(x)
        ),
    )


def one_channel_maps() -> keras.Model:
    return _functional((8, 8, 1), lambda k, x: k.Conv2D(1, 3)(k.Conv2D(1, 3, activation="relu")(x)))


def grouped() -> keras.Model:
    return _functional((8, 8, 4), lambda k, x: k.Conv2D(6, 3, groups=2, activation="relu")(x))


def depthwise() -> keras.Model:
    return _functional(
        (9, 9, 5), lambda k, x: k.DepthwiseConv2D(3, padding="same", depth_multiplier=2)(x)
    )


def separable() -> keras.Model:
    return _functional((9, 9, 2), lambda k, x: k.SeparableConv2D(4, 3, activation="relu")(x))


def dilated() -> keras.Model:
    return _functional((12, 12, 2), lambda k, x: k.Conv2D(3, 3, dilation_rate=2)(x))


def gelu() -> keras.Model:
    return _functional(
        (8, 8, 1),
        lambda k, x: k.Activation(lambda v: _keras().activations.gelu(v, approximate=False))(
            k.Conv2D(3, 3)(x)
        ),
    )


def normalization() -> keras.Model:
    keras = _keras()
    layer = keras.layers.Normalization(axis=-1, mean=[90.0, 120.0], variance=[400.0, 2500.0])
    model = keras.Sequential([keras.Input((6, 6, 2)), layer, keras.layers.Conv2D(3, 3)])
    return shaken(model)


def rescaling() -> keras.Model:
    return _functional((6, 6, 3), lambda k, x: k.Conv2D(2, 3)(k.Rescaling(1 / 127.5, -1.0)(x)))


def batch_normalization() -> keras.Model:
    return _functional(
        (10, 10, 3),
        lambda k, x: k.MaxPooling2D(2)(k.ReLU()(k.BatchNormalization()(k.Conv2D(4, 3)(x)))),
    )


def residual() -> keras.Model:
    def body(k: Any, x: Any) -> Any:
        x = k.Conv2D(4, 3, padding="same", activation="relu")(x)
        y = k.Conv2D(4, 3, padding="same")(x)
        x = k.Activation("relu")(k.Add()([x, y]))
        x = k.Concatenate()([x, y])
        return k.Dense(3, activation="softmax")(k.Dropout(0.5)(k.GlobalAveragePooling2D()(x)))

    return _functional((8, 8, 1), body)


def pools() -> keras.Model:
    def body(k: Any, x: Any) -> Any:
        x = k.AveragePooling2D(2, padding="same")(k.ZeroPadding2D(1)(x))
        return [k.GlobalMaxPooling2D()(x), k.GlobalAveragePooling2D(keepdims=True)(x)]

    return _functional((7, 7, 3), body)


def multi_output() -> keras.Model:
    def body(k: Any, x: Any) -> Any:
        x = k.Flatten()(k.Conv2D(2, 3)(x))
        return [k.Dense(3, activation="softmax", name="kind")(x), k.Dense(2, name="place")(x)]

    return _functional((6, 6, 1), body)


def nested() -> keras.Model:
    keras = _keras()
    layers = keras.layers
    encoder = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(3, 3, activation="relu", name="conv2d"),
            layers.MaxPooling2D(2, name="pool"),
        ],
        name="encoder",
    )
    image = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(2, 1, name="head")(encoder(image))
    return shaken(keras.Model(image, layers.GlobalAveragePooling2D(name="mean")(x)))


def shared() -> keras.Model:
    """One layer called twice."""
    keras = _keras()
    layers = keras.layers
    image = keras.Input((8, 8, 2), name="image")
    again = layers.Conv2D(2, 3, padding="same", activation="relu", name="again")
    return shaken(keras.Model(image, layers.Flatten(name="flat")(again(again(image)))))


ALL: dict[str, Make] = {
    make.__name__: make
    for make in (
        lesson,
        dense,
        strided_same,
        one_channel_maps,
        grouped,
        depthwise,
        separable,
        dilated,
        gelu,
        normalization,
        rescaling,
        batch_normalization,
        residual,
        pools,
        multi_output,
        nested,
        shared,
    )
}
