"""LiteRT (once TensorFlow Lite), with its XNNPACK delegate."""

from __future__ import annotations

from pathlib import Path

from pyconv.bench.contestants import Runner
from pyconv.bench.peers import tensorflow
from pyconv.engines.base import Array
from pyconv.training.backend import import_tensorflow


def load(path: Path, threads: int) -> Runner:
    """Convert the network by TensorFlow and load it; XNNPACK is LiteRT's own default."""
    from ai_edge_litert.interpreter import Interpreter

    tf = import_tensorflow("converting to LiteRT")
    network = tensorflow.translate(path)
    signature = tf.TensorSpec(network.shape, tf.float32)
    function = tf.function(network.__call__).get_concrete_function(signature)
    content = tf.lite.TFLiteConverter.from_concrete_functions([function]).convert()
    interpreter = Interpreter(model_content=content, num_threads=threads)
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    shape: list[tuple[int, ...]] = []

    def call(inputs: dict[str, Array]) -> Array:
        array = inputs[network.input]
        if shape != [array.shape]:
            interpreter.resize_tensor_input(source["index"], array.shape)
            interpreter.allocate_tensors()
            shape[:] = [array.shape]
        interpreter.set_tensor(source["index"], array)
        interpreter.invoke()
        result: Array = interpreter.get_tensor(target["index"])
        return result

    return Runner(call, lambda result: {network.output: result})
