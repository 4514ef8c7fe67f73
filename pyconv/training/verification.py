"""Whether an exported file computes what the Keras model does: every output, every layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pyconv.engines.base import Array, EngineName
from pyconv.errors import ExportError, UnsupportedOperatorError
from pyconv.model import Model, load
from pyconv.training import recording

if TYPE_CHECKING:
    import keras

TOLERANCE = 1e-4
"""The most by which an array may be off: the largest difference by the largest absolute value."""

_MOST_BYTES = 256 << 20
"""Of what all layers put out for the images that are compared at once; the engines hold it too."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How far an engine's array is from Keras'.

    Attributes:
        name: the layer's name, or that of the model's output.
        kind: `"layer"` or `"output"`.
        engine: the engine.
        images: the images' name, such as `"random"`.
        largest: the largest absolute difference of finite numbers; infinity where the shapes
            differ, or a number is infinite in one of them alone.
        scale: the largest absolute value of Keras' array, infinities left out.
    """

    name: str
    kind: str
    engine: EngineName
    images: str
    largest: float
    scale: float

    @property
    def relative(self) -> float:
        """The difference as a share of the scale."""
        return self.largest / self.scale if self.scale else self.largest

    def and_further(self, other: Difference) -> Difference:
        """The difference over this one's images and another's, of the same array."""
        largest, scale = max(self.largest, other.largest), max(self.scale, other.scale)
        return replace(self, largest=largest, scale=scale)


@dataclass(frozen=True, slots=True)
class Verification:
    """The engines against Keras.

    Attributes:
        differences: of every layer and output, on every engine that can run the file.
        warnings: a sentence for each engine that cannot.
    """

    differences: tuple[Difference, ...]
    warnings: tuple[str, ...]

    def worst(self, name: str, kind: str, engine: EngineName) -> Difference:
        """The largest relative difference of a layer or output, over all images."""
        return max(
            (
                item
                for item in self.differences
                if (item.name, item.kind, item.engine) == (name, kind, engine)
            ),
            key=lambda item: item.relative,
        )

    @property
    def engines(self) -> tuple[EngineName, ...]:
        """The engines that were compared."""
        return tuple(dict.fromkeys(item.engine for item in self.differences))


def verify(
    keras_model: keras.Model,
    path: Path,
    images: Mapping[str, NDArray[np.uint8]],
    engines: Sequence[EngineName],
    tell: Callable[[str], None],
) -> Verification:
    """Run an exported file on the engines and compare everything with Keras.

    Args:
        keras_model: the model that the file was made from.
        path: the file.
        images: uint8 pictures of the model's size under a name each.
        engines: those to compare. An engine that lacks an operator is left out with a warning.
        tell: called with what begins now, such as "running Keras on random images".

    Raises:
        ExportError: an output or a layer is off by more than `TOLERANCE`, or NaN in Keras itself.
        ModelError: an engine cannot load the file for another reason than a missing operator.
    """
    models: list[Model] = []
    warnings: list[str] = []
    for engine in engines:
        try:
            models.append(load(path, engine=engine))
        except UnsupportedOperatorError as error:
            lack = str(error).removeprefix(f"{path}: ")
            warnings.append(f"{engine} was not compared with Keras: {lack}")
    found: dict[tuple[str, str, EngineName, str], Difference] = {}
    for name, pixels in images.items():
        # The first image alone; that tells how many of them may be held at once.
        start, count = 0, 1
        while start < len(pixels):
            piece = pixels[start : start + count]
            compared, held_bytes = _compare_piece(keras_model, models, name, piece, tell)
            for item in compared:
                key = (item.name, item.kind, item.engine, item.images)
                found[key] = item.and_further(found[key]) if key in found else item
            start += count
            count = max(1, _MOST_BYTES * len(piece) // max(1, held_bytes))
    differences = list(found.values())
    wrong = [item for item in differences if not item.relative <= TOLERANCE]
    if wrong:
        first = wrong[0]
        others = len({item.name for item in wrong} - {first.name})
        raise ExportError(
            f"the exported file computes something else than Keras: {first.kind} {first.name!r} is "
            f"off by {first.largest:.2g} on {first.images} images and the {first.engine} engine, "
            f"where at most {TOLERANCE:.0e} of its scale, {first.scale:.2g}, is allowed"
            + (f"; and {others} more" if others else "")
        )
    return Verification(tuple(differences), tuple(warnings))


def _compare_piece(
    keras_model: keras.Model,
    models: Sequence[Model],
    images: str,
    pixels: NDArray[np.uint8],
    tell: Callable[[str], None],
) -> tuple[list[Difference], int]:
    """Compare on images that are few enough; returns also how many bytes Keras' arrays take."""
    differences: list[Difference] = []
    wanted: tuple[list[Array], dict[str, Array]] | None = None
    held_bytes = 0
    for model in models:
        inputs = model.preprocess(pixels)
        if wanted is None:
            tell(f"running Keras on {images} images")
            wanted = _keras_arrays(keras_model, next(iter(inputs.values())))
            held_bytes = sum(array.nbytes for array in (*wanted[0], *wanted[1].values()))
        outputs, layers = wanted
        tell(f"comparing {model.engine} with it on {images} images")
        # Layers stand in the order of the network: where several things are off, the first one
        # is that to look at.
        activations = model.activations(pixels)
        differences += [
            _compare(item.name, "layer", model, images, activations[item.name], layers[item.name])
            for item in model.metadata.layers
        ]
        got = model.run(inputs)
        differences += [
            _compare(output.name, "output", model, images, got[output.name], expected)
            for output, expected in zip(model.outputs, outputs, strict=True)
        ]
    return differences, held_bytes


def _keras_arrays(model: keras.Model, x: Array) -> tuple[list[Array], dict[str, Array]]:
    outputs, recorded = recording.call(model, x)
    return (
        [np.asarray(output) for output in outputs],
        {item.name: np.asarray(item.tensor) for item in recorded},
    )


def _compare(
    name: str, kind: str, model: Model, images: str, got: Array, expected: Array
) -> Difference:
    if np.isnan(expected).any():
        raise ExportError(
            f"{kind} {name!r} is NaN in Keras itself on {images} images, so that nothing can be "
            "compared: look at the model's weights"
        )
    finite = np.isfinite(expected)
    scale = float(np.max(np.abs(expected[finite]), initial=0.0))
    if got.shape != expected.shape or not np.array_equal(got[~finite], expected[~finite]):
        largest = float("inf")
    else:
        largest = float(np.max(np.abs(got[finite] - expected[finite]), initial=0.0))
    return Difference(name, kind, model.engine, images, largest, scale)
