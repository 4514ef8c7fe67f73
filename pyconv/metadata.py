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
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

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
    def from_props(cls, props: Mapping[str, str]) -> Metadata:
        """Read the pairs back.

        Raises:
            ModelError: a `pyconv.` value is not the JSON that `to_props` writes.
        """
        labels = _parse(props, "pyconv.labels", list) or []
        layers = _parse(props, "pyconv.layers", list) or []
        contract = _parse(props, "pyconv.input", dict)
        output = _parse(props, "pyconv.output", dict)
        if not all(isinstance(label, str) for label in labels):
            raise _broken("pyconv.labels", "a list of strings")
        return cls(
            labels=tuple(labels),
            input=_build(InputContract, "pyconv.input", contract) if contract else None,
            output=_build(OutputContract, "pyconv.output", output) if output else None,
            layers=tuple(
                _build(
                    Layer,
                    "pyconv.layers",
                    {
                        key: tuple(value) if isinstance(value, list) else value
                        for key, value in _expect(layer, dict, "pyconv.layers").items()
                    },
                )
                for layer in layers
            ),
            provenance=_parse(props, "pyconv.provenance", dict) or {},
        )


_T = TypeVar("_T")


def _broken(key: str, expected: str) -> ModelError:
    return ModelError(
        f"the file's metadata {key!r} is broken: expected {expected}; "
        "export the model again, or delete that metadata entry"
    )


def _expect(value: object, kind: type[_T], key: str) -> _T:
    if not isinstance(value, kind):
        raise _broken(key, f"a JSON {kind.__name__}")
    return value


def _parse(props: Mapping[str, str], key: str, kind: type[_T]) -> _T | None:
    if key not in props:
        return None
    try:
        return _expect(json.loads(props[key]), kind, key)
    except json.JSONDecodeError as error:
        raise _broken(key, f"JSON ({error})") from None


def _build(kind: type[_T], key: str, values: dict[str, Any]) -> _T:
    # A newer pyconv may have written more fields: keep those that this one knows.
    known = {item.name for item in dataclasses.fields(kind)}  # type: ignore[arg-type]
    try:
        return kind(**{name: value for name, value in values.items() if name in known})
    except TypeError as error:
        raise _broken(key, str(error)) from None
