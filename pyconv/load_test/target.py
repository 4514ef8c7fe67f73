"""The request that a load consists of, and what an answer to it must be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import DecodeError

from pyconv.channel import open_channel
from pyconv.client import Client
from pyconv.credentials import Credentials
from pyconv.engines.base import EngineName
from pyconv.errors import InputError, ModelError, ServerError

_SEED = 20
_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
_KINDS = {"BOOL": "?", "INT": "<i", "UINT": "<u", "FP": "<f"}


@dataclass(frozen=True, slots=True)
class Target:
    """One request of a gRPC service.

    Attributes:
        model: the model asked for.
        path: the method, such as `"/inference.GRPCInferenceService/ModelInfer"`.
        message: the request's message, serialised.
        images: how many images it holds.
        check: says what is wrong with an answer's message, or "" where nothing is.
    """

    model: str
    path: str
    message: bytes
    images: int
    check: Callable[[bytes], str]


def open_inference(
    address: str,
    credentials: Credentials,
    *,
    model: str = "",
    outputs: Sequence[str] = (),
    images: int = 1,
    timeout: float = 10.0,
) -> Target:
    """Run a network on noise through the Open Inference Protocol: any server that speaks it.

    Args:
        address: the server, `HOST:PORT`.
        credentials: what to show it, and whom to trust.
        model: may be empty where the server lists its models and there is one.
        outputs: what to ask for, such as the names of layers; the model's own outputs if empty.
        images: how many a request: the first size of every input whose first size is free.
        timeout: seconds to wait for the model's metadata.

    Raises:
        InputError: no such model, or its inputs have other free sizes than the first.
        ServerError: nobody answers, or it does not speak the protocol.
    """
    from pyconv.v2 import open_inference_pb2 as pb
    from pyconv.v2 import open_inference_pb2_grpc

    _check_images(images)
    with open_channel(address, credentials, _OPTIONS) as channel:
        stub: Any = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            model = model or _only_model(stub, timeout)
            metadata = stub.ModelMetadata(pb.ModelMetadataRequest(name=model), timeout=timeout)
        except grpc.RpcError as error:
            raise _refusal(address, error) from None
    request = pb.ModelInferRequest(
        model_name=model,
        outputs=[pb.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in outputs],
    )
    for info in metadata.inputs:
        free = [axis for axis, size in enumerate(info.shape) if size < 0]
        if free not in ([], [0]):
            raise InputError(
                f"model {model!r}: input {info.name!r} has the shape {list(info.shape)}; expected "
                "none to be free but the first, the number of images"
            )
        shape = [images if size < 0 else size for size in info.shape]
        request.inputs.add(name=info.name, datatype=info.datatype, shape=shape)
        request.raw_input_contents.append(_noise(info.datatype, shape))
    wanted = len(outputs or metadata.outputs)
    batched = all(info.shape and info.shape[0] < 0 for info in metadata.inputs)

    def check(message: bytes) -> str:
        try:
            answer = pb.ModelInferResponse.FromString(message)
        except DecodeError as error:
            return f"not a ModelInferResponse: {error}"
        if len(answer.outputs) != wanted:
            return f"expected {wanted} outputs, got {len(answer.outputs)}"
        if outputs and [output.name for output in answer.outputs] != list(outputs):
            return f"expected {', '.join(outputs)}, got {', '.join(o.name for o in answer.outputs)}"
        for output in answer.outputs:
            if batched and list(output.shape[:1]) != [images]:
                return f"{output.name}: expected {images} rows, got the shape {list(output.shape)}"
        return ""

    path = "/inference.GRPCInferenceService/ModelInfer"
    return Target(model, path, request.SerializeToString(), images, check)


def classifier(
    address: str,
    credentials: Credentials,
    *,
    model: str = "",
    engine: EngineName | None = None,
    images: int = 1,
    timeout: float = 10.0,
) -> Target:
    """Classify noise through `pyconv.v1.Classifier`.

    Args:
        address: the server, `HOST:PORT`.
        credentials: what to show it, and whom to trust.
        model: may be empty where the server holds a single one.
        engine: the server's default if None.
        images: how many a request, uint8.
        timeout: seconds to wait for the model's description.

    Raises:
        InputError: no such model.
        ModelError: the model takes no pictures.
        ServerError: nobody answers.
    """
    from pyconv.v1 import classifier_pb2 as pb
    from pyconv.wire import engine_to_wire, tensor_to_wire

    _check_images(images)
    with Client(address, timeout=timeout, credentials=credentials) as client:
        description = client.describe(model, engine=engine)
    if description.image_shape is None:
        raise ModelError(f"model {description.name!r} takes no pictures")
    shape = (images, *description.image_shape)
    noise = np.random.default_rng(_SEED).integers(0, 256, shape, np.uint8)
    request = pb.ClassifyRequest(
        model=pb.ModelSelector(name=description.name, engine=engine_to_wire(engine)),
        images=pb.Images(tensor=tensor_to_wire(noise)),
        top_k=1,
    )

    def check(message: bytes) -> str:
        try:
            count = len(pb.ClassifyResponse.FromString(message).classifications)
        except DecodeError as error:
            return f"not a ClassifyResponse: {error}"
        return "" if count == images else f"expected {images} classifications, got {count}"

    return Target(
        description.name,
        "/pyconv.v1.Classifier/Classify",
        request.SerializeToString(),
        images,
        check,
    )


def _check_images(images: int) -> None:
    if images < 1:
        raise InputError(f"images per request: expected at least 1, got {images}")


def _only_model(stub: Any, timeout: float) -> str:
    from pyconv.v2 import open_inference_pb2 as pb

    try:
        index = stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=True), timeout=timeout)
    except grpc.RpcError:
        stub.ServerLive(pb.ServerLiveRequest(), timeout=timeout)  # or the fault is another
        # An extension of the protocol, which KServe's own servers do without and others refuse.
        raise InputError("model: say which one; this server does not list its models") from None
    names = sorted({entry.name for entry in index.models})
    if len(names) != 1:
        raise InputError(f"model: say which one; this server has {', '.join(names) or 'none'}")
    return str(names[0])


def _refusal(address: str, error: grpc.RpcError) -> InputError | ServerError:
    code, details = error.code(), error.details() or ""
    if code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT):
        return InputError(details)
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return ServerError(f"{address} does not speak the Open Inference Protocol", code.name)
    return ServerError(f"{address} does not tell of the model: {code.name}: {details}", code.name)


def _noise(datatype: str, shape: Sequence[int]) -> bytes:
    """Elements as raw contents hold them: pixels for integers, from 0 to 1 for floats."""
    kind = datatype.rstrip("0123456789")
    bits = datatype.removeprefix(kind)
    if kind not in _KINDS:
        raise InputError(f"cannot make noise of the datatype {datatype}")
    dtype = np.dtype(_KINDS[kind] + (str(int(bits) // 8) if bits else ""))
    random = np.random.default_rng(_SEED)
    if dtype.kind == "f":
        return random.random(shape).astype(dtype).tobytes()
    high = 2 if dtype.kind == "b" else 128 if dtype == np.int8 else 256
    return random.integers(0, high, shape).astype(dtype).tobytes()
