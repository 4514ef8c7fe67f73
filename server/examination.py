"""What a request may ask of a network besides its outputs: both engines, times, edited layers.

Everything here runs on a thread, and takes as long as it takes: a request that asks for it runs
alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from pyconv.engines.base import Array, shape_text
from pyconv.errors import InputError, ModelError, PyconvError
from pyconv.graph.batch import Batch
from pyconv.metadata import Layer
from pyconv.model import Model
from pyconv.server.errors import without_path
from pyconv.server.models import ServedModel


def compare(
    native: ServedModel, other: ServedModel, inputs: Mapping[str, Array], tolerance: float
) -> dict[str, Any]:
    """Both engines on the same inputs, layer by layer.

    Args:
        native: the network on one engine.
        other: the same on the other.
        inputs: as the network takes them.
        tolerance: by how much of its largest value, in absolute terms, a layer may differ.

    Returns:
        `layers`: each with its `name`, its `largest_difference` and its `largest_value`;
        `first_diverging`: the first layer that differs by more, or None.
    """
    layers = [native.model.layer(name) for name in native.layers]
    known = {layer.name for layer in layers}
    layers += [native.output(info.name) for info in native.model.outputs if info.name not in known]
    names = list(dict.fromkeys(layer.tensor for layer in layers))
    ours, theirs = native.model.run(inputs, names), other.model.run(inputs, names)
    rows = []
    first = None
    for layer in layers:
        difference, scale = _differences(ours[layer.tensor], theirs[layer.tensor])
        rows.append({"name": layer.name, "largest_difference": difference, "largest_value": scale})
        if first is None and not difference <= tolerance * scale:
            first = layer.name
    return {"layers": rows, "first_diverging": first, "tolerance": tolerance}


def compare_outputs(
    one: ServedModel, other: ServedModel, inputs: Mapping[str, Array], tolerance: float
) -> bool:
    """Whether two engines give the same outputs, within a share of each one's largest value."""
    ours, theirs = one.model.run(inputs), other.model.run(inputs)
    for name, a in ours.items():
        difference, scale = _differences(a, theirs[name])
        if not difference <= tolerance * scale:
            return False
    return True


def _differences(a: Array, b: Array) -> tuple[float, float]:
    """The largest difference of two arrays, and the largest value of the second."""
    if a.dtype.kind not in "fiu" or not a.size:
        return (0.0 if np.array_equal(a, b) else np.inf), 1.0
    a, b = a.astype(np.float64), b.astype(np.float64)
    # What both call infinite, or no number, is no difference.
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        differences = np.where(same, 0, np.abs(a - b))
    largest = float(np.nan_to_num(differences, nan=np.inf).max())
    return largest, float(np.abs(b[np.isfinite(b)]).max(initial=0))


_TIMINGS = 3


def catalogue(served: ServedModel) -> list[dict[str, Any]]:
    """The network's layers.

    Returns:
        Each with its `name`, `operator`, `shape` (of one image, in Keras' layout), `parameters`,
        `flops`, `algorithm` (of the native engine), `filters` (its channels), and what one of its
        values sees of the picture, `receptive_field`, and by how many pixels that moves from one
        value to the next, `stride`; null where a thing is not known.
    """
    from pyconv import inspect

    try:
        fields = inspect.receptive_fields(served.model)
    except PyconvError:  # it takes no pictures, or has operators that the compiler does not know
        fields = {}
    rows = []
    for row in served.model.summary().rows:
        field = fields.get(row.name)
        shape = None if row.shape is None else list(row.shape)
        rows.append(
            {
                "name": row.name,
                "operator": row.operator,
                "shape": shape,
                "parameters": row.parameters,
                "flops": row.flops,
                "algorithm": row.algorithm,
                "filters": shape[-1] if shape else None,
                "receptive_field": list(field.size) if field else None,
                "stride": list(field.stride) if field and field.stride else None,
            }
        )
    return rows


def profile(served: ServedModel, inputs: Mapping[str, Array]) -> dict[str, Any]:
    """What each step of the native program takes for these inputs: the least of three runs.

    Returns:
        `steps`: each with the `layers` that it computes, its `operator` and `algorithm`, `ms`,
        `flops`, and `bytes` that it puts out, for all images together.

    Raises:
        InputError: the engine is onnxruntime, which does not tell.
    """
    runs = [served.model.time_steps(inputs) for _ in range(_TIMINGS)]
    images = max((len(array) for array in inputs.values() if array.ndim), default=1)
    layers: dict[str, str] = {}
    for name in served.layers:
        layers.setdefault(served.model.layer(name).tensor, name)
    network = served.model.network
    steps = []
    for timed in zip(*runs, strict=True):
        step = timed[0][0]
        width = np.dtype(network.dtype(step.name)).itemsize if network else 4
        count = 1
        for size in step.shape:
            count *= images if size is None else size
        steps.append(
            {
                "layers": [layers[name] for name in step.tensors if name in layers],
                "operator": step.operator,
                "algorithm": step.algorithm,
                "ms": min(seconds for _, seconds in timed) * 1e3,
                "flops": step.flops * images,
                "bytes": count * width,
            }
        )
    return {"steps": steps}


def layer_seconds(served: ServedModel, inputs: Mapping[str, Array]) -> dict[str, float]:
    """By layer, what the step that computes it takes for an image; empty for onnxruntime."""
    if served.model.engine != "native":
        return {}
    images = served.images(inputs)[0] or 1
    return {
        name: step["ms"] / 1e3 / images
        for step in profile(served, inputs)["steps"]
        for name in step["layers"]
    }


