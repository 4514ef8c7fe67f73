"""What an exported ONNX file says about itself, and how it is written into the file.

The facts stand in the file's `metadata_props` as JSON, one key a topic, so that any ONNX tool can
show them and any engine ignores them:

| key                 | value                                                            |
|---------------------|------------------------------------------------------------------|
| `pyconv.labels`     | list of class names, in the order of the output's last axis      |
| `pyconv.input`      | `InputContract`: how a picture becomes the input tensor          |
| `pyconv.output`     | `OutputContract`: what the numbers of the output are             |
| `pyconv.layers`     | list of `Layer`: which tensor is which Keras layer's output      |
| `pyconv.provenance` | object: data set, network, epochs, seed, accuracies, versions    |

A file without them works too: labels are then absent and layers are the graph's tensors.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from pyconv.errors import ModelError

PictureStyle = Literal["mnist", "fashion-mnist", "plain"]
"""How a person's own picture is made to look like the training images (`pyconv.pictures`)."""

OutputKind = Literal["probabilities", "logits", "values"]


@dataclass(frozen=True, slots=True)
class InputContract:
    """How pixels become the model's input tensor: `x = pixel * scale + offset`.

    Attributes:
        tensor: name of the graph's input.
        height: rows of an image.
        width: columns of an image.
        channels: 1 for grey, 3 for colour (RGB).
        layout: `"NHWC"` (Keras) or `"NCHW"` (PyTorch), the axes of the tensor.
        rank: 4, or 3 where the tensor is (n, height, width) without an axis for channels.
        scale: factor on a uint8 pixel.
        offset: added after the factor.
        picture: the style that a person's own picture is brought to first.
    """

    tensor: str
    height: int
    width: int
    channels: int = 1
    layout: Literal["NHWC", "NCHW"] = "NHWC"
    rank: Literal[3, 4] = 4
    scale: float = 1.0 / 255.0
    offset: float = 0.0
    picture: PictureStyle = "plain"


@dataclass(frozen=True, slots=True)
class OutputContract:
    """What the model's main output is.

    Attributes:
        tensor: name of the graph's output.
        kind: `"probabilities"` (the network ends in softmax or sigmoid), `"logits"` (softmax is
            still to be taken) or `"values"` (anything else).
    """

    tensor: str
    kind: OutputKind = "probabilities"


@dataclass(frozen=True, slots=True)
class Layer:
    """One Keras layer's output and where it stands in the ONNX graph.

    Attributes:
        name: the Keras layer's name.
        operator: its Keras class, such as `"Conv2D"`.
        tensor: the ONNX tensor that holds its output.
        axes: the permutation that brings the ONNX tensor to Keras' layout:
            `keras_output = onnx_tensor.transpose(axes)`, such as `(0, 2, 3, 1)` for NCHW to NHWC.
        shape: Keras' output shape without the batch, such as `(26, 26, 64)`.
        parameters: count of the layer's weights.
    """

    name: str
    operator: str
    tensor: str
    axes: tuple[int, ...]
    shape: tuple[int | None, ...]
    parameters: int = 0


