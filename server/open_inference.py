"""inference.GRPCInferenceService: convert, await, convert back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from functools import lru_cache
from importlib.metadata import version
from typing import Any, TypeAlias

import grpc
import numpy as np

from pyconv.engines.base import Array, TensorInfo
from pyconv.errors import InputError
from pyconv.server import datatypes, parameters, status
from pyconv.server.inference import Inference
from pyconv.server.models import OutputChoice
from pyconv.server.repeats import Reader, Repeated
from pyconv.server.repository import Description, Repository
from pyconv.server.requests import Inferred, Selection, TensorRequest
from pyconv.server.statistics import Duration, Statistics
from pyconv.server.streams import in_order
from pyconv.v2 import open_inference_pb2 as pb
from pyconv.v2 import open_inference_pb2_grpc

_Context = grpc.aio.ServicerContext[Any, Any]
_Kind: TypeAlias = tuple[str, np.dtype[Any], tuple[int, ...]]
"""An output's name, dtype and shape."""

_STREAM_DEPTH = 64
"""How many requests of one stream are under way at the same time."""

EXTENSIONS = (
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "statistics",
)
"""What is spoken beyond the protocol's core, as Triton's clients call it."""

# By datatype, the field of InferTensorContents that holds the elements. FP16 has none.
_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


