"""From a float32 ONNX file to one of int8 that both engines run, and what that costs.

onnxruntime's own quantizer writes the file (docs/decisions/0010-quantization.md): every input of a
convolution or dense layer is rounded to 256 steps, whose size is found on calibration images, and
the weights to 7 bits with a step for each output channel. What the file says about itself stays.
"""

from __future__ import annotations

import dataclasses
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from pyconv.engines.base import Array, EngineName
from pyconv.errors import ExportError, InputError, ModelError, UnsupportedOperatorError
from pyconv.model import Model, load
from pyconv.training.files import write_atomically

ENGINES: tuple[EngineName, ...] = ("onnxruntime", "native")

WEIGHTED = ("Conv", "Gemm", "MatMul")
"""The operators whose inputs and weights are rounded; everything between them stays float32."""

OLDEST_OPSET = 13
"""The first version of ONNX's operators in which weights have a step for each channel."""

MOST_APART = 0.02
"""The most by which the engines may differ on average, as a share of the output's scale.

They differ at all because a value halfway between two steps may be rounded either way."""

MOST_LOST = 0.01
"""The share of images that may be lost by default: a point of accuracy."""

_BATCH = 100

Images = NDArray[np.uint8]
Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """Pictures on which the accuracy is measured.

    Attributes:
        images: (n, height, width) or (n, height, width, channels) uint8.
        labels: (n,) the classes' places on the output's last axis.
    """

    images: Images
    labels: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class LayerError:
    """How far a layer is from what it was in float32.

    Attributes:
        name: the layer's name.
        errors: by engine, the root of the mean square of the differences, by that of the layer.
    """

    name: str
    errors: Mapping[EngineName, float]


@dataclass(frozen=True, slots=True)
class Quantized:
    """A quantized file, compared.

    Attributes:
        path: the file.
        bytes_before: the size of the float32 file.
        bytes_after: its own size.
        calibration_images: how many images the steps were found on.
        compared_images: how many images the comparisons below were made on.
        agreement: by engine, the share of images whose likeliest class is that of float32; empty
            for a network whose output is no row of classes.
        engines_agree: the share for which both engines give the same class; None where one of them
            cannot run the file, or there are no classes.
        apart: the mean difference between the engines as a share of the output's largest value;
            None where one of them cannot run the file.
        layers: for each layer, how far it is from float32.
        accuracy_before: of the float32 file on the test set; None without one.
        accuracy_after: of the quantized file, by engine; empty without a test set.
        warnings: a sentence for each engine that cannot run the file.
    """

    path: Path
    bytes_before: int
    bytes_after: int
    calibration_images: int
    compared_images: int
    agreement: Mapping[EngineName, float]
    engines_agree: float | None
    apart: float | None
    layers: tuple[LayerError, ...]
    accuracy_before: float | None
    accuracy_after: Mapping[EngineName, float]
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The results as values for JSON."""
        return {**dataclasses.asdict(self), "path": str(self.path)}


def quantize(
    model: str | Path,
    path: str | Path,
    calibration: Images,
    *,
    source: str = "images",
    test: LabelledImages | None = None,
    most_lost: float = MOST_LOST,
    progress: Progress = lambda _text, _share: None,
) -> Quantized:
    """Quantize a network to int8 and compare the result with it on both engines.

    Args:
        model: a bundled model's name or the path of a float32 ONNX file.
        path: the file to write; it appears when everything has been compared, or not at all.
        calibration: images as the network will meet them, at least one, as `Model.predict` takes
            them. Some hundreds from the training set are plenty.
        source: what the calibration images are, for the file's own record.
        test: labelled images, to measure the accuracy before and after.
        most_lost: the share of test images, right before and wrong after, that is not too much.
        progress: is told what is being done, and which share of it is done, 0 to 1.

    Raises:
        ExportError: there is nothing to quantize or the file is quantized already, the quantizer
            refuses it, the engines do not agree on the result, or it loses more than `most_lost`.
        ModelError: the file is missing or broken, or cannot be run once it is quantized.
        InputError: the images are not what the network takes, or the file cannot be written.
    """
    before = load(model, engine="onnxruntime")
    if len(calibration) == 0:
        raise InputError("calibration: expected at least one image, got none")
    if not 0 <= most_lost <= 1:
        raise InputError(f"most_lost: expected a share from 0 to 1, got {most_lost}")
    before.preprocess(calibration[:1])
    graph = _checked(before)
    path = Path(path)
    done: Quantized | None = None

    def write(unfinished: Path) -> None:
        nonlocal done
        facts = {"source": source, "images": len(calibration)}
        onnx.save(_quantized(before, graph, calibration, facts, progress), str(unfinished))
        try:
            done = _compared(before, unfinished, calibration, test, progress)
        except ModelError as error:
            raise ModelError(str(error).replace(str(unfinished), str(path))) from error
        _refuse_what_is_wrong(done, most_lost)

    write_atomically(path, write)
    assert done is not None
    return dataclasses.replace(done, path=path)


def _checked(model: Model) -> onnx.ModelProto:
    """The file's contents, once it is known that there is something to quantize."""
    proto = onnx.load(str(model.path))
    used = {node.op_type for node in proto.graph.node}
    if used & {"QuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"}:
        raise ExportError(f"{model.path} is quantized already: expected a file of float32")
    if not used & set(WEIGHTED):
        raise ExportError(
            f"{model.path}: there is nothing to quantize: expected a convolution or a dense layer "
            f"({', '.join(WEIGHTED)}), got {', '.join(sorted(used)) or 'no operators'}"
        )
    opset = max(item.version for item in proto.opset_import if item.domain in ("", "ai.onnx"))
    if opset < OLDEST_OPSET:
        raise ExportError(
            f"{model.path} is of ONNX's operator set {opset}: expected {OLDEST_OPSET} or later; "
            "export it anew, or use onnx.version_converter.convert_version"
        )
    return proto


