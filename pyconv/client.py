"""`Client`: a pyconv server, from a Python program."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias, TypeVar

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pyconv.channel import MOST_RETRIES, open_channel, retry_policy
from pyconv.credentials import Credentials
from pyconv.engines.base import Array, EngineName
from pyconv.errors import InputError, ModelError, PictureError, PyconvError, ServerError
from pyconv.model import Prediction
from pyconv.v1 import classifier_pb2 as pb
from pyconv.v1 import classifier_pb2_grpc
from pyconv.wire import engine_from_wire, engine_to_wire, tensor_from_wire, tensor_to_wire

Picture: TypeAlias = str | Path | bytes
"""A picture file: its path, or its bytes."""

Images: TypeAlias = Picture | Sequence[Picture] | Array
"""One or several picture files, or prepared images (n, h, w) or (n, h, w, c), uint8 or float32."""

Layers: TypeAlias = Sequence[str] | Mapping[str, Sequence[int]]
"""Names of layers, or the channels wanted by name of layer (all of them where empty)."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """What a request asks besides its answer.

    Attributes:
        compare: run both engines, and compare them layer by layer; the native one answers.
        tolerance: by how much of its largest value a layer may differ before it diverges.
        profile: tell what each step of the native program takes.
        silenced: by layer, channels that are 0 to the layers after it.
        replaced: by layer, what takes the place of its output: float32 in the shape in which
            `Client.activations` gives the whole layer, of as many images as the request. Edits go
            with neither `compare` nor `profile`.
    """

    compare: bool = False
    tolerance: float = 1e-4
    profile: bool = False
    silenced: Mapping[str, Sequence[int]] = field(default_factory=dict)
    replaced: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LayerDifference:
    """How far the engines are apart in one layer.

    Attributes:
        name: the layer.
        largest_difference: of their values, in absolute terms.
        largest_value: that onnxruntime found, in absolute terms.
    """

    name: str
    largest_difference: float
    largest_value: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """The native engine beside onnxruntime.

    Attributes:
        layers: every layer in the order of the network, and then the graph's outputs.
        first_diverging: the first one that differs by more than the tolerance; None if none does.
    """

    layers: Sequence[LayerDifference]
    first_diverging: str | None


@dataclass(frozen=True, slots=True)
class StepProfile:
    """One step of the native engine's program, for all images of the request together.

    Attributes:
        layers: those that it computes; what is fused is one step.
        operator: the native operator.
        algorithm: how it is computed.
        ms: the least of three runs, wall clock.
        flops: floating-point operations.
        bytes: what it puts out.
    """

    layers: Sequence[str]
    operator: str
    algorithm: str
    ms: float
    flops: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Classification:
    """What a server said to `Client.classify`.

    Attributes:
        predictions: for each image, the likeliest classes, the likeliest first.
        model: the name of the model that answered.
        engine: the engine that ran it.
        prepare_ms: the server's time for decoding and preparing the pictures, wall clock.
        compute_ms: the engine's time for all images together, wall clock.
        inputs: the images as the network saw them, (n, h, w, c); None unless asked for.
        comparison: of the engines; None unless asked for.
        steps: what each step of the program took; empty unless asked for.
    """

    predictions: Sequence[Sequence[Prediction]]
    model: str
    engine: EngineName | None
    prepare_ms: float
    compute_ms: float
    inputs: Array | None = None
    comparison: Comparison | None = None
    steps: Sequence[StepProfile] = ()


@dataclass(frozen=True, slots=True)
class Activations:
    """What a server said to `Client.activations`.

    Attributes:
        layers: by layer name, float32 with the channels last: (n, h, w, channels), or (n, units).
        model: the name of the model that answered.
        engine: the engine that ran it.
        prepare_ms: the server's time for decoding and preparing the pictures, wall clock.
        compute_ms: the engine's time for all images together, wall clock.
        inputs: the images as the network saw them, (n, h, w, c); None unless asked for.
        comparison: of the engines; None unless asked for.
        steps: what each step of the program took; empty unless asked for.
    """

    layers: Mapping[str, Array]
    model: str
    engine: EngineName | None
    prepare_ms: float
    compute_ms: float
    inputs: Array | None = None
    comparison: Comparison | None = None
    steps: Sequence[StepProfile] = ()


@dataclass(frozen=True, slots=True)
class HeatMap:
    """One channel of one layer for one image, as a picture in the inferno colour map.

    Attributes:
        layer: the layer's name.
        image: the image's place in the request, from 0.
        channel: the channel; None where all units of a dense layer are shown, row by row.
        png: a PNG file.
        low: the value drawn darkest.
        high: the value drawn brightest.
    """

    layer: str
    image: int
    channel: int | None
    png: bytes
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class LayerDescription:
    """One layer of a model on a server.

    Attributes:
        name: the name that `Client.activations` takes.
        operator: the Keras class or ONNX operator, such as `"Conv2D"`.
        shape: what it puts out for one image, such as `(26, 26, 64)`; None for a free size.
        parameters: count of its weights.
        flops: floating-point operations for one image; None where they are not known.
        algorithm: how the native engine computes it; empty for other engines.
        filters: its channels; None where they are not known.
        receptive_field: rows and columns of the picture that one of its values sees; None where
            there is no such area.
        stride: by how many rows and columns that moves from one value to the next; None where it
            does not move evenly.
    """

    name: str
    operator: str
    shape: tuple[int | None, ...]
    parameters: int
    flops: int | None
    algorithm: str
    filters: int | None
    receptive_field: tuple[int, ...] | None
    stride: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """All about one model on a server.

    Attributes:
        name: its name.
        engines: the engines that hold it, the default first.
        labels: the class names; empty where the file does not give them.
        image_shape: (height, width, channels) of what it takes; None where it takes no pictures.
        layers: the layers whose activations may be asked for.
        summary: the table of layers, as text.
        provenance: how the model came to be, as the file says.
    """

    name: str
    engines: Sequence[EngineName]
    labels: Sequence[str]
    image_shape: tuple[int, int, int] | None
    layers: Sequence[LayerDescription]
    summary: str
    provenance: Mapping[str, Any]


class Client:
    """A pyconv server, from a Python program. Safe to use from many threads at once.

    >>> with pyconv.Client("127.0.0.1:50051") as client:                # doctest: +SKIP
    ...     client.classify(["boot.png"], model="fashion").predictions[0][0].label
    'Ankle boot'

    Every method may raise:
        ServerError: nobody answers at the address, the answer took longer than the timeout, the
            request is above a limit of the server's, or the server failed.

    Args:
        address: `HOST:PORT`.
        timeout: seconds to wait for an answer. A stream has no limit: its pictures may come as
            slowly as they like.
        credentials: TLS and an API token; neither if None.
        retries: how often a request is sent again, 0 to 4, within the timeout, where its connection
            broke or none could be made.

    Raises:
        InputError: the address, the timeout or the retries make no sense, or a file of the
            credentials cannot be read.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout: float = 30.0,
        credentials: Credentials | None = None,
        retries: int = 0,
    ) -> None:
        if not address.strip():
            raise InputError(
                f"address: expected HOST:PORT, such as 127.0.0.1:50051, got {address!r}"
            )
        if not timeout > 0:
            raise InputError(f"timeout: expected more than 0 seconds, got {timeout}")
        if not 0 <= retries <= MOST_RETRIES:
            raise InputError(f"retries: expected 0 to {MOST_RETRIES}, got {retries}")
        self.address = address
        self.timeout = timeout
        options: list[tuple[str, int | str]] = [
            # The server's limits count, and its errors say what they are.
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
            # A port that was taken over by another server shall not answer for this one.
            ("grpc.use_local_subchannel_pool", 1),
        ]
        if retries:
            options.append(("grpc.service_config", retry_policy(retries)))
        self._channel = open_channel(address, credentials or Credentials(), options)
        self._stub = classifier_pb2_grpc.ClassifierStub(self._channel)

    def close(self) -> None:
        """Close the connection; nothing else can be asked afterwards."""
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def wait_ready(self, timeout: float = 10.0) -> None:
        """Return when the server says that it is serving.

        Args:
            timeout: seconds to wait at most.

        Raises:
            ServerError: it does not say so in time.
        """
        deadline = time.monotonic() + timeout
        health: Any = health_pb2_grpc.HealthStub(self._channel)
        request = health_pb2.HealthCheckRequest()
        while (left := deadline - time.monotonic()) > 0:
            try:
                answer = health.Check(request, timeout=left, wait_for_ready=True)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                    raise self._translate(error) from None
            else:
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return
                time.sleep(0.05)
        raise ServerError(
            f"nothing serves at {self.address}, waited for {timeout:g} s; "
            "start a server with: pyconv serve --model fashion",
            "UNAVAILABLE",
        )

    def classify(
        self,
        images: Images,
        *,
        model: str = "",
        engine: EngineName | None = None,
        top: int = 1,
        return_inputs: bool = False,
        examination: Examination | None = None,
    ) -> Classification:
        """The likeliest classes of each image.

        Args:
            images: picture files (paths or bytes), which the server prepares, or prepared images
                of shape (n, h, w) or (n, h, w, c) in uint8 or float32.
            model: the model's name; may be empty where the server holds a single one.
            engine: the server's default if None.
            top: how many classes an image.
            return_inputs: also return the images as the network saw them.
            examination: what else is asked.

        Raises:
            InputError: the server refuses the images, the model's name, the engine or an edit.
            ModelError: the model is no classifier.
        """
        request = _classify_request(images, model, engine, top, return_inputs, examination)
        return _classification(self._call(self._stub.Classify, request))

    def classify_stream(
        self,
        pictures: Iterable[Picture | Array],
        *,
        model: str = "",
        engine: EngineName | None = None,
        top: int = 1,
        return_inputs: bool = False,
        examination: Examination | None = None,
    ) -> Iterator[Classification | PyconvError]:
        """Classify any number of pictures over one stream, each on its own.

        A picture that cannot be classified does not end the stream: its error is yielded in the
        place of its answer.

        Args:
            pictures: files (paths or bytes), or arrays of images as `classify` takes them.
            model: as for `classify`.
            engine: as for `classify`.
            top: as for `classify`.
            return_inputs: as for `classify`.
            examination: as for `classify`.

        Yields:
            For each picture, in order: its classification, or why there is none.
        """
        # What fails before it is sent (a file that cannot be read) keeps its place in the order.
        failures: dict[int, PyconvError] = {}
        # What the caller's own iterable raises; gRPC, which drives it, would only log it.
        broken: list[Exception] = []

        def requests() -> Iterator[pb.ClassifyStreamRequest]:
            places = enumerate(pictures)
            while True:
                try:
                    place, picture = next(places)
                except StopIteration:
                    return
                except Exception as error:
                    broken.append(error)
                    return
                try:
                    request = _classify_request(
                        picture, model, engine, top, return_inputs, examination
                    )
                except PyconvError as error:
                    failures[place] = error
                else:
                    yield pb.ClassifyStreamRequest(id=str(place), request=request)

        place = 0
        stream = self._stub.ClassifyStream(requests())
        try:
            for item in stream:
                while place < int(item.id):
                    yield failures.pop(place)
                    place += 1
                place += 1
                if item.HasField("error"):
                    yield _domain_error(item.error.code, item.error.message)
                else:
                    yield _classification(item.response)
        except grpc.RpcError as error:
            raise self._translate(error) from None
        finally:
            stream.cancel()
        yield from (failures[late] for late in sorted(failures))
        if broken:
            raise broken[0]

    def activations(
        self,
        images: Images,
        *,
        layers: Layers | None = None,
        model: str = "",
        engine: EngineName | None = None,
        return_inputs: bool = False,
        examination: Examination | None = None,
    ) -> Activations:
        """What chosen layers put out.

        Args:
            images: as `classify` takes them.
            layers: names of layers, or the channels wanted by name of layer, such as
                `{"conv2d": [0, 32]}`, where an empty list means all; every layer if None.
            model: as for `classify`.
            engine: as for `classify`.
            return_inputs: as for `classify`.
            examination: as for `classify`.

        Raises:
            InputError: the server refuses the images or an edit, or knows no such layer, channel
                or model.
        """
        request = _activations_request(images, layers, model, engine)
        if examination is not None:
            request.examination.CopyFrom(_examination(examination))
        request.format = pb.ACTIVATION_FORMAT_TENSOR
        request.return_inputs = return_inputs
        response = self._call(self._stub.Activations, request)
        return Activations(
            layers={layer.name: _channels_last(layer) for layer in response.layers},
            **_run(response),
        )

    def heat_maps(
        self,
        images: Images,
        *,
        layers: Layers | None = None,
        model: str = "",
        engine: EngineName | None = None,
        cell: int = 8,
    ) -> list[HeatMap]:
        """What chosen layers put out, drawn by the server.

        Args:
            images: as `classify` takes them.
            layers: as for `activations`.
            model: as for `classify`.
            engine: as for `classify`.
            cell: pixels of the square that one value becomes, 1 to 64.

        Returns:
            The pictures by layer, then by image, then by channel.

        Raises:
            InputError: as for `activations`.
        """
        request = _activations_request(images, layers, model, engine)
        request.format = pb.ACTIVATION_FORMAT_PNG
        request.cell = _natural("cell", cell)
        response = self._call(self._stub.Activations, request)
        return [
            HeatMap(
                layer=layer.name,
                image=item.image,
                channel=item.channel if item.HasField("channel") else None,
                png=item.png,
                low=item.low,
                high=item.high,
            )
            for layer in response.layers
            for item in layer.heat_maps.maps
        ]

    def models(self) -> dict[str, Sequence[EngineName]]:
        """The models that the server holds: name, and engines with the default first."""
        response = self._call(self._stub.ListModels, pb.ListModelsRequest())
        return {entry.name: _engines(entry.engines) for entry in response.models}

    def describe(self, model: str = "", *, engine: EngineName | None = None) -> ModelDescription:
        """All about one model.

        Args:
            model: as for `classify`.
            engine: whose table of layers is wanted; the server's default if None.

        Raises:
            InputError: the server has no such model, or not on that engine.
        """
        request = pb.DescribeModelRequest(model=_selector(model, engine))
        response = self._call(self._stub.DescribeModel, request)
        shape = response.input
        return ModelDescription(
            name=response.name,
            engines=_engines(response.engines),
            labels=tuple(response.labels),
            image_shape=(shape.height, shape.width, shape.channels)
            if response.HasField("input")
            else None,
            layers=tuple(_layer_description(layer) for layer in response.layers),
            summary=response.summary,
            provenance=json.loads(response.provenance_json or "{}"),
        )

    def _call(self, method: Callable[..., _T], request: object) -> _T:
        try:
            return method(request, timeout=self.timeout)
        except grpc.RpcError as error:
            raise self._translate(error) from None

    def _translate(self, error: grpc.RpcError) -> PyconvError:
        """The error of pyconv's that a failed call means."""
        code, details = error.code(), error.details() or ""
        if code is grpc.StatusCode.UNAVAILABLE:
            return ServerError(
                f"nothing answers at {self.address} ({details}); "
                "start a server with: pyconv serve --model fashion",
                code.name,
            )
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return ServerError(
                f"no answer from {self.address} within {self.timeout:g} s; "
                "send less at once, or allow more time",
                code.name,
            )
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return ServerError(f"the server at {self.address} is not pyconv's", code.name)
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details:
            return ServerError(
                f"the message is larger than the server at {self.address} takes; send fewer or "
                f"smaller images at once, or raise its --max-message ({details})",
                code.name,
            )
        return _domain_error(code.value[0], details)