class OpenInference(open_inference_pb2_grpc.GRPCInferenceServiceServicer):
    """The protocol's methods; proto/pyconv/v2/open_inference.proto says what each does."""

    def __init__(self, inference: Inference, repository: Repository) -> None:
        self._inference = inference
        self._repository = repository

    async def ServerLive(
        self, request: pb.ServerLiveRequest, context: _Context
    ) -> pb.ServerLiveResponse:
        """See the protocol."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(
        self, request: pb.ServerReadyRequest, context: _Context
    ) -> pb.ServerReadyResponse:
        """See the protocol."""
        return pb.ServerReadyResponse(ready=self._repository.ready)

    async def ModelReady(
        self, request: pb.ModelReadyRequest, context: _Context
    ) -> pb.ModelReadyResponse:
        """See the protocol."""
        return pb.ModelReadyResponse(ready=self._repository.is_ready(request.name, request.version))

    async def ServerMetadata(
        self, request: pb.ServerMetadataRequest, context: _Context
    ) -> pb.ServerMetadataResponse:
        """See the protocol."""
        return pb.ServerMetadataResponse(
            name="pyconv", version=version("pyconv"), extensions=EXTENSIONS
        )

    async def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: _Context
    ) -> pb.ModelMetadataResponse:
        """See the protocol."""
        async with status.aborting(context):
            headers = dict(context.invocation_metadata() or ())
            layers = headers.get("pyconv-layers", "") == "true"
            entry = self._repository.describe(request.name, request.version, layers=layers)
            return pb.ModelMetadataResponse(
                name=entry.name,
                versions=entry.versions,
                platform=entry.platform,
                inputs=[_metadata(info) for info in entry.inputs],
                outputs=[_metadata(info) for info in entry.outputs],
            )

    async def ModelInfer(
        self, request: pb.ModelInferRequest, context: _Context
    ) -> pb.ModelInferResponse:
        """See the protocol."""
        try:
            return await self._infer(request, status.deadline(context))
        except Exception as error:
            await status.abort(context, error)
            raise  # never reached: abort raises

    def handlers(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        """How a server of gRPC that hands on bytes answers some methods in less time."""
        return {
            "ModelInfer": grpc.unary_unary_rpc_method_handler(
                self._infer_bytes, request_deserializer=Reader().read
            )
        }

    async def _infer_bytes(
        self, request: pb.ModelInferRequest | Repeated, context: _Context
    ) -> bytes:
        try:
            deadline = status.deadline(context)
            if not isinstance(request, Repeated):
                response = await self._infer(request, deadline)
                return response.SerializeToString()
            selection, outputs = request.beginning.selection, request.beginning.outputs
            return _reply(
                await self._inference.infer(
                    TensorRequest(selection, request.inputs, outputs), deadline=deadline
                )
            )
        except Exception as error:
            await status.abort(context, error)
            raise  # never reached: abort raises

    async def ModelStreamInfer(
        self, requests: AsyncIterator[pb.ModelInferRequest], context: _Context
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        """See the protocol."""
        async with status.aborting(context):
            with self._inference.stream():
                async for response in in_order(requests, self._answer, _STREAM_DEPTH):
                    yield response

    async def ModelConfig(
        self, request: pb.ModelConfigRequest, context: _Context
    ) -> pb.ModelConfigResponse:
        """See the protocol."""
        async with status.aborting(context):
            entry = self._repository.describe(request.name, request.version)
            return pb.ModelConfigResponse(config=config(entry))

    async def ModelStatistics(
        self, request: pb.ModelStatisticsRequest, context: _Context
    ) -> pb.ModelStatisticsResponse:
        """See the protocol."""
        async with status.aborting(context):
            return statistics(self._repository.statistics(request.name, request.version))

    async def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest, context: _Context
    ) -> pb.RepositoryIndexResponse:
        """See the protocol."""
        return pb.RepositoryIndexResponse(
            models=[
                pb.RepositoryIndexResponse.ModelIndex(
                    name=item.name, version=item.version, state=item.state, reason=item.reason
                )
                for item in self._repository.index()
                if item.state == "READY" or not request.ready
            ]
        )

    async def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, context: _Context
    ) -> pb.RepositoryModelLoadResponse:
        """See the protocol."""
        async with status.aborting(context):
            await self._repository.load(request.model_name, request.parameters)
            return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, context: _Context
    ) -> pb.RepositoryModelUnloadResponse:
        """See the protocol."""
        async with status.aborting(context):
            await self._repository.unload(request.model_name)
            return pb.RepositoryModelUnloadResponse()

    async def _infer(
        self, request: pb.ModelInferRequest, deadline: float | None
    ) -> pb.ModelInferResponse:
        raw = bool(request.raw_input_contents)
        with self._inference.reading(request.model_name, request.model_version):
            asked = _parameters(request.parameters) if request.parameters else {}
            engine = parameters.engine(asked) if asked else None
            selection = Selection(request.model_name, engine, request.model_version)
            outputs = [
                OutputChoice(
                    output.name,
                    parameters.classes(output.name, _parameters(output.parameters))
                    if output.parameters
                    else 0,
                )
                for output in request.outputs
            ]
            # Raw contents are taken as they lie; typed ones are brought into an array one by one.
            if raw:
                inputs = _inputs(request)
            else:
                inputs = await self._inference.work(request.ByteSize(), lambda: _inputs(request))
            wanted = TensorRequest(selection, inputs, outputs, parameters.examination(asked))
            deadline = parameters.deadline(asked, deadline) if asked else deadline
        inferred = await self._inference.infer(wanted, deadline=deadline)
        if raw:
            return _response(request, inferred)
        answer_bytes = sum(array.nbytes for _, array in inferred.outputs)
        return await self._inference.work(answer_bytes, lambda: _response(request, inferred))

    async def _answer(self, request: pb.ModelInferRequest) -> pb.ModelStreamInferResponse:
        try:
            response = await self._infer(request, None)
        except Exception as error:
            return pb.ModelStreamInferResponse(
                error_message=status.status_of(error).message,
                infer_response=pb.ModelInferResponse(id=request.id),
            )
        if "triton_enable_empty_final_response" in request.parameters:
            response.parameters["triton_final_response"].bool_param = True
        return pb.ModelStreamInferResponse(infer_response=response)


# -- From messages ---------------------------------------------------------------------------------


def _parameters(given: Mapping[str, pb.InferParameter]) -> parameters.Parameters:
    found: dict[str, bool | int | float | str] = {}
    for name, parameter in given.items():
        kind = parameter.WhichOneof("parameter_choice")
        if kind is not None:
            found[name] = getattr(parameter, kind)
    return found


def _inputs(request: pb.ModelInferRequest) -> dict[str, Array]:
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InputError(
            f"raw_input_contents: expected one for each of the {len(request.inputs)} inputs, "
            f"got {len(raw)}"
        )
    inputs: dict[str, Array] = {}
    for number, tensor in enumerate(request.inputs):
        name = tensor.name
        if name in inputs:
            raise InputError(f"input {name!r} is given twice")
        if raw:
            if tensor.HasField("contents"):
                raise InputError(
                    f"input {name!r}: expected its elements in contents or in "
                    "raw_input_contents, got both"
                )
            inputs[name] = datatypes.from_bytes(name, tensor.datatype, tensor.shape, raw[number])
        else:
            parameters.refuse_shared_memory(f"input {name!r}", tensor.parameters)
            inputs[name] = _typed(tensor)
    return inputs


def _typed(tensor: pb.ModelInferRequest.InferInputTensor) -> Array:
    """The array of typed contents."""
    dtype = datatypes.datatype_of(tensor.name, tensor.datatype)
    field = _CONTENTS.get(tensor.datatype)
    if field is None:
        raise InputError(
            f"input {tensor.name!r}: {tensor.datatype} has no typed contents; send it raw"
        )
    values = getattr(tensor.contents, field)
    if dtype.hasobject:
        elements = np.empty(len(values), object)
        elements[:] = [datatypes.text(tensor.name, item) for item in values]
    else:
        wide = np.array(values)
        elements = wide.astype(dtype)
        if dtype.kind in "iu" and (elements != wide).any():
            raise InputError(
                f"input {tensor.name!r}: expected elements of {tensor.datatype}, got larger ones"
            )
    return datatypes.shaped(tensor.name, elements, tensor.shape)


# -- To messages -----------------------------------------------------------------------------------


def _response(request: pb.ModelInferRequest, inferred: Inferred) -> pb.ModelInferResponse:
    served, outputs, facts = inferred
    response = pb.ModelInferResponse(id=request.id)
    kinds = tuple([(name, array.dtype, array.shape) for name, array in outputs])
    response.MergeFrom(_head(served.name, served.version, kinds))
    for name, fact in facts.items():
        response.parameters[name].string_param = fact
    if request.raw_input_contents or not all(o.datatype in _CONTENTS for o in response.outputs):
        response.raw_output_contents.extend([datatypes.to_bytes(array) for _, array in outputs])
        return response
    for (_, array), tensor in zip(outputs, response.outputs, strict=True):
        text = tensor.datatype == "BYTES"
        elements = datatypes.encoded(array) if text else array.ravel().tolist()
        getattr(tensor.contents, _CONTENTS[tensor.datatype]).extend(elements)
    return response


def _reply(inferred: Inferred) -> bytes:
    """The message of an answer with raw contents, and without an id."""
    served, outputs, _ = inferred
    kinds = tuple([(name, array.dtype, array.shape) for name, array in outputs])
    parts = [_head_bytes(served.name, served.version, kinds)]
    for _, array in outputs:
        elements = datatypes.to_bytes(array)
        parts += (_before_elements(len(elements)), elements)
    return b"".join(parts)


@lru_cache(maxsize=1024)
def _head_bytes(model: str, version: str, outputs: tuple[_Kind, ...]) -> bytes:
    return _head(model, version, outputs).SerializeToString()


@lru_cache(maxsize=1024)
def _before_elements(size: int) -> bytes:
    """What stands before so many bytes of raw contents in a message."""
    message = pb.ModelInferResponse(raw_output_contents=[bytes(size)]).SerializeToString()
    return message[: len(message) - size]


@lru_cache(maxsize=1024)
def _head(model: str, version: str, outputs: tuple[_Kind, ...]) -> pb.ModelInferResponse:
    """All of an answer but its contents, to be merged into one: what comes again and again.

    Args:
        model: the model's name.
        version: its version.
        outputs: by name, dtype and shape.
    """
    head = pb.ModelInferResponse(model_name=model, model_version=version)
    for name, dtype, shape in outputs:
        head.outputs.add(name=name, datatype=datatypes.datatype_in(dtype), shape=shape)
    return head


def _metadata(info: TensorInfo) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(
        name=info.name, datatype=datatypes.datatype(info.dtype), shape=_sizes(info.shape)
    )


def _sizes(shape: Sequence[int | None] | None) -> list[int]:
    """Sizes as the protocol writes them; a shape of which nothing is known is one free axis."""
    return [-1 if size is None else size for size in ((None,) if shape is None else shape)]


def config(entry: Description) -> pb.ModelConfig:
    """How a model is batched, in Triton's terms."""
    first = 1 if entry.max_batch_size else 0  # with a batch, its axis is understood
    made = pb.ModelConfig(
        name=entry.name,
        platform=entry.platform,
        backend=entry.backend,
        max_batch_size=entry.max_batch_size,
        input=[
            pb.ModelInput(
                name=info.name, data_type=_data_type(info), dims=_sizes(info.shape)[first:]
            )
            for info in entry.inputs
        ],
        output=[
            pb.ModelOutput(
                name=info.name, data_type=_data_type(info), dims=_sizes(info.shape)[first:]
            )
            for info in entry.outputs
        ],
    )
    if entry.max_batch_size:
        made.dynamic_batching.max_queue_delay_microseconds = round(entry.max_wait_ms * 1e3)
    return made


