"""From a Keras image model to an ONNX file that explains itself and computes the same."""

from __future__ import annotations

import dataclasses
import math
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from pyconv.engines.base import EngineName, shape_text
from pyconv.errors import ExportError, InputError, ModelError
from pyconv.metadata import InputContract, Layer, Metadata, OutputContract, OutputKind, PictureStyle
from pyconv.training import keras_file, pictures, recording
from pyconv.training.backend import import_keras
from pyconv.training.conversion import convert
from pyconv.training.files import write_atomically
from pyconv.training.lean import LeanModel, make_lean
from pyconv.training.verification import Verification, verify

if TYPE_CHECKING:
    import keras

ENGINES: tuple[EngineName, ...] = ("onnxruntime", "native")

PICTURES: Mapping[str, PictureStyle] = {"mnist": "mnist", "fashion-mnist": "fashion-mnist"}
"""How a person's own picture is prepared for a model, by the data set that it was trained on."""

_RANDOM_IMAGES = 8


@dataclass(frozen=True, slots=True)
class Explanation:
    """What the exported file shall say about the model; what is None is found out.

    Attributes:
        labels: the class names, in the order of the output's last axis.
        scale: factor on a uint8 pixel to make the model's input: 1/255, or 1 for a model with a
            Rescaling or Normalization layer of its own.
        offset: added after the factor.
        picture: how a person's own picture is prepared.
        output: what the output's numbers are: probabilities where the model ends in softmax or
            sigmoid, logits where it gives one number for each label, else values.
        provenance: how the model came to be; the versions of the libraries are added.
    """

    labels: tuple[str, ...] = ()
    scale: float | None = None
    offset: float = 0.0
    picture: PictureStyle = "plain"
    output: OutputKind | None = None
    provenance: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises:
            InputError: the scale or the offset is not finite.
        """
        for name, value in (("scale", self.scale), ("offset", self.offset)):
            if value is not None and not math.isfinite(value):
                raise InputError(f"{name}: expected a finite number, got {value}")


@dataclass(frozen=True, slots=True)
class Exported:
    """An exported file.

    Attributes:
        path: the file.
        size_bytes: its size.
        operators: how many nodes its graph has.
        metadata: what it says about itself.
        untraced: names of layers that it has no tensor for, since the output does not need them.
        verification: the engines against Keras.
    """

    path: Path
    size_bytes: int
    operators: int
    metadata: Metadata
    untraced: tuple[str, ...]
    verification: Verification

    def to_dict(self) -> dict[str, Any]:
        """The export's results as values for JSON."""
        return {
            "path": str(self.path),
            "size_bytes": self.size_bytes,
            "operators": self.operators,
            "metadata": dataclasses.asdict(self.metadata),
            "untraced": list(self.untraced),
            "differences": [
                dataclasses.asdict(item) | {"relative": item.relative}
                for item in self.verification.differences
            ],
            "warnings": list(self.verification.warnings),
        }


def export(
    model: keras.Model | str | Path,
    path: str | Path,
    explanation: Explanation | None = None,
    *,
    size: tuple[int, int] | None = None,
    images: Mapping[str, NDArray[np.uint8]] | None = None,
    engines: Sequence[EngineName] = ENGINES,
    on_stage: Callable[[str], None] | None = None,
) -> Exported:
    """Export a Keras image model to ONNX, and compare the file with Keras on the engines.

    Args:
        model: a Keras model of one input, (n, height, width, channels) or (n, height, width), or
            the path of a `.keras` file.
        path: the file to write; it appears when everything has been compared, or not at all.
        explanation: what the file shall say about itself.
        size: height and width of an image, for a model that takes any.
        images: real pictures to compare on besides random ones, grey, (n, height, width) uint8,
            under a name each; resized to what the model takes. The bundled samples by default.
        engines: those to compare.
        on_stage: called with what begins now, such as "converting it to ONNX".

    Raises:
        ExportError: it is no image model, it cannot be converted, or the file could not be run or
            would be off by more than 1e-4 of an output's or layer's scale.
        ModelError: the `.keras` file is missing, broken, or uses layers that Keras does not know.
        InputError: the size or the labels do not fit the model, or the file cannot be written.
        MissingExtraError: TensorFlow or tf2onnx is not installed.
    """
    explanation = explanation or Explanation()
    path = Path(path)
    _check_path(path)
    tell = on_stage or _ignore
    tell("reading the model")
    keras_model = keras_file.load(Path(model)) if isinstance(model, str | Path) else model
    name, shape = _image_input(keras_model, size)
    tell("converting it to ONNX")
    lean = make_lean(convert(keras_model, name, shape))
    metadata = _explain(keras_model, lean, shape, explanation)
    onnx.helper.set_model_props(lean.onnx, metadata.to_props())
    if images is None:
        real = {"sample": pictures.samples(shape)}
    else:
        real = {
            key: np.stack([pictures.resize(item, shape) for item in value])
            for key, value in images.items()
        }
    random = np.random.default_rng(0).integers(0, 256, (_RANDOM_IMAGES, *shape), np.uint8)
    verification: Verification | None = None

    def write(unfinished: Path) -> None:
        nonlocal verification
        onnx.save(lean.onnx, str(unfinished))
        try:
            verification = verify(
                keras_model, unfinished, {"random": random, **real}, engines, tell
            )
        except ModelError as error:
            raise ExportError(str(error).replace(str(unfinished), str(path))) from error

    write_atomically(path, write)
    assert verification is not None
    return Exported(
        path,
        path.stat().st_size,
        len(lean.onnx.graph.node),
        metadata,
        tuple(lean.untraced),
        verification,
    )