@dataclass(frozen=True, slots=True)
class Metadata:
    """Everything that an ONNX file says about itself; a field is empty where the file is silent."""

    labels: tuple[str, ...] = ()
    input: InputContract | None = None
    output: OutputContract | None = None
    layers: tuple[Layer, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def to_props(self) -> dict[str, str]:
        """The key-value pairs to store in the ONNX file's `metadata_props`."""
        values = {
            "pyconv.labels": list(self.labels),
            "pyconv.input": self.input and dataclasses.asdict(self.input),
            "pyconv.output": self.output and dataclasses.asdict(self.output),
            "pyconv.layers": [dataclasses.asdict(layer) for layer in self.layers],
            "pyconv.provenance": dict(self.provenance),
        }
        return {key: json.dumps(value) for key, value in values.items() if value}

    @classmethod
    def from_props(cls, props: Mapping[str, str | bytes], path: Path) -> Metadata:
        """Read the pairs back.

        Args:
            props: as protobuf gives them: bytes where a file holds something else than UTF-8.
            path: the file, for messages.

        Raises:
            ModelError: a `pyconv.` value is not the JSON that `to_props` writes.
        """

        def read(key: str, parse: Callable[[Any], _T], default: _T) -> _T:
            if key not in props:
                return default
            try:
                return parse(_json(props[key]))
            except _MismatchError as error:
                raise broken(path, key, str(error)) from None

        return cls(
            labels=read("pyconv.labels", _labels, ()),
            input=read("pyconv.input", partial(_record, InputContract), None),
            output=read("pyconv.output", partial(_record, OutputContract), None),
            layers=read("pyconv.layers", _layers, ()),
            provenance=read("pyconv.provenance", partial(_expect, dict), {}),
        )


def broken(path: Path, key: str, problem: str) -> ModelError:
    """The error for metadata that says something impossible.

    Args:
        path: the file.
        key: which of its metadata.
        problem: what was expected and what is there.
    """
    return ModelError(
        f"{path}: the metadata {key!r} is broken: {problem}; "
        "export the model again, or delete that metadata entry"
    )


_T = TypeVar("_T")


class _MismatchError(ValueError):
    """A value is not of the form that `to_props` writes; the message says what was expected."""


def _json(text: str | bytes) -> Any:
    if isinstance(text, bytes):
        raise _MismatchError("expected UTF-8, got other bytes")
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()  # an escaped half of a surrogate pair fails
    except (ValueError, RecursionError) as error:
        raise _MismatchError(f"expected JSON, got something else ({error})") from None
    return value


_JSON_NAMES: Mapping[object, str] = {dict: "object", list: "list", str: "string"}


def _expect(kind: type[_T], value: object) -> _T:
    if not isinstance(value, kind):
        raise _MismatchError(f"expected a JSON {_JSON_NAMES[kind]}, got {_shown(value)}")
    return value


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _labels(value: object) -> tuple[str, ...]:
    return tuple(_expect(str, label) for label in _expect(list, value))


def _layers(value: object) -> tuple[Layer, ...]:
    layers = tuple(_record(Layer, layer) for layer in _expect(list, value))
    for layer in layers:
        if layer.axes and len(layer.axes) != len(layer.shape) + 1:
            raise _MismatchError(
                f"expected the layer {layer.name!r} to have an axis for the batch and one for each "
                f"size of its shape {_shown(layer.shape)}, got the axes {_shown(layer.axes)}"
            )
    return layers


def _record(kind: type[_T], value: object) -> _T:
    given = _expect(dict, value)
    fields: dict[str, Any] = {}
    # A newer pyconv may have written more fields: take those that this one knows.
    for item in dataclasses.fields(kind):  # type: ignore[arg-type]
        if item.name not in given:
            if item.default is dataclasses.MISSING:
                raise _MismatchError(f"expected {item.name!r}, got only {_shown(sorted(given))}")
            continue
        expected, fits = _FIELDS[item.name]
        entry = given[item.name]
        if not fits(entry):
            raise _MismatchError(f"expected {item.name!r} to be {expected}, got {_shown(entry)}")
        fields[item.name] = tuple(entry) if isinstance(entry, list) else entry
    return kind(**fields)


def _is_integer(value: object, lowest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= lowest


def _is_permutation(value: object) -> bool:
    return (
        isinstance(value, list)
        and all(_is_integer(axis, 0) for axis in value)
        and sorted(value) == list(range(len(value)))
    )


def _one_of(*choices: object) -> tuple[str, Callable[[Any], bool]]:
    return f"one of {', '.join(map(repr, choices))}", lambda value: value in choices


_NAME = "a string", lambda value: isinstance(value, str)
_SIZE = "an integer of at least 1", lambda value: _is_integer(value, 1)
_NUMBER = (
    "a number of float32",
    # Written so that NaN fails.
    lambda value: isinstance(value, int | float) and abs(value) <= 3.4e38,
)
_FIELDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "tensor": _NAME,
    "height": _SIZE,
    "width": _SIZE,
    "channels": _SIZE,
    "layout": _one_of("NHWC", "NCHW"),
    "rank": _one_of(3, 4),
    "scale": _NUMBER,
    "offset": _NUMBER,
    "picture": _one_of(*get_args(PictureStyle)),
    "kind": _one_of(*get_args(OutputKind)),
    "name": _NAME,
    "operator": _NAME,
    "axes": ("a permutation of axes", _is_permutation),
    "shape": (
        "a list of sizes, null for a free one",
        lambda value: (
            isinstance(value, list) and all(size is None or _is_integer(size, 0) for size in value)
        ),
    ),
    "parameters": ("an integer of at least 0", lambda value: _is_integer(value, 0)),
}
"""By field, of whichever record, what is expected there, and whether a value of JSON is that."""
