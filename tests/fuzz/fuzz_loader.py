"""Fuzz what happens to an ONNX file, from its bytes to the numbers that it computes.

    tests/fuzz/run -max_total_time=600

mutates ONNX's node tests and the files of the corpus, guided by which lines of pyconv they reach,
under the address and undefined-behaviour sanitizers. A file may load and run, or be refused by the
errors that pyconv documents; anything else (another exception, a crash, more than 60 seconds or
4 GiB) stops the fuzzer and leaves the file as `crash-…`, `timeout-…` or `oom-…`. Flags are
libFuzzer's. It needs atheris (`pip install atheris`).

`--seeds FOLDER` writes the small networks that the corpus began with, `--replay FILE…` says what
becomes of files.
"""

from __future__ import annotations

import math
import random
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

MOST_OPERATIONS = 10**7
"""What a network may take to be run here: a large one is no fault."""

INTEGERS = (-(2**63), -(2**31), -2, -1, 0, 1, 2, 3, 4, 5, 7, 8, 9, 16, 33, 255, 2**16, 2**24, 2**31,
            2**32, 2**40, 2**62, 2**63 - 1)  # fmt: skip
REALS = (math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-45, 0.5, -1.0, 2.0, 3.4e38)


def check(contents: bytes, folder: Path) -> str:
    """Load a file, describe it and run it; returns what became of it.

    Raises:
        Exception: anything that pyconv does not document.
    """
    import pyconv

    path = folder / "fuzzed.onnx"
    path.write_bytes(contents)
    try:
        model = pyconv.load(path)
    except pyconv.ModelError as error:
        if str(path) not in str(error):
            raise RuntimeError("the error does not say where") from error
        return f"refused: {error}"
    summary = model.summary()
    if summary.flops is None or summary.flops > MOST_OPERATIONS:
        return "loaded"
    rng = np.random.default_rng(0)
    feeds = {}
    for info in model.inputs:
        shape = [2 if size is None else size for size in info.shape or ()]
        if math.prod(shape) > MOST_OPERATIONS or not hasattr(np, info.dtype):
            return "loaded"
        feeds[info.name] = np.asarray(rng.normal(size=shape), info.dtype)
    tensors = [info.name for info in model.outputs] + list(model.layers[:50])
    for wanted in (None, tensors):
        try:
            model.run(feeds, wanted)
        except pyconv.PyconvError as error:
            return f"refused at its run: {error}"
    return "ran"


