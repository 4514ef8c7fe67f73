"""pyconv.v1.Classifier: convert, await, convert back."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import grpc

from pyconv.engines.base import TensorInfo
from pyconv.errors import InputError
from pyconv.metadata import InputContract, OutputKind, PictureStyle
from pyconv.server import status
from pyconv.server.inference import Inference
from pyconv.server.requests import (
    TOLERANCE,
    Classified,
    Examination,
    HeatMap,
    Images,
    LayerChoice,
    LayerValues,
    PictureFile,
    Run,
    Selection,
)
from pyconv.server.streams import in_order
from pyconv.v1 import classifier_pb2 as pb
from pyconv.v1 import classifier_pb2_grpc
from pyconv.wire import engine_from_wire, engine_to_wire, tensor_from_wire, tensor_to_wire

if TYPE_CHECKING:
    from pyconv.summary import Row

_Context = grpc.aio.ServicerContext[Any, Any]

_DEFAULT_CELL = 8

_STREAM_DEPTH = 64
"""How many requests of one stream are under way at the same time."""

_PICTURE_STYLES: dict[PictureStyle, pb.PictureStyle] = {
    "mnist": pb.PICTURE_STYLE_MNIST,
    "fashion-mnist": pb.PICTURE_STYLE_FASHION_MNIST,
    "plain": pb.PICTURE_STYLE_PLAIN,
}
_OUTPUT_KINDS: dict[OutputKind, pb.OutputKind] = {
    "probabilities": pb.OUTPUT_KIND_PROBABILITIES,
    "logits": pb.OUTPUT_KIND_LOGITS,
    "values": pb.OUTPUT_KIND_VALUES,
}


class Classifier(classifier_pb2_grpc.ClassifierServicer):
    """The protocol's methods; proto/pyconv/v1/classifier.proto says what each does."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def Classify(self, request: pb.ClassifyRequest, context: _Context) -> pb.ClassifyResponse:
        """See the protocol."""
        async with status.aborting(context):
            return await self._classify(request, status.deadline(context))

    async def ClassifyStream(
        self, requests: AsyncIterator[pb.ClassifyStreamRequest], context: _Context
    ) -> AsyncIterator[pb.ClassifyStreamResponse]:
        """See the protocol."""
        async with status.aborting(context):
            with self._inference.stream():
                async for response in in_order(requests, self._stream_response, _STREAM_DEPTH):
                    yield response

    async def _stream_response(self, item: pb.ClassifyStreamRequest) -> pb.ClassifyStreamResponse:
        try:
            response = await self._classify(item.request, None)
        except Exception as error:
            told = status.status_of(error)
            failure = pb.Error(code=told.code.value[0], message=told.message)
            return pb.ClassifyStreamResponse(id=item.id, error=failure)
        return pb.ClassifyStreamResponse(id=item.id, response=response)

    async def Activations(
        self, request: pb.ActivationsRequest, context: _Context
    ) -> pb.ActivationsResponse:
        """See the protocol."""
        async with status.aborting(context):
            return await self._activations(request, status.deadline(context))

    async def ListModels(
        self, request: pb.ListModelsRequest, context: _Context
    ) -> pb.ListModelsResponse:
        """See the protocol."""
        models = self._inference.models
        return pb.ListModelsResponse(
            models=[
                pb.ModelEntry(
                    name=name, engines=[engine_to_wire(engine) for engine in models.engines(name)]
                )
                for name in models.names
            ]
        )

    async def DescribeModel(
        self, request: pb.DescribeModelRequest, context: _Context
    ) -> pb.DescribeModelResponse:
        """See the protocol."""
        async with status.aborting(context):
            return await self._describe(request)

    async def _classify(
        self, request: pb.ClassifyRequest, deadline: float | None
    ) -> pb.ClassifyResponse:
        with self._inference.reading(request.model.name, ""):
            selection = _selection(request.model, request.examination)
            images = _images(request.images)
            asked = _examination(request.examination)
        classified = await self._inference.classify(
            selection, images, request.top_k or 1, asked=asked, deadline=deadline
        )
        return _classify_response(classified, request.return_inputs)

    async def _activations(
        self, request: pb.ActivationsRequest, deadline: float | None
    ) -> pb.ActivationsResponse:
        with self._inference.reading(request.model.name, ""):
            if request.format not in pb.ActivationFormat.values():
                raise InputError(f"format: expected 1 (tensor) or 2 (PNG), got {request.format}")
            selection = _selection(request.model, request.examination)
            images = _images(request.images)
            asked = _examination(request.examination)
        choices = [LayerChoice(layer.name, tuple(layer.channels)) for layer in request.layers]
        activated = await self._inference.activations(
            selection, images, choices, asked=asked, deadline=deadline
        )
        if request.format == pb.ACTIVATION_FORMAT_PNG:
            drawn = await self._inference.heat_maps(activated, request.cell or _DEFAULT_CELL)
            layers = [
                _drawn_layer(values, maps)
                for values, maps in zip(activated.layers, drawn, strict=True)
            ]
        else:
            layers = [_layer(values) for values in activated.layers]
        return pb.ActivationsResponse(layers=layers, **_run(activated.run, request.return_inputs))

    async def _describe(self, request: pb.DescribeModelRequest) -> pb.DescribeModelResponse:
        selection = _selection(request.model)
        served, summary = await self._inference.summary(selection)
        catalogue = await self._inference.catalogue(selection)
        model = served.model
        output = model.metadata.output
        return pb.DescribeModelResponse(
            name=served.name,
            engine=engine_to_wire(model.engine),
            engines=[
                engine_to_wire(engine) for engine in self._inference.models.engines(served.name)
            ],
            labels=model.labels,
            input=_input_contract(model.input_contract) if model.input_contract else None,
            inputs=[_tensor_info(info) for info in model.inputs],
            outputs=[_tensor_info(info) for info in model.outputs],
            output_kind=_OUTPUT_KINDS[output.kind] if output else pb.OUTPUT_KIND_UNSPECIFIED,
            layers=[_layer_summary(*rows) for rows in zip(summary.rows, catalogue, strict=True)],
            summary=str(summary),
            provenance_json=json.dumps(dict(model.metadata.provenance))
            if model.metadata.provenance
            else "",
        )


