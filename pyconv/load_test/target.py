"""The request that a load consists of, and what an answer to it must be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from google.protobuf.message import DecodeError

from pyconv.client import Client
from pyconv.credentials import Credentials
from pyconv.engines.base import EngineName
from pyconv.errors import InputError, ModelError

_SEED = 20


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

    if images < 1:
        raise InputError(f"images per request: expected at least 1, got {images}")
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
