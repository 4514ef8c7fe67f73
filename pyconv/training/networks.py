"""The lesson's networks, by their settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyconv.errors import InputError
from pyconv.training.backend import import_keras
from pyconv.training.settings import Settings

if TYPE_CHECKING:
    import keras


def build(settings: Settings, image_shape: tuple[int, int, int], classes: int) -> keras.Sequential:
    """The network that the settings describe, with fresh weights, not compiled.

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
    keras = import_keras("building a network")
    layers = keras.layers
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
