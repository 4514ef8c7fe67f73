"""Keras models exported to ONNX: the same numbers, at every layer, from a lean file."""

from __future__ import annotations

import importlib.util
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

import pyconv
from pyconv.engines.base import EngineName
from pyconv.errors import ExportError, InputError, ModelError
from pyconv.training import Explanation, export

if TYPE_CHECKING:
    import keras

pytestmark = [
    pytest.mark.train,
    pytest.mark.skipif(
        importlib.util.find_spec("tensorflow") is None, reason="TensorFlow is not installed"
    ),
]

ENGINES: tuple[EngineName, ...] = ("onnxruntime", "native")


# --- models, each with something that exporting has stumbled over -----------------------------

Make = Callable[[], "keras.Model"]


def _keras() -> Any:
    from pyconv.training.backend import import_keras

    return import_keras("these tests")


def _functional(shape: tuple[int, ...], body: Callable[[Any, Any], Any]) -> keras.Model:
    keras = _keras()
    image = keras.Input(shape, name="image")
    return _shaken(keras.Model(image, body(keras.layers, image)))


def _shaken(model: keras.Model) -> keras.Model:
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
    return _shaken(
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
    return _shaken(
        keras.Sequential(
            [keras.Input((9, 7)), layers.Flatten(), layers.Dense(6, "relu"), layers.Dense(3)]
        )
    )


def one_axis() -> keras.Model:
    """Layers that slide along one axis, over (n, height, width)."""
    keras = _keras()
    layers = keras.layers
    return _shaken(
        keras.Sequential(
            [
                keras.Input((30, 4)),
                layers.Conv1D(8, 3, padding="causal"),
                layers.SeparableConv1D(5, 3),
                layers.DepthwiseConv1D(3),
                layers.MaxPooling1D(2),
                layers.UpSampling1D(2),
                layers.ZeroPadding1D(1),
                layers.Cropping1D(1),
                layers.Conv1DTranspose(4, 3, strides=2),
                layers.GlobalAveragePooling1D(),
            ]
        )
    )


def over_pixels() -> keras.Model:
    """Dense layers over maps."""
    return _functional((6, 5, 3), lambda k, x: k.Dense(2)(k.Dense(7, activation="relu")(x)))


def a_class_of_its_own() -> keras.Model:
    """It knows the shape of its input from the call that built it."""
    keras = _keras()

    class Own(keras.Model):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.conv = keras.layers.Conv2D(4, 3, activation="relu")
            self.dense = keras.layers.Dense(3)

        def call(self, x: Any) -> Any:
            return self.dense(keras.ops.mean(self.conv(x), axis=(1, 2)))

    model = Own()
    model(np.zeros((1, 8, 9, 2), np.float32))
    return _shaken(model)


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
    return _shaken(model)


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
    return _shaken(keras.Model(image, layers.GlobalAveragePooling2D(name="mean")(x)))


def shared() -> keras.Model:
    """One layer called twice."""
    keras = _keras()
    layers = keras.layers
    image = keras.Input((8, 8, 2), name="image")
    again = layers.Conv2D(2, 3, padding="same", activation="relu", name="again")
    return _shaken(keras.Model(image, layers.Flatten(name="flat")(again(again(image)))))


# One layer each, between a convolution and what the image is seen by.
LAYERS: dict[str, Callable[[Any], Any]] = {
    "conv2d_strided_valid": lambda k: k.Conv2D(5, (3, 2), strides=(2, 3)),
    "conv2d_dilated_same": lambda k: k.Conv2D(5, 3, padding="same", dilation_rate=(2, 3)),
    "conv2d_grouped_strided": lambda k: k.Conv2D(6, 3, strides=2, padding="same", groups=2),
    "depthwise_strided": lambda k: k.DepthwiseConv2D(3, strides=2, padding="same"),
    "separable_strided": lambda k: k.SeparableConv2D(6, 3, strides=2, padding="same"),
    "conv2d_transpose": lambda k: k.Conv2DTranspose(5, 3, activation="relu"),
    "conv2d_transpose_strided_same": lambda k: k.Conv2DTranspose(5, 3, strides=2, padding="same"),
    "conv2d_transpose_strided_valid": lambda k: k.Conv2DTranspose(3, 2, strides=(3, 2)),
    "max_pooling_same": lambda k: k.MaxPooling2D(3, strides=2, padding="same"),
    "max_pooling_uneven": lambda k: k.MaxPooling2D((2, 3), strides=(1, 2)),
    "average_pooling": lambda k: k.AveragePooling2D((3, 2)),
    "average_pooling_same": lambda k: k.AveragePooling2D(3, strides=1, padding="same"),
    "global_max_pooling": lambda k: k.GlobalMaxPooling2D(keepdims=True),
    "layer_normalization": lambda k: k.LayerNormalization(),
    "layer_normalization_of_maps": lambda k: k.LayerNormalization(axis=(1, 2, 3)),
    "batch_normalization_plain": lambda k: k.BatchNormalization(center=False, scale=False),
    "group_normalization": lambda k: k.GroupNormalization(2),
    "dropout": lambda k: k.SpatialDropout2D(0.3),
    "relu6": lambda k: k.ReLU(max_value=6.0),
    "relu_of_keras": lambda k: k.ReLU(max_value=2.0, negative_slope=0.1, threshold=0.5),
    "leaky_relu": lambda k: k.LeakyReLU(0.2),
    "prelu": lambda k: k.PReLU(),
    "prelu_by_channel": lambda k: k.PReLU(shared_axes=[1, 2]),
    "elu": lambda k: k.ELU(0.7),
    **{
        name: lambda k, name=name: k.Activation(name)
        for name in (
            "gelu", "swish", "hard_swish", "hard_sigmoid", "sigmoid", "tanh", "selu", "softplus",
            "softsign", "mish", "exponential", "celu",
        )
    },
    "gelu_by_tanh": lambda k: k.Activation(
        lambda v: _keras().activations.gelu(v, approximate=True)
    ),
    "softmax_over_channels": lambda k: k.Softmax(),
    "zero_padding": lambda k: k.ZeroPadding2D(((1, 2), (3, 0))),
    "cropping": lambda k: k.Cropping2D(((1, 2), (0, 3))),
    "up_sampling_nearest": lambda k: k.UpSampling2D((2, 3)),
    "up_sampling_bilinear": lambda k: k.UpSampling2D(2, interpolation="bilinear"),
    "reshape": lambda k: k.Reshape((7, -1, 2)),
    "permute": lambda k: k.Permute((2, 1, 3)),
    "rescaling_of_maps": lambda k: k.Rescaling(0.5, [0.1, 0.2, 0.3, 0.4]),
}  # fmt: skip


def _with_layer(make: Callable[[Any], Any]) -> keras.Model:
    def body(k: Any, x: Any) -> Any:
        x = make(k)(k.Conv2D(4, 2, name="before")(x))
        return k.Dense(3, name="dense")(k.Flatten(name="flat")(x))

    return _functional((8, 10, 3), body)


MERGES = ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate")


def merges() -> keras.Model:
    """Every way to bring two branches together, of one channel and of as many as the other."""

    def body(k: Any, x: Any) -> Any:
        x = k.Conv2D(3, 3, padding="same", activation="tanh")(x)
        y, gate = k.Conv2D(3, 1)(x), k.Conv2D(1, 1, activation="sigmoid")(x)
        made = [getattr(k, name)()([x, y]) for name in MERGES]
        return k.Concatenate()([*made, k.Multiply()([made[0], gate])])

    return _functional((5, 6, 2), body)


MODELS: dict[str, Make] = {
    make.__name__: make
    for make in (
        lesson,
        dense,
        one_axis,
        over_pixels,
        a_class_of_its_own,
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
        merges,
    )
}


# --- tests ------------------------------------------------------------------------------------


def _operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(str(path)).graph.node]


