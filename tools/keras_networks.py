"""Keras' own networks, from `keras.applications` to both engines: do they export, load and agree?

    python tools/keras_networks.py check    # export and compare: all, as large as designed
    python tools/keras_networks.py time     # both engines on the files that `check` left
    python tools/keras_networks.py table    # what both found; with --write, into a page of docs

    python tools/keras_networks.py check MobileNetV2 --size 96  # one of them, on smaller pictures

No weights are downloaded. They are random, of one seed, and calibrated layer by layer, so that
activations keep a healthy spread through the whole network: a fault anywhere then shows in what
comes after it. Every network goes through `pyconv.training.export`, which compares the engines with
Keras at every layer; then every tensor of the file is compared between the engines, and so are the
logits by the program that computes nothing else, in which most is fused. `time` takes one image.
They are two commands because the times want a machine with nothing else to do, and the rest needs
the extra `train` and half an hour on two cores for all of them. Files and findings are kept in
`build/keras-networks`, a JSON a network.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from pyconv.bench.comparison import compare as measure
from pyconv.bench.measure import Budget
from pyconv.bench.report import Cell
from pyconv.engines.native import NativeEngine
from pyconv.engines.onnxruntime import OnnxRuntimeEngine
from pyconv.errors import PyconvError
from pyconv.training import export, pictures
from pyconv.training.backend import import_keras

if TYPE_CHECKING:
    import keras

PAGE = Path(__file__).parent.parent / "docs" / "conformance.md"
TOLERANCE = 1e-4
"""The most by which a tensor may be off, as a share of its largest absolute value."""

SIZES = {
    "VGG16": 224,
    "ResNet50": 224,
    "DenseNet121": 224,
    "MobileNetV2": 224,
    "MobileNetV3Small": 224,
    "EfficientNetB0": 224,
    "NASNetMobile": 224,
    "ConvNeXtTiny": 224,
    "Xception": 299,
    "InceptionV3": 299,
}
"""By name in `keras.applications`: height and width of the pictures that each was designed for."""


# --- networks with calibrated random weights --------------------------------------------------


def build(name: str, size: int) -> keras.Model:
    """One of Keras' networks with calibrated random weights, which ends in softmax."""
    keras = import_keras("building Keras' networks")
    model = getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3))
    own = (keras.layers.Rescaling, keras.layers.Normalization)
    scale = 1.0 if any(isinstance(layer, own) for layer in model.layers) else 1 / 255
    # Noise looks all alike to a network; channels that hardly vary would be blown up to variance 1.
    noise = np.random.default_rng(0).integers(0, 256, (2, size, size, 3))
    real = pictures.samples((size, size, 3))[::4]
    calibrate(model, (np.concatenate([noise, real]) * scale).astype(np.float32))
    return model


def calibrate(model: keras.Model, x: NDArray[np.float32], seed: int = 0) -> None:
    """Give a model random weights under which every layer's output has a healthy spread.

    Layer by layer, as the pictures come through: a layer of sums gets normal weights, scaled such
    that its outputs have variance 1 before its activation (Mishkin and Matas, "All You Need Is a
    Good Init", 2016); batch normalisation the statistics of what reaches it; its factors
    and offsets are random too.

    Args:
        model: changed in place.
        x: pictures as the model takes them, (n, height, width, channels).
        seed: of the random numbers.
    """
    random = np.random.default_rng(seed)
    with _before_each_call(lambda layer, inputs: _set_weights(layer, inputs, random)):
        model(x, training=False)


def _set_weights(layer: keras.Layer, x: Any, random: np.random.Generator) -> None:
    keras = import_keras("building Keras' networks")
    layers = keras.layers
    if isinstance(layer, layers.BatchNormalization):
        axes = tuple(range(len(x.shape) - 1))
        layer.moving_mean.assign(np.mean(x, axes))
        # A channel that is nearly constant stays so, as those of trained networks do.
        least = 0.1 * np.mean(np.square(x), axes)
        layer.moving_variance.assign(np.maximum(np.var(x, axes), least))
    if isinstance(layer, layers.Normalization) and layer.input_mean is None:
        layer.adapt_mean.assign(np.mean(x, (0, 1, 2)))
        layer.adapt_variance.assign(np.var(x, (0, 1, 2)))
        layer.finalize_state()
        return
    kernels = [weight for weight in layer.weights if weight.name.endswith("kernel")]
    # A random network of fifty layers is chaotic: each ReLU that cuts off half of what comes makes
    # differences grow, those of rounding too. So less is cut off, and residual branches add less
    # than they are added to. Where a normalisation has no factor, the offset is as much larger.
    plain = isinstance(layer, layers.BatchNormalization) and not layer.scale
    offset = 0.75 if plain else 0.3
    for weight in layer.weights:
        if weight.name == "gamma":
            weight.assign(random.uniform(0.2, 0.6, weight.shape))
        elif weight.name in ("beta", "bias"):
            weight.assign(random.normal(offset, offset / 3, weight.shape))
    if not kernels:
        return
    for kernel in kernels:
        kernel.assign(random.normal(0, 1 / np.sqrt(np.prod(kernel.shape[:-1])), kernel.shape))
    activation, layer.activation = layer.activation, keras.activations.linear
    spread = float(np.std(layer.call(x)))
    layer.activation = activation
    kernels[-1].assign(np.asarray(kernels[-1]) / spread)


