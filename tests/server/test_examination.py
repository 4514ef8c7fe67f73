"""What a request may ask besides outputs: both engines, times, edited layers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import pyconv
from pyconv.errors import InputError, ModelError
from pyconv.server.errors import LimitError, NotFoundError
from pyconv.server.examination import catalogue
from pyconv.server.inference import Inference
from pyconv.server.metrics import Metrics
from pyconv.server.models import Models, OutputChoice, ServedModel
from pyconv.server.parameters import examination
from pyconv.server.requests import Examination, Inferred, Selection, TensorRequest
from pyconv.server.scheduler import Tensors
from pyconv.server.settings import Settings

_IMAGES = np.random.default_rng(3).random((2, 6, 8, 1), np.float32)


@pytest.fixture(scope="module")
def inference(settings: Settings) -> Iterator[Inference]:
    models = Models.load(settings.models, settings.engines, settings.threads)
    inference = Inference(models, settings)
    yield inference
    inference.close()


async def _infer(
    inference: Inference, outputs: Sequence[str] = (), engine: Any = None, **asked: Any
) -> Inferred:
    inputs = {"pixels": _IMAGES, **asked.pop("inputs", {})}
    choices = [OutputChoice(name) for name in outputs]
    return await inference.infer(
        TensorRequest(Selection("small", engine), inputs, choices, Examination(**asked))
    )


def _of_one_node(
    settings: Settings, folder: Path, operator: str, kind: int, shape: Sequence[str], of: str = ""
) -> Inference:
    """The model small is a file of a single node, on onnxruntime: x, and what it makes of it, y.

    Where `of` is an operator, z is what that makes of y and y.
    """
    x, y, z = (helper.make_tensor_value_info(name, kind, shape) for name in "xyz")
    nodes = [helper.make_node(operator, ["x"], ["y"])]
    if of:
        nodes.append(helper.make_node(of, ["y", "y"], ["z"]))
    graph = helper.make_graph(nodes, "one", [x], [z if of else y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    onnx.save(model, folder / "one.onnx")
    spec = replace(settings.models[0], source=str(folder / "one.onnx"))
    return Inference(Models.load([spec], ["onnxruntime"], 1), settings)


# -- Both engines ----------------------------------------------------------------------------------


async def test_both_engines_agree_layer_by_layer(inference: Inference) -> None:
    inferred = await _infer(inference, compare=True)
    told = json.loads(str(inferred.facts["comparison"]))
    assert [row["name"] for row in told["layers"]] == ["conv2d", "flatten", "dense", "scores"]
    assert told["first_diverging"] is None
    native, other = (
        inference.models.select("small", engine).model.activations(_IMAGES)
        for engine in ("native", "onnxruntime")
    )
    for row in told["layers"][:3]:
        name = row["name"]
        assert row["largest_difference"] == np.abs(native[name] - other[name]).max()
        assert row["largest_value"] == np.abs(other[name]).max()
    expected = inference.models.select("small", "native").model.predict(_IMAGES)
    np.testing.assert_array_equal(inferred.outputs[0][1], expected)


async def test_the_first_layer_that_diverges_is_named(
    inference: Inference, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = inference.models.select("small", "onnxruntime").model

    def off(inputs: Tensors, outputs: Sequence[str]) -> Tensors:
        found = dict(inference.models.select("small", "native").model.run(inputs, outputs))
        found["flat"] = found["flat"] * 1.5
        found["scores"] = found["scores"] + 1
        return found

    monkeypatch.setattr(model, "run", off)
    told = json.loads(str((await _infer(inference, compare=True)).facts["comparison"]))
    assert told["first_diverging"] == "flatten"
    assert told["layers"][0]["largest_difference"] == 0


async def test_comparison_needs_both_engines(settings: Settings) -> None:
    alone = Inference(Models.load(settings.models[:1], ["native"], 1), settings)
    try:
        with pytest.raises(NotFoundError, match="is not loaded on the engine 'onnxruntime'"):
            await _infer(alone, compare=True)
    finally:
        alone.close()


# -- Times -----------------------------------------------------------------------------------------


async def test_profile_tells_of_every_step(inference: Inference) -> None:
    told = json.loads(str((await _infer(inference, profile=True)).facts["profile"]))
    steps = inference.models.select("small", "native").model.steps()
    assert [step["operator"] for step in told["steps"]] == [step.operator for step in steps]
    assert [step["flops"] for step in told["steps"]] == [2 * step.flops for step in steps]
    assert all(step["ms"] > 0 for step in told["steps"])
    assert told["steps"][0]["layers"] == ["conv2d"]
    assert told["steps"][0]["bytes"] == 2 * 4 * 6 * 4 * 4
    assert told["steps"][-1]["layers"] == ["dense"]


async def test_onnxruntime_has_no_profile(inference: Inference) -> None:
    with pytest.raises(InputError, match="only the native engine tells"):
        await _infer(inference, engine="onnxruntime", profile=True)


# -- Edited layers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["native", "onnxruntime"])
async def test_silenced_channels_are_as_filters_of_zeros(
    inference: Inference, small_classifier: Any, tmp_path: Any, engine: Any
) -> None:
    model = onnx.load(str(small_classifier))
    for tensor in model.graph.initializer:
        if tensor.name in ("kernel", "bias"):
            values = numpy_helper.to_array(tensor).copy()
            values[[1, 3]] = 0
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, tmp_path / "silent.onnx")
    silent = pyconv.load(tmp_path / "silent.onnx")
    outputs = ["scores", "conv2d", "flatten"]
    inferred = await _infer(inference, outputs, engine, silenced={"conv2d": [1, 3]})
    layers = silent.activations(_IMAGES)
    for (name, array), expected in zip(
        inferred.outputs,
        (silent.predict(_IMAGES), layers["conv2d"], layers["flatten"]),
        strict=True,
    ):
        np.testing.assert_allclose(array, expected, rtol=1e-4, atol=1e-6, err_msg=name)
        assert not np.allclose(array, (await _infer(inference, [name])).outputs[0][1])


@pytest.mark.parametrize("engine", ["native", "onnxruntime"])
async def test_a_layer_may_be_replaced(inference: Inference, engine: Any) -> None:
    model = inference.models.select("small", engine).model
    layer = model.activations(_IMAGES)["conv2d"]
    same = await _infer(inference, engine=engine, inputs={"conv2d": layer})
    np.testing.assert_allclose(same.outputs[0][1], model.predict(_IMAGES), rtol=1e-4, atol=1e-6)
    swapped = await _infer(inference, ["scores", "conv"], engine, inputs={"conv2d": layer[::-1]})
    np.testing.assert_allclose(
        swapped.outputs[0][1], model.predict(_IMAGES)[::-1], rtol=1e-4, atol=1e-6
    )
    before = model.run({"pixels": _IMAGES}, ["conv"])["conv"]
    np.testing.assert_array_equal(swapped.outputs[1][1], before)  # no edit reaches it


async def test_a_replaced_layer_needs_no_picture(inference: Inference) -> None:
    model = inference.models.select("small", None).model
    layer = model.activations(_IMAGES)["flatten"]
    request = TensorRequest(Selection("small"), {"flatten": layer})
    scores = (await inference.infer(request)).outputs[0][1]
    np.testing.assert_allclose(scores, model.predict(_IMAGES), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("engine", ["native", "onnxruntime"])
async def test_a_replaced_layer_is_of_as_many_images(inference: Inference, engine: Any) -> None:
    layers = inference.models.select("small", engine).model.activations(_IMAGES)
    expected = (
        r"layer 'conv2d': expected float32 of shape \(2, 4, 6, 4\) for 2 images, "
        r"got float32 of shape \({}, 4, 6, 4\)"
    )
    for count in (1, 3):
        maps = np.resize(layers["conv2d"], (count, 4, 6, 4))
        with pytest.raises(InputError, match=expected.format(count)):
            await _infer(inference, ["scores"], engine, inputs={"conv2d": maps})


@pytest.mark.parametrize("engine", ["native", "onnxruntime"])
async def test_replaced_layers_are_of_as_many_images_each(
    inference: Inference, engine: Any
) -> None:
    layers = {
        "conv2d": np.zeros((2, 4, 6, 4), np.float32),
        "flatten": np.zeros((3, 96), np.float32),
    }
    request = TensorRequest(Selection("small", engine), layers, [OutputChoice("scores")])
    expected = "replaced layers: expected all of as many images, got 'conv2d' of 2, 'flatten' of 3"
    with pytest.raises(InputError, match=expected):
        await inference.infer(request)


async def test_images_of_a_replaced_layer_count(inference: Inference, settings: Settings) -> None:
    def request(count: int) -> TensorRequest:
        return TensorRequest(Selection("small"), {"flatten": np.zeros((count, 96), np.float32)})

    (_, scores), *_ = (await inference.infer(request(settings.max_images))).outputs
    assert len(scores) == settings.max_images
    with pytest.raises(LimitError, match=f"at most {settings.max_images} in one request, got 65"):
        await inference.infer(request(settings.max_images + 1))
    with pytest.raises(InputError, match="images: expected at least one, got none"):
        await inference.infer(request(0))


async def test_a_number_is_no_picture_of_an_edited_layer(inference: Inference) -> None:
    number = np.ones((), np.float32)
    with pytest.raises(InputError, match="pixels"):
        await _infer(inference, inputs={"pixels": number}, silenced={"conv2d": (0,)})


@pytest.mark.parametrize("shape", [(), ("n",)])
async def test_what_has_no_channels_cannot_be_silenced(
    settings: Settings, tmp_path: Path, shape: Any
) -> None:
    inference = _of_one_node(settings, tmp_path, "Abs", onnx.TensorProto.FLOAT, shape)
    inputs = {"x": np.ones([2] * len(shape), np.float32)}
    asked = Examination(silenced={"y": [0]})
    try:
        with pytest.raises(InputError, match=r"layer 'y' has no channels: its shape is \("):
            await inference.infer(TensorRequest(Selection("small"), inputs, (), asked))
    finally:
        inference.close()


async def test_what_fails_after_an_edit_names_no_file(settings: Settings, tmp_path: Path) -> None:
    inference = _of_one_node(settings, tmp_path, "Identity", onnx.TensorProto.INT32, ["n"], "Div")
    request = TensorRequest(Selection("small"), {"y": np.zeros(2, np.int32)})
    try:
        with pytest.raises(ModelError, match=r"^small: onnxruntime cannot run it"):
            await inference.infer(request)
    finally:
        inference.close()


async def test_several_layers_may_be_edited(inference: Inference) -> None:
    layers = inference.models.select("small", None).model.activations(_IMAGES)
    both = {"conv2d": [0], "flatten": [1, 5]}
    found = dict((await _infer(inference, ["flatten", "scores"], silenced=both)).outputs)
    expected = layers["conv2d"].copy()
    expected[..., 0] = 0
    expected = expected.reshape(2, -1)
    expected[:, [1, 5]] = 0
    np.testing.assert_allclose(found["flatten"], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("asked", "kind", "message"),
    [
        ({"silenced": {"conv": [0]}}, NotFoundError, "there is no layer 'conv'; did you mean"),
        ({"silenced": {"conv2d": [4]}}, InputError, "has 4 channels, 0 to 3; got 4"),
        (
            {"inputs": {"conv2d": np.zeros((2, 4, 6, 3), np.float32)}},
            InputError,
            r"layer 'conv2d': expected float32 of shape \(2, 4, 6, 4\) for 2 images, got",
        ),
        (
            {"silenced": {"conv2d": [0]}, "profile": True},
            InputError,
            "not both in one request",
        ),
        ({"inputs": {"pixel": _IMAGES}}, InputError, r"unknown: \['pixel'\]"),
    ],
)
async def test_senseless_edits_are_refused(
    inference: Inference, asked: Any, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        await _infer(inference, **asked)


async def test_a_file_that_has_changed_is_not_mixed_with_what_was_loaded(
    settings: Settings, small_classifier: Any, tmp_path: Any
) -> None:
    path = tmp_path / "small.onnx"
    path.write_bytes(small_classifier.read_bytes())
    spec = replace(settings.models[0], source=str(path))
    inference = Inference(Models.load([spec], ["native"], 1), settings)
    try:
        await _infer(inference, silenced={"conv2d": [0]})
        path.write_bytes(small_classifier.read_bytes() + b"")
        path.touch()
        with pytest.raises(ModelError, match="has changed since it was loaded"):
            await _infer(inference, silenced={"conv2d": [0]})
        await _infer(inference)
    finally:
        inference.close()


# -- What a request says of it ---------------------------------------------------------------------


def test_examination_of_parameters() -> None:
    asked = examination({"engine": "both", "tolerance": 0.5, "profile": True, "silence": "{}"})
    assert asked == Examination(compare=True, tolerance=0.5, profile=True)
    assert examination({"silence": '{"a": [1, 2]}'}).silenced == {"a": [1, 2]}
    assert not examination({"engine": "native", "timeout": 5}).asked


@pytest.mark.parametrize(
    "parameters",
    [
        {"silence": "conv2d"},
        {"silence": "[1]"},
        {"silence": '{"a": 1}'},
        {"silence": '{"a": [-1]}'},
        {"silence": '{"a": [true]}'},
        {"silence": '{"a": "b"}'},
        {"silence": "[" * 100_000},
        {"silence": True},
        {"tolerance": -1},
        {"tolerance": float("nan")},
        {"tolerance": "0"},
        {"profile": 1},
    ],
)
def test_senseless_parameters_are_refused(parameters: Any) -> None:
    with pytest.raises(InputError, match="parameter '"):
        examination(parameters)


# -- Layers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["native", "onnxruntime"])
def test_catalogue(inference: Inference, engine: Any) -> None:
    conv, _flatten, dense = catalogue(inference.models.select("small", engine))
    algorithm = conv.pop("algorithm")
    assert ("fused relu" in algorithm) == (engine == "native")
    assert conv == {
        "name": "conv2d",
        "operator": "Conv2D",
        "shape": [4, 6, 4],
        "parameters": 40,
        "flops": conv["flops"],
        "filters": 4,
        "receptive_field": [3, 3],
        "stride": [1, 1],
    }
    assert (dense["filters"], dense["receptive_field"], dense["stride"]) == (3, [6, 8], None)


# -- A share of the traffic ------------------------------------------------------------------------


async def _looked_at(inference: Inference) -> None:
    """Wait until nothing is being looked at any more."""
    async with asyncio.timeout(30):
        while inference._sampling._busy:
            await asyncio.sleep(0.01)


async def _sampled(settings: Settings, metric: str, off: bool = False, **asked: Any) -> str:
    """The lines of a metric after one request."""
    models = Models.load(settings.models[:1], settings.engines, 1)
    inference = Inference(models, replace(settings, **asked))
    if off:
        other = inference.models.select("small", "onnxruntime").model
        real = other.run
        other.run = lambda inputs, outputs=None: {  # type: ignore[method-assign]
            name: array + 1 for name, array in real(inputs, outputs).items()
        }
    try:
        await _infer(inference)
        async with asyncio.timeout(180):
            while f"\n{metric}{{" not in (page := inference.metrics.page().decode()):
                await asyncio.sleep(0.01)
    finally:
        inference.close()
    return "\n".join(line for line in page.splitlines() if line.startswith(metric))


@pytest.mark.parametrize("off", [False, True])
async def test_shadow_mode_counts_disagreements(settings: Settings, off: bool) -> None:
    metric = "pyconv_shadow_disagreements_total"
    assert await _sampled(settings, metric, off, shadow_share=1.0) == (
        f'{metric}{{model="small",version="1"}} {float(off)}'
    )


async def test_observed_layers_are_measured(settings: Settings) -> None:
    asked = {"observed_layers": ["conv2d", "nothing"], "observed_share": 1.0}
    line = await _sampled(settings, "pyconv_layer_zeros", **asked)
    layer = pyconv.load(settings.models[0].source).activations(_IMAGES)["conv2d"]
    labels, value = line.split()
    assert labels == 'pyconv_layer_zeros{layer="conv2d",model="small",version="1"}'
    assert float(value) == pytest.approx((layer == 0).mean())


async def test_layers_are_observed_where_every_request_is_shadowed(settings: Settings) -> None:
    asked = {"observed_layers": ["conv2d"], "observed_share": 1.0, "shadow_share": 1.0}
    assert "conv2d" in await _sampled(settings, "pyconv_layer_mean", **asked)


def test_the_time_of_a_layer_outlasts_a_look_that_has_none() -> None:
    metrics = Metrics()
    metrics.observed("m", "1", "conv2d", (0.0, 1.0, 0.5, 0.25))
    metrics.observed("m", "1", "conv2d", (2.0, 1.0, 0.5, None))
    metrics.observed("m", "1", "dense", (2.0, 1.0, 0.5, None))
    page = metrics.page().decode()
    assert 'pyconv_layer_mean{layer="conv2d",model="m",version="1"} 2.0' in page
    assert 'pyconv_layer_seconds{layer="conv2d",model="m",version="1"} 0.25' in page
    assert 'pyconv_layer_seconds{layer="dense"' not in page


@pytest.mark.parametrize("kind", ["STRING", "BOOL"])
async def test_layers_of_any_kind_may_be_observed(
    settings: Settings, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    operator = "Not" if kind == "BOOL" else "Identity"
    asked = {"observed_layers": ["y"], "observed_share": 1.0}
    inference = _of_one_node(
        replace(settings, **asked), tmp_path, operator, onnx.TensorProto.DataType.Value(kind), ["n"]
    )
    x = np.array([True, False]) if kind == "BOOL" else np.array(["a", "b"], object)
    try:
        await inference.infer(TensorRequest(Selection("small"), {"x": x}))
        await _looked_at(inference)
    finally:
        inference.close()
    assert not caplog.records
    line = 'pyconv_layer_mean{layer="y",model="small",version="1"} 0.5'
    assert (line in inference.metrics.page().decode()) == (kind == "BOOL")


async def test_an_engine_that_fails_disagrees(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    models = Models.load(settings.models[:1], settings.engines, 1)
    inference = Inference(models, replace(settings, shadow_share=1.0))

    def fail(*_: object) -> Tensors:
        raise ModelError("division by zero")

    inference.models.select("small", "onnxruntime").model.run = fail  # type: ignore[method-assign]
    try:
        await _infer(inference)
        await _looked_at(inference)
    finally:
        inference.close()
    line = 'pyconv_shadow_disagreements_total{model="small",version="1"} 1.0'
    assert line in inference.metrics.page().decode()
    (record,) = caplog.records
    assert record.message == "shadow: only one engine answered: division by zero"
    assert not record.exc_info


async def test_observed_layers_tell_their_time(settings: Settings) -> None:
    asked = {"observed_layers": ["conv2d"], "observed_share": 1.0}
    line = await _sampled(settings, "pyconv_layer_seconds", **asked)
    labels, value = line.split()
    assert labels == 'pyconv_layer_seconds{layer="conv2d",model="small",version="1"}'
    assert float(value) > 0


def test_a_served_model_knows_its_time(inference: Inference) -> None:
    served = inference.models.select("small", None)
    assert isinstance(served, ServedModel)
    assert 0 < served.image_s < 30