@pytest.mark.parametrize("name", MODELS)
def test_export_computes_what_keras_does_at_every_layer(name: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    exported = export(model, tmp_path / "model.onnx")
    assert exported.untraced == ()
    assert exported.verification.warnings == ()
    assert exported.verification.engines == ENGINES
    assert max(item.relative for item in exported.verification.differences) < 1e-5
    onnx.checker.check_model(str(exported.path), full_check=True)


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_computes_what_keras_does(name: str, tmp_path: Path) -> None:
    exported = export(_with_layer(LAYERS[name]), tmp_path / "model.onnx", images={})
    assert exported.verification.warnings == ()
    assert exported.verification.engines == ENGINES
    assert max(item.relative for item in exported.verification.differences) < 1e-5


@pytest.mark.parametrize("name", MODELS)
def test_export_maps_every_layer(name: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    exported = export(model, tmp_path / "model.onnx", engines=["onnxruntime"])
    mapped = {layer.name: layer for layer in exported.metadata.layers}
    own = [layer for layer in model.layers if type(layer).__name__ != "InputLayer"]
    assert {layer.name for layer in own} <= set(mapped)
    assert all(mapped[layer.name].parameters == layer.count_params() for layer in own)
    assert all(mapped[layer.name].operator == type(layer).__name__ for layer in own)


def test_activations_are_keras_own(tmp_path: Path) -> None:
    import keras

    model = residual()
    export(model, tmp_path / "model.onnx")
    images = np.random.default_rng(1).uniform(size=(3, 8, 8, 1)).astype(np.float32)
    inner = keras.Model(model.inputs, [layer.output for layer in model.layers[1:]])
    expected = dict(zip([x.name for x in model.layers[1:]], inner([images]), strict=True))
    for engine in ENGINES:
        got = pyconv.load(tmp_path / "model.onnx", engine=engine).activations(images)
        assert set(got) == set(expected)
        for name, array in got.items():
            np.testing.assert_allclose(array, expected[name], rtol=0, atol=1e-5, err_msg=name)


def test_file_of_the_lesson_holds_what_it_computes_and_no_more(tmp_path: Path) -> None:
    export(lesson(), tmp_path / "model.onnx", engines=["onnxruntime"])
    assert _operators(tmp_path / "model.onnx") == [
        *("Reshape", "Conv", "Relu", "MaxPool", "Conv", "Relu", "MaxPool"),
        *("Transpose", "Reshape", "MatMul", "Add", "Relu", "MatMul", "Add", "Softmax"),
    ]


def test_file_has_readable_names(tmp_path: Path) -> None:
    export(lesson(), tmp_path / "model.onnx", engines=["onnxruntime"])
    model = onnx.load(str(tmp_path / "model.onnx"))
    assert {"conv2d/kernel", "conv2d/bias", "dense_1/kernel", "dense_1/bias"} <= {
        item.name for item in model.graph.initializer
    }
    assert [node.name for node in model.graph.node if node.op_type == "Conv"] == [
        "conv2d/Conv",
        "conv2d_1/Conv",
    ]
    assert [item.name for item in model.graph.input] == ["image"]
    assert not any(node.doc_string for node in model.graph.node)
    assert [item.domain for item in model.opset_import] == [""]


def test_metadata_of_a_classifier(tmp_path: Path) -> None:
    explanation = Explanation(labels=("a", "b", "c"), picture="mnist", provenance={"why": "test"})
    export(lesson(), tmp_path / "model.onnx", explanation, engines=["onnxruntime"])
    model = pyconv.load(tmp_path / "model.onnx", engine="onnxruntime")
    contract = model.metadata.input
    assert contract is not None
    assert (contract.height, contract.width, contract.channels) == (14, 14, 1)
    assert (contract.rank, contract.picture, contract.scale) == (4, "mnist", 1 / 255)
    assert model.metadata.output is not None
    assert model.metadata.output.kind == "probabilities"
    assert model.labels == ("a", "b", "c")
    assert model.metadata.provenance["why"] == "test"
    assert "keras" in model.metadata.provenance["versions"]


@pytest.mark.parametrize(
    ("make", "labels", "kind"),
    [
        (dense, ("a", "b", "c"), "logits"),
        (dense, (), "values"),
        (residual, (), "probabilities"),
        (grouped, (), "values"),
    ],
)
def test_output_kind_is_found_out(
    make: Make, labels: tuple[str, ...], kind: str, tmp_path: Path
) -> None:
    exported = export(
        make(), tmp_path / "m.onnx", Explanation(labels=labels), engines=["onnxruntime"]
    )
    assert exported.metadata.output is not None
    assert exported.metadata.output.kind == kind


@pytest.mark.parametrize("make", [rescaling, normalization])
def test_model_that_rescales_gets_pixels_as_they_are(make: Make, tmp_path: Path) -> None:
    exported = export(make(), tmp_path / "m.onnx", engines=["onnxruntime"])
    assert exported.metadata.input is not None
    assert exported.metadata.input.scale == 1.0


def test_export_of_a_saved_file_equals_that_of_its_model(tmp_path: Path) -> None:
    model = nested()
    model.save(tmp_path / "own.keras")
    export(tmp_path / "own.keras", tmp_path / "own.onnx", engines=["onnxruntime"])
    images = np.random.default_rng(2).uniform(size=(2, 8, 8, 1)).astype(np.float32)
    got = pyconv.load(tmp_path / "own.onnx", engine="onnxruntime").predict(images)
    np.testing.assert_allclose(got, model(images), rtol=0, atol=1e-6)


def test_model_of_any_size_needs_one(tmp_path: Path) -> None:
    import keras

    model = keras.Sequential(
        [
            keras.Input((None, None, 3)),
            keras.layers.Conv2D(2, 3),
            keras.layers.GlobalAveragePooling2D(),
        ]
    )
    with pytest.raises(ExportError, match="--size HEIGHT WIDTH"):
        export(model, tmp_path / "m.onnx")
    exported = export(model, tmp_path / "m.onnx", size=(9, 12), engines=["onnxruntime"])
    assert exported.metadata.input is not None
    assert (exported.metadata.input.height, exported.metadata.input.width) == (9, 12)


@pytest.mark.parametrize("size", [(0, 12), (9, -1)])
def test_size_without_a_pixel_is_refused(size: tuple[int, int], tmp_path: Path) -> None:
    import keras

    model = keras.Sequential([keras.Input((None, None, 1)), keras.layers.GlobalMaxPooling2D()])
    with pytest.raises(InputError, match="size: expected a height and a width of at least 1"):
        export(model, tmp_path / "m.onnx", size=size)


@pytest.mark.parametrize("name", ["scale", "offset"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scale_that_is_no_number_is_refused(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"{name}: expected a finite number, got {value}"):
        Explanation(**{name: value})


def test_export_that_is_off_names_the_first_layer_that_is(tmp_path: Path) -> None:
    """TensorFlow's area interpolation becomes ONNX' Resize, which computes something else."""
    import keras

    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((16, 16, 1)),
            layers.Conv2D(3, 3, name="fine"),
            layers.Resizing(7, 5, interpolation="area", name="smaller"),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )
    with pytest.raises(ExportError, match="layer 'smaller' is off by"):
        export(model, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_no_numbers_are_said(tmp_path: Path) -> None:
    import keras

    layers = keras.layers
    nan = keras.initializers.Constant(float("nan"))
    model = keras.Sequential(
        [keras.Input((4, 4, 1)), layers.Flatten(), layers.Dense(3, kernel_initializer=nan)]
    )
    with pytest.raises(ExportError, match=r"layer 'dense.*' is NaN in Keras itself"):
        export(model, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_path_that_cannot_be_written_is_said_before_anything_is_converted(tmp_path: Path) -> None:
    for path, reason in (
        (tmp_path / "none" / "m.onnx", "there is no folder"),
        (tmp_path, "it is a folder"),
    ):
        with pytest.raises(InputError, match=f"{path} cannot be written: {reason}"):
            export(None, path)  # type: ignore[arg-type]


def test_export_that_is_off_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyconv.training import lean

    original = lean.make_lean

    def spoiled(conversion: object) -> lean.LeanModel:
        result = original(conversion)  # type: ignore[arg-type]
        weight = next(w for w in result.onnx.graph.initializer if w.name == "dense_1/kernel")
        values = onnx.numpy_helper.to_array(weight) * np.float32(1.01)
        weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
        return result

    monkeypatch.setattr("pyconv.training.exporter.make_lean", spoiled)
    with pytest.raises(ExportError, match="layer 'dense_1' is off by"):
        export(lesson(), tmp_path / "model.onnx", engines=["onnxruntime"])
    assert list(tmp_path.iterdir()) == []


def test_optimizer_that_fails_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tf2onnx
    from tf2onnx.optimizer import TransposeOptimizer

    tries, conversions = [], []
    convert = tf2onnx.convert.from_function

    def counted(*arguments: Any, **settings: Any) -> Any:
        conversions.append(len(tries))
        return convert(*arguments, **settings)

    def fail(*_: Any) -> None:
        tries.append("failed")
        raise ValueError("this optimizer is broken")

    monkeypatch.setattr(tf2onnx.convert, "from_function", counted)
    monkeypatch.setattr(TransposeOptimizer, "optimize", fail)
    exported = export(residual(), tmp_path / "model.onnx", images={})
    assert exported.verification.engines == ENGINES
    assert conversions == [0, 1]  # without copies it gave up at the first failure, then with them
    assert len(tries) > 1


def test_tensorflow_optimizes_without_large_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tf2onnx import tf_loader

    seen = []
    optimize = tf_loader.tf_optimize

    def measured(inputs: list[str], outputs: list[str], graph: Any) -> Any:
        seen.append(graph.ByteSize())
        return optimize(inputs, outputs, graph)

    monkeypatch.setattr(tf_loader, "tf_optimize", measured)
    layers = _keras().layers
    flat = [_keras().Input((14, 14, 1)), layers.Flatten(), layers.Dense(256), layers.Dense(3)]
    model = _keras().Sequential(flat)
    whole = export(model, tmp_path / "whole.onnx", images={})
    monkeypatch.setattr("pyconv.training.conversion._LARGE_BYTES", 100_000)
    lean = export(model, tmp_path / "lean.onnx", images={})
    assert seen[1] < seen[0] - 14 * 14 * 256 * 4 + 1000
    assert lean.operators == whole.operators
    weights, same = (
        {item.name: item.raw_data for item in onnx.load(tmp_path / name).graph.initializer}
        for name in ("whole.onnx", "lean.onnx")
    )
    assert weights == same


def test_nodes_that_outputs_need_are_found_in_one_walk() -> None:
    from tf2onnx.graph import Graph

    from pyconv.training import conversion

    walk_for_each = Graph.extract_sub_graph_nodes
    walks = []

    original = Graph.topological_sort

    def sort(graph: Any, nodes: Any) -> None:
        for options in ({}, {"remove_unused_inputs": False}, {"input_checker": _is_no_relu}):
            found = graph.extract_sub_graph_nodes(graph.outputs, **options)
            assert len(found) == len(set(found))
            assert set(found) == set(walk_for_each(graph, graph.outputs, **options))
            walks.append(len(found))
        original(graph, nodes)

    Graph.topological_sort = sort
    try:
        conversion.convert(residual(), "image", (8, 8, 1))
    finally:
        Graph.topological_sort = original
    assert Graph.extract_sub_graph_nodes is walk_for_each
    assert walks


def _is_no_relu(node: Any) -> bool:
    return bool(node.type != "Relu")


def test_operator_that_native_lacks_is_a_warning(tmp_path: Path) -> None:
    import keras

    image = keras.Input((6, 6, 1))
    model = keras.Model(image, keras.layers.Lambda(lambda x: keras.ops.cumsum(x, axis=1))(image))
    exported = export(model, tmp_path / "model.onnx")
    assert exported.verification.engines == ("onnxruntime",)
    (warning,) = exported.verification.warnings
    assert warning == (
        "native was not compared with Keras: the native engine lacks an operator that this network "
        'needs: CumSum; load it with engine="onnxruntime"'
    )


def test_attention_runs_on_both_engines(tmp_path: Path) -> None:
    import keras

    layers = keras.layers
    image = keras.Input((4, 4, 8))
    words = layers.Reshape((16, 8))(image)
    attended = layers.MultiHeadAttention(2, 4)(words, words)
    model = keras.Model(image, layers.GlobalAveragePooling1D()(attended))
    exported = export(model, tmp_path / "model.onnx")
    assert set(exported.verification.engines) == {"native", "onnxruntime"}
    assert not exported.verification.warnings


def test_layers_may_be_called_anything(tmp_path: Path) -> None:
    import keras

    layers = keras.layers
    inner = keras.Sequential(
        [keras.Input((6, 6, 4)), layers.Conv2D(3, 3, name="größe 3×3")], name="das Innere"
    )
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3, name="first (of 2)"),
            inner,
            layers.Flatten(name="-flat"),
            layers.Dense(2, name="出力"),
        ],
        name="two words",
    )
    exported = export(model, tmp_path / "model.onnx")
    names = [layer.name for layer in exported.metadata.layers]
    assert names == ["first (of 2)", "das Innere/größe 3×3", "das Innere", "-flat", "出力"]
    assert set(exported.verification.engines) == {"native", "onnxruntime"}


def _several_inputs() -> object:
    import keras

    a, b = keras.Input((4, 4, 1), name="left"), keras.Input((4, 4, 1), name="right")
    return keras.Model([a, b], keras.layers.Add()([a, b]))


def _sequence() -> object:
    import keras

    return keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)])