_CODES = {code.value[0]: code for code in grpc.StatusCode}


def _domain_error(number: int, message: str) -> PyconvError:
    code = _CODES.get(number, grpc.StatusCode.UNKNOWN)
    if code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND):
        return InputError(message)
    if code is grpc.StatusCode.FAILED_PRECONDITION:
        return ModelError(message)
    return ServerError(message, code.name)


# -- To messages -----------------------------------------------------------------------------------


def _selector(model: str, engine: EngineName | None) -> pb.ModelSelector:
    return pb.ModelSelector(name=model, engine=engine_to_wire(engine))


def _images(images: Images) -> pb.Images:
    if isinstance(images, np.ndarray):
        return pb.Images(tensor=tensor_to_wire(images))
    files = [images] if isinstance(images, str | Path | bytes) else images
    return pb.Images(pictures=pb.EncodedPictures(pictures=[_read(file) for file in files]))


def _read(file: Picture) -> pb.EncodedPicture:
    if isinstance(file, bytes):
        return pb.EncodedPicture(data=file)
    try:
        return pb.EncodedPicture(data=Path(file).read_bytes(), name=str(file))
    except OSError as error:
        raise PictureError(f"{file}: cannot be read: {error.strerror or error}") from error


def _classify_request(
    images: Images,
    model: str,
    engine: EngineName | None,
    top: int,
    return_inputs: bool,
    examination: Examination | None,
) -> pb.ClassifyRequest:
    return pb.ClassifyRequest(
        model=_selector(model, engine),
        images=_images(images),
        top_k=_natural("top", top),
        return_inputs=return_inputs,
        examination=None if examination is None else _examination(examination),
    )


