"""What is asked of a server and what it answers, whatever the transport."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

from pyconv.engines.base import Array, EngineName
from pyconv.model import Prediction
from pyconv.server.models import OutputChoice, ServedModel


@dataclass(frozen=True, slots=True)
class PictureFile:
    """A picture file: its bytes, and what an error shall call it (nothing if empty)."""

    data: bytes
    name: str = ""


Images: TypeAlias = Sequence[PictureFile] | Array
"""Picture files, or prepared images (n, h, w) or (n, h, w, c) in uint8 or float32."""


class Selection(NamedTuple):
    """Which model, on which engine; empty and None leave the choice to the server."""

    name: str = ""
    engine: EngineName | None = None
    version: str = ""


@dataclass(frozen=True, slots=True)
class LayerChoice:
    """A layer, and which of its channels in which order; all of them where empty."""

    name: str
    channels: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Run:
    """What every computed answer tells about how it came to be.

    Attributes:
        served: the model that answered.
        images: what it was given: (n, h, w, c) uint8, or the float32 that came.
        prepare_ms: wall-clock time spent on decoding and preparing pictures.
        queue_ms: wall-clock time spent on waiting for a thread.
        compute_ms: wall-clock time spent in the engine, for all requests that ran together.
        facts: what else was asked to be told: `comparison` and `profile`, as
            `pyconv.server.examination` makes them.
    """

    served: ServedModel
    images: Array
    prepare_ms: float
    queue_ms: float
    compute_ms: float
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Classified:
    """The answer to `Inference.classify`: the likeliest classes of each image."""

    run: Run
    predictions: Sequence[Sequence[Prediction]]


@dataclass(frozen=True, slots=True)
class LayerValues:
    """Chosen channels of one layer.

    Attributes:
        name: the layer.
        channels: which channels, in the order in which they stand in `values`; empty where the
            tensor has fewer than two axes.
        channel_axis: the axis of `values` that holds them.
        values: float32; (n, h, w, channels) or (n, channels) where the file has a layer map.
    """

    name: str
    channels: Sequence[int]
    channel_axis: int
    values: Array


@dataclass(frozen=True, slots=True)
class Activated:
    """The answer to `Inference.activations`."""

    run: Run
    layers: Sequence[LayerValues]


@dataclass(frozen=True, slots=True)
class HeatMap:
    """Values as a picture.

    Attributes:
        image: the image's place in the request.
        channel: the channel; None where all units of a layer are shown, row by row.
        png: a PNG file.
        low: the value drawn darkest.
        high: the value drawn brightest.
    """

    image: int
    channel: int | None
    png: bytes
    low: float
    high: float


TOLERANCE = 1e-4
"""By how much of its largest value a layer, or an output, may differ between the engines."""


@dataclass(frozen=True, slots=True)
class Examination:
    """What a request asks beyond outputs; such a request runs alone, and on a thread.

    Attributes:
        compare: whether both engines run, and are compared layer by layer.
        tolerance: by how much of a layer's largest value they may differ.
        profile: whether to tell what each step of the program took.
        silenced: by layer, the channels that are 0 to the layers after it.
        replaced: by layer, what takes the place of its output, in Keras' layout.
    """

    compare: bool = False
    tolerance: float = TOLERANCE
    profile: bool = False
    silenced: Mapping[str, Sequence[int]] = field(default_factory=dict)
    replaced: Mapping[str, Array] = field(default_factory=dict)

    @property
    def asked(self) -> bool:
        """Whether anything is."""
        return self.compare or self.profile or bool(self.silenced) or bool(self.replaced)


NOTHING_ELSE = Examination()


class TensorRequest(NamedTuple):
    """A run asked for by tensor names.

    Attributes:
        selection: which model.
        inputs: an array for each input of the graph.
        outputs: what is wanted; the graph's own outputs where empty.
        examination: what else is asked for.
    """

    selection: Selection
    inputs: Mapping[str, Array]
    outputs: Sequence[OutputChoice] = ()
    examination: Examination = NOTHING_ELSE


class Inferred(NamedTuple):
    """The answer to `Inference.infer`.

    Attributes:
        served: the model that answered.
        outputs: what was wanted, by name and in order; classes are text (`object`).
        facts: what else was asked to be told, as JSON by the name of a response's parameter.
    """

    served: ServedModel
    outputs: Sequence[tuple[str, Array]]
    facts: Mapping[str, str] = MappingProxyType({})
