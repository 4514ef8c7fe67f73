"""The operators as functions: what people write for sizes and pads, and their examples."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

import pyconv
from pyconv import ops

_MODULES = ["pyconv", *(m.name for m in pkgutil.iter_modules(pyconv.__path__, "pyconv."))]


def _with_examples() -> list[str]:
    finder = doctest.DocTestFinder(exclude_empty=True)
    # __main__ would run; the client's examples need a server.
    modules = [name for name in _MODULES if not name.endswith(("__main__", ".client"))]
    return [
        name
        for name in modules
        if any(test.examples for test in finder.find(importlib.import_module(name)))
    ]


@pytest.mark.parametrize("name", _with_examples())
def test_examples_print_what_they_say(name: str) -> None:
    outcome = doctest.testmod(importlib.import_module(name))
    assert outcome.attempted > 0
    assert outcome.failed == 0


def test_every_operator_has_an_example() -> None:
    assert "pyconv.ops" in _with_examples()
    functions = [
        getattr(ops, name)
        for name in pyconv.__all__
        if getattr(getattr(pyconv, name), "__module__", "") == "pyconv.ops"
    ]
    assert len(functions) > 20
    assert [f.__name__ for f in functions if ">>>" not in (f.__doc__ or "")] == []


def _onnxruntime(operator: str, arrays: Sequence[np.ndarray], **attributes: Any) -> np.ndarray:
    """One ONNX operator; images go in and come out channels last."""
    names = [f"i{index}" for index in range(len(arrays))]
    graph = helper.make_graph(
        [helper.make_node(operator, names, ["y"], **attributes)],
        "one",
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape)
            for name, array in zip(names, arrays, strict=True)
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    opsets = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    result: np.ndarray = session.run(None, dict(zip(names, arrays, strict=True)))[0]
    return result


def _channels_first(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2))


_SIZES = st.integers(1, 9)


@given(
    height=_SIZES,
    width=_SIZES,
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    pool=st.booleans(),
)
def test_same_pads_are_those_of_onnx(
    height: int, width: int, kernel: tuple[int, int], strides: tuple[int, int], pool: bool
) -> None:
    if any(k < s for k, s in zip(kernel, strides, strict=True)):
        strides = (1, 1)  # onnxruntime crops where the stride is larger; TensorFlow does not
    random = np.random.default_rng(height * 10 + width)
    x = random.uniform(-1, 1, (2, height, width, 3)).astype(np.float32)
    settings = {"strides": strides, "auto_pad": "SAME_UPPER"}
    if pool:
        got = pyconv.max_pool2d(x, kernel, strides=strides, pads="same")
        want = _onnxruntime("MaxPool", [_channels_first(x)], kernel_shape=kernel, **settings)
    else:
        w = random.uniform(-1, 1, (*kernel, 3, 4)).astype(np.float32)
        got = pyconv.conv2d(x, w, strides=strides, pads="same")
        filters = np.ascontiguousarray(w.transpose(3, 2, 0, 1))
        want = _onnxruntime("Conv", [_channels_first(x), filters], **settings)
    np.testing.assert_allclose(_channels_first(got), want, rtol=0, atol=1e-5)


def _ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def _conv(**settings: Any) -> np.ndarray:
    return pyconv.conv2d(_ones(1, 4, 4, 1), _ones(3, 3, 1, 1), **settings)


@pytest.mark.parametrize(
    ("written", "sides"),
    [
        ("valid", (0, 0, 0, 0)),
        (0, (0, 0, 0, 0)),
        (2, (2, 2, 2, 2)),
        ((1, 2), (1, 2, 1, 2)),
        ([1, 2, 0, 3], (1, 2, 0, 3)),
        (np.array([1, 2]), (1, 2, 1, 2)),
        (np.int64(1), (1, 1, 1, 1)),
    ],
    ids=str,
)
def test_pads_as_people_write_them(written: Any, sides: tuple[int, int, int, int]) -> None:
    random = np.random.default_rng(0)
    x = random.random((1, 6, 7, 2), np.float32)
    kernel = random.random((3, 4, 2, 5), np.float32)
    top, left, bottom, right = sides
    padded = np.pad(x, [(0, 0), (top, bottom), (left, right), (0, 0)])
    np.testing.assert_allclose(
        pyconv.conv2d(x, kernel, pads=written), pyconv.conv2d(padded, kernel), rtol=1e-6
    )
    if max(sides) < 3:  # a pool takes no window that lies on padding alone
        below = np.pad(x, [(0, 0), (top, bottom), (left, right), (0, 0)], constant_values=-np.inf)
        np.testing.assert_array_equal(
            pyconv.max_pool2d(x, 3, strides=1, pads=written), pyconv.max_pool2d(below, 3, strides=1)
        )


@pytest.mark.parametrize("shape", [(2, 5, 3, 4), (7, 4), (4,)])
@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("centered", [True, False])
def test_batch_normalization_is_its_definition(
    shape: tuple[int, ...], scaled: bool, centered: bool
) -> None:
    random = np.random.default_rng(3)
    x = random.normal(2, 3, shape).astype(np.float32)
    mean, beta, gamma = random.normal(size=(3, 4)).astype(np.float32)
    variance = random.uniform(0, 2, 4).astype(np.float32)
    y = pyconv.batch_normalization(
        x,
        mean,
        variance,
        gamma=gamma if scaled else None,
        beta=beta if centered else None,
        epsilon=0.01,
    )
    wanted = (x.astype(np.float64) - mean) / np.sqrt(variance.astype(np.float64) + 0.01)
    wanted = wanted * (gamma if scaled else 1) + (beta if centered else 0)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize(
    ("function", "oracle"),
    [
        (pyconv.add, np.add),
        (pyconv.subtract, np.subtract),
        (pyconv.multiply, np.multiply),
        (pyconv.divide, np.divide),
        (pyconv.maximum, np.maximum),
        (pyconv.minimum, np.minimum),
        (pyconv.power, np.power),
    ],
)
def test_arithmetic_broadcasts_as_numpy_does(
    function: Callable[..., np.ndarray], oracle: Callable[..., np.ndarray]
) -> None:
    random = np.random.default_rng(1)
    for a, b in [((3, 4), (4,)), ((2, 1, 5), (3, 1)), ((), (2, 2)), ((7,), (7,)), ((0, 3), (3,))]:
        x, y = (random.uniform(0.5, 2, shape).astype(np.float32) for shape in (a, b))
        np.testing.assert_allclose(function(x, y), oracle(x, y), rtol=1e-6)


def test_arrays_of_any_strides_are_taken() -> None:
    x = np.random.default_rng(2).normal(size=(2, 5, 6, 3)).astype(np.float32)
    for view in (x[::-1], x[:, ::2], x.transpose(0, 2, 1, 3), np.asfortranarray(x)):
        same = np.ascontiguousarray(view)
        np.testing.assert_array_equal(pyconv.relu(view), np.maximum(same, 0))
        np.testing.assert_array_equal(pyconv.max_pool2d(view), pyconv.max_pool2d(same))
        np.testing.assert_array_equal(pyconv.flatten(view), same.reshape(len(same), -1))
        np.testing.assert_array_equal(
            pyconv.transpose(view, (3, 1, 0, 2)), same.transpose(3, 1, 0, 2)
        )


def test_nothing_that_is_given_is_changed() -> None:
    x = np.random.default_rng(3).uniform(-1, 1, (1, 4, 4, 2)).astype(np.float32)
    before = x.copy()
    for result in (pyconv.relu(x), pyconv.softmax(x), pyconv.reshape(x, (-1,)), pyconv.add(x, x)):
        result[...] = 7
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: _conv(pads="full"),
            "pads: expected",
        ),
        (
            lambda: _conv(pads=(1, 2, 3)),
            "pads: expec",
        ),
        (
            lambda: _conv(strides=0),
            "strides: expected",
        ),
        (
            lambda: _conv(strides=1.5),
            "strides: expect",
        ),
        (lambda: pyconv.conv2d(_ones(1, 4, 4, 1), _ones(3, 3, 2, 1)), "kernel"),
        (lambda: pyconv.conv2d(_ones(1, 2, 2, 1), _ones(3, 3, 1, 1)), "window"),
        (lambda: pyconv.conv2d(_ones(4, 4, 1), _ones(3, 3, 1, 1)), "conv2d: x: expected"),
        (lambda: _conv(activation="reluu"), "reluu"),
        (lambda: pyconv.max_pool2d(_ones(1, 4, 4, 1), (2, 2, 2)), "kernel_size: expected"),
        (lambda: pyconv.dense(_ones(2, 3), _ones(4, 5)), "dense"),
        (lambda: pyconv.dense(np.ones((2, 3)), _ones(3, 5)), "float64"),
        (lambda: pyconv.relu(np.ones(3, np.int32)), "int32"),
        (lambda: pyconv.activation(_ones(3), "gelo"), "gelo"),
        (lambda: pyconv.softmax(_ones(3), axis=1), "axis"),
        (lambda: pyconv.batch_normalization(_ones(2, 3), _ones(3), _ones(1)), "variance: expec"),
        (lambda: pyconv.batch_normalization(_ones(2, 3), _ones(3), np.ones(3)), "float64"),
        (lambda: pyconv.batch_normalization(np.float32(1), _ones(), _ones()), "mean: expected"),
        (lambda: pyconv.add(_ones(3), _ones(4)), "broadcast"),
        (lambda: pyconv.concat([]), "concat"),
        (lambda: pyconv.flatten(np.float32(1)), r"flatten: x: expected shape \(n, ...\)"),
        (lambda: pyconv.reshape(_ones(6), (4, -1)), "reshape"),
        (lambda: pyconv.reshape(_ones(0), (0, 2**62)), "more elements than any memory"),
        (lambda: pyconv.transpose(_ones(2, 3), (0, 0)), "permutation"),
        (lambda: pyconv.pad(_ones(3), [(1, 2, 3)]), "a pair"),
        (lambda: pyconv.pad(_ones(3), [(1, 1)], "mirror"), "mirror"),
        (lambda: pyconv.reduce(_ones(3), axes=1), "axes"),
        (lambda: pyconv.reduce(_ones(3), "median", axes=0), "median"),
        (lambda: pyconv.reduce(_ones(3), axes="x"), "axes: expected"),
    ],
)
def test_what_cannot_be_is_said(call: Callable[[], object], message: str) -> None:
    with pytest.raises(pyconv.InputError, match=message):
        call()


def test_an_array_that_no_memory_holds() -> None:
    side = 2**24  # 2^50 bytes: more than a process can address
    with pytest.raises(MemoryError, match=f"no memory for an array of {side * side * 4} bytes"):
        pyconv.pad(_ones(1, 1), [(side - 1, 0), (side - 1, 0)])
