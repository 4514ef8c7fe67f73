"""The JSON of the Open Inference Protocol: what a request may hold, and the schemas that say so."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr

Value = StrictBool | StrictInt | StrictFloat | StrictStr


class _Message(BaseModel):
    # What this version does not know is another's extension.
    model_config = ConfigDict(extra="ignore")


class InputTensor(_Message):
    """An array for an input of the graph."""

    name: str = Field(description="The input's name.")
    shape: list[StrictInt] = Field(description="The size of every axis, the outermost first.")
    datatype: str = Field(description="Such as FP32, as in the model's metadata.")
    parameters: dict[str, Value] = Field(
        default_factory=dict,
        description="binary_data_size: how many bytes after the JSON hold the elements, in place "
        "of data.",
    )
    data: list[Any] | None = Field(
        default=None, description="The elements in C order, nested as the axes are or flat."
    )


class RequestedOutput(_Message):
    """An output wanted."""

    name: str = Field(description="An output of the graph, a layer, or any tensor of the graph.")
    parameters: dict[str, Value] = Field(
        default_factory=dict,
        description="binary_data: whether the elements come after the JSON; classification: how "
        "many of the likeliest classes to name in place of the numbers.",
    )


class InferRequest(_Message):
    """A network to run on arrays."""

    id: str = Field(default="", description="Any text; given back with the answer.")
    parameters: dict[str, Value] = Field(
        default_factory=dict,
        description="engine: native, onnxruntime, or both to compare them; timeout: microseconds; "
        "profile: whether to time every step; silence: channels by layer, as JSON in a text; "
        "binary_data_output: whether all elements come after the JSON.",
    )
    inputs: list[InputTensor] = Field(description="One for each input of the graph.")
    outputs: list[RequestedOutput] = Field(
        default_factory=list, description="What is wanted; the graph's own outputs where empty."
    )


class OutputTensor(_Message):
    """An array that was asked for."""

    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Value] | None = None
    data: list[Any] | None = None


class InferResponse(_Message):
    """What came of it."""

    model_name: str
    model_version: str
    id: str | None = None
    parameters: dict[str, Value] | None = None
    outputs: list[OutputTensor]


class TensorMetadata(_Message):
    """An input or output of a model."""

    name: str
    datatype: str
    shape: list[int] = Field(description="-1 where any size goes.")


class ModelMetadata(_Message):
    """What a model takes and gives."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class LayerEntry(_Message):
    """One layer of a network."""

    name: str
    operator: str = Field(description="Its Keras class or ONNX operator.")
    shape: list[int | None] | None = Field(description="What it puts out for one image.")
    parameters: int
    flops: int | None = Field(description="For one image; a multiply and an add are two.")
    algorithm: str = Field(description="How the native engine computes it.")
    filters: int | None
    receptive_field: list[int] | None = Field(description="Rows and columns that a value sees.")
    stride: list[int] | None = Field(description="By how many it moves to the next value.")


class ServerMetadata(_Message):
    """Who answers."""

    name: str
    version: str
    extensions: list[str]


class Ready(_Message):
    """Whether requests are taken."""

    ready: bool


class Live(_Message):
    """Whether the process answers."""

    live: bool


class IndexRequest(_Message):
    """Which models to list."""

    ready: StrictBool = Field(default=False, description="Only those that take requests.")


class LoadRequest(_Message):
    """A model to load."""

    parameters: dict[str, Any] = Field(default_factory=dict)


class IndexEntry(_Message):
    """One version of one model."""

    name: str
    version: str
    state: str
    reason: str


class Failure(_Message):
    """Why there is no answer."""

    error: str = Field(description="What was expected, what came, and what to do.")
