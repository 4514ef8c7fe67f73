"""Each pass: what it makes of a small graph, that outputs stay the same, what it leaves alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pyconv.graph import native_operators, passes
from pyconv.graph.batch import Batch, BatchError, Shape
from pyconv.graph.ir import Graph, Node, Output, TensorType

Interpret = Callable[[Graph, dict[str, np.ndarray]], dict[str, np.ndarray]]
N = Batch()
NCHW, NHWC = (0, 3, 1, 2), (0, 2, 3, 1)


class Builder:
    """Writes small graphs down."""

    def __init__(self, **inputs: Shape) -> None:
        self.graph = Graph(inputs=list(inputs))
        self.graph.types = {name: TensorType(shape) for name, shape in inputs.items()}
        self.random = np.random.default_rng(5)

    def array(self, *shape: int) -> np.ndarray:
        return self.random.normal(size=shape).astype(np.float32)

    def constant(self, *shape: int) -> str:
        return self.graph.add_constant(self.array(*shape))

    def __call__(self, output: str, op: str, *inputs: str, **attributes: Any) -> str:
        shapes = [self.graph.shape(name) for name in inputs]
        self.graph.declare(output, native_operators.infer(op, attributes, shapes))
        self.graph.nodes.append(Node(op, inputs, output, attributes, (output,)))
        return output

    def wants(self, *names: str) -> Graph:
        self.graph.outputs = [Output(name, name) for name in names]
        return self.graph


@pytest.fixture
def run_pass(interpret: Interpret) -> Callable[[passes.Pass, Graph], list[str]]:
    """Runs a pass, checks that every output is what it was, and returns the operators left."""

    def run(step: passes.Pass, graph: Graph) -> list[str]:
        random = np.random.default_rng(1)
        feeds = {
            name: random.normal(
                size=[3 if isinstance(size, Batch) else size for size in graph.shape(name)]
            ).astype(np.float32)
            for name in graph.inputs
        }
        before = interpret(graph, feeds)
        step(graph)
        after = interpret(graph, feeds)
        assert list(after) == list(before)
        for name in before:
            np.testing.assert_allclose(after[name], before[name], rtol=1e-5, atol=1e-5)
        return [node.op for node in graph.nodes]

    return run


Run = Callable[[passes.Pass, Graph], list[str]]


def test_drop_identities(run_pass: Run) -> None:
    g = Builder(x=(N, 4))
    g("c", "activation", g("b", "identity", g("a", "identity", "x")), activation="relu")
    g("d", "identity", "c")
    assert run_pass(passes.drop_identities, g.wants("d", "a")) == ["activation"]


def test_eliminate_dead(run_pass: Run) -> None:
    g = Builder(x=(N, 4))
    g("a", "activation", "x", activation="relu")
    g("b", "add", "a", g.constant(4))
    g("c", "activation", "a", activation="abs")
    graph = g.wants("c")
    assert run_pass(passes.eliminate_dead, graph) == ["activation", "activation"]
    assert not graph.constants


@pytest.mark.parametrize(
    ("gate", "name"),
    [
        ({"activation": "sigmoid"}, "swish"),
        ({"activation": "hard_sigmoid", "alpha": 1 / 6, "beta": 0.5}, "hard_swish"),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_recognize_gated_activations(
    run_pass: Run, gate: dict[str, Any], name: str, turned: bool
) -> None:
    g = Builder(x=(N, 4))
    g("s", "activation", "x", **gate)
    g("y", "multiply", *(("s", "x") if turned else ("x", "s")))
    graph = g.wants("y")
    assert run_pass(passes.recognize_activations, graph) == ["activation"]
    assert graph.nodes[0].attributes == {"activation": name}


def test_split_rows_of_dense_layers_over_maps(run_pass: Run) -> None:
    g = Builder(x=(N, 3, 4, 5))
    g("rows", "reshape", "x", shape=(N * 12, 5))
    g("d", "dense", "rows", weights=g.array(5, 6))
    g("b", "add", g.constant(1, 6), "d")
    g("a", "activation", "b", activation="relu")
    g("e", "dense", g("s", "multiply", "a", "b"), weights=g.array(6, 2))
    g("y", "reshape", "e", shape=(N, 3, 4, 2))
    graph = g.wants("y")
    kept = [node.op for node in graph.nodes]
    assert run_pass(passes.split_rows, graph) == kept
    assert graph.shape("rows") == (N, 12, 5)
    assert graph.shape("e") == (N, 12, 2)


def test_split_rows_refuses_what_minds_and_what_was_asked_for() -> None:
    g = Builder(x=(N, 3, 4, 4))
    g("rows", "reshape", "x", shape=(N * 3, 4, 4))
    g("r", "reduce", "rows", function="sum", axes=[1], keepdims=1)
    g("y", "reshape", "r", shape=(N, 12))
    with pytest.raises(BatchError, match=r"reduce of \(3n, 4, 4\) that makes r"):
        passes.split_rows(g.wants("y"))
    with pytest.raises(BatchError, match=r"rows has the shape \(3n, 4, 4\)"):
        passes.split_rows(g.wants("rows"))


def test_recognize_no_swish_of_something_else(run_pass: Run) -> None:
    g = Builder(x=(N, 4), z=(N, 4))
    g("y", "multiply", "z", g("s", "activation", "x", activation="sigmoid"))
    assert run_pass(passes.recognize_activations, g.wants("y")) == ["activation", "multiply"]


def _number(g: Builder, value: float) -> str:
    return g.graph.add_constant(np.array(value, np.float32))


@pytest.mark.parametrize("order", ["half first", "half last", "half in between"])
@pytest.mark.parametrize("root", ["multiplied", "divided", "negative first", "negative last"])
def test_recognize_gelu(run_pass: Run, order: str, root: str) -> None:
    g = Builder(x=(N, 9))
    if root == "divided":
        g("r", "divide", "x", _number(g, 2**0.5))
    elif root == "negative first":
        g("r", "multiply", g("m", "activation", "x", activation="negative"), _number(g, 0.5**0.5))
    elif root == "negative last":
        g("m", "multiply", _number(g, 0.5**0.5), "x")
        g("r", "activation", "m", activation="negative")
    else:
        g("r", "multiply", "x", _number(g, 0.5**0.5))
    rest = "subtract" if root.startswith("negative") else "add"
    g("o", rest, _number(g, 1), g("e", "activation", "r", activation="erf"))
    half = _number(g, 0.5)
    if order == "half first":
        g("y", "multiply", g("h", "multiply", half, "x"), "o")
    elif order == "half last":
        g("y", "multiply", half, g("h", "multiply", "x", "o"))
    else:
        g("y", "multiply", "x", g("h", "multiply", "o", half))
    graph = g.wants("y")
    assert run_pass(passes.recognize_activations, graph) == ["activation"]
    assert graph.nodes[0].attributes == {"activation": "gelu"}


@pytest.mark.parametrize("rest", ["add", "subtract"])
def test_recognize_no_gelu_of_the_other_sign(run_pass: Run, rest: str) -> None:
    g = Builder(x=(N, 9))
    g("r", "multiply", "x", _number(g, 0.5**0.5 if rest == "subtract" else -(0.5**0.5)))
    g("o", rest, _number(g, 1), g("e", "activation", "r", activation="erf"))
    g("y", "multiply", g("h", "multiply", _number(g, 0.5), "x"), "o")
    assert len(run_pass(passes.recognize_activations, g.wants("y"))) == 5


def test_recognize_no_gelu_with_other_numbers(run_pass: Run) -> None:
    g = Builder(x=(N, 9))
    g("r", "multiply", "x", _number(g, 0.7))
    g("o", "add", _number(g, 1), g("e", "activation", "r", activation="erf"))
    g("y", "multiply", g("h", "multiply", _number(g, 0.5), "x"), "o")
    assert len(run_pass(passes.recognize_activations, g.wants("y"))) == 5


def _layer_normalization(g: Builder, form: str, axes: list[int], bias: bool) -> None:
    row = [8] if len(axes) == 1 else [6, 8]
    mean = {"function": "mean", "axes": axes, "keepdims": 1}
    g("m", "reduce", "x", **mean)
    g("d", "subtract", "x", "m")
    if form == "power":
        g("q", "power", "d", g.graph.add_constant(np.array(2, np.float32)))
    else:
        g("q", "multiply", "d", "d")
    g("v", "reduce", "q", **mean)
    g("e", "add", "v", g.graph.add_constant(np.array(0.01, np.float32)))
    g("s", "activation", "e", activation="sqrt")
    if form == "keras":
        g("r", "activation", "s", activation="reciprocal")
        g("f", "multiply", "r", g.constant(*row))
        g("n", "activation", "m", activation="negative")
        g("p", "multiply", "n", "f")
        if bias:
            g("p_b", "add", "p", g.constant(*row))
        g("xf", "multiply", "x", "f")
        g("y", "add", "xf", "p_b" if bias else "p")
        return
    g("z", "divide", "d", "s")
    g("zg", "multiply", "z", g.constant(*row))
    g("y", "add", "zg", g.constant(*row)) if bias else g("y", "activation", "zg")


@pytest.mark.parametrize("form", ["keras", "power", "square"])
@pytest.mark.parametrize("axes", [[2], [1, 2]], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_recognize_layer_normalization(
    run_pass: Run, form: str, axes: list[int], bias: bool
) -> None:
    g = Builder(x=(N, 6, 8))
    _layer_normalization(g, form, axes, bias)
    left = run_pass(passes.recognize_normalization, g.wants("y"))
    rest = [] if bias or form == "keras" else ["activation"]
    assert left == ["layer_normalization", *rest]


def test_recognize_no_normalization_over_other_axes(run_pass: Run) -> None:
    g = Builder(x=(N, 8, 8))
    _layer_normalization(g, "keras", [1], True)
    assert len(run_pass(passes.recognize_normalization, g.wants("y"))) == 13


def test_recognize_no_normalization_around_another_mean(run_pass: Run) -> None:
    g = Builder(x=(N, 6, 8), m2=(N, 6, 1))
    _layer_normalization(g, "square", [2], True)
    g.graph.nodes[1] = g.graph.nodes[1].with_inputs("x", "m2")
    assert "layer_normalization" not in run_pass(passes.recognize_normalization, g.wants("y"))


def test_a_mean_that_was_asked_for_stays(run_pass: Run) -> None:
    g = Builder(x=(N, 6, 8))
    _layer_normalization(g, "keras", [2], True)
    left = run_pass(passes.recognize_normalization, g.wants("y", "m"))
    assert left == ["reduce", "layer_normalization"]


@pytest.mark.parametrize("shape", [(), (8,), (6, 8)], ids=str)
def test_recognize_prelu(run_pass: Run, shape: tuple[int, ...]) -> None:
    g = Builder(x=(N, 6, 8))
    g("a", "activation", "x", activation="relu")
    g("n", "activation", "x", activation="negative")
    g("b", "activation", "n", activation="relu")
    g("c", "multiply", g.constant(*shape), "b")
    g("y", "add", "a", "c")
    assert run_pass(passes.recognize_activations, g.wants("y")) == ["prelu"]


def test_what_was_asked_for_stays_when_its_pattern_is_recognized(run_pass: Run) -> None:
    g = Builder(x=(N, 4))
    g("y", "multiply", "x", g("s", "activation", "x", activation="sigmoid"))
    graph = g.wants("y", "s")
    assert run_pass(passes.recognize_activations, graph) == ["activation", "activation"]


def test_cancel_transposes(run_pass: Run) -> None:
    g = Builder(x=(N, 4, 5, 3))
    g("b", "transpose", g("a", "transpose", "x", permutation=NCHW), permutation=NHWC)
    g("d", "transpose", g("c", "transpose", "b", permutation=NCHW), permutation=NCHW)
    g("e", "activation", "d", activation="relu")
    graph = g.wants("b", "e")
    assert run_pass(passes.cancel_transposes, graph) == [
        "transpose",
        "transpose",
        "transpose",
        "activation",
    ]
    passes.eliminate_dead(graph)
    assert [node.op for node in graph.nodes] == ["transpose", "activation"]


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("activation", {"activation": "relu"}),
        ("softmax", {"axis": 1}),
        ("log_softmax", {"axis": 3}),
        ("pad", {"pads": [0, 1, 2, 3, 0, 4, 5, 6], "mode": "constant", "value": 0.5}),
        ("slice", {"starts": [0, 2, 1, 0], "sizes": [N, 1, 2, 2], "steps": [1, 1, 1, 2]}),
        ("reduce", {"function": "mean", "axes": [2, 3], "keepdims": 1}),
        ("reduce", {"function": "sum", "axes": [1], "keepdims": 0}),
        ("reduce", {"function": "max", "axes": [2], "keepdims": 0}),
    ],
)
def test_sink_transposes(run_pass: Run, op: str, attributes: dict[str, Any]) -> None:
    g = Builder(x=(N, 4, 5, 3))
    g("y", op, g("t", "transpose", "x", permutation=NCHW), **attributes)
    graph = g.wants("y")
    left = run_pass(passes.sink_transposes, graph)
    assert left in (["transpose", op, "transpose"], ["transpose", op])  # the last may cancel
    passes.eliminate_dead(graph)
    assert graph.nodes[0].op == op


@pytest.mark.parametrize("shape", [(), (5,), (3, 1, 1), (1, 3, 4, 5)])
@pytest.mark.parametrize("op", ["add", "subtract"])
def test_sink_transposes_through_arithmetic_with_a_constant(
    run_pass: Run, shape: tuple[int, ...], op: str
) -> None:
    g = Builder(x=(N, 4, 5, 3))
    g("y", op, g.constant(*shape), g("t", "transpose", "x", permutation=NCHW))
    graph = g.wants("y")
    run_pass(passes.sink_transposes, graph)
    assert [node.op for node in graph.nodes if node.op != "transpose"] == [op]
    assert graph.nodes[-1].op == "transpose"


def test_sink_transposes_of_both_operands(run_pass: Run) -> None:
    g = Builder(x=(N, 4, 5, 3), z=(N, 4, 1, 3))
    a = g("a", "transpose", "x", permutation=NCHW)
    b = g("b", "transpose", "z", permutation=NCHW)
    g("y", "multiply", a, b)
    graph = g.wants("y")
    assert run_pass(passes.sink_transposes, graph)[-2:] == ["multiply", "transpose"]


def test_sink_transposes_beside_an_operand_of_single_pixels(run_pass: Run) -> None:
    # Squeeze and excite: a factor for each channel, (n, c, 1, 1).
    g = Builder(x=(N, 4, 5, 3), z=(N, 3, 1, 1))
    g("y", "multiply", g("a", "transpose", "x", permutation=NCHW), "z")
    assert run_pass(passes.sink_transposes, g.wants("y"))[-3:] == [
        "reshape",
        "multiply",
        "transpose",
    ]


def test_sink_transposes_not_beside_maps_in_another_layout(run_pass: Run) -> None:
    g = Builder(x=(N, 4, 5, 3), z=(N, 3, 4, 5))
    g("y", "add", g("a", "transpose", "x", permutation=NCHW), "z")
    assert run_pass(passes.sink_transposes, g.wants("y")) == ["transpose", "add"]


def test_sink_transposes_through_concat(run_pass: Run) -> None:
    g = Builder(x=(N, 4, 5, 3), z=(N, 4, 5, 2))
    a = g("a", "transpose", "x", permutation=NCHW)
    b = g("b", "transpose", "z", permutation=NCHW)
    g("y", "concat", a, b, g.constant(1, 1, 4, 5)[:0] or a, axis=1)
    graph = g.wants("y")
    assert run_pass(passes.sink_transposes, graph)[-2:] == ["concat", "transpose"]
    assert graph.nodes[-2].attributes["axis"] == 3


@pytest.mark.parametrize(
    ("x", "permutation", "shape"),
    [
        ((N, 4, 5, 1), NCHW, (N, 4, 5)),
        ((N, 1, 5, 3), NCHW, (N, 3, 5)),
        ((N, 5, 3), (0, 2, 1), (N, 3, 1, 5)),
        ((N, 5, 3), (0, 2, 1), (N, 3, 5, 1, 1)),
        ((N, 1, 1, 3), NCHW, (N, 3)),
    ],
)
def test_sink_transposes_through_squeezes(
    run_pass: Run, x: Shape, permutation: tuple[int, ...], shape: Shape
) -> None:
    g = Builder(x=x)
    g("y", "reshape", g("t", "transpose", "x", permutation=permutation), shape=shape)
    graph = g.wants("y")
    run_pass(passes.sink_transposes, graph)
    passes.eliminate_dead(graph)
    assert graph.nodes[0].op == "reshape"


def test_sink_transposes_not_through_a_flatten(run_pass: Run) -> None:
    g = Builder(x=(N, 4, 5, 3))
    g("y", "reshape", g("t", "transpose", "x", permutation=NCHW), shape=(N, 60))
    assert run_pass(passes.sink_transposes, g.wants("y")) == ["transpose", "reshape"]


def test_sink_transposes_through_a_dense_layer_of_the_last_axis(run_pass: Run) -> None:
    g = Builder(x=(N, 4, 5, 3))
    t = g("t", "transpose", "x", permutation=(0, 2, 1, 3))
    g("y", "dense", t, weights=g.array(3, 2))
    u = g("u", "transpose", "x", permutation=NCHW)
    g("z", "dense", u, weights=g.array(5, 2))
    assert run_pass(passes.sink_transposes, g.wants("y", "z")) == [
        "transpose",
        "dense",
        "transpose",
        "transpose",
        "dense",
    ]


def test_view_outputs(run_pass: Run) -> None:
    g = Builder(x=(N, 4, 5, 3))
    g("a", "activation", "x", activation="relu")
    g("c", "transpose", g("b", "transpose", "a", permutation=NCHW), permutation=NCHW)
    graph = g.wants("a", "b", "c")
    run_pass(passes.view_outputs, graph)
    passes.eliminate_dead(graph)
    assert [node.op for node in graph.nodes] == ["activation"]
    assert [out.value for out in graph.outputs] == ["a", "a", "a"]
    assert [out.permutation for out in graph.outputs] == [None, NCHW, (0, 2, 3, 1)]


def test_absorb_flatten_transposes(run_pass: Run) -> None:
    g = Builder(x=(N, 4, 5, 3))
    flat = g("f", "reshape", g("t", "transpose", "x", permutation=NCHW), shape=(N, 60))
    g("y", "dense", flat, weights=g.array(60, 7))
    assert run_pass(passes.absorb_flatten_transposes, g.wants("y")) == ["reshape", "dense"]


def test_absorb_no_transposes_that_were_asked_for_in_vain(run_pass: Run) -> None:
    g = Builder(x=(N, 4, 5, 3))
    flat = g("f", "reshape", g("t", "transpose", "x", permutation=NCHW), shape=(N, 60))
    g("y", "dense", flat, weights=g.array(60, 7))
    assert run_pass(passes.absorb_flatten_transposes, g.wants("y", "f")).count("transpose") == 1


def test_reshape_unit_transposes(run_pass: Run) -> None:
    g = Builder(x=(N, 4, 5, 1), z=(N, 4, 5, 2))
    g("a", "transpose", "x", permutation=NCHW)
    g("b", "transpose", "z", permutation=NCHW)
    assert run_pass(passes.reshape_unit_transposes, g.wants("a", "b")) == ["reshape", "transpose"]


def test_merge_reshapes(run_pass: Run) -> None:
    g = Builder(x=(N, 4, 5))
    b = g("b", "reshape", g("a", "reshape", "x", shape=(N, 20)), shape=(N, 5, 4))
    g("c", "reshape", b, shape=(N, 4, 5))
    g("d", "activation", "c", activation="relu")
    graph = g.wants("d", "b")
    run_pass(passes.merge_reshapes, graph)
    passes.eliminate_dead(graph)
    assert [node.op for node in graph.nodes] == ["reshape", "activation"]
    assert graph.nodes[1].inputs == ("x",)


def test_sink_reshapes(run_pass: Run) -> None:
    g = Builder(x=(N, 1, 5, 3))
    r = g("r", "reshape", "x", shape=(N, 5, 3))
    a = g("a", "activation", r, activation="relu")
    b = g("b", "add", g.constant(3), a)
    g("c", "multiply", b, g.constant(1, 1))
    graph = g.wants("c")
    left = run_pass(passes.sink_reshapes, graph)
    assert [op for op in left if op != "reshape"] == ["activation", "add", "multiply"]
    assert left[-1] == "reshape"
    passes.eliminate_dead(graph)
    assert [node.op for node in graph.nodes].count("reshape") == 1


def test_sink_reshapes_not_where_channels_change(run_pass: Run) -> None:
    g = Builder(x=(N, 5, 3))
    g("y", "add", g("r", "reshape", "x", shape=(N, 15)), g.constant(15))
    assert run_pass(passes.sink_reshapes, g.wants("y")) == ["reshape", "add"]


def _linear(g: Builder, op: str, **more: Any) -> str:
    """y, of 4 channels."""
    if op == "dense":
        return g("y", "dense", "x", weights=g.array(3, 4), **more)
    return g("y", "conv2d", "x", kernel=g.array(3, 2, 3, 4), **more)


LINEAR = pytest.mark.parametrize("op", ["dense", "conv2d"])


@LINEAR
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("step", ["add", "add, turned", "subtract"])
def test_fuse_bias(run_pass: Run, op: str, biased: bool, step: str) -> None:
    g = Builder(x=(N, 6, 5, 3))
    _linear(g, op, **({"bias": g.array(4)} if biased else {}))
    operands = ("y", g.constant(1, 4))
    g("z", step.partition(",")[0], *(operands[::-1] if "turned" in step else operands))
    graph = g.wants("z")
    assert run_pass(passes.fuse_bias, graph) == [op]
    assert graph.nodes[0].tensors == ("y", "z")


@LINEAR
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("shape", [(4,), (1, 1, 4), ()])
@pytest.mark.parametrize("step", ["multiply", "divide"])
def test_fold_batch_normalization(
    run_pass: Run, op: str, biased: bool, shape: tuple[int, ...], step: str
) -> None:
    g = Builder(x=(N, 6, 5, 3))
    _linear(g, op, **({"bias": g.array(4)} if biased else {}))
    g("z", step, "y", g.constant(*shape))
    assert run_pass(passes.fold_batch_normalization, g.wants("z")) == [op]


@pytest.mark.parametrize("step", [passes.fuse_bias, passes.fold_batch_normalization])
@pytest.mark.parametrize(
    "case",
    [
        "asked for",
        "used twice",
        "not a constant",
        "not by channel",
        "activated",
        "constant first",
        "larger",
    ],
)
def test_fusions_that_may_not_be(run_pass: Run, step: passes.Pass, case: str) -> None:
    op = "add" if step is passes.fuse_bias else "multiply"
    g = Builder(x=(N, 6, 5, 3), other=(N, 4, 4, 4))
    _linear(g, "conv2d", **({"activation": "relu"} if case == "activated" else {}))
    if case == "not a constant":
        g("z", op, "y", "other")
    elif case == "not by channel":
        g("z", op, "y", g.constant(4, 1))
    elif case == "larger":
        g("z", op, "y", g.constant(1, 1, 1, 1, 4)[:0] or g.constant(4, 4, 4))
    elif case == "constant first":
        g("z", "subtract" if op == "add" else "divide", g.constant(4), "y")
    else:
        g("z", op, "y", g.constant(4))
    if case == "used twice":
        g("w", "activation", "y", activation="relu")
    wanted = {"asked for": ["z", "y"], "used twice": ["z", "w"]}.get(case, ["z"])
    assert len(run_pass(step, g.wants(*wanted))) == (3 if case == "used twice" else 2)


@LINEAR
def test_fuse_activation(run_pass: Run, op: str) -> None:
    g = Builder(x=(N, 6, 5, 3))
    _linear(g, op, bias=g.array(4))
    g("b", "activation", g("a", "activation", "y", activation="elu", alpha=0.5), activation="exp")
    graph = g.wants("b")
    assert run_pass(passes.fuse_activation, graph) == [op, "activation"]
    assert graph.nodes[0].attributes["alpha"] == 0.5
    assert graph.nodes[0].tensors == ("y", "a")


def test_fuse_activation_not_when_asked_for(run_pass: Run) -> None:
    g = Builder(x=(N, 6, 5, 3))
    _linear(g, "conv2d")
    g("a", "activation", "y", activation="relu")
    assert run_pass(passes.fuse_activation, g.wants("y", "a")) == ["conv2d", "activation"]


def test_absorb_pads(run_pass: Run) -> None:
    g = Builder(x=(N, 6, 5, 3), other=(N, 10, 6, 4))
    g("p", "pad", "x", pads=[0, 1, 0, 0, 0, 3, 2, 0])
    g("y", "conv2d", "p", "other", kernel=g.array(3, 3, 3, 4), pads=[0, 0, 2, 1], residual=1)
    graph = g.wants("y")
    assert run_pass(passes.absorb_pads, graph) == ["conv2d"]
    assert graph.nodes[0].attributes["pads"] == [1, 0, 5, 3]
    assert graph.nodes[0].inputs == ("x", "other")
    assert graph.nodes[0].tensors == ("p", "y")


def test_absorb_pads_not_of_other_ranks(run_pass: Run) -> None:
    g = Builder(x=(N, 6, 3))
    g("p", "pad", "x", pads=[0, 2, 0, 0, 0, 0])
    g("y", "reshape", "p", shape=(N, 8, 1, 3))
    assert run_pass(passes.absorb_pads, g.wants("y")) == ["pad", "reshape"]


@pytest.mark.parametrize(
    "changed",
    [
        {"mode": "reflect"},
        {"value": 1.0},
        {"pads": [0, 1, 1, 0, 0, 1, -1, 0]},
        {"pads": [0, 1, 1, 0, 0, 1, 1, 1], "channels": 4},
        {"kernel": 1},
        {"asked for": True},
    ],
)
def test_absorb_pads_not_every_kind(run_pass: Run, changed: dict[str, Any]) -> None:
    g = Builder(x=(N, 6, 5, 3))
    settings = {"pads": [0, 1, 1, 0, 0, 1, 1, 0], "mode": "constant", "value": 0.0}
    g("p", "pad", "x", **settings | {key: changed[key] for key in settings if key in changed})
    side = changed.get("kernel", 3)
    g("y", "conv2d", "p", kernel=g.array(side, side, changed.get("channels", 3), 4))
    graph = g.wants(*(["y", "p"] if "asked for" in changed else ["y"]))
    assert run_pass(passes.absorb_pads, graph) == ["pad", "conv2d"]


@pytest.mark.parametrize("axis", [1, 2])
def test_merge_takes(run_pass: Run, axis: int) -> None:
    g = Builder(x=(N, 3, 4, 5))
    g("a", "take", "x", axes=[1, 3], sizes=[6, 2], indices=[0, 0, 1, 1, 2, 2, 4, 1])
    g("b", "take", "a", axes=[axis], sizes=[3], indices=[3, 1, 1])
    g("c", "take", "b", axes=[3], sizes=[2], indices=[1, 0])
    graph = g.wants("c")
    assert run_pass(passes.merge_takes, graph) == ["take"]
    assert graph.nodes[0].tensors == ("a", "b", "c")


def test_merge_takes_not_when_asked_for(run_pass: Run) -> None:
    g = Builder(x=(N, 3, 4, 5))
    g("a", "take", "x", axes=[1], sizes=[2], indices=[0, 2])
    g("b", "take", "a", axes=[2], sizes=[2], indices=[3, 1])
    assert run_pass(passes.merge_takes, g.wants("a", "b")) == ["take", "take"]


_PADDED_POOL = {"kernel_size": [3, 2], "strides": [2, 2], "pads": [0, 0, 0, 0]}


@pytest.mark.parametrize(
    "activation",
    [{"activation": "relu"}, {"activation": "clip", "alpha": 0.0, "beta": 6.0}],
)
def test_absorb_pads_into_a_max_pool(run_pass: Run, activation: dict[str, Any]) -> None:
    g = Builder(x=(N, 6, 5, 3))
    g("p", "pad", g("a", "activation", "x", **activation), pads=[0, 1, 0, 0, 0, 2, 1, 0])
    graph = g.wants(g("y", "max_pool2d", "p", **_PADDED_POOL))
    assert run_pass(passes.absorb_pads, graph) == ["activation", "max_pool2d"]
    assert graph.nodes[1].attributes["pads"] == [1, 0, 2, 1]


@pytest.mark.parametrize(
    ("activation", "pads", "changed"),
    [
        ("tanh", [0, 1, 1, 0, 0, 1, 1, 0], {}),
        ("relu", [0, 3, 1, 0, 0, 1, 1, 0], {}),
        ("relu", [0, 1, 1, 0, 0, 1, 2, 0], {}),
        ("relu", [0, 1, 1, 0, 0, 1, 1, 0], {"ceil_mode": 1}),
        ("relu", [0, 1, 1, 0, 0, 1, 1, 0], {"pads": [1, 0, 0, 0]}),
        ("relu", [0, 1, 1, 0, 0, 1, 1, 0], {"dilations": [2, 1]}),
        ("clip", [0, 1, 1, 0, 0, 1, 1, 0], {}),
    ],
)
def test_absorb_pads_not_into_every_max_pool(
    run_pass: Run, activation: str, pads: list[int], changed: dict[str, Any]
) -> None:
    g = Builder(x=(N, 6, 5, 3))
    lowest = {"alpha": -1.0, "beta": 6.0} if activation == "clip" else {}
    g("p", "pad", g("a", "activation", "x", activation=activation, **lowest), pads=pads)
    graph = g.wants(g("y", "max_pool2d", "p", **_PADDED_POOL | changed))
    assert run_pass(passes.absorb_pads, graph) == ["activation", "pad", "max_pool2d"]


@pytest.mark.parametrize("place", [0, 1])
def test_fuse_residual(run_pass: Run, place: int) -> None:
    g = Builder(x=(N, 6, 5, 3), other=(N, 4, 4, 4))
    _linear(g, "conv2d", bias=g.array(4))
    g("z", "add", *(("y", "other") if place == 0 else ("other", "y")))
    g("a", "activation", "z", activation="relu")
    graph = g.wants("a")
    assert run_pass(passes.fuse_residual, graph) == ["conv2d", "activation"]
    assert graph.nodes[0].inputs == ("x", "other")
    assert graph.nodes[0].tensors == ("y", "z")
    # Its own activation comes after what is added.
    assert run_pass(passes.fuse_activation, graph) == ["conv2d"]
    assert graph.nodes[0].attributes["activation"] == "relu"


def test_fuse_residual_of_two_convolutions_takes_one(run_pass: Run) -> None:
    g = Builder(x=(N, 6, 5, 3))
    g("y", "conv2d", "x", kernel=g.array(3, 3, 3, 4))
    g("w", "conv2d", "x", kernel=g.array(3, 3, 3, 4))
    g("z", "add", "y", "w")
    graph = g.wants("z")
    assert run_pass(passes.fuse_residual, graph) == ["conv2d", "conv2d"]
    assert graph.nodes[1].inputs == ("x", "w")


@pytest.mark.parametrize(
    "case", ["broadcast", "itself", "activated", "pooled", "added", "asked for", "used twice"]
)
def test_fuse_residual_not_every_sum(run_pass: Run, case: str) -> None:
    g = Builder(x=(N, 6, 5, 3), other=(N, 1, 3, 4) if case == "broadcast" else (N, 4, 3, 4))
    g("y", "conv2d", "x", kernel=g.array(3, 3, 3, 4))
    (conv2d,) = g.graph.nodes
    if case == "activated":
        g.graph.nodes = [conv2d.with_attributes(activation="relu")]
    elif case == "pooled":
        g.graph.nodes = [conv2d.with_attributes(pool_size=[1, 1], pool_strides=[1, 1])]
    elif case == "added":
        g.graph.nodes = [conv2d.with_inputs("x", "other").with_attributes(residual=1)]
    g("z", "add", "y", "y" if case == "itself" else "other")
    if case == "used twice":
        g("w", "activation", "y", activation="relu")
    wanted = {"asked for": ["z", "y"], "used twice": ["z", "w"]}.get(case, ["z"])
    assert "add" in run_pass(passes.fuse_residual, g.wants(*wanted))


def test_fuse_max_pool_not_after_a_residual(run_pass: Run) -> None:
    g = Builder(x=(N, 6, 5, 3), other=(N, 4, 3, 4))
    g("y", "conv2d", "x", "other", kernel=g.array(3, 3, 3, 4), residual=1)
    g("p", "max_pool2d", "y", **POOL)
    assert run_pass(passes.fuse_max_pool, g.wants("p")) == ["conv2d", "max_pool2d"]


def test_absorb_input_transposes_keeps_a_residual(run_pass: Run) -> None:
    g = Builder(x=(N, 3, 6, 5), other=(N, 4, 3, 4))
    g("t", "transpose", "x", permutation=list(NHWC))
    g("y", "conv2d", "t", "other", kernel=g.array(3, 3, 3, 4), residual=1)
    graph = g.wants("y")
    assert run_pass(passes.absorb_input_transposes, graph) == ["conv2d"]
    assert graph.nodes[0].inputs == ("x", "other")


POOL = {
    "kernel_size": [2, 3],
    "strides": [2, 1],
    "pads": [0, 0, 0, 0],
    "dilations": [1, 1],
    "ceil_mode": 0,
}


def test_fuse_max_pool(run_pass: Run) -> None:
    g = Builder(x=(N, 8, 9, 3))
    _linear(g, "conv2d", activation="relu")
    g("p", "max_pool2d", "y", **POOL)
    g("q", "max_pool2d", "p", **POOL)
    graph = g.wants("q")
    assert run_pass(passes.fuse_max_pool, graph) == ["conv2d", "max_pool2d"]
    assert graph.nodes[0].attributes["pool_size"] == [2, 3]


@pytest.mark.parametrize(
    "changed", [{"pads": [1, 0, 0, 0]}, {"ceil_mode": 1}, {"dilations": [2, 1]}]
)
def test_fuse_max_pool_not_every_kind(run_pass: Run, changed: dict[str, Any]) -> None:
    g = Builder(x=(N, 8, 9, 3))
    _linear(g, "conv2d")
    g("p", "max_pool2d", "y", **{**POOL, **changed})
    assert run_pass(passes.fuse_max_pool, g.wants("p")) == ["conv2d", "max_pool2d"]


def _quantized(
    g: Builder, output: str, x: str, scale: float = 0.0625, zero: int = 100, dtype: str = "uint8"
) -> str:
    """x, rounded to bytes and made of them again."""
    scales = g.graph.add_constant(np.float32(scale))
    zeros = g.graph.add_constant(np.asarray(zero, dtype))
    byte = f"{output} in bytes"
    g.graph.declare(byte, g.graph.shape(x), dtype)
    g.graph.nodes.append(Node("quantize", (x, scales, zeros), byte, {}, (byte,)))
    return g(output, "dequantize", byte, scales, zeros)


def _rounded(g: Builder, output: str, x: str, step: float = 0.0625, below: float = 100.0) -> str:
    return g(output, "activation", x, activation="quantize", alpha=step, beta=below)


@pytest.mark.parametrize(("dtype", "zero"), [("uint8", 100), ("int8", -28)])
def test_fuse_quantization(run_pass: Run, dtype: str, zero: int) -> None:
    g = Builder(x=(N, 6))
    _quantized(g, "y", "x", zero=zero, dtype=dtype)
    graph = g.wants("y")
    assert run_pass(passes.fuse_quantization, graph) == ["quantize", "activation"]
    assert graph.nodes[1].attributes["beta"] == 100
    passes.eliminate_dead(graph)
    assert [node.op for node in graph.nodes] == ["activation"]


def test_fuse_quantization_keeps_bytes_that_were_asked_for(run_pass: Run) -> None:
    g = Builder(x=(N, 6))
    _quantized(g, "y", "x")
    graph = g.wants("y", "y in bytes")
    run_pass(passes.fuse_quantization, graph)
    passes.eliminate_dead(graph)
    assert [node.op for node in graph.nodes] == ["quantize", "activation"]


@pytest.mark.parametrize("case", ["other steps", "other zero", "16 bits", "by channel", "computed"])
def test_fuse_quantization_not_every_pair(run_pass: Run, case: str) -> None:
    g = Builder(x=(N, 6), z=())
    _quantized(g, "y", "x", dtype="uint16" if case == "16 bits" else "uint8")
    before, after = g.graph.nodes
    x, steps, zero = before.inputs
    if case == "other steps":
        before = before.with_inputs(x, g.graph.add_constant(np.float32(0.5)), zero)
    elif case == "other zero":
        before = before.with_inputs(x, steps, g.graph.add_constant(np.uint8(99)))
    elif case == "by channel":
        many = g.graph.add_constant(np.full(6, 0.0625, np.float32))
        zeros = g.graph.add_constant(np.full(6, 100, np.uint8))
        before = before.with_inputs(x, many, zeros)
        after = after.with_inputs(before.output, many, zeros)
    elif case == "computed":
        before = before.with_inputs(x, "z", zero)
        after = after.with_inputs(before.output, "z", zero)
    g.graph.nodes = [before, after]
    assert run_pass(passes.fuse_quantization, g.wants("y")) == ["quantize", "dequantize"]


def test_sink_quantization(run_pass: Run) -> None:
    g = Builder(x=(N, 8, 9, 3))
    g("p", "max_pool2d", _rounded(g, "r", "x"), **POOL)
    _rounded(g, "s", "p")
    _rounded(g, "t", "s", step=0.5)
    graph = g.wants("t")
    assert run_pass(passes.sink_quantization, graph) == ["max_pool2d", *["activation"] * 3]
    passes.eliminate_dead(graph)
    assert [node.op for node in graph.nodes] == ["max_pool2d", *["activation"] * 2]
    assert [node.attributes["alpha"] for node in graph.nodes[1:]] == [0.0625, 0.5]


def test_sink_quantization_not_where_the_map_is_used_too(run_pass: Run) -> None:
    g = Builder(x=(N, 8, 9, 3))
    g("p", "max_pool2d", _rounded(g, "r", "x"), **POOL)
    assert run_pass(passes.sink_quantization, g.wants("p", "r")) == ["activation", "max_pool2d"]


def _dense_of_int8(g: Builder, output: str, x: str, ins: int) -> str:
    scales = np.full(4, 1 / 64, np.float32)
    weights = g.random.integers(-127, 128, (ins, 4)).astype(np.float32) * scales
    return g(output, "dense", x, weights=weights, storage="int8", weight_scales=scales)


@pytest.mark.parametrize("reshaped", [False, True])
def test_quantize_dense_inputs(run_pass: Run, reshaped: bool) -> None:
    g = Builder(x=(N, 2, 3) if reshaped else (N, 6))
    value = _rounded(g, "r", "x")
    if reshaped:
        value = g("f", "reshape", g("e", "reshape", value, shape=(N, 3, 2)), shape=(N, 6))
    _dense_of_int8(g, "y", value, 6)
    graph = g.wants("y")
    run_pass(passes.quantize_dense_inputs, graph)
    passes.eliminate_dead(graph)
    assert [node.op for node in graph.nodes if node.op != "reshape"] == ["dense"]
    assert graph.nodes[-1].attributes["x_below"] == 100
    assert graph.nodes[-1].tensors == ("r", "y")


@pytest.mark.parametrize("case", ["float32 weights", "too long", "not rounded"])
def test_quantize_dense_inputs_not_every_layer(case: str) -> None:
    ins = 65_001 if case == "too long" else 6
    g = Builder(x=(N, ins))
    value = "x" if case == "not rounded" else _rounded(g, "r", "x")
    if case == "float32 weights":
        g("y", "dense", value, weights=g.array(6, 4))
    else:
        _dense_of_int8(g, "y", value, ins)
    graph = g.wants("y")
    passes.quantize_dense_inputs(graph)
    assert "x_scale" not in graph.nodes[-1].attributes


@pytest.mark.parametrize("positive", [True, False])
def test_fold_batch_normalization_into_int8(run_pass: Run, positive: bool) -> None:
    g = Builder(x=(N, 6))
    factor = np.array([0.5, 1.5, 0.25, 2.0 if positive else -2.0], np.float32)
    g("z", "multiply", _dense_of_int8(g, "y", "x", 6), g.graph.add_constant(factor))
    left = ["dense"] if positive else ["dense", "multiply"]
    assert run_pass(passes.fold_batch_normalization, g.wants("z")) == left


def test_absorb_input_transposes(run_pass: Run) -> None:
    g = Builder(x=(N, 3, 6, 5))
    g("a", "transpose", "x", permutation=list(NHWC))
    g("b", "conv2d", "a", kernel=g.array(2, 2, 3, 4))
    assert run_pass(passes.absorb_input_transposes, g.wants("b")) == ["conv2d"]


@pytest.mark.parametrize("case", ["asked for", "read twice", "other permutation"])
def test_absorb_no_input_transposes(run_pass: Run, case: str) -> None:
    g = Builder(x=(N, 3, 6, 5))
    permutation = list(NHWC) if case != "other permutation" else [0, 3, 2, 1]
    g("a", "transpose", "x", permutation=permutation)
    g("b", "conv2d", "a", kernel=g.array(2, 2, 3, 4))
    wanted = ["b"]
    if case == "asked for":
        wanted.append("a")
    if case == "read twice":
        wanted.append(g("c", "activation", "a", activation="relu"))
    left = run_pass(passes.absorb_input_transposes, g.wants(*wanted))
    assert left[:2] == ["transpose", "conv2d"]


def _depthwise(g: Builder, **changes: Any) -> str:
    settings: dict[str, Any] = {"groups": 4, "pads": [1, 1, 1, 1], "channels_first": 1} | changes
    kernel = settings.pop("kernel", (3, 3, 1, 4))
    return g("y", "conv2d", "x", kernel=g.array(*kernel), **settings)


def _wants_planes(g: Builder, *others: str) -> Graph:
    """Its output with the channels first, as `view_outputs` leaves it."""
    graph = g.wants("y", *others)
    graph.outputs[0] = replace(graph.outputs[0], permutation=(0, 3, 1, 2))
    return graph


@pytest.mark.parametrize("pointwise", [False, True])
def test_keep_planes(run_pass: Run, pointwise: bool) -> None:
    g = Builder(x=(N, 4, 6, 5))
    changes = {"kernel": (1, 1, 4, 7), "groups": 1, "pads": [0, 0, 0, 0]} if pointwise else {}
    _depthwise(g, activation="relu", strides=[1, 1], **changes)
    graph = _wants_planes(g)
    assert run_pass(passes.keep_planes, graph) == ["conv2d"]
    (output,) = graph.outputs
    assert output.permutation is None
    assert graph.nodes[0].attributes["output_channels_first"] == 1


@pytest.mark.parametrize(
    "case",
    [
        {"channels_first": 0},
        {"kernel": (5, 5, 1, 4), "pads": [2, 2, 2, 2]},
        {"kernel": (3, 3, 2, 4), "groups": 2},
        {"kernel": (1, 1, 4, 4), "groups": 1, "pads": [0, 1, 0, 1]},
        {"kernel": (1, 1, 2, 4), "groups": 2, "pads": [0, 0, 0, 0]},
        {"kernel": (1, 1, 4, 4), "groups": 1, "pads": [0, 0, 0, 0], "strides": [1, 2]},
        {"strides": [2, 2]},
        {"dilations": [1, 2]},
        {"pads": [1, 0, 1, 1]},
        {"pool_size": [2, 2], "pool_strides": [2, 2]},
        "read",
        "asked for twice",
        "channels last",
    ],
    ids=str,
)
def test_keep_no_planes(run_pass: Run, case: dict[str, Any] | str) -> None:
    changes = case if isinstance(case, dict) else {}
    g = Builder(x=(N, 4, 6, 5) if changes.get("channels_first", 1) else (N, 6, 5, 4))
    _depthwise(g, **changes)
    others = [g("z", "activation", "y", activation="relu")] if case == "read" else []
    graph = g.wants("y") if case == "channels last" else _wants_planes(g, *others)
    if case == "asked for twice":
        graph.outputs.append(Output("again", "y"))
    run_pass(passes.keep_planes, graph)
    assert "output_channels_first" not in graph.nodes[0].attributes


@pytest.mark.parametrize("op", ["add", "subtract", "multiply", "divide", "maximum", "minimum"])
@pytest.mark.parametrize("shape", [(3,), (1, 1, 3)], ids=str)
@pytest.mark.parametrize("first", [True, False])
def test_widen_constants(run_pass: Run, op: str, shape: tuple[int, ...], first: bool) -> None:
    g = Builder(x=(N, 4, 5, 3))
    c = g.constant(*shape)
    graph = g.wants(g("y", op, *((c, "x") if first else ("x", c))))
    assert run_pass(passes.widen_constants, graph) == [op]
    assert graph.shape(graph.nodes[0].inputs[not first]) == (5, 3)


@pytest.mark.parametrize(
    ("x", "constant"),
    [((N, 4, 5, 1), (1,)), ((N, 4, 5, 16), (16,)), ((N, 4, 5, 3), (5, 3)), ((N, 3), (3,)),
     ((N, 4, 1, 3), (3,)), ((N, 4, 3, 3), (3, 1)), ((N, 4, 5, 1), (3,))],
    ids=str,
)  # fmt: skip
def test_widen_constants_not_every_one(
    run_pass: Run, x: tuple[Any, ...], constant: tuple[int, ...]
) -> None:
    g = Builder(x=x)
    c = g.constant(*constant)
    graph = g.wants(g("y", "add", "x", c))
    assert run_pass(passes.widen_constants, graph) == ["add"]
    assert graph.nodes[0].inputs == ("x", c)


def test_run_passes_tells_what_each_did() -> None:
    g = Builder(x=(N, 6, 5, 3))
    _linear(g, "conv2d")
    g("a", "activation", g("i", "identity", "y"), activation="relu")
    seen: list[tuple[str, int]] = []
    passes.run_passes(g.wants("a"), lambda name, graph: seen.append((name, len(graph.nodes))))
    assert [name for name, _ in seen] == [step.__name__ for step in passes.PASSES]
    assert seen[0] == ("drop_identities", 2)
    assert seen[-1][1] == 1


def test_a_graph_as_text() -> None:
    g = Builder(x=(N, 6, 5, 3))
    _linear(g, "conv2d", activation="relu")
    g("t", "transpose", "y", permutation=NCHW)
    graph = g.wants("t")
    passes.run_passes(graph)
    assert str(graph) == (
        "input x: float32 (n, 6, 5, 3)\n"
        "y: float32 (n, 4, 4, 4) = conv2d(x) {kernel=float32[3, 2, 3, 4], activation=relu}\n"
        "output t = y.transpose(0, 3, 1, 2)"
    )
