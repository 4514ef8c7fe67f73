"""What every layer of a Keras model puts out while the model is called."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyconv.training.backend import import_keras, import_tensorflow

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True, slots=True)
class Recorded:
    """One output of one call of one layer.

    Attributes:
        name: the layer's name, after the names of the models it is nested in: `"encoder/conv2d"`.
            A layer's second call is `"dense:1"`, as are a call's second output and so on.
        layer: the layer.
        tensor: what it put out: TensorFlow's tensor, symbolic while a function is traced.
    """

    name: str
    layer: keras.Layer
    tensor: Any


def call(model: keras.Model, x: Any) -> tuple[list[Any], list[Recorded]]:
    """Call a model for inference.

    Works for Sequential, functional and subclassed models, however deeply nested: it listens to the
    calls themselves. Not to be used from two threads at once.

    Args:
        model: a built Keras model of one input.
        x: that input, (n, …).

    Returns:
        The model's outputs, flattened to a list, and what each of its layers put out, in the order
        of the calls. Layers that the model does not list among its own (those inside a layer) are
        left out.
    """
    tf = import_tensorflow("exporting a model")
    names = {id(layer): name for name, layer in _named_layers(model, "")}
    recorded: list[Recorded] = []
    counts: dict[str, int] = {}

    def listen(layer: keras.Layer, outputs: Any) -> None:
        name = names.get(id(layer))
        if name is None:
            return
        for tensor in tf.nest.flatten(outputs):
            count = counts.get(name, 0)
            counts[name] = count + 1
            recorded.append(Recorded(f"{name}:{count}" if count else name, layer, tensor))

    with _listening(listen):
        outputs = tf.nest.flatten(model(x, training=False))
    return outputs, recorded


def named_layers(model: keras.Model) -> dict[str, keras.Layer]:
    """The model's layers by name, those of nested models included (`"encoder/conv2d"`)."""
    return dict(_named_layers(model, ""))


def _named_layers(model: keras.Model, prefix: str) -> Iterator[tuple[str, keras.Layer]]:
    keras = import_keras("exporting a model")
    for layer in model.layers:
        if isinstance(layer, keras.layers.InputLayer):
            continue
        yield prefix + layer.name, layer
        if isinstance(layer, keras.Model):
            yield from _named_layers(layer, f"{prefix}{layer.name}/")


@contextmanager
def _listening(listen: Callable[[keras.Layer, Any], None]) -> Iterator[None]:
    layer_class = import_keras("exporting a model").layers.Layer
    original = layer_class.__call__

    def listened(layer: keras.Layer, *args: Any, **kwargs: Any) -> Any:
        outputs = original(layer, *args, **kwargs)
        listen(layer, outputs)
        return outputs

    layer_class.__call__ = listened
    try:
        yield
    finally:
        layer_class.__call__ = original