def _quantized(
    model: Model,
    proto: onnx.ModelProto,
    calibration: Images,
    facts: Mapping[str, Any],
    progress: Progress,
) -> onnx.ModelProto:
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Hands out the calibration images, batch by batch."""

        def __init__(self) -> None:
            self.start = 0

        def get_next(self) -> dict[str, Array] | None:
            progress("calibrating", self.start / len(calibration))
            batch = calibration[self.start : self.start + _BATCH]
            self.start += len(batch)
            return model.preprocess(batch) if len(batch) else None

    with tempfile.TemporaryDirectory() as folder, _quiet():
        target = Path(folder) / "quantized.onnx"
        try:
            quantize_static(
                proto,
                str(target),
                Reader(),
                op_types_to_quantize=list(WEIGHTED),
                per_channel=True,
                # Processors without VNNI add pairs of products in 16 bits: with weights of 8 bits
                # these saturate, and the results are wrong there.
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                # Only what a weighted operator reads is rounded. Its sums, biases, activations and
                # pools stay float32, and so every layer's tensor keeps its name and meaning.
                extra_options={"OpTypesToExcludeOutputQuantization": list(WEIGHTED)},
            )
        except Exception as error:  # the quantizer lets NumPy's, onnx's and its own errors through
            problem = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ExportError(f"{model.path}: onnxruntime cannot quantize it: {problem}") from error
        result = onnx.load(str(target))
    record = {**facts, "onnxruntime": version("onnxruntime")}
    metadata = model.metadata
    provenance = {**metadata.provenance, "quantized": record}
    if "accuracy" in provenance:  # it is that of float32
        record["float32_accuracy"] = provenance.pop("accuracy")
    kept = {
        item.key: item.value for item in proto.metadata_props if not item.key.startswith("pyconv.")
    }
    props = dataclasses.replace(metadata, provenance=provenance).to_props()
    del result.metadata_props[:]
    onnx.helper.set_model_props(result, {**kept, **props})
    return result


@contextmanager
def _quiet() -> Iterator[None]:
    """The quantizer's advice on how to call it is not for the people who call us."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def _compared(
    before: Model, path: Path, calibration: Images, test: LabelledImages | None, progress: Progress
) -> Quantized:
    models: dict[EngineName, Model] = {}
    warnings: list[str] = []
    for engine in ENGINES:
        try:
            models[engine] = load(path, engine=engine)
        except UnsupportedOperatorError as error:
            warnings.append(f"{engine} cannot run it: {str(error).removeprefix(f'{path}: ')}")
    images = calibration[:_BATCH] if test is None else test.images
    wanted = _outputs(before, images, progress, "float32")
    got = {
        engine: _outputs(model, images, progress, f"int8 on {engine}")
        for engine, model in models.items()
    }
    classes = wanted.ndim == 2 and wanted.shape[1] > 1
    scale = float(np.abs(wanted).max(initial=0.0)) or 1.0
    both = [got[engine] for engine in ENGINES if engine in got]
    together = len(both) == len(ENGINES)

    def right(outputs: Array) -> float:
        assert test is not None
        return float(np.mean(outputs.argmax(axis=1) == test.labels))

    return Quantized(
        path=path,
        bytes_before=before.path.stat().st_size,
        bytes_after=path.stat().st_size,
        calibration_images=len(calibration),
        compared_images=len(images),
        agreement={e: _same_class(outputs, wanted) for e, outputs in got.items()}
        if classes
        else {},
        engines_agree=_same_class(*both) if classes and together else None,
        apart=float(np.abs(both[0] - both[1]).mean()) / scale if together else None,
        layers=_layer_errors(before, models, images[:_BATCH]),
        accuracy_before=right(wanted) if test is not None and classes else None,
        accuracy_after={engine: right(outputs) for engine, outputs in got.items()}
        if test is not None and classes
        else {},
        warnings=tuple(warnings),
    )


