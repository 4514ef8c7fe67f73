"""From a Keras model to an ONNX graph that also puts out what every layer does.

tf2onnx does the work; the mends around it are explained in docs/decisions/0008-keras-to-onnx.md.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from pyconv.errors import ExportError, MissingExtraError
from pyconv.training import recording
from pyconv.training.backend import import_keras, import_tensorflow

if TYPE_CHECKING:
    import keras

OPSET = 18
"""The newest operator set that tf2onnx can write."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """A converted model.

    Attributes:
        onnx: its graph; the first outputs are the model's own, then comes one for each layer's.
        outputs: names of the graph's outputs that are the model's.
        layers: for each further output its name and what was recorded there.
    """

    onnx: onnx.ModelProto
    outputs: list[str]
    layers: list[tuple[str, recording.Recorded]]


def convert(model: keras.Model, input_name: str, input_shape: Sequence[int]) -> Conversion:
    """Convert a model.

    Args:
        model: a built Keras model of one input.
        input_name: what the graph's input shall be called.
        input_shape: its shape without the batch.

    Raises:
        ExportError: tf2onnx cannot convert it, or left something in it that is not ONNX.
        MissingExtraError: tf2onnx is not installed.
    """
    tf = import_tensorflow("exporting a model")
    try:
        import tf2onnx
    except ImportError:
        raise MissingExtraError("tf2onnx", "train", "exporting a model") from None

    recorded: list[recording.Recorded] = []

    def inference(x: Any) -> list[Any]:
        outputs, layers = recording.call(model, x)
        recorded[:] = layers  # tracing may happen more than once
        return [*outputs, *(layer.tensor for layer in layers)]

    signature = [tf.TensorSpec((None, *input_shape), tf.float32, name=input_name)]

    def converted(copying: bool) -> onnx.ModelProto:
        with (
            _without_xla(),
            _scopes_of_any_name(),
            _constant_statistics(model),
            _one_walk_for_all_outputs(),
            _copies_before_optimizers(copying),
            _large_weights_kept_from_grappler(),
            _little_memory(),
            _quiet(),
        ):
            proto: onnx.ModelProto = tf2onnx.convert.from_function(
                # Without autograph: it rewrites Python code that it has no business in.
                tf.function(inference, autograph=False),
                signature,
                opset=OPSET,
                custom_op_handlers={
                    "Erfc": (_one_minus_erf, []),
                    "Expm1": (_exponential_minus_one, []),
                },
            )[0]
        return proto

    try:
        try:
            proto = converted(copying=False)
        except Exception:  # maybe of an optimizer alone, without which it goes too
            proto = converted(copying=True)
    except Exception as error:  # whatever Keras, TensorFlow or tf2onnx met
        raise ExportError(f"the model cannot be converted to ONNX: {error}") from error
    _mend_transposed_pads(proto)
    _refuse_foreign_operators(proto)
    names = [output.name for output in proto.graph.output]
    own = len(names) - len(recorded)
    return Conversion(proto, names[:own], list(zip(names[own:], recorded, strict=True)))


@contextlib.contextmanager
def _without_xla() -> Iterator[None]:
    """Let Keras call what it would compile with XLA (grouped convolutions) like the rest.

    tf2onnx cannot look into an XLA call and would leave it in the graph as an operator that no
    engine has.
    """
    tf = import_tensorflow("exporting a model")
    original = tf.function

    def function(python_function: Callable[..., Any] | None = None, **options: Any) -> Any:
        if options.get("jit_compile"):
            return python_function if python_function is not None else lambda inner: inner
        return original(python_function, **options)

    setattr(tf, "function", function)  # noqa: B010
    try:
        yield
    finally:
        setattr(tf, "function", original)  # noqa: B010


@contextlib.contextmanager
def _scopes_of_any_name() -> Iterator[None]:
    """Let layers be called as people like: TensorFlow's own scopes take few letters."""
    tf = import_tensorflow("exporting a model")
    original = tf.name_scope

    def name_scope(name: str) -> Any:
        allowed = re.sub(r"[^A-Za-z0-9_.\\/>-]", "_", name)
        return original(allowed if re.match(r"[A-Za-z0-9.]", allowed) else f"layer{allowed}")

    setattr(tf, "name_scope", name_scope)  # noqa: B010
    try:
        yield
    finally:
        setattr(tf, "name_scope", original)  # noqa: B010