# -- From messages ---------------------------------------------------------------------------------


def _selection(model: pb.ModelSelector, asked: pb.Examination | None = None) -> Selection:
    engine = engine_from_wire(model.engine)
    if asked is not None and asked.compare_engines:
        if engine == "onnxruntime":
            raise InputError(
                "examination: where engines are compared, the native one answers; leave the engine "
                "out, or say native"
            )
        engine = "native"
    return Selection(model.name, engine)


def _examination(asked: pb.Examination) -> Examination:
    tolerance = asked.tolerance if asked.HasField("tolerance") else TOLERANCE
    if not 0 <= tolerance < float("inf"):
        raise InputError(f"examination.tolerance: expected a number from 0, got {tolerance}")
    names = [edit.layer for edit in asked.edits]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"examination.edits: layer {twice[0]!r} is given twice")
    return Examination(
        compare=asked.compare_engines,
        tolerance=tolerance,
        profile=asked.profile,
        silenced={edit.layer: list(edit.silenced) for edit in asked.edits},
        replaced={
            edit.layer: tensor_from_wire(edit.replacement)
            for edit in asked.edits
            if edit.HasField("replacement")
        },
    )


def _images(images: pb.Images) -> Images:
    source = images.WhichOneof("source")
    if source is None:
        raise InputError("images: expected pictures or a tensor, got neither")
    if source == "pictures":
        return [PictureFile(item.data, item.name) for item in images.pictures.pictures]
    return tensor_from_wire(images.tensor)


# -- To messages -----------------------------------------------------------------------------------


def _run(run: Run, return_inputs: bool) -> dict[str, Any]:
    """The fields that every computed response has."""
    return {
        "model": run.served.name,
        "engine": engine_to_wire(run.served.model.engine),
        "timing": pb.Timing(prepare_ms=run.prepare_ms, compute_ms=run.compute_ms),
        "inputs": tensor_to_wire(run.images) if return_inputs else None,
        "findings": _findings(run.facts) if run.facts else None,
    }


def _findings(facts: Mapping[str, Any]) -> pb.Findings:
    findings = pb.Findings()
    if (told := facts.get("comparison")) is not None:
        findings.comparison.layers.extend(pb.LayerDifference(**row) for row in told["layers"])
        findings.comparison.first_diverging = told["first_diverging"] or ""
        findings.comparison.tolerance = told["tolerance"]
    if (told := facts.get("profile")) is not None:
        findings.steps.extend(pb.StepProfile(**step) for step in told["steps"])
    return findings


def _classify_response(classified: Classified, return_inputs: bool) -> pb.ClassifyResponse:
    return pb.ClassifyResponse(
        classifications=[
            pb.Classification(
                predictions=[
                    pb.Prediction(
                        label=prediction.label,
                        index=prediction.index,
                        probability=prediction.probability,
                    )
                    for prediction in predictions
                ]
            )
            for predictions in classified.predictions
        ],
        **_run(classified.run, return_inputs),
    )


def _layer(layer: LayerValues) -> pb.LayerActivation:
    return pb.LayerActivation(
        name=layer.name,
        channels=layer.channels,
        channel_axis=layer.channel_axis,
        tensor=tensor_to_wire(layer.values),
    )


def _drawn_layer(layer: LayerValues, maps: Sequence[HeatMap]) -> pb.LayerActivation:
    return pb.LayerActivation(
        name=layer.name,
        channels=layer.channels,
        channel_axis=layer.channel_axis,
        heat_maps=pb.HeatMaps(
            maps=[
                pb.HeatMap(
                    image=item.image,
                    channel=item.channel,
                    png=item.png,
                    low=item.low,
                    high=item.high,
                )
                for item in maps
            ]
        ),
    )


def _input_contract(contract: InputContract) -> pb.InputContract:
    return pb.InputContract(
        height=contract.height,
        width=contract.width,
        channels=contract.channels,
        scale=contract.scale,
        offset=contract.offset,
        picture=_PICTURE_STYLES[contract.picture],
    )


def _tensor_info(info: TensorInfo) -> pb.TensorInfo:
    return pb.TensorInfo(
        name=info.name,
        dtype=info.dtype,
        shape=_shape(info.shape),
        unranked=info.shape is None,
    )


def _layer_summary(row: Row, more: Mapping[str, Any]) -> pb.LayerSummary:
    return pb.LayerSummary(
        name=row.name,
        operator=row.operator,
        shape=_shape(row.shape),
        parameters=row.parameters,
        flops=row.flops,
        algorithm=row.algorithm,
        filters=more["filters"],
        receptive_field=more["receptive_field"] or (),
        stride=more["stride"] or (),
    )


def _shape(shape: Sequence[int | None] | None) -> list[int]:
    return [-1 if size is None else size for size in shape or ()]
