"""`load()` and `Model`: one network, whichever engine runs it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import onnx
from numpy.typing import NDArray

from pyconv import bundled
from pyconv.engines import base
from pyconv.engines.base import (
    Array,
    Engine,
    EngineName,
    Step,
    TensorInfo,
    WeightStorage,
    shape_text,
    tensor_names,
)
from pyconv.errors import InputError, ModelError, unknown_name
from pyconv.graph import reader
from pyconv.graph.batch import Batch
from pyconv.metadata import InputContract, Layer, Metadata, broken

if TYPE_CHECKING:
    from pyconv.graph.importer import Network
    from pyconv.summary import Summary


MOST_THREADS = 1024
"""More than any machine that pyconv is meant for has use for."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """One class and its probability.

    Attributes:
        label: the class's name, or its number as text where the file has no names.
        index: the class's place on the output's last axis.
        probability: between 0 and 1.
    """

    label: str
    index: int
    probability: float


def load(
    model: str | Path,
    *,
    engine: EngineName = "native",
    threads: int = 1,
    exact: bool = False,
    weights: WeightStorage = "float32",
) -> Model:
    """Load a network.

    Args:
        model: the name of a bundled model (`"fashion"`, `"digits"`) or the path of an ONNX file.
        engine: `"native"`, pyconv's own kernels, or `"onnxruntime"`.
        threads: how many threads one call may use, at least 1.
        exact: whether convolutions are computed by direct products alone. Otherwise the native
            engine may take Winograd's algorithm, which is two to four times as fast and whose
            activations are off by up to 1e-5 of their scale, where direct ones are by 1e-6.
        weights: how the native engine keeps the weights of dense layers. `"bfloat16"` is half of
            `"float32"`, with a relative error of up to 0.2% a weight; `"int8"` is a quarter, with
            an error of up to 0.4% of the largest weight that the same output has. Both answer
            single images sooner, since reading the weights is what takes the time there;
            docs/quantize.md has the figures. Convolutions, biases and activations stay float32.

    Raises:
        InputError: no such engine or storage, onnxruntime with another storage than float32, or
            `threads` is no integer from 1 to `MOST_THREADS`.
        ModelError: the file is missing or broken, or what it says about itself is.
        UnsupportedOperatorError: the native engine lacks operators that the graph uses; all of
            them are named.
    """
    if not isinstance(threads, int | np.integer) or not 1 <= threads <= MOST_THREADS:
        raise InputError(f"threads: expected an integer from 1 to {MOST_THREADS}, got {threads!r}")
    path = bundled.resolve(model)
    props = {item.key: item.value for item in reader.parse(path).metadata_props}
    running = base.create(engine, path, int(threads), exact, weights)
    return Model(path, running, Metadata.from_props(props, path))


class Model:
    """One network on one engine. Made by `load`; safe to call from many threads at once.

    Attributes:
        path: the ONNX file.
        metadata: what the file says about itself; its fields are empty where the file is silent.
    """

    def __init__(self, path: Path, engine: Engine, metadata: Metadata) -> None:
        self.path = path
        self.metadata = metadata
        self._engine = engine
        self._contract = metadata.input or _guess_contract(engine.inputs)
        self.run = engine.run  # the raw interface is the engine's own: nothing stands between
        """Compute tensors by their ONNX names, without preprocessing (`Engine.run`)."""
        for layer in metadata.layers:
            self._check_axes(layer, engine.rank(layer.tensor))

    @property
    def engine(self) -> EngineName:
        """The engine's name: `"native"` or `"onnxruntime"`."""
        return self._engine.name

    @property
    def threads(self) -> int:
        """How many threads one call may use."""
        return self._engine.threads

    @property
    def inputs(self) -> Sequence[TensorInfo]:
        """The ONNX graph's inputs."""
        return self._engine.inputs

    @property
    def outputs(self) -> Sequence[TensorInfo]:
        """The ONNX graph's outputs."""
        return self._engine.outputs

    @property
    def main_output(self) -> str:
        """The ONNX tensor that `predict` is about."""
        contract = self.metadata.output
        return contract.tensor if contract else self._engine.outputs[0].name

    @property
    def labels(self) -> Sequence[str]:
        """The class names; empty where the file does not give them."""
        return self.metadata.labels

    @property
    def layers(self) -> Sequence[str]:
        """The names that `activations` takes: Keras layers, or tensors where there is no map."""
        return [layer.name for layer in self.layer_map]

    @property
    def input_contract(self) -> InputContract | None:
        """How pictures become the input; None where the network does not take pictures."""
        return self._contract

    def predict(self, images: Array) -> NDArray[np.float32]:
        """The network's main output for a batch of images.

        Args:
            images: (n, height, width) or (n, height, width, channels). uint8 pixels (0 to 255) are
                scaled as the file's input contract says; float32 goes to the network as it is.

        Returns:
            (n, classes) float32: probabilities that sum to 1 (softmax is taken here where the
            network ends before it), or the output's own values for a network that is no
            classifier.

        Raises:
            InputError: the images have another shape or dtype than the network takes.
        """
        inputs = self.preprocess(images)
        return self.scores(self._engine.run(inputs, [self.main_output])[self.main_output])

    def scores(self, output: Array) -> NDArray[np.float32]:
        """What `predict` makes of the tensor `main_output`: softmax where it is still to be taken.

        Args:
            output: (n, classes) as the network puts it out; not changed.
        """
        contract = self.metadata.output
        if contract is None or contract.kind != "logits":
            return output
        result: NDArray[np.float32] = np.exp(output - output.max(axis=-1, keepdims=True))
        result /= result.sum(axis=-1, keepdims=True)
        return result

    def classify(self, images: Array, top: int = 1) -> list[list[Prediction]]:
        """The likeliest classes of each image.

        Args:
            images: as `predict` takes them.
            top: how many classes an image, the likeliest first; all of them if there are fewer.

        Returns:
            A list of predictions for each image.

        Raises:
            InputError: `top` is below 1, or as for `predict`.
            ModelError: the network's output is no row of class scores, or the file names more or
                fewer classes than that has.
        """
        if not isinstance(top, int | np.integer) or top < 1:
            raise InputError(f"top: expected an integer of at least 1, got {top!r}")
        return self.likeliest(self.predict(images), top)

    def likeliest(self, scores: Array, top: int) -> list[list[Prediction]]:
        """What `classify` makes of the scores that `predict` gives.

        Args:
            scores: (n, classes).
            top: how many classes an image, at least 1.

        Raises:
            ModelError: as for `classify`.
        """
        if scores.ndim != 2:
            raise ModelError(
                f"{self.path}: classify needs an output of shape (n, classes), "
                f"this network's is {shape_text(scores.shape)}; use predict or run"
            )
        labels = self.labels or [str(index) for index in range(scores.shape[1])]
        if len(labels) != scores.shape[1]:
            problem = (
                f"expected a label for each of the output's {scores.shape[1]} numbers, "
                f"got {len(labels)}"
            )
            raise broken(self.path, "pyconv.labels", problem)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :top]
        return [
            [Prediction(labels[index], int(index), float(row[index])) for index in best]
            for row, best in zip(scores, order, strict=True)
        ]

    def activations(self, images: Array, layers: Sequence[str] | None = None) -> dict[str, Array]:
        """What chosen layers put out for a batch of images.

        Args:
            images: as `predict` takes them.
            layers: names from `layers` (or of any tensor in the graph); all layers by default.

        Returns:
            The outputs by layer name in Keras' layout, such as (n, height, width, channels). For a
            file without a layer map, tensors by name in their ONNX layout.

        Raises:
            InputError: a layer does not exist, or as for `predict`.
            ModelError: the file gives a layer other axes than its tensor has.
        """
        known = self._by_name
        names = list(known) if layers is None else tensor_names(layers)
        chosen = [self.layer(name) for name in names]
        inputs = self.preprocess(images)
        try:
            arrays = self._engine.run(inputs, [layer.tensor for layer in chosen])
        except InputError:
            for name in names:
                if name not in known:
                    raise InputError(unknown_name("layer", name, known)) from None
            raise
        return {layer.name: self.keras_layout(layer, arrays[layer.tensor]) for layer in chosen}

    def preprocess(self, images: Array) -> dict[str, Array]:
        """The network's input for a batch of images: what `predict` hands to the engine.

        Args:
            images: as `predict` takes them.

        Returns:
            The input tensor, under its name in the graph.

        Raises:
            InputError: the images have another shape or dtype than the network takes.
        """
        contract = self._contract
        if contract is None:
            raise self._takes_no_images()
        images = np.asarray(images)
        height, width, channels = contract.height, contract.width, contract.channels
        grey = images.ndim == 3 and channels == 1
        shape = images.shape if not grey else (*images.shape, 1)
        if len(shape) != 4 or shape[1:] != (height, width, channels):
            also = f" or (n, {height}, {width})" if channels == 1 else ""
            raise InputError(
                f"images: expected shape (n, {height}, {width}, {channels}){also}, "
                f"got {shape_text(images.shape)}"
            )
        if images.dtype == np.uint8:
            if self.metadata.input is None:
                raise InputError(
                    "images: this file does not say how uint8 pixels become its input; pass "
                    "float32 as the network was trained on, or say it with taking_pixels (or "
                    "export it with pyconv export)"
                )
            x = images.astype(np.float32)
            x *= np.float32(contract.scale)
            x += np.float32(contract.offset)
        elif images.dtype == np.float32:
            x = images
        else:
            raise InputError(f"images: expected dtype uint8 or float32, got {images.dtype}")
        x = x.reshape(shape)
        if contract.layout == "NCHW":
            x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
        if contract.rank == 3:
            x = x.reshape(-1, height, width)
        return {contract.tensor: x}

    def taking_pixels(self, low: float = 0.0, high: float = 1.0) -> Model:
        """The same network, told how uint8 pixels become its input where its file is silent.

        Args:
            low: what a pixel of 0 is to the network.
            high: what a pixel of 255 is.

        Returns:
            A model on the same engine, or this one where its file says how.

        Raises:
            InputError: the network does not take one batch of images, or a number is not finite.
        """
        if self.metadata.input is not None:
            return self
        if self._contract is None:
            raise self._takes_no_images()
        if not (math.isfinite(low) and math.isfinite(high)):
            raise InputError(f"pixels: expected two finite numbers, got {low} and {high}")
        contract = replace(self._contract, scale=(high - low) / 255, offset=low)
        return Model(self.path, self._engine, replace(self.metadata, input=contract))

    def _takes_no_images(self) -> InputError:
        return InputError(
            f"{self.path}: this network does not take one batch of images of a fixed size; its "
            "inputs are "
            + ", ".join(f"{i.name} {i.dtype} {shape_text(i.shape)}" for i in self.inputs)
            + "; use run()"
        )

    def resumed(self, layers: Sequence[str]) -> Model:
        """The network from some layers on: what is left to compute once their outputs are known.

        What would the network answer if its first channel saw nothing?

        >>> import numpy, pyconv
        >>> model = pyconv.load("digits")
        >>> image = numpy.zeros((1, 28, 28, 1), numpy.float32)
        >>> maps = model.run({"image": image}, ["conv2d"])
        >>> maps["conv2d"][:, 0] = 0
        >>> model.resumed(["conv2d"]).run(maps)["dense_1"].shape
        (1, 10)

        Args:
            layers: names from `layers`, or of any tensor in the graph.

        Returns:
            A model on the same engine with the same outputs. Its inputs are the layers' tensors, in
            the ONNX graph's layout, and those of the network's own inputs that are still needed.

        Raises:
            InputError: a layer does not exist.
            ModelError: the file is not there any more, the engine lacks an operator, or there is no
                place for a temporary file.
        """
        from pyconv.graph.resumption import resumed

        rest = resumed(reader.parse(self.path), [self.layer(name).tensor for name in layers])
        with ExitStack() as stack:
            try:
                folder = stack.enter_context(TemporaryDirectory(prefix="pyconv-"))
                path = Path(folder) / self.path.name
                onnx.save(rest, path)
            except OSError as error:
                raise ModelError(
                    "the network from some layers on is loaded from a temporary file, and none can "
                    f"be written ({error.strerror or error}); let /tmp be written, or set TMPDIR"
                ) from error
            try:
                model = load(path, engine=self.engine, threads=self.threads)
            except ModelError as error:
                raise ModelError(str(error).replace(str(path), str(self.path))) from error
            # Read now: the file goes with the folder.
            model.layer_map, model.tensors = model.layer_map, model.tensors
            return model

    def time_steps(self, inputs: Mapping[str, Array]) -> Sequence[tuple[Step, float]]:
        """Run once, and say what each step of the program took.

        Args:
            inputs: as `run` takes them.

        Returns:
            `steps`, each with its seconds; empty where the program depends on the inputs' shapes.

        Raises:
            InputError: the engine is onnxruntime, which does not tell; or as for `run`.
        """
        from pyconv.engines.native import NativeEngine

        if not isinstance(self._engine, NativeEngine):
            raise InputError("only the native engine tells what each of its steps takes")
        return list(zip(self.steps(), self._engine.time_steps(inputs), strict=False))

    def steps(self) -> Sequence[Step]:
        """The native engine's compiled program; empty for onnxruntime, which hides its own."""
        return self._engine.steps()

    def summary(self) -> Summary:
        """The table of layers: output shape, parameters, FLOPs, and the native algorithm.

        Returns:
            An object whose `rows` hold the figures and whose `str()` is the table.
        """
        from pyconv.summary import summarize

        return summarize(self)

    @cached_property
    def layer_map(self) -> Sequence[Layer]:
        """Which tensor is which layer; for a file that does not say, each tensor is one."""
        if self.metadata.layers:
            return self.metadata.layers
        model = reader.parse(self.path)
        return [
            Layer(name, node.op_type, name, (), ())
            for node in model.graph.node
            for name in node.output
            if name and node.op_type != "Constant"
        ]

    @cached_property
    def _by_name(self) -> Mapping[str, Layer]:
        return {layer.name: layer for layer in self.layer_map}

    @cached_property
    def tensors(self) -> Sequence[str]:
        """The ONNX tensors that the graph computes, in the file's order."""
        graph = reader.parse(self.path).graph
        return [name for node in graph.node for name in node.output if name]

    def layer(self, name: str) -> Layer:
        """The layer of a name; of another name, the tensor that may be called so in the graph."""
        return self._by_name.get(name) or Layer(name, "", name, (), ())

    def keras_layout(self, layer: Layer, array: Array) -> Array:
        """A layer's output, as the graph has it, in Keras' layout: a view.

        Raises:
            ModelError: the file gives the layer other axes than its tensor has.
        """
        self._check_axes(layer, array.ndim)
        return array.transpose(layer.axes) if layer.axes else array

    @cached_property
    def network(self) -> Network | None:
        """The graph in the compiler's terms, for any batch and whichever engine runs it.

        None where there is no such thing: heights and widths are free, images of a batch depend on
        each other, or the native engine lacks an operator.
        """
        from pyconv.engines.native import NativeEngine
        from pyconv.graph import importer
        from pyconv.graph.batch import BatchError
        from pyconv.graph.importer import ValuesNeeded

        if isinstance(self._engine, NativeEngine):
            return self._engine.network
        try:
            file = reader.read(self.path)
            return importer.build(file, importer.batch_shapes(file))
        except (BatchError, ModelError, ValuesNeeded):
            return None

    def is_row_by_row(self, tensors: Sequence[str]) -> bool:
        """Whether each image of a batch makes a row of its own of each of these tensors.

        If so, batches may be put together along axis 0 of the inputs and these tensors cut apart
        again. False where it cannot be told.
        """
        network = self.network
        if network is None:
            return False
        names = [*(info.name for info in self.inputs), *tensors]
        shapes = [network.shape(name) for name in names]
        return all(shape and shape[0] == Batch(1) for shape in shapes)

    def _check_axes(self, layer: Layer, rank: int | None) -> None:
        if layer.axes and rank not in (None, len(layer.axes)):
            problem = (
                f"expected a permutation of {rank} axes for the layer {layer.name!r}, which is the "
                f"tensor {layer.tensor!r}, got {list(layer.axes)}"
            )
            raise broken(self.path, "pyconv.layers", problem)

    def __repr__(self) -> str:
        return f"<pyconv.Model {self.path.name} on {self.engine}, {self.threads} thread(s)>"


def _guess_contract(inputs: Sequence[TensorInfo]) -> InputContract | None:
    """The contract where a file has none: one float input of four axes, channels first or last."""
    if len(inputs) != 1 or inputs[0].dtype != "float32":
        return None
    name, shape = inputs[0].name, inputs[0].shape
    if shape is None or len(shape) != 4 or None in shape[1:]:
        return None
    _, a, b, c = (size or 0 for size in shape)
    if c in (1, 3, 4):
        return InputContract(name, a, b, c, "NHWC")
    if a in (1, 3, 4):
        return InputContract(name, b, c, a, "NCHW")
    return None