def seeds() -> Iterator[tuple[str, onnx.ModelProto]]:
    """Small networks to begin with.

    ONNX's node tests of operators that pyconv has, with all inputs but the first made constants;
    and what these lack: layers in a row, arithmetic of shapes, functions,
    subgraphs, data in another file.
    """
    from onnx.backend.test.case.node import collect_testcases

    from pyconv.graph.constants import EVALUATED
    from pyconv.graph.operators import OPERATORS

    known = {*OPERATORS, *EVALUATED}
    for case in collect_testcases(None):
        model, ((arrays, _), *_) = case.model, case.data_sets
        if any(node.op_type not in known for node in model.graph.node):
            continue
        if len(arrays) != len(model.graph.input):
            continue
        for index in reversed(range(1, len(arrays))):
            if isinstance(arrays[index], np.ndarray):
                name = model.graph.input[index].name
                model.graph.initializer.append(numpy_helper.from_array(arrays[index], name))
                del model.graph.input[index]
        model.ir_version = max(model.ir_version, 4)  # from which on constants need not be inputs
        if model.ByteSize() < 3000:
            yield case.name, model

    def network(
        nodes: Sequence[onnx.NodeProto], shape: Sequence[int | str], **weights: Any
    ) -> onnx.ModelProto:
        arrays = {name: np.asarray(value) for name, value in weights.items()}
        graph = helper.make_graph(
            nodes,
            "seed",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)],
            [
                numpy_helper.from_array(a.astype(np.float32) if a.dtype.kind == "f" else a, name)
                for name, a in arrays.items()
            ],
        )
        opsets = [helper.make_opsetid("", 18)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)

    node = helper.make_node
    image: Sequence[int | str] = ("n", 2, 5, 6)
    rng = np.random.default_rng(0)
    shaping = [
        node("Transpose", ["x"], ["t"], perm=[0, 2, 3, 1]),
        node("Shape", ["t"], ["s"]),
        node("Slice", ["s", "zero", "one"], ["n"]),
        node("Concat", ["n", "rest"], ["shape"], axis=0),
        node("Reshape", ["t", "shape"], ["flat"]),
        node("MatMul", ["flat", "w"], ["y"]),
    ]
    weights = {"zero": np.array([0]), "one": np.array([1]), "rest": np.array([-1])}
    yield "flatten", network(shaping, image, w=rng.normal(size=(60, 3)), **weights)
    layers = [
        node("Conv", ["x", "k", "b"], ["c"], pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["r"]),
        node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        node("BatchNormalization", ["p", "b", "b", "b", "b"], ["q"]),
        node("GlobalAveragePool", ["q"], ["g"]),
        node("Flatten", ["g"], ["f"]),
        node("Gemm", ["f", "w"], ["z"]),
        node("Softmax", ["z"], ["y"]),
    ]
    weights = {"k": rng.normal(size=(16, 16, 3, 3)), "b": rng.random(16)}
    yield "classifier", network(layers, ("n", 16, 8, 8), w=rng.normal(size=(16, 4)), **weights)
    yield "free", network(layers[:3], ("n", 16, "h", "w"), **weights)
    pixels = [  # a dense layer over maps, and the GELU of Keras' exporter
        node("Reshape", ["x", "rows"], ["r"]),
        node("MatMul", ["r", "w"], ["m"]),
        node("Reshape", ["m", "maps"], ["d"]),
        node("LayerNormalization", ["d", "b", "b"], ["l"]),
        node("Mul", ["l", "half"], ["h"]),
        node("Neg", ["l"], ["e"]),
        node("Mul", ["e", "root"], ["o"]),
        node("Erf", ["o"], ["q"]),
        node("Sub", ["one", "q"], ["s"]),
        node("Mul", ["h", "s"], ["g"]),
        node("ReduceMax", ["g", "last"], ["y"], keepdims=0),
    ]
    weights = {"w": rng.normal(size=(6, 7)), "b": rng.random(7), "one": 1.0}
    weights |= {"half": 0.5, "root": 0.5**0.5, "rows": np.array([-1, 6])}
    weights |= {"maps": np.array([-1, 2, 5, 7]), "last": np.array([3])}
    yield "pixels", network(pixels, image, **weights)
    body = helper.make_graph(
        [node("Abs", ["x"], ["i"])],
        "body",
        [],
        [helper.make_tensor_value_info("i", TensorProto.FLOAT, None)],
    )
    branches = [node("If", ["t"], ["y"], then_branch=body, else_branch=body)]
    yield "subgraph", network(branches, image, t=np.array(True))
    own = helper.make_function(
        "own", "Own", ["a"], ["b"], [node("Exp", ["a"], ["b"])], [helper.make_opsetid("", 18)]
    )
    functions = network([node("Own", ["x"], ["y"], domain="own")], image)
    functions.functions.append(own)
    functions.opset_import.append(helper.make_opsetid("own", 1))
    yield "function", functions
    outside = network([node("Add", ["x", "w"], ["y"])], image, w=np.ones(6, np.float32))
    outside.graph.initializer[0].ClearField("raw_data")
    outside.graph.initializer[0].data_location = TensorProto.EXTERNAL
    outside.graph.initializer[0].external_data.add(key="location", value="fuzzed.onnx")
    yield "external", outside


def mutated(contents: bytes, seed: int, bytewise: Callable[[bytes], bytes]) -> bytes:
    """Another file: one field or a few of an ONNX file changed, or its bytes.

    Args:
        contents: the file.
        seed: which change.
        bytewise: libFuzzer's own change to bytes.
    """
    rng = random.Random(seed)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(contents)
    except Exception:  # whatever protobuf makes of nonsense
        return bytewise(contents)
    if rng.random() < 0.2:
        return bytewise(contents)
    try:
        for _ in range(rng.choice((1, 1, 2, 3))):
            _mutate_field(model, rng)
        return model.SerializeToString()
    except ValueError:  # names that are no UTF-8, which protobuf reads and does not write
        return bytewise(contents)


