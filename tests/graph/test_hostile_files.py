"""Files made to do harm: each is refused by name, soon, and within little memory."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import pyconv
from pyconv import bundled
from pyconv.graph import limits
from pyconv.graph.limits import MOST_NODES

node = helper.make_node
OWN = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]


def _model(
    nodes: Sequence[onnx.NodeProto],
    shape: Sequence[int | str] = ("n", 4),
    functions: Sequence[onnx.FunctionProto] = (),
    **constants: Any,
) -> onnx.ModelProto:
    """A network from x to y; floats become float32, and integers stay int64."""
    arrays = {name: np.asarray(value) for name, value in constants.items()}
    graph = helper.make_graph(
        nodes,
        "hostile",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(a.astype(np.float32) if a.dtype.kind == "f" else a, name)
            for name, a in arrays.items()
        ],
    )
    return helper.make_model(graph, opset_imports=OWN, ir_version=9, functions=functions)


def _chain(operator: str, count: int, **attributes: Any) -> list[onnx.NodeProto]:
    """Each after the one before, from w to y."""
    names = ["w", *(f"c{i}" for i in range(count - 1)), "y"]
    return [node(operator, [a, a], [b], **attributes) for a, b in itertools.pairwise(names)]


def _doubling_functions(count: int) -> list[onnx.FunctionProto]:
    """F1 calls F0 twice, F2 calls F1 twice, and so on."""
    bodies = [[node("Relu", ["a"], ["b"])]]
    for i in range(count):
        call = {"op_type": f"F{i}", "domain": "own"}
        bodies.append(
            [node(inputs=["a"], outputs=["c"], **call), node(inputs=["c"], outputs=["b"], **call)]
        )
    return [
        helper.make_function("own", f"F{i}", ["a"], ["b"], body, OWN)
        for i, body in enumerate(bodies)
    ]


def _recursive() -> list[onnx.FunctionProto]:
    body = [node("F", ["a"], ["b"], domain="own")]
    return [helper.make_function("own", "F", ["a"], ["b"], body, OWN)]


def _changed(
    change: Callable[[onnx.ModelProto], object], *nodes: onnx.NodeProto
) -> onnx.ModelProto:
    model = _model(nodes or [node("Add", ["x", "w"], ["y"])], w=np.ones(4, np.float32))
    change(model)
    return model


def _dims(*dims: int) -> Callable[[onnx.ModelProto], object]:
    def change(model: onnx.ModelProto) -> None:
        del model.graph.initializer[0].dims[:]
        model.graph.initializer[0].dims.extend(dims)

    return change


def _with_attribute(model: onnx.ModelProto, value: object) -> None:
    model.graph.node[0].attribute.append(helper.make_attribute("axis", value))


MAP = ("n", 1, 4, 4)
KERNEL = np.ones((1, 1, 1, 1))
HOSTILE: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "a cycle": (
        lambda: _model([node("Add", ["x", "b"], ["y"]), node("Relu", ["y"], ["b"])]),
        "topologically sorted",
    ),
    "a name twice": (
        lambda: _model([node("Relu", ["x"], ["y"]), node("Abs", ["x"], ["y"])]),
        "'y' has been used as output names",
    ),
    "a dangling output": (lambda: _model([node("Relu", ["x"], ["z"])]), "'y' is not an output"),
    "too many nodes": (
        lambda: _model([node("Relu", ["x"], [f"y{i}"]) for i in range(MOST_NODES + 1)]),
        r"32,769 nodes; expected at most 32,768",
    ),
    "too many operands": (
        lambda: _model([node("Sum", ["x"] * 2**18, ["y"])]),
        "1 nodes with 262,145 inputs and outputs",
    ),
    "functions that double": (
        lambda: _model(
            [node("F40", ["x"], ["y"], domain="own")], functions=_doubling_functions(40)
        ),
        r"3,298,534,883,\d+ nodes",
    ),
    "a function that calls itself": (
        lambda: _model([node("F", ["x"], ["y"], domain="own")], functions=_recursive()),
        "its functions call themselves",
    ),
    "a size below 0": (lambda: _model([node("Relu", ["x"], ["y"])], ("n", -5)), "has the shape"),
    "an enormous size": (lambda: _model([node("Relu", ["x"], ["y"])], ("n", 2**62)), "too large"),
    "a constant below 0": (lambda: _changed(_dims(-4)), "Negative dimension"),
    "an enormous constant": (lambda: _changed(_dims(2**62, 2**62)), "broken"),
    "an enormous empty constant": (lambda: _changed(_dims(0, 2**62, 2**62)), "broken"),
    "a constant of no type": (
        lambda: _changed(lambda m: setattr(m.graph.initializer[0], "data_type", 99)),
        "broken",
    ),
    "no tensor": (
        lambda: _changed(lambda m: m.graph.input[0].type.sequence_type.elem_type.SetInParent()),
        "'x' is no tensor",
    ),
    "texts": (
        lambda: _model(
            [node("Equal", ["s", "s"], ["e"]), node("Cast", ["e"], ["f"], to=1),
             node("Add", ["x", "f"], ["z"]), node("Concat", ["z", "s"], ["y"], axis=0)],
            s=np.array([b"label"], object)),
        "lacks an operator.*Concat of string",
    ),
    "an attribute of another type": (
        lambda: _changed(lambda m: _with_attribute(m, "last"), node("Softmax", ["x"], ["y"])),
        "Mismatched attribute type in ' : axis'",
    ),
    "an attribute that is unknown": (
        lambda: _changed(lambda m: _with_attribute(m, 1), node("Relu", ["x"], ["y"])),
        "Unrecognized attribute: axis",
    ),
    "more axes than there are": (lambda: _model([node("Relu", ["x"], ["y"])], ("n", *[1] * 99)),
                                 "'x': a tensor has 100 axes"),
    "ConstantOfShape": (
        lambda: _model([node("ConstantOfShape", ["s"], ["y"])], s=[2**20, 2**20]),
        "ConstantOfShape 'y': its 1,099,511,627,776 elements are more",
    ),
    "ConstantOfShape many times": (
        lambda: _model([node("ConstantOfShape", ["s"], [f"c{i}"]) for i in range(2000)]
                       + [node("Sum", ["c0", "c1999"], ["y"])], s=[2**20]),
        "ConstantOfShape 'c256': its 1,048,576 elements are more",
    ),
    "Expand": (lambda: _model([node("Expand", ["w", "s"], ["y"])], w=[1.0], s=[2**40]), "elements"),
    "Tile": (lambda: _model([node("Tile", ["w", "s"], ["y"])], w=[1.0], s=[2**40]), "elements"),
    "Range": (lambda: _model([node("Range", ["a", "b", "c"], ["y"])], a=0.0, b=1e18, c=1e-9),
              "elements"),
    "Pad": (lambda: _model([node("Pad", ["w", "p"], ["y"])], w=[1.0], p=[2**40, 0]), "elements"),
    "Gather": (lambda: _model([node("Gather", ["w", "i"], ["y"])], w=np.ones((1, 2**17)),
                              i=np.zeros(2**17, np.int64)), "elements"),
    "an outer product": (
        lambda: _model([node("MatMul", ["w", "v"], ["y"])], w=np.ones((2**17, 1)),
                       v=np.ones((1, 2**17))), "elements"),
    "a broadcast": (
        lambda: _model([node("Add", ["w", "v"], ["y"])], w=np.ones((2**17, 1)),
                       v=np.ones((1, 2**17))), "elements"),
    "constants that double": (
        lambda: _model(_chain("Concat", 60, axis=0), w=[1.0]), "Concat 'c"),
    "sizes that double": (
        lambda: _model([node("Shape", ["x"], ["w"]), *_chain("Concat", 60, axis=0)]), "Concat 'c"),
    "reading again and again": (
        lambda: _model([node("ConstantOfShape", ["s"], ["w"])]
                       + [node("ReduceSum", ["w"], [f"r{i}"]) for i in range(1000)]
                       + [node("Sum", ["r0", "r999"], ["y"])], s=[2**23]),
        r"ReduceSum 'r\d+': its",
    ),
    "tensors that double": (
        lambda: _model([node("Relu", ["x"], ["w"]), *_chain("Concat", 60, axis=1)]),
        r"shape \(n, 4294967296\) is too large",
    ),
    "pads": (
        lambda: _model([node("Conv", ["x", "w"], ["y"], pads=[2**20] * 4)], MAP, w=KERNEL),
        "too large",
    ),
    "pads beyond 64 bits": (
        lambda: _model([node("Conv", ["x", "w"], ["y"], pads=[2**62] * 4)], MAP, w=KERNEL),
        "too large",
    ),
    "groups": (
        lambda: _model([node("Conv", ["x", "w"], ["y"], group=2**40)], MAP, w=KERNEL), "groups"),
    "settings": (
        lambda: _model([node("Tile", ["x", "s"], [f"y{i}"]) for i in range(20)]
                       + [node("Sum", ["y0", "y1"], ["y"])], s=[1, 2**18]),
        "4,194,304 settings",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_file(tmp_path: Path, name: str) -> None:
    make, what = HOSTILE[name]
    path = tmp_path / "hostile.onnx"
    onnx.save(make(), path)
    with pytest.raises(pyconv.ModelError, match=what) as caught:
        pyconv.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < 1500


def test_nesting_beyond_what_protobuf_reads(tmp_path: Path) -> None:
    def field(number: int, payload: bytes) -> bytes:
        size, length = len(payload), b""
        while size > 127:
            length, size = length + bytes([size & 127 | 128]), size >> 7
        return bytes([number << 3 | 2]) + length + bytes([size]) + payload

    graph = b""
    for _ in range(300):
        attribute = field(1, b"then_branch") + field(6, graph)
        graph = field(1, field(4, b"If") + field(5, attribute))
    path = tmp_path / "deep.onnx"
    path.write_bytes(b"\x08\x09" + field(7, graph))
    with pytest.raises(pyconv.ModelError, match="not an ONNX file"):
        pyconv.load(path)


def test_names_of_any_length_are_cut_in_messages(tmp_path: Path) -> None:
    path = tmp_path / "long.onnx"
    onnx.save(_model([node("Softmax", ["x"], ["y"], name="n" * 100_000, axis=7)]), path)
    with pytest.raises(pyconv.ModelError, match=r"Softmax 'nnn.*…'") as caught:
        pyconv.load(path)
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize("name", ["tensor-name", "weights"])
def test_names_that_are_no_text(tmp_path: Path, name: str) -> None:
    nodes = [node("Add", ["x", "weights"], ["tensor-name"]), node("Relu", ["tensor-name"], ["y"])]
    model = _model(nodes, weights=np.ones(4, np.float32))
    path = tmp_path / "names.onnx"
    broken = name.encode()[:-1] + b"\xff"
    path.write_bytes(model.SerializeToString().replace(name.encode(), broken))
    with pytest.raises(pyconv.ModelError, match="is not UTF-8"):
        pyconv.load(path)


def test_names_like_those_of_the_compiler_are_the_files_own(tmp_path: Path) -> None:
    # What the compiler makes on the way from x to q would be called so.
    nodes = [node("Conv", ["x", "w"], ["q"]), node("Relu", ["q//1"], ["y"])]
    model = _model(nodes, MAP, w=KERNEL)
    model.graph.input.append(helper.make_tensor_value_info("q//1", TensorProto.FLOAT, ["n", 3]))
    path = tmp_path / "names.onnx"
    onnx.save(model, path)
    feeds = {"x": np.ones((2, 1, 4, 4), np.float32), "q//1": np.full((2, 3), -1, np.float32)}
    results = pyconv.load(path).run(feeds, ["y", "q"])
    np.testing.assert_array_equal(results["y"], np.zeros((2, 3)))
    np.testing.assert_array_equal(results["q"], feeds["x"])


def test_windows_far_larger_than_the_map(tmp_path: Path) -> None:
    size = 2**30
    pool = node("MaxPool", ["x"], ["y"], kernel_shape=[size] * 2, pads=[size // 2] * 4)
    path = tmp_path / "pool.onnx"
    onnx.save(_model([pool], MAP), path)
    x = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    result = pyconv.load(path).run({"x": x})["y"]
    np.testing.assert_array_equal(result, np.full((1, 1, 5, 5), 15))


def test_a_scale_that_leaves_nothing(tmp_path: Path) -> None:
    """The window that antialiasing stretches would reach over billions of places."""
    resize = node("Resize", ["x", "", "scales"], ["y"], antialias=1, mode="cubic")
    model = _model([resize], (1, 1, 4, 4), scales=np.array([1, 1, 1e-9, 0.6], np.float32))
    onnx.save(model, tmp_path / "m.onnx")
    loaded = pyconv.load(tmp_path / "m.onnx")
    assert loaded.run({"x": np.ones((1, 1, 4, 4), np.float32)})["y"].shape == (1, 1, 0, 2)


def test_a_run_beyond_the_memory_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "memory_bytes", lambda: 2**20)
    nodes = [node("Softmax", ["x"], ["s"]), node("Softmax", ["s"], ["y"], axis=1)]
    path = tmp_path / "large.onnx"
    onnx.save(_model(nodes, ("n", 2**18)), path)
    with pytest.raises(pyconv.ModelError, match=r"more than half of the 0\.0 GiB of this machine"):
        pyconv.load(path)


def test_weights_that_serve_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "memory_bytes", lambda: 2**30)
    nodes = [node("Conv", ["x", "w"], [f"y{i}"]) for i in range(200)]
    nodes.append(node("Sum", [f"y{i}" for i in range(200)], ["y"]))
    size = 2**10
    path = tmp_path / "shared.onnx"
    onnx.save(_model(nodes, ("n", 1, size, size), w=np.ones((1, 1, size, size))), path)
    with pytest.raises(pyconv.ModelError, match=r"the weights of all steps would take 0\.8 GiB"):
        pyconv.load(path)


def test_tables_of_what_goes_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "memory_bytes", lambda: 2**30)
    path = tmp_path / "tables.onnx"
    onnx.save(_model([node("ReduceMean", ["x", "a"], ["y"])], ("n", 2**27), a=[1]), path)
    with pytest.raises(pyconv.ModelError, match=r"tables of what goes where would take 1\.0 GiB"):
        pyconv.load(path)


def _external(path: Path, shape: Sequence[int], count: int = 1, **entries: str) -> Path:
    names = [f"w{i}" for i in range(count)]
    model = _model([node("Sum", ["x", *names], ["y"])], **dict.fromkeys(names, np.ones(1)))
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")
        del tensor.dims[:]
        tensor.dims.extend(shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": "data.bin", **entries}.items():
            tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    return path


def test_external_data_is_read_no_further_than_needed(tmp_path: Path) -> None:
    with (tmp_path / "data.bin").open("wb") as file:
        file.truncate(2**40)  # takes no room
    assert pyconv.load(_external(tmp_path / "a.onnx", [4])).outputs


@pytest.mark.parametrize(
    ("shape", "count", "entries", "what"),
    [
        ([2**20], 1, {}, "has 65,536 of 4,194,304 bytes"),
        ([2**14], 99, {}, "6,488,064 bytes are wanted of files that have 65,536 in all"),
        ([4], 1, {"length": "9" * 30}, "expected 16 bytes, got 9999"),
        ([4], 1, {"offset": "-1"}, "non-negative"),
        ([4], 1, {"offset": "65536"}, "broken"),
        ([4], 1, {"offset": "front"}, "invalid literal"),
        ([4], 1, {"location": "a\0b"}, "null"),
        ([4], 1, {"location": "a" * 10_000}, "File name too long"),
        ([4], 1, {"location": "."}, "is not there"),
        ([-4], 1, {}, "has the shape"),
    ],
)
def test_external_data_of_another_size(
    tmp_path: Path, shape: list[int], count: int, entries: dict[str, str], what: str
) -> None:
    (tmp_path / "data.bin").write_bytes(bytes(2**16))
    with pytest.raises(pyconv.ModelError, match=what):
        pyconv.load(_external(tmp_path / "a.onnx", shape, count, **entries))


@pytest.mark.parametrize("place", ["function", "subgraph", "sparse"])
def test_external_data_elsewhere_wherever_it_is_named(tmp_path: Path, place: str) -> None:
    tensor = TensorProto(data_type=1, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../secret")
    body = [node("Constant", [], ["c"], value=tensor), node("Add", ["a", "c"], ["b"])]
    model = _model([node("F", ["x"], ["y"], domain="own")])
    if place == "function":
        model.functions.append(helper.make_function("own", "F", ["a"], ["b"], body, OWN))
    elif place == "subgraph":
        graph = helper.make_graph(body, "branch", [], [])
        model.graph.node[0].attribute.append(helper.make_attribute("then_branch", graph))
    else:
        model.graph.sparse_initializer.add().values.CopyFrom(tensor)
    path = tmp_path / "a.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(pyconv.ModelError, match=r"'\.\./secret', outside the model's folder"):
        pyconv.load(path)


@pytest.fixture(scope="module")
def digits() -> bytes:
    return bundled.resolve("digits").read_bytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged")


@settings(max_examples=40, deadline=None, print_blob=True)
@given(share=st.floats(0, 1, exclude_max=True))
def test_truncated_file(digits: bytes, folder: Path, share: float) -> None:
    path = folder / "truncated.onnx"
    path.write_bytes(digits[: int(share * len(digits))])
    with pytest.raises(pyconv.ModelError, match=r"truncated\.onnx"):
        pyconv.load(path)


@settings(max_examples=60, deadline=None, print_blob=True)
@given(data=st.data())
def test_flipped_bits(digits: bytes, folder: Path, data: st.DataObject) -> None:
    damaged = bytearray(digits)
    # Most of a file is weights, which any bits may be: flip those around them.
    edge = st.one_of(st.integers(0, 3000), st.integers(len(digits) - 3000, len(digits) - 1))
    for place in data.draw(st.lists(edge, min_size=1, max_size=8)):
        damaged[place] ^= 1 << data.draw(st.integers(0, 7))
    path = folder / "flipped.onnx"
    path.write_bytes(damaged)
    try:
        model = pyconv.load(path)
    except pyconv.ModelError:
        return
    feeds = {i.name: np.zeros([s or 1 for s in i.shape or ()], i.dtype) for i in model.inputs}
    with contextlib.suppress(pyconv.PyconvError):
        model.run(feeds)