@contextmanager
def _before_each_call(do: Callable[[keras.Layer, Any], None]) -> Iterator[None]:
    """Let something happen before each call of a layer that has weights of its own."""
    keras = import_keras("building Keras' networks")
    layer_class = keras.layers.Layer
    original = layer_class.__call__

    def called(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if layer.weights and not isinstance(layer, keras.Model):
            do(layer, args[0])
        return original(layer, *args, **kwargs)

    layer_class.__call__ = called
    try:
        yield
    finally:
        layer_class.__call__ = original


# --- what is compared -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Difference:
    """How far the engines are apart at one tensor.

    Attributes:
        tensor: its ONNX name.
        relative: the largest difference as a share of the largest absolute value.
        scale: that value.
    """

    tensor: str
    relative: float
    scale: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """The engines against each other.

    Attributes:
        tensors: how many were compared, all that the file computes.
        worst: the one that is off the most.
        logits: those before softmax, from the program that computes them alone.
    """

    tensors: int
    worst: Difference
    logits: Difference


def agreement(path: Path, images: int = 1) -> Agreement:
    """Compare native and onnxruntime at every tensor of a file, and at its logits.

    Args:
        path: an exported classifier.
        images: how many random ones to run.
    """
    nodes = onnx.load(str(path)).graph.node
    tensors = [name for node in nodes for name in node.output if name]
    softmax = next(node for node in nodes if node.op_type == "Softmax")
    native, reference = NativeEngine(path, threads=2), OnnxRuntimeEngine(path, threads=2)
    random = np.random.default_rng(1)
    feeds = {
        info.name: random.random((images, *(size or 1 for size in (info.shape or ())[1:])))
        .astype(np.float32)
        for info in native.inputs
    }  # fmt: skip
    want = reference.run(feeds, tensors)
    logits = str(softmax.input[0])
    alone = native.run(feeds, [logits])[logits]
    got = native.run(feeds, tensors)
    return Agreement(
        len(tensors),
        max((_difference(name, got[name], want[name]) for name in tensors), key=_relative),
        _difference(logits, alone, want[logits]),
    )


def require(agreed: Agreement) -> None:
    """Refuse engines that are further apart than `TOLERANCE`.

    Raises:
        PyconvError: naming the tensor.
    """
    for item in (agreed.worst, agreed.logits):
        if not item.relative <= TOLERANCE:
            raise PyconvError(
                f"native and onnxruntime differ at {item.tensor!r} by {item.relative:.1e} of its "
                f"scale, {item.scale:.2g}; at most {TOLERANCE:.0e} is allowed"
            )


def _difference(tensor: str, got: NDArray[Any], want: NDArray[Any]) -> Difference:
    scale = float(np.abs(want).max(initial=0.0))
    if got.shape != want.shape or not np.isfinite(want).all() or not np.isfinite(got).all():
        return Difference(tensor, float("inf"), scale)
    gap = np.abs(got.astype(np.float64) - want.astype(np.float64)).max(initial=0.0)
    return Difference(tensor, float(gap) / (scale or 1.0), scale)


def _relative(difference: Difference) -> float:
    return difference.relative


# --- the table --------------------------------------------------------------------------------

FOLDER = Path(__file__).parent.parent / "build" / "keras-networks"
"""Where the files and what was found out about them are kept."""

COLUMNS = (
    "network",
    "pixels",
    "nodes",
    "from Keras, any layer",
    "from onnxruntime, any tensor",
    "logits",
    "1 thread, ms",
    "2 threads, ms",
    "1 thread, MB",
    "2 threads, MB",
)
_BEGIN, _END = "<!-- tools/keras_networks.py -->", "<!-- end -->"


@dataclass(frozen=True, slots=True)
class Network:
    """A network that was exported: what was found out about it, and where its file is."""

    name: str
    size: int
    path: Path
    nodes: int
    from_keras: Difference
    engines: Agreement


def examine(name: str, size: int, folder: Path) -> Network:
    """Build, export and compare one network.

    Raises:
        PyconvError: it does not export or load, or a layer is off.
    """
    path = folder / f"{name}.onnx"
    exported = export(build(name, size), path, images={})
    if exported.verification.warnings:
        raise PyconvError("; ".join(exported.verification.warnings))
    native = [item for item in exported.verification.differences if item.engine == "native"]
    worst = max(native, key=lambda item: item.relative)
    agreed = agreement(path)
    require(agreed)
    return Network(
        name,
        size,
        path,
        exported.operators,
        Difference(worst.name, worst.relative, worst.scale),
        agreed,
    )


def agreement_columns(network: Network) -> dict[str, str]:
    """What `check` knows of a line of the table, by `COLUMNS`."""
    engines = network.engines
    texts = (
        network.name,
        f"{network.size}²",
        str(network.nodes),
        f"{network.from_keras.relative:.1e} `{network.from_keras.tensor}`",
        f"{engines.worst.relative:.1e} `{engines.worst.tensor}` of {engines.tensors}",
        f"{engines.logits.relative:.1e}",
    )
    return dict(zip(COLUMNS, texts, strict=False))


def time_columns(cell: Cell) -> dict[str, str]:
    """What a cell of the benchmark knows of a line: native's figures, then onnxruntime's."""
    native, other = (cell.timings[name].seconds.median * 1e3 for name in ("native", "onnxruntime"))
    ratio = f"{cell.ratios['onnxruntime'].median:.2f}×"
    threads = f"{cell.subject.threads} thread{'s' if cell.subject.threads > 1 else ''}"
    memory = [cell.memory_bytes[name] / 1e6 for name in ("native", "onnxruntime")]
    return {
        f"{threads}, ms": f"{native:.1f}, {other:.1f}: {ratio}",
        f"{threads}, MB": f"{memory[0]:.1f}, {memory[1]:.1f}",
    }


def table(networks: Sequence[str], folder: Path) -> str:
    """The table of what is known about networks so far; a dash where nothing is."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for name in networks:
        known = _known(name, folder)
        lines.append(f"| {' | '.join(known.get(column, '-') for column in COLUMNS)} |")
    return "\n".join(lines) + "\n"


def _known(name: str, folder: Path) -> dict[str, str]:
    path = folder / f"{name}.json"
    return json.loads(path.read_text("utf-8")) if path.exists() else {"network": name}


def _learn(name: str, folder: Path, columns: dict[str, str]) -> None:
    text = json.dumps(_known(name, folder) | columns, indent=1, ensure_ascii=False)
    (folder / f"{name}.json").write_text(text + "\n", "utf-8")
    print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in columns.items()), flush=True)


def _check(name: str, size: int | None, folder: Path) -> None:
    (folder / f"{name}.json").unlink(missing_ok=True)  # times of another file
    _learn(name, folder, agreement_columns(examine(name, size or SIZES[name], folder)))


def _time(name: str, threads: Sequence[int], seconds: float, folder: Path) -> None:
    report = measure([folder / f"{name}.onnx"], [1], threads, Budget(seconds, 10), memory=True)
    for refusal in report.refusals:
        raise PyconvError(refusal.reason)
    for cell in report.cells:
        _learn(name, folder, time_columns(cell))


def _write(text: str) -> None:
    page, count = re.subn(
        f"{_BEGIN}.*?{_END}",
        lambda _: f"{_BEGIN}\n{text}{_END}",
        PAGE.read_text(encoding="utf-8"),
        flags=re.DOTALL,
    )
    if count != 1:
        sys.exit(f"{PAGE} has no place for the table: {_BEGIN} … {_END}")
    PAGE.write_text(page, encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Keras' own networks on both engines.")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="build, export and compare them")
    check.add_argument("--size", type=int, help="pixels of a side (what each was designed for)")
    time = commands.add_parser("time", help="time the engines on the files that `check` left")
    time.add_argument("--seconds", type=float, default=2.0, help="for each number of threads (2)")
    time.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="a call may use (1 2)")
    write = commands.add_parser("table", help="print what is known")
    write.add_argument("--write", action="store_true", help=f"into {PAGE.name}")
    for command in (check, time, write):
        command.add_argument("networks", nargs="*", metavar="NAME", help=f"of {', '.join(SIZES)}")
        command.add_argument("--folder", type=Path, default=FOLDER, help=f"of the files ({FOLDER})")
    return parser


def main() -> None:
    """Examine or time networks, or print what was found."""
    parser = _parser()
    arguments = parser.parse_args()
    unknown = set(arguments.networks) - set(SIZES)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; expected {', '.join(SIZES)}")
    names, folder = arguments.networks or list(SIZES), arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    if arguments.command == "table":
        text = table(names, folder)
        print(text, end="")
        if arguments.write:
            _write(text)
        return
    failed = False
    for name in names:
        try:
            if arguments.command == "check":
                _check(name, arguments.size, folder)
            else:
                _time(name, arguments.threads, arguments.seconds, folder)
        except PyconvError as error:
            print(f"{name}: {error}", file=sys.stderr, flush=True)
            failed = True
    sys.exit(failed)


if __name__ == "__main__":
    main()
