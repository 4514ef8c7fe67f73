"""The page that looks inside the served networks: what it asks of the server.

The page itself is in web/: plain HTML, CSS and ES modules. An answer with arrays is one binary
body: four bytes, little-endian, say how long the JSON is that follows; its `arrays` list names,
dtypes and shapes, and behind it each array's elements follow, each from a multiple of 8 bytes on.
"""

from __future__ import annotations

import asyncio
import json
import math
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from aiohttp import web

from pyconv import bundled, data, pictures
from pyconv.colormap import INFERNO
from pyconv.engines.base import Array, EngineName
from pyconv.errors import InputError, PyconvError
from pyconv.graph.receptive_field import ReceptiveField
from pyconv.inspect import exciting_images, filters, grad_cam, occlusion_map, receptive_fields
from pyconv.inspect.kernels import layers_with_filters
from pyconv.inspect.layers import contract_of
from pyconv.model import Model, Prediction
from pyconv.server.errors import BusyError, NotFoundError
from pyconv.server.inference import Inference
from pyconv.server.models import ServedModel
from pyconv.server.requests import Images, LayerChoice, PictureFile, Selection
from pyconv.server.settings import Settings

EXCITING = 12
"""How many of the most exciting images are shown."""

_MOST_IMAGES = 2000  # of a data set are searched for them
_TIMED_RUNS = 9
_MOST_LOOKING = 16  # computations longer than an answer, running or waiting for a thread

_T = TypeVar("_T")


def add_routes(app: web.Application, inference: Inference, settings: Settings) -> None:
    """Give an application the page's own routes, all of them under `/page/`."""
    page = _Page(inference, settings)
    app.router.add_get("/page/colormap", page.colormap)
    app.router.add_get("/page/models", page.models)
    app.router.add_get("/page/sample/{name}/{file}", page.sample)
    app.router.add_post("/page/see", page.see)
    app.router.add_post("/page/times", page.times)
    app.router.add_post("/page/explain/{kind}", page.explain)
    app.router.add_get("/page/filter", page.filter)
    app.router.add_get("/page/exciting", page.exciting)


_Exciting = tuple[dict[str, Any], Array]