def statistics(found: Iterable[tuple[str, str, Statistics]]) -> pb.ModelStatisticsResponse:
    """What models have done: name, version and numbers of each."""
    return pb.ModelStatisticsResponse(
        model_stats=[
            pb.ModelStatistics(
                name=name,
                version=version,
                last_inference=stats.last_ms,
                inference_count=stats.images,
                execution_count=sum(runs.count for runs in stats.runs.values()),
                inference_stats=pb.InferStatistics(
                    success=_duration(stats.success),
                    fail=_duration(stats.fail),
                    queue=_duration(Duration(stats.success.count, stats.queue_ns)),
                    compute_input=_duration(Duration(stats.success.count, stats.prepare_ns)),
                    compute_infer=_duration(Duration(stats.success.count, stats.compute_ns)),
                    compute_output=_duration(Duration(stats.success.count, stats.finish_ns)),
                ),
                batch_stats=[
                    pb.InferBatchStatistics(batch_size=size, compute_infer=_duration(runs))
                    for size, runs in sorted(stats.runs.items())
                ],
            )
            for name, version, stats in found
        ]
    )


def _data_type(info: TensorInfo) -> str:
    name = datatypes.datatype(info.dtype)
    return "TYPE_STRING" if name == "BYTES" else f"TYPE_{name}"


def _duration(duration: Duration) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=duration.count, ns=duration.ns)