def _examination(asked: Examination) -> pb.Examination:
    message = pb.Examination(
        compare_engines=asked.compare, tolerance=asked.tolerance, profile=asked.profile
    )
    for name in dict.fromkeys([*asked.replaced, *asked.silenced]):
        channels = asked.silenced.get(name, ())
        if any(channel < 0 for channel in channels):
            raise InputError(f"layer {name!r}: expected channels from 0, got {list(channels)}")
        edit = message.edits.add(layer=name, silenced=channels)
        if name in asked.replaced:
            edit.replacement.CopyFrom(tensor_to_wire(asked.replaced[name], f"layer {name!r}"))
    return message


def _activations_request(
    images: Images, layers: Layers | None, model: str, engine: EngineName | None
) -> pb.ActivationsRequest:
    chosen = layers if isinstance(layers, Mapping) else dict.fromkeys(layers or (), ())
    for name, channels in chosen.items():
        if any(channel < 0 for channel in channels):
            raise InputError(f"layer {name!r}: expected channels from 0, got {list(channels)}")
    if layers is not None and not chosen:
        raise InputError("layers: expected at least one, or None for all of them")
    return pb.ActivationsRequest(
        model=_selector(model, engine),
        images=_images(images),
        layers=[
            pb.LayerSelection(name=name, channels=channels) for name, channels in chosen.items()
        ],
    )


