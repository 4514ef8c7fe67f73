"""The lesson's networks, by their settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyconv.errors import InputError
from pyconv.training.backend import import_keras
from pyconv.training.settings import Settings

if TYPE_CHECKING:
    import keras


def build(settings: Settings, image_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """The network that the settings describe, with fresh weights, not compiled.

    A residual one (He et al. 2016, arXiv:1512.03385) has a stage for each entry of `filters`, with
    max pooling between them: Conv2D (same padding), then `blocks` times two further Conv2D whose
    result is added to what they got; each is followed by BatchNormalization and relu. The mean of
    every map goes into Dense (softmax).

    A convolutional one is Conv2D (relu) and MaxPooling2D for each entry of `filters`, then Flatten,
    Dense (relu) and Dense (softmax); a dense one is the last three. Layers are named as Keras names
    them in a fresh process: conv2d, max_pooling2d, conv2d_1, ….

    Args:
        settings: the network's kind and sizes.
        image_shape: height, width and channels of the input.
        classes: units of the last layer.

    Raises:
        InputError: the maps shrink below the kernel, or below the pooling's window.
        MissingExtraError: Keras is not installed.
    """
    keras = import_keras("building a network", any_backend=True)
    layers = keras.layers
    if settings.network == "residual":
        return _residual(settings, image_shape, classes)
    network = keras.Sequential([keras.Input(image_shape, name="image")], name=settings.network)
    if settings.network == "convolutional":
        check_sizes(settings, image_shape[:2])
        for index, filters in enumerate(settings.filters):
            suffix = f"_{index}" if index else ""
            network.add(
                layers.Conv2D(
                    filters, settings.kernel_size, activation="relu", name=f"conv2d{suffix}"
                )
            )
            if settings.pool > 1:
                network.add(layers.MaxPooling2D(settings.pool, name=f"max_pooling2d{suffix}"))
    network.add(layers.Flatten(name="flatten"))
    network.add(layers.Dense(settings.hidden, activation="relu", name="dense"))
    network.add(layers.Dense(classes, activation="softmax", name="dense_1"))
    return network


def _residual(settings: Settings, image_shape: tuple[int, int, int], classes: int) -> keras.Model:
    keras = import_keras("building a network", any_backend=True)
    layers = keras.layers
    number = 0

    def normalized(x: Any, filters: int) -> Any:
        nonlocal number
        suffix = f"_{number}" if number else ""
        number += 1
        x = layers.Conv2D(
            filters,
            settings.kernel_size,
            padding="same",
            use_bias=False,
            kernel_initializer="he_normal",
            name=f"conv2d{suffix}",
        )(x)
        return layers.BatchNormalization(name=f"batch_normalization{suffix}")(x)

    image = keras.Input(image_shape, name="image")
    x = image
    for stage, filters in enumerate(settings.filters):
        if stage and settings.pool > 1:
            x = layers.MaxPooling2D(settings.pool, name=f"max_pooling2d_{stage}")(x)
        x = layers.ReLU(name=f"relu_stage{stage}")(normalized(x, filters))
        for block in range(settings.blocks):
            name = f"stage{stage}_block{block}"
            inner = layers.ReLU(name=f"relu_{name}")(normalized(x, filters))
            x = layers.Add(name=f"add_{name}")([x, normalized(inner, filters)])
            x = layers.ReLU(name=f"out_{name}")(x)
    x = layers.GlobalAveragePooling2D(name="global_average_pooling2d")(x)
    x = layers.Dense(classes, activation="softmax", name="dense")(x)
    return keras.Model(image, x, name="residual")


def check_sizes(settings: Settings, size: tuple[int, int]) -> None:
    """Follow the maps through the convolutions; needs no Keras.

    Args:
        settings: of a convolutional network.
        size: height and width of the image.

    Raises:
        InputError: the maps shrink below the kernel, or below the pooling's window.
    """
    remedy = "use fewer convolutions, a smaller kernel, or no pooling"
    for number, _ in enumerate(settings.filters, start=1):
        if min(size) < settings.kernel_size:
            raise InputError(
                f"convolution {number} of {len(settings.filters)} would get maps of "
                f"{size[0]}×{size[1]}, smaller than its {settings.kernel_size}×"
                f"{settings.kernel_size} kernel: {remedy}"
            )
        size = (size[0] - settings.kernel_size + 1, size[1] - settings.kernel_size + 1)
        if min(size) < settings.pool:
            raise InputError(
                f"the pooling after convolution {number} of {len(settings.filters)} would get maps "
                f"of {size[0]}×{size[1]}, smaller than its {settings.pool}×{settings.pool} window: "
                f"{remedy}"
            )
        size = (size[0] // settings.pool, size[1] // settings.pool)