def _mutate_field(model: onnx.ModelProto, rng: random.Random) -> None:
    messages: list[Any] = [model]
    for message in messages:  # grows meanwhile
        for field, value in message.ListFields():
            if field.type == field.TYPE_MESSAGE:
                messages += value if _is_repeated(field) else [value]
    names = [name for node in model.graph.node for name in (*node.input, *node.output)] or ["x"]
    message = rng.choice(messages)
    if isinstance(message, onnx.NodeProto) and rng.random() < 0.2:
        message.op_type = rng.choice(_operators())
        return
    field = rng.choice(message.DESCRIPTOR.fields)
    if not _is_repeated(field):
        if field.type == field.TYPE_MESSAGE:
            message.ClearField(field.name) if rng.random() < 0.5 else None
        else:
            setattr(message, field.name, _scalar(field, rng, names))
        return
    items = getattr(message, field.name)
    action = rng.random()
    if items and action < 0.25:
        del items[rng.randrange(len(items))]
    elif field.type == field.TYPE_MESSAGE:
        if items and action < 0.6:
            items.add().CopyFrom(rng.choice(items))
        elif items and action < 0.7:
            first, second = rng.choice(items), rng.choice(items)
            kept = type(first)()
            kept.CopyFrom(first)
            first.CopyFrom(second)
            second.CopyFrom(kept)
        else:
            items.add()
    elif items and action < 0.8:
        items[rng.randrange(len(items))] = _scalar(field, rng, names)
    else:
        items.append(_scalar(field, rng, names))


def _is_repeated(field: Any) -> bool:
    if hasattr(field, "is_repeated"):  # protobuf 6 and later
        return bool(field.is_repeated)
    return bool(field.label == field.LABEL_REPEATED)


def _scalar(field: Any, rng: random.Random, names: Sequence[str]) -> Any:
    if field.type == field.TYPE_STRING:
        return rng.choice((*names, rng.choice(_operators()), "", "y//1", "../x", "SAME_UPPER"))
    if field.type == field.TYPE_BYTES:
        return rng.choice((b"", b"\0" * 8, rng.randbytes(16), b"SAME_LOWER", b"\xff\xfe"))
    if field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
        return rng.choice(REALS)
    if field.type == field.TYPE_ENUM:
        return rng.choice(field.enum_type.values).number
    value = rng.choice(INTEGERS) if rng.random() < 0.5 else rng.randrange(-3, 20)
    if field.type in (field.TYPE_INT64, field.TYPE_SINT64):
        return value
    if field.type == field.TYPE_UINT64:
        return value % 2**64
    return (value + 2**31) % 2**32 - 2**31


def _operators() -> list[str]:
    from pyconv.graph.operators import OPERATORS

    return sorted(OPERATORS)


def main() -> None:
    """Fuzz, with libFuzzer's arguments; or the two other things that the module's text names."""
    warnings.simplefilter("ignore")  # of NumPy, about nonsense that it computes
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    if sys.argv[1:2] == ["--seeds"]:
        for name, model in seeds():
            (Path(sys.argv[2]) / f"{name}.onnx").write_bytes(model.SerializeToString())
        return
    if sys.argv[1:2] == ["--replay"]:
        for path in sys.argv[2:]:
            print(f"{path}: {check(Path(path).read_bytes(), folder)}", flush=True)
        return
    import atheris

    with atheris.instrument_imports(include=["pyconv"]):
        import pyconv
        import pyconv.engines.native
        import pyconv.summary  # noqa: F401

    def mutate(contents: bytes, most: int, seed: int) -> bytes:
        result = mutated(contents, seed, lambda data: atheris.Mutate(data, most))
        return result if len(result) <= most else atheris.Mutate(contents, most)

    limits = ["-timeout=60", "-rss_limit_mb=4096", "-max_len=20000"]
    atheris.Setup(
        [sys.argv[0], *limits, *sys.argv[1:]],
        lambda contents: check(contents, folder) and None,
        custom_mutator=mutate,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