def add_provenance(path: Path, facts: Mapping[str, Any]) -> None:
    """Add to what an exported file says about how the model came to be.

    Args:
        path: a file that `export` wrote; replaced in one step.
        facts: values for JSON.
    """
    model = onnx.load(str(path))
    props = {item.key: item.value for item in model.metadata_props}
    metadata = Metadata.from_props(props, path)
    metadata = dataclasses.replace(metadata, provenance={**metadata.provenance, **facts})
    onnx.helper.set_model_props(model, props | metadata.to_props())
    write_atomically(path, lambda file: onnx.save(model, str(file)))


def _ignore(stage: str) -> None:
    """Nobody wants to know."""


def _check_path(path: Path) -> None:
    """Refuse what cannot be written, before a model is converted for it."""
    if path.is_dir():
        raise InputError(f"{path} cannot be written: it is a folder; give a file's name")
    if not path.parent.is_dir():
        raise InputError(f"{path} cannot be written: there is no folder {path.parent}")


def _image_input(model: keras.Model, size: tuple[int, int] | None) -> tuple[str, tuple[int, ...]]:
    """The name and the shape, without the batch, of the model's input."""
    inputs = [(item.name, tuple(item.shape)) for item in getattr(model, "inputs", None) or ()]
    if not inputs:
        # A model that is a class of its own knows what it was called with.
        called = (model.get_build_config() or {}).get("input_shape")
        if not isinstance(called, tuple | list):
            raise ExportError(
                f"the model {model.name!r} does not know the shape of its one input yet: "
                "give it a keras.Input, or call it once"
            )
        inputs = [("image", tuple(called))]
    if len(inputs) != 1:
        raise ExportError(
            f"{model.name!r} is no image model: expected one input, "
            f"got {len(inputs)} ({', '.join(name for name, _ in inputs)})"
        )
    ((name, shape),) = inputs
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] is None):
        raise ExportError(
            f"{model.name!r} is no image model: expected an input of shape (n, height, width, "
            f"channels) or (n, height, width), got {shape_text(shape)}"
        )
    layers = recording.named_layers(model).values()
    if any(getattr(layer, "data_format", None) == "channels_first" for layer in layers):
        raise ExportError(
            f"{model.name!r} has layers with data_format='channels_first', which TensorFlow cannot "
            "run on a CPU; build it with channels_last"
        )
    if size is not None and min(size) < 1:
        raise InputError(f"size: expected a height and a width of at least 1, got {size}")
    fixed = tuple(shape[1:3]) if size is None else size
    if None in fixed:
        raise ExportError(
            f"{model.name!r} takes images of any size, {shape_text(shape)}: say which one the file "
            "shall be for, with size=(height, width) or --size HEIGHT WIDTH"
        )
    if any(want not in (None, got) for want, got in zip(shape[1:3], fixed, strict=True)):
        raise InputError(f"size: the model takes images of {shape_text(shape)}, got {fixed}")
    # Keras names an input that nobody named by a running number of the process.
    return "image" if name.startswith("keras_tensor") else name, (*fixed, *shape[3:])


def _explain(
    model: keras.Model, lean: LeanModel, shape: tuple[int, ...], explanation: Explanation
) -> Metadata:
    keras = import_keras("exporting a model")
    named = recording.named_layers(model)
    scale = explanation.scale
    if scale is None:
        own = (keras.layers.Rescaling, keras.layers.Normalization)
        scale = 1.0 if any(isinstance(layer, own) for layer in named.values()) else 1.0 / 255.0
    layers = []
    for name, at in lean.layers.items():
        layer = named[name.split(":")[0]]
        layers.append(
            Layer(
                name,
                type(layer).__name__,
                at.tensor,
                at.axes,
                at.shape,
                layer.count_params(),
            )
        )
    output = lean.onnx.graph.output[0]
    classes = [axis.dim_value for axis in output.type.tensor_type.shape.dim][1:]
    labels = explanation.labels
    if labels and classes[-1:] != [len(labels)]:
        raise InputError(
            f"labels: expected one for each of the output's {classes[-1]} numbers, "
            f"got {len(labels)}"
        )
    kind = explanation.output or _output_kind(lean.onnx, bool(labels) and len(classes) == 1)
    return Metadata(
        labels=labels,
        input=InputContract(
            tensor=lean.onnx.graph.input[0].name,
            height=shape[0],
            width=shape[1],
            channels=shape[2] if len(shape) == 3 else 1,
            rank=4 if len(shape) == 3 else 3,
            scale=scale,
            offset=explanation.offset,
            picture=explanation.picture,
        ),
        output=OutputContract(output.name, kind),
        layers=tuple(layers),
        provenance={**(explanation.provenance or {}), "versions": _versions()},
    )


def _output_kind(model: onnx.ModelProto, classifier: bool) -> OutputKind:
    output = model.graph.output[0].name
    last = next((node.op_type for node in model.graph.node if output in node.output), None)
    if last in ("Softmax", "Sigmoid"):
        return "probabilities"
    return "logits" if classifier else "values"


def _versions() -> dict[str, str]:
    """The versions of what made the file."""
    found = {"python": platform.python_version()}
    for name in ("pyconv", "keras", "tensorflow", "tf2onnx", "onnx"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a build under another name, such as tensorflow-cpu
            continue
    return found