def _unbuilt() -> object:
    import keras

    return keras.Sequential([keras.layers.Conv2D(2, 3)])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_several_inputs, r"expected one input, got 2 \(left, right\)"),
        (_sequence, r"expected an input of shape .* got \(n, 8\)"),
        (_unbuilt, "give it a keras.Input"),
    ],
)
def test_export_refuses_what_is_no_image_model(make: Make, message: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=message):
        export(make(), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_labels_must_fit_the_output(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="each of the output's 3 numbers, got 2"):
        export(lesson(), tmp_path / "m.onnx", Explanation(labels=("a", "b")))


def test_broken_or_missing_keras_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no file"):
        export(tmp_path / "none.keras", tmp_path / "m.onnx")
    (tmp_path / "broken.keras").write_bytes(b"PK nonsense")
    with pytest.raises(ModelError, match=r"broken\.keras: not a Keras model: expected a \.keras"):
        export(tmp_path / "broken.keras", tmp_path / "m.onnx")
    with zipfile.ZipFile(tmp_path / "other.keras", "w") as archive:
        archive.writestr("a.txt", "a")
    with pytest.raises(ModelError, match=r"other\.keras: Keras cannot load it"):
        export(tmp_path / "other.keras", tmp_path / "m.onnx")


def test_lambda_of_python_code_is_for_python(tmp_path: Path) -> None:
    import keras

    layers = [keras.Input((4, 4, 1)), keras.layers.Lambda(lambda x: x * 2)]
    keras.Sequential(layers).save(tmp_path / "own.keras")
    with pytest.raises(ModelError, match=r"Python code.* call pyconv\.training\.export"):
        export(tmp_path / "own.keras", tmp_path / "m.onnx")


def test_unknown_layer_class_is_said(tmp_path: Path) -> None:
    import keras

    class Strange(keras.layers.Layer):  # type: ignore[misc]
        def call(self, x: object) -> object:
            return x

    keras.Sequential([keras.Input((4, 4, 1)), Strange()]).save(tmp_path / "own.keras")
    with pytest.raises(ModelError, match="it uses Strange, which Keras does not know"):
        export(tmp_path / "own.keras", tmp_path / "m.onnx")


def test_images_are_compared_as_many_at_once_as_memory_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyconv.training import verification

    original = verification._keras_arrays
    batches: list[int] = []
    spoiled_call = 0

    def keras_arrays(model: keras.Model, x: np.ndarray) -> Any:
        batches.append(len(x))
        outputs, layers = original(model, x)
        if len(batches) == spoiled_call:
            layers["conv2d"] = layers["conv2d"] + np.abs(layers["conv2d"]).max()
        return outputs, layers

    monkeypatch.setattr(verification, "_keras_arrays", keras_arrays)
    for most_bytes, expected in ((1, [1] * 8), (1 << 30, [1, 7])):
        batches.clear()
        monkeypatch.setattr(verification, "_MOST_BYTES", most_bytes)
        exported = export(lesson(), tmp_path / f"{most_bytes}.onnx", images={})
        assert batches == expected
        assert len(exported.verification.differences) == 2 * (7 + 1)  # engines; layers and output
    batches.clear()
    spoiled_call = 2
    with pytest.raises(ExportError, match="layer 'conv2d' is off by"):
        export(lesson(), tmp_path / "spoiled.onnx", images={})