def _outputs(model: Model, images: Images, progress: Progress, what: str) -> Array:
    """The network's main output for all images."""
    parts = []
    for start in range(0, len(images), _BATCH):
        progress(f"running {what}", start / len(images))
        parts.append(model.predict(images[start : start + _BATCH]))
    return np.concatenate(parts)


def _same_class(a: Array, b: Array) -> float:
    return float(np.mean(a.argmax(axis=1) == b.argmax(axis=1)))


def _layer_errors(
    before: Model, models: Mapping[EngineName, Model], images: Images
) -> tuple[LayerError, ...]:
    layers = list(before.layers)
    wanted = before.activations(images, layers)
    got = {engine: model.activations(images, layers) for engine, model in models.items()}

    def error(name: str, array: Array) -> float:
        scale = float(np.sqrt(np.mean(np.square(wanted[name], dtype=np.float64)))) or 1.0
        return float(np.sqrt(np.mean(np.square(array - wanted[name], dtype=np.float64)))) / scale

    return tuple(
        LayerError(name, {engine: error(name, arrays[name]) for engine, arrays in got.items()})
        for name in layers
        if np.issubdtype(wanted[name].dtype, np.floating)
    )


def _refuse_what_is_wrong(result: Quantized, most_lost: float) -> None:
    if result.apart is not None and not result.apart <= MOST_APART:
        raise ExportError(
            f"the engines do not agree on the quantized file: they differ by {result.apart:.2g} of "
            f"the output's scale on average, where at most {MOST_APART} is due to rounding"
        )
    if result.accuracy_before is None:
        return
    for engine, accuracy in result.accuracy_after.items():
        if result.accuracy_before - accuracy > most_lost:
            raise ExportError(
                f"accuracy falls from {result.accuracy_before:.2%} to {accuracy:.2%} on {engine}, "
                f"by more than the {100 * most_lost:g} points allowed; calibrate on more images "
                "that are like those the network will meet, or allow more (--max-loss)"
            )
