"""TensorFlow, compiled by XLA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyconv.bench.contestants import Runner
from pyconv.bench.peers.translation import Translation
from pyconv.engines.base import Array
from pyconv.errors import InputError
from pyconv.training.backend import import_tensorflow

_threads: int | None = None  # TensorFlow takes its number of threads once in a process


def translate(path: Path) -> Translation:
    """The network in TensorFlow's functions."""
    tf = import_tensorflow("comparing with TensorFlow")

    def activated(attributes: dict[str, Any], x: Any) -> Any:
        name = attributes.get("activation") or "linear"
        return {
            "linear": lambda: x,
            "relu": lambda: tf.nn.relu(x),
            "relu6": lambda: tf.nn.relu6(x),
            "sigmoid": lambda: tf.sigmoid(x),
            "tanh": lambda: tf.tanh(x),
        }[name]()

    def conv2d(attributes: dict[str, Any], x: Any, residual: Any = None) -> Any:
        top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
        pads = [[0, 0], [top, bottom], [left, right], [0, 0]]
        options = {"padding": pads, "dilations": attributes.get("dilations", [1, 1])}
        strides = list(attributes.get("strides", [1, 1]))
        kernel = attributes["kernel"]
        if attributes.get("groups", 1) > 1 and attributes["groups"] == kernel.shape[3]:
            kernel = tf.transpose(kernel, [0, 1, 3, 2])
            y = tf.nn.depthwise_conv2d(x, kernel, strides=[1, *strides, 1], **options)
        else:
            y = tf.nn.conv2d(x, kernel, strides=strides, **options)
        if attributes.get("bias") is not None:
            y = tf.nn.bias_add(y, attributes["bias"])
        y = activated(attributes, y if residual is None else y + residual)
        if "pool_size" in attributes:
            y = tf.nn.max_pool2d(y, attributes["pool_size"], attributes["pool_strides"], "VALID")
        return y

    def dense(attributes: dict[str, Any], x: Any) -> Any:
        y = tf.matmul(x, attributes["weights"])
        if attributes.get("bias") is not None:
            y = tf.nn.bias_add(y, attributes["bias"])
        return activated(attributes, y)

    network = Translation(
        path,
        "tensorflow",
        {
            "conv2d": conv2d,
            "max_pool2d": lambda attributes, x: tf.nn.max_pool2d(
                x, attributes["kernel_size"], attributes["strides"], "VALID"
            ),
            "dense": dense,
            "activation": activated,
            "softmax": lambda attributes, x: tf.nn.softmax(x, attributes.get("axis", -1)),
            "reshape": lambda attributes, x: tf.reshape(x, attributes["shape"]),
            "transpose": lambda attributes, x: tf.transpose(x, attributes["permutation"]),
            "add": lambda _, a, b: a + b,
            "multiply": lambda _, a, b: a * b,
        },
    )
    network.constants(tf.constant)
    return network


def load(path: Path, threads: int) -> Runner:
    """Compile the network with XLA.

    Raises:
        InputError: the process has used TensorFlow with another number of threads.
    """
    global _threads
    tf = import_tensorflow("comparing with TensorFlow")
    if _threads is None:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        _threads = threads
    if threads != _threads:
        raise InputError(
            f"TensorFlow's threads cannot change in a process from {_threads} to {threads}: "
            "run each number by itself (--threads)"
        )
    network = translate(path)
    compiled = tf.function(network.__call__, jit_compile=True)

    def call(inputs: dict[str, Array]) -> Any:
        return compiled(tf.constant(inputs[network.input])).numpy()

    return Runner(call, lambda result: {network.output: result})