class _Page:
    def __init__(self, inference: Inference, settings: Settings) -> None:
        self._inference = inference
        self._settings = settings
        self._looking = 0
        # By model, so that what is kept goes when the model does.
        self._shown: WeakKeyDictionary[ServedModel, list[LayerChoice]] = WeakKeyDictionary()
        self._described: WeakKeyDictionary[ServedModel, dict[str, Any]] = WeakKeyDictionary()
        self._excited: WeakKeyDictionary[Model, dict[tuple[str, int], _Exciting]]
        self._excited = WeakKeyDictionary()

    async def colormap(self, request: web.Request) -> web.Response:
        """Inferno: 256 times red, green, blue."""
        return web.Response(body=INFERNO.tobytes(), content_type="application/octet-stream")

    async def models(self, request: web.Request) -> web.Response:
        """Every model: its engines, labels, layers and sample pictures."""
        held = self._inference.models
        entries = []
        for name in held.names:
            served = held.select(name, None)
            if served.model.input_contract is None:
                continue  # it takes no pictures, so there is nothing to draw
            if served not in self._described:
                facts = await self._look(partial(_described, served))
                self._described[served] = facts
            engines = list(held.engines(name))
            entries.append({"name": name, "engines": engines, **self._described[served]})
        return web.json_response({"models": entries})

    async def sample(self, request: web.Request) -> web.StreamResponse:
        """A sample picture."""
        name, file = request.match_info["name"], request.match_info["file"]
        for path in _samples(self._served(name).model):
            if path.name == file:
                return web.FileResponse(path)
        raise NotFoundError(f"model {name!r} has no sample {file!r}")

    async def see(self, request: web.Request) -> web.Response:
        """A picture as the network takes it, every layer's values, and the class's scores."""
        selection = _selection(request)
        served = self._served(selection.name, selection.engine)
        body = await request.read()
        if request.content_type == "application/octet-stream":
            images: Images = _pixels(served.model, body)[np.newaxis]
        else:
            images = [PictureFile(body)]
        picture = None
        contract = contract_of(served.model)
        if served.model.metadata.input is None:
            # The file does not say what pixels are to it, so inference takes none.
            if not isinstance(images, np.ndarray):
                most = self._settings.max_pixels
                work = partial(pictures.prepare, body, contract, max_pixels=most)
                images = (await self._look(work))[np.newaxis]
            picture = images[0]
            images = images * np.float32(contract.scale) + np.float32(contract.offset)
        if served not in self._shown:
            room_bytes = self._settings.max_message_bytes
            self._shown[served] = await self._look(partial(_shown_layers, served, room_bytes))
        seen = await self._inference.activations(selection, images, self._shown[served])
        pixels = seen.run.images
        predictions: Sequence[Prediction] = ()
        if _classifies(served.model):
            classified = await self._inference.classify(selection, pixels, _count(served.model))
            (predictions,) = classified.predictions
        arrays = {"": pixels[0] if picture is None else picture}
        for layer in seen.layers:
            if len(layer.values) == 1 and layer.values.ndim in (2, 4):
                arrays[layer.name] = np.moveaxis(layer.values, layer.channel_axis, -1)[0]
        facts = {
            "engine": served.model.engine,
            "prepare_ms": seen.run.prepare_ms,
            "compute_ms": seen.run.compute_ms,
            "predictions": [
                {"label": item.label, "index": item.index, "probability": item.probability}
                for item in predictions
            ],
        }
        return _packed(facts, arrays)

    async def times(self, request: web.Request) -> web.Response:
        """How long each engine takes for one picture: the median of some runs."""
        name = _selection(request).name
        body = await request.read()
        engines = self._inference.models.engines(name)
        held = [self._served(name, engine) for engine in engines]
        image = _pixels(held[0].model, body)[np.newaxis]
        medians = await self._look(partial(_timed, held, image))
        return web.json_response({"runs": _TIMED_RUNS, "median_ms": medians})

    async def explain(self, request: web.Request) -> web.Response:
        """Occlusion or Grad-CAM of a picture, for a class: values of the picture's size."""
        selection = _selection(request)
        model = self._served(selection.name, selection.engine).model.taking_pixels()
        image = _pixels(model, await request.read())
        chosen = request.query.get("class")
        index = None if chosen is None else _integer("class", chosen)
        kind = request.match_info["kind"]
        if kind == "occlusion":
            size = max(1, min(image.shape[:2]) // 5)
            stride = max(1, min(image.shape[:2]) // 28)
            hidden = await self._look(
                partial(occlusion_map, model, image, index, size=size, stride=stride)
            )
            facts = {"label": hidden.label, "size": size}
            return _packed(facts, {"heat": hidden.heat.astype(np.float32)})
        if kind == "grad-cam":
            spoken = await self._look(partial(grad_cam, model, image, index))
            facts = {"label": spoken.label, "layer": spoken.layer}
            return _packed(facts, {"heat": spoken.heat.astype(np.float32)})
        raise NotFoundError(f"there is no explanation {kind!r}; known: occlusion, grad-cam")

    async def filter(self, request: web.Request) -> web.Response:
        """One filter's weights for each of its inputs: (height, width, inputs)."""
        model = self._served(_selection(request).name).model
        layer, channel = request.query.get("layer", ""), _channel(request)
        found = await self._look(partial(filters, model, layer))
        if not 0 <= channel < found.kernel.shape[3]:
            raise InputError(f"channel: expected 0 to {found.kernel.shape[3] - 1}, got {channel}")
        bias = None if found.bias is None else float(found.bias[channel])
        return _packed({"bias": bias}, {"kernel": found.kernel[..., channel]})

    async def exciting(self, request: web.Request) -> web.Response:
        """The images that excite a channel most."""
        model = self._served(_selection(request).name).model
        layer, channel = request.query.get("layer", ""), _channel(request)
        known = self._excited.setdefault(model, {})
        if (layer, channel) not in known:
            work = partial(_most_exciting, model, layer, channel)
            known[layer, channel] = await self._look(work)
        facts, images = known[layer, channel]
        return _packed(facts, {"images": images})

    async def _look(self, work: Callable[[], _T]) -> _T:
        """Compute something that takes longer than an answer of the network.

        Raises:
            BusyError: so much of that is being computed already.
        """
        if self._looking >= _MOST_LOOKING:
            raise BusyError("this server is looking into networks for others; try again", 1000)
        self._looking += 1
        task = asyncio.ensure_future(self._inference.work(None, work))
        task.add_done_callback(self._looked)
        return await asyncio.shield(task)  # a thread goes on, whether or not somebody waits for it

    def _looked(self, task: asyncio.Future[_T]) -> None:
        self._looking -= 1
        if not task.cancelled():
            task.exception()  # somebody may have gone who would have been told

    def _served(self, name: str, engine: EngineName | None = None) -> ServedModel:
        return self._inference.models.select(name, engine)


def _selection(request: web.Request) -> Selection:
    engine = request.query.get("engine")
    if engine not in (None, "native", "onnxruntime"):
        raise InputError(f"engine: expected native or onnxruntime, got {engine!r}")
    return Selection(request.query.get("model", ""), engine)  # type: ignore[arg-type]


def _channel(request: web.Request) -> int:
    return _integer("channel", request.query.get("channel", "0"))


def _integer(name: str, text: str) -> int:
    if not text.isdecimal() or len(text) > 9:
        raise InputError(f"{name}: expected an integer from 0 on, got {text!r}")
    return int(text)


def _pixels(model: Model, body: bytes) -> Array:
    """Pixels as the network takes them, (height, width, channels) uint8, from their bytes."""
    contract = contract_of(model)
    shape = (contract.height, contract.width, contract.channels)
    if len(body) != np.prod(shape):
        raise InputError(f"pixels: expected {np.prod(shape)} bytes, {shape} uint8, got {len(body)}")
    return np.frombuffer(body, np.uint8).reshape(shape)


def _packed(facts: Mapping[str, Any], arrays: Mapping[str, Array]) -> web.Response:
    """JSON and arrays in one body; see the module."""
    listed = [
        {"name": name, "dtype": array.dtype.name, "shape": list(array.shape)}
        for name, array in arrays.items()
    ]
    head = json.dumps({**facts, "arrays": listed}).encode()
    parts = [struct.pack("<I", len(head)) + head]
    for array in arrays.values():
        parts.append(b"\0" * (-len(parts[-1]) % 8))
        parts.append(np.ascontiguousarray(array).tobytes())
    return web.Response(body=b"".join(parts), content_type="application/octet-stream")


def _count(model: Model) -> int:
    """How many classes there may be at most."""
    shape = model.outputs[0].shape
    return max(1, len(model.labels), (shape[-1] or 1) if shape else 1)


def _classifies(model: Model) -> bool:
    """Whether the main output is a row of scores."""
    (shape,) = (output.shape for output in model.outputs if output.name == model.main_output)
    return shape is None or len(shape) == 2


def _timed(held: list[ServedModel], image: Array) -> dict[str, float]:
    """Median milliseconds by engine; the engines take turns."""
    seconds: dict[str, list[float]] = {served.model.engine: [] for served in held}
    for _ in range(_TIMED_RUNS):
        for served in held:
            started = time.perf_counter()
            served.model.taking_pixels().predict(image)
            seconds[served.model.engine].append(time.perf_counter() - started)
    return {engine: float(np.median(taken)) * 1e3 for engine, taken in seconds.items()}


def _shown_layers(served: ServedModel, room_bytes: int) -> list[LayerChoice]:
    """The layers that fit into an answer, the first ones first; none of them named if all do."""
    chosen, all_fit = [], True
    for row in served.model.summary().rows:
        if row.shape is None or None in row.shape:
            continue  # shape arithmetic, or what is not known before it is there
        size_bytes = 4 * math.prod(size or 0 for size in row.shape)
        if size_bytes <= room_bytes:
            chosen.append(LayerChoice(row.name))
            room_bytes -= size_bytes
        else:
            all_fit = False
    return [] if all_fit else chosen


def _described(served: ServedModel) -> dict[str, Any]:
    """What the page shows of a model before anything is computed."""
    model = served.model
    contract = contract_of(model)
    try:
        fields = receptive_fields(model)
        with_filters = frozenset(layers_with_filters(model))
    except PyconvError:  # the compiler does not know all of the file
        fields, with_filters = {}, frozenset()
    layers = []
    for row in model.summary().rows:
        facts: dict[str, Any] = {"name": row.name, "operator": row.operator}
        facts["filters"] = row.name in with_filters
        if row.name in fields:
            facts.update(_field(fields[row.name]))
        layers.append(facts)
    return {
        "labels": list(model.labels),
        "assumed": model.metadata.input is None,
        "height": contract.height,
        "width": contract.width,
        "channels": contract.channels,
        "samples": [path.name for path in _samples(model)],
        "images": bool(_dataset_name(model) or _samples(model)),
        "layers": layers,
    }


def _field(field: ReceptiveField) -> dict[str, Any]:
    """How large a part of the picture a value sees, and the boxes of a map's rows and columns."""
    facts: dict[str, Any] = {"sees": list(field.size)}
    if len(field.shape) == 3:
        rows, columns, _ = field.shape
        facts["rows"] = [list(field.box(row)[0::2]) for row in range(rows)]
        boxes = [field.box(rows // 2, column) for column in range(columns)]
        facts["columns"] = [[box.left, box.right] for box in boxes]
    return facts


def _samples(model: Model) -> list[Path]:
    """Sample pictures in the style that the model takes."""
    style = contract_of(model).picture
    named = {"mnist": "digits", "fashion-mnist": "fashion"}.get(style)
    return bundled.samples(named) if named else []


def _dataset_name(model: Model) -> str | None:
    """The data set whose images the model takes, if it is on this machine."""
    contract = contract_of(model)
    name = contract.picture
    if name not in data.names() or contract.channels != 1 or data.locate(name) is None:
        return None
    return name if data.image_size(name) == (contract.height, contract.width) else None


@lru_cache(maxsize=2)
def _test_images(name: str) -> Array:
    return data.load(name).test_images[:_MOST_IMAGES]


def _most_exciting(model: Model, layer: str, channel: int) -> _Exciting:
    """The images, as facts and pixels (k, height, width, channels)."""
    name = _dataset_name(model)
    if name is not None:
        images, source = _test_images(name), f"the first {_MOST_IMAGES:,} test images of {name}"
    else:
        samples = _samples(model)
        if not samples:
            raise NotFoundError(
                "there are no images to search: this model's data set is not on this machine"
            )
        images, source = pictures.prepare_all(samples, contract_of(model)), "the sample pictures"
    found = exciting_images(model.taking_pixels(), layer, channel, images, EXCITING)
    facts = {
        "source": source,
        "images": [
            {"index": int(index), "value": float(value), "box": list(box)}
            for index, value, box in zip(found.indices, found.values, found.boxes, strict=True)
        ],
    }
    return facts, found.images