@contextlib.contextmanager
def _constant_statistics(model: keras.Model) -> Iterator[None]:
    """Let Normalization layers use their mean and variance as constants.

    They are tensors of the eager world; captured by the traced function they would become inputs
    that the graph lacks.
    """
    keras = import_keras("exporting a model")
    layers = [
        layer
        for layer in recording.named_layers(model).values()
        if isinstance(layer, keras.layers.Normalization)
    ]
    for layer in layers:
        layer.convert_weight = np.asarray
    try:
        yield
    finally:
        for layer in layers:
            del layer.convert_weight


@contextlib.contextmanager
def _one_walk_for_all_outputs() -> Iterator[None]:
    """Let tf2onnx find the nodes that any output needs in one walk.

    It walks the graph anew for each output, of which there is one a layer here, and does so 45
    times: minutes for a network of some hundred layers.
    """
    from tf2onnx.graph import Graph

    original = Graph.extract_sub_graph_nodes

    def extract_sub_graph_nodes(
        graph: Any,
        outputs_name: Sequence[str],
        input_checker: Callable[[Any], bool] | None = None,
        remove_unused_inputs: bool = True,
    ) -> list[Any]:
        names = list(outputs_name)
        if not remove_unused_inputs:
            names += [node.output[0] for node in graph.inputs]
        found: dict[Any, None] = {}  # in the order of the walk, so that files come out alike
        while names:
            node = graph.get_node_by_output(names.pop(), search_in_parent_graphs=False)
            if node is None or node in found or (input_checker and input_checker(node) is False):
                continue
            found[node] = None
            names += [*node.input, *node.get_implicit_inputs()]
        return list(found)

    Graph.extract_sub_graph_nodes = extract_sub_graph_nodes
    try:
        yield
    finally:
        Graph.extract_sub_graph_nodes = original


@contextlib.contextmanager
def _copies_before_optimizers(wanted: bool) -> Iterator[None]:
    """Let tf2onnx copy the graph before each of its optimizers, or not.

    With a copy it goes on where an optimizer fails. But the copies, some 36 with all weights, take
    a third of the time and, for VGG16, gigabytes.
    """
    from tf2onnx import optimizer

    original = optimizer.optimize_graph

    def optimize_graph(graph: Any, catch_errors: bool = True, optimizers: Any = None) -> Any:
        return original(graph, catch_errors and wanted, optimizers)

    optimizer.optimize_graph = optimize_graph
    try:
        yield
    finally:
        optimizer.optimize_graph = original


_LARGE_BYTES = 1 << 20


@contextlib.contextmanager
def _large_weights_kept_from_grappler() -> Iterator[None]:
    """Let TensorFlow optimize the graph without its large weights, which come back afterwards.

    It copies all that there is ten times: 13 GB for VGG16. Nothing is folded into weights of that
    size here; batch normalisations go into the compiler as they are.
    """
    from tf2onnx import tf_loader

    original = tf_loader.tf_optimize

    def tf_optimize(inputs: list[str], outputs: list[str], graph: Any) -> Any:
        weights = {}
        for node in graph.node:
            tensor = node.attr["value"].tensor if node.op == "Const" else None
            if tensor is not None and len(tensor.tensor_content) >= _LARGE_BYTES:
                weights[node.name] = tensor.tensor_content
                node.op = "Placeholder"
                node.attr["shape"].shape.CopyFrom(tensor.tensor_shape)
                del node.attr["value"]
        graph = original(inputs, outputs, graph)
        for node in graph.node:
            if node.name in weights:
                node.op = "Const"
                tensor = node.attr["value"].tensor
                tensor.dtype = node.attr["dtype"].type
                tensor.tensor_shape.CopyFrom(node.attr["shape"].shape)
                tensor.tensor_content = weights.pop(node.name)
                del node.attr["shape"]
        return graph

    tf_loader.tf_optimize = tf_optimize
    try:
        yield
    finally:
        tf_loader.tf_optimize = original