def _natural(name: str, value: int) -> int:
    # 0 stands for "the default" on the wire, so it must not pass for a number that was asked for.
    if value < 1:
        raise InputError(f"{name}: expected at least 1, got {value}")
    return value


# -- From messages ---------------------------------------------------------------------------------


def _classification(response: pb.ClassifyResponse) -> Classification:
    return Classification(
        predictions=tuple(
            tuple(
                Prediction(item.label, item.index, item.probability)
                for item in classification.predictions
            )
            for classification in response.classifications
        ),
        **_run(response),
    )


def _run(response: pb.ClassifyResponse | pb.ActivationsResponse) -> dict[str, Any]:
    """What every computed answer tells."""
    return {
        "model": response.model,
        "engine": engine_from_wire(response.engine),
        "prepare_ms": response.timing.prepare_ms,
        "compute_ms": response.timing.compute_ms,
        "inputs": tensor_from_wire(response.inputs) if response.HasField("inputs") else None,
        "comparison": _comparison(response.findings.comparison)
        if response.findings.HasField("comparison")
        else None,
        "steps": tuple(
            StepProfile(
                tuple(step.layers), step.operator, step.algorithm, step.ms, step.flops, step.bytes
            )
            for step in response.findings.steps
        ),
    }


def _comparison(told: pb.Comparison) -> Comparison:
    rows = [
        LayerDifference(row.name, row.largest_difference, row.largest_value) for row in told.layers
    ]
    return Comparison(tuple(rows), told.first_diverging or None)


def _channels_last(layer: pb.LayerActivation) -> Array:
    array = tensor_from_wire(layer.tensor)
    return np.moveaxis(array, layer.channel_axis, -1) if array.ndim > 1 else array


def _engines(values: Iterable[int]) -> Sequence[EngineName]:
    return tuple(name for value in values if (name := engine_from_wire(value)) is not None)


def _layer_description(layer: pb.LayerSummary) -> LayerDescription:
    return LayerDescription(
        name=layer.name,
        operator=layer.operator,
        shape=tuple(None if size < 0 else size for size in layer.shape),
        parameters=layer.parameters,
        flops=layer.flops if layer.HasField("flops") else None,
        algorithm=layer.algorithm,
        filters=layer.filters if layer.HasField("filters") else None,
        receptive_field=tuple(layer.receptive_field) or None,
        stride=tuple(layer.stride) or None,
    )
