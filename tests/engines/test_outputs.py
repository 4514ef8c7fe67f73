"""What both engines hand out."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

import pyconv
from pyconv.engines.base import EngineName

Write = Callable[..., Path]
ENGINES: tuple[EngineName, ...] = ("native", "onnxruntime")


@pytest.mark.parametrize("engine", ENGINES)
def test_nobody_can_write_into_what_the_engine_keeps(engine: EngineName, write_onnx: Write) -> None:
    nodes = [
        helper.make_node("Relu", ["w"], ["computed_at_load"]),
        helper.make_node("Identity", ["computed_at_load"], ["once_more"]),
        helper.make_node("Add", ["x", "once_more"], ["y"]),
    ]
    names = ["w", "computed_at_load", "once_more", "y"]
    path = write_onnx(nodes, {"x": ["n", 3]}, {"w": np.ones(3, np.float32)}, names)
    model = pyconv.load(path, engine=engine)
    for outputs in (None, names):
        for _ in range(2):
            got = model.run({"x": np.zeros((2, 3), np.float32)}, outputs)
            for name, array in got.items():
                np.testing.assert_array_equal(array, 1, name)
                array[...] = 7


@pytest.mark.parametrize("engine", ENGINES)
def test_every_array_is_ones_own(engine: EngineName, write_onnx: Write) -> None:
    nodes = [
        helper.make_node("Identity", ["x"], ["same"]),
        helper.make_node("Transpose", ["x"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("Reshape", ["x", "shape"], ["flat"]),
        helper.make_node("Relu", ["x"], ["y"]),
        helper.make_node("Identity", ["y"], ["y_same"]),
        helper.make_node("Transpose", ["y"], ["y_turned"], perm=[0, 2, 1]),
        helper.make_node("Reshape", ["y", "shape"], ["y_flat"]),
    ]
    names = ["x", *(name for node in nodes for name in node.output)]
    constants = {"shape": np.array([0, -1])}
    path = write_onnx(nodes, {"x": ["n", 3, 4]}, constants, names[1:])
    model = pyconv.load(path, engine=engine)
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    for outputs in (None, names):
        got = model.run({"x": x}, outputs)
        arrays = {"the input": x, **got}
        for a, b in itertools.combinations(arrays, 2):
            assert not np.shares_memory(arrays[a], arrays[b]), (a, b)
        np.testing.assert_array_equal(got["turned"], x.transpose(0, 2, 1))
        np.testing.assert_array_equal(got["y_turned"], np.maximum(x, 0).transpose(0, 2, 1))
        np.testing.assert_array_equal(got["y_flat"], np.maximum(x, 0).reshape(2, 12))