@contextlib.contextmanager
def _little_memory() -> Iterator[None]:
    """Keep tf2onnx from holding many copies of the weights.

    After each of its optimizers it would write everything into protobuf messages, which nobody
    reads before the model is made, and a message keeps the room of what is deleted from it. What an
    optimizer gives up goes in circles, so it waits for the garbage collector; that is quick with
    all else that there is set aside.
    """
    from tf2onnx.optimizer.optimizer_base import GraphOptimizerBase

    original = GraphOptimizerBase.optimize

    def optimize(optimizer: Any, graph: Any, iteration: int) -> Any:
        optimizer.opt_iteration = iteration
        graph = optimizer._optimize(graph)
        graph.delete_unused_nodes(graph.outputs)
        gc.collect()
        return graph

    GraphOptimizerBase.optimize = optimize
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        GraphOptimizerBase.optimize = original


def _one_minus_erf(context: Any, node: Any, name: str, _: Any) -> Any:
    """TensorFlow's Erfc, which exact GELU uses, by ONNX' Erf: erfc(x) = 1 - erf(x)."""
    return _difference_from_one(context, node, name, "Erf", one_first=True)


def _exponential_minus_one(context: Any, node: Any, name: str, _: Any) -> Any:
    """TensorFlow's Expm1, which CELU uses, by ONNX' Exp."""
    return _difference_from_one(context, node, name, "Exp", one_first=False)


def _difference_from_one(context: Any, node: Any, name: str, operator: str, one_first: bool) -> Any:
    dtype, shape = context.get_dtype(node.output[0]), context.get_shape(node.output[0])
    (x,), (result,) = node.input, node.output
    context.remove_node(node.name)
    made = context.make_node(operator, [x], dtypes=[dtype], shapes=[shape]).output[0]
    one = context.make_const(f"{name}_one", np.array(1, np.float32)).output[0]
    operands = [one, made] if one_first else [made, one]
    return context.make_node("Sub", operands, outputs=[result], dtypes=[dtype], shapes=[shape])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep tf2onnx's log to itself: what it meets is found by checking the result."""
    logger = logging.getLogger("tf2onnx")
    disabled = logger.disabled
    loggers = [logger, *(logging.getLogger(n) for n in logging.root.manager.loggerDict)]
    chosen = [item for item in loggers if item.name.split(".")[0] == "tf2onnx"]
    levels = [item.level for item in chosen]
    for item in chosen:
        item.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.disabled = disabled
        for item, level in zip(chosen, levels, strict=True):
            item.setLevel(level)


def _mend_transposed_pads(proto: onnx.ModelProto) -> None:
    """Write what a transposed convolution adds at its ends as ONNX does.

    Where the stride is larger than the kernel Keras' output ends in zeros, which tf2onnx writes as
    pads below 0, and onnxruntime refuses those.
    """
    for node in proto.graph.node:
        pads = next((item for item in node.attribute if item.name == "pads"), None)
        if node.op_type != "ConvTranspose" or pads is None:
            continue
        axes = len(pads.ints) // 2
        ends = pads.ints[axes:]
        if min(ends) >= 0:
            continue
        pads.ints[axes:] = [max(end, 0) for end in ends]
        added = [item for item in node.attribute if item.name == "output_padding"]
        for item in added:
            node.attribute.remove(item)
        before = list(added[0].ints) if added else [0] * axes
        more = [own + max(-end, 0) for own, end in zip(before, ends, strict=True)]
        node.attribute.append(onnx.helper.make_attribute("output_padding", more))


def _refuse_foreign_operators(proto: onnx.ModelProto) -> None:
    foreign = sorted(
        {node.op_type for node in proto.graph.node if not _is_onnx(node.op_type, node.domain)}
    )
    if foreign:
        raise ExportError(
            f"tf2onnx has no ONNX operator for TensorFlow's {', '.join(foreign)}; "
            "replace the layers that use them"
        )


def _is_onnx(operator: str, domain: str) -> bool:
    return domain in ("", "ai.onnx.ml") and onnx.defs.has(operator, OPSET, domain)