class Edits:
    """Runs a network some of whose layers are replaced, or have channels silenced.

    Args:
        served: the network.
    """

    def __init__(self, served: ServedModel) -> None:
        self._served = served
        self._rest = lru_cache(maxsize=8)(served.model.resumed)

    def images(self, inputs: Mapping[str, Array], replaced: Mapping[str, Array]) -> int | None:
        """How many images a request is of, by its inputs or else by its replaced layers.

        Args:
            inputs: as for `run`.
            replaced: as for `run`.

        Returns:
            None where the arrays do not tell.

        Raises:
            InputError: there are no inputs, and the layers are of different counts.
        """
        count, known = self._served.images(inputs)
        if known:
            return count
        if inputs:  # several, which need not be of as many images
            return None
        counts = {}
        for name, array in replaced.items():
            info = self._served.describe(name)
            rows = self._rows(self._served.model.layer(name), 1)
            if info.shape and info.shape[0] is None and array.ndim and rows:
                counts[name] = -(-len(array) // rows)
        if len(set(counts.values())) > 1:
            told = ", ".join(f"{name!r} of {count}" for name, count in counts.items())
            raise InputError(f"replaced layers: expected all of as many images, got {told}")
        return next(iter(counts.values()), None)

    def run(
        self,
        inputs: Mapping[str, Array],
        replaced: Mapping[str, Array],
        silenced: Mapping[str, Sequence[int]],
        outputs: Sequence[str],
    ) -> dict[str, Array]:
        """Compute tensors as they are after the edits.

        Args:
            inputs: the network's own; those that are not needed may be missing.
            replaced: by layer, what takes the place of its output, in Keras' layout; of as many
                images as `inputs`, or where there are none as each other.
            silenced: by layer, the channels that are set to 0.
            outputs: ONNX tensors.

        Raises:
            InputError: an array or a channel does not fit, or an input is missing.
            ModelError: the network's file has changed since it was loaded.
        """
        model = self._served.model
        if self._served.has_changed:
            raise ModelError(
                f"{model.path}: the file has changed since it was loaded; load the model again"
            )
        order = {name: place for place, name in enumerate(self._served.layers)}
        names = sorted({*replaced, *silenced}, key=lambda name: order[name])
        images = self.images(inputs, replaced)
        edited: dict[str, Array] = {}
        for name in names:
            layer = model.layer(name)
            if name in replaced:
                array = self._as_in_graph(layer, replaced[name], images)
            else:
                array = self._compute(inputs, edited, [layer.tensor])[layer.tensor]
            edited[layer.tensor] = self._silence(layer, array, silenced.get(name, ()))
        return self._compute(inputs, edited, outputs)

    def _compute(
        self, inputs: Mapping[str, Array], edited: Mapping[str, Array], wanted: Sequence[str]
    ) -> dict[str, Array]:
        """Tensors of the network in which some are given."""
        model = self._served.model
        found = {name: edited[name] for name in wanted if name in edited}
        left = [name for name in wanted if name not in edited]
        if not edited:
            return {**found, **_run(model, inputs, left)}
        rest = self._rest(tuple(edited))
        within = set(rest.tensors)
        after = [name for name in left if name in within]
        before = [name for name in left if name not in within]
        if after:
            given = {**inputs, **edited}
            needed = {info.name: given[info.name] for info in rest.inputs if info.name in given}
            try:
                found |= _run(rest, needed, after)
            except PyconvError as error:  # the file that the rest was loaded from is nobody's
                raise without_path(error, str(rest.path), str(model.path)) from None
        if before:  # no edit reaches them
            found |= _run(model, inputs, before)
        return found

    def _as_in_graph(self, layer: Layer, array: Array, images: int | None) -> Array:
        info = self._served.describe(layer.name)
        sizes = info.shape or ()
        wanted = shape_text(info.shape)
        if images is not None and sizes[:1] == (None,):
            sizes = (self._rows(layer, images), *sizes[1:])
            wanted = f"{shape_text(sizes)} for {images} {'image' if images == 1 else 'images'}"
        fits = array.dtype == info.dtype and (
            info.shape is None
            or (
                array.ndim == len(sizes)
                and all(want in (None, got) for want, got in zip(sizes, array.shape, strict=True))
            )
        )
        if not fits:
            raise InputError(
                f"layer {layer.name!r}: expected {info.dtype} of shape {wanted}, "
                f"got {array.dtype} of shape {shape_text(array.shape)}"
            )
        if not layer.axes:
            return array
        return np.ascontiguousarray(array.transpose(np.argsort(layer.axes)))

    def _rows(self, layer: Layer, images: int) -> int | None:
        """How long the first axis of a layer is for so many images; None if that is not known."""
        network = self._served.model.network
        shape = network.shape(layer.tensor) if network else None
        if shape:
            size = shape[layer.axes[0] if layer.axes else 0]
            return images * size.factor if isinstance(size, Batch) else size
        return images if layer.shape else None

    def _silence(self, layer: Layer, array: Array, channels: Sequence[int]) -> Array:
        if not channels:
            return array
        if array.ndim < 2:
            raise InputError(
                f"layer {layer.name!r} has no channels: its shape is {shape_text(array.shape)}"
            )
        axis = layer.axes[-1] if layer.axes else 1
        count = array.shape[axis]
        for channel in channels:
            if channel >= count:
                raise InputError(
                    f"layer {layer.name!r} has {count} channels, 0 to {count - 1}; got {channel}"
                )
        array = array.copy()
        np.moveaxis(array, axis, 0)[list(channels)] = 0
        return array


def _run(model: Model, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
    return dict(model.run(inputs, outputs)) if outputs else {}
