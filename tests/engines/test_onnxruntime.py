"""The engine over onnxruntime: what it adds to it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

import pyconv
from pyconv.errors import ModelError

Write = Callable[..., Path]


def test_what_onnxruntime_refuses_while_it_runs_is_a_model_error(write_onnx: Write) -> None:
    node = helper.make_node("Reshape", ["x", "shape"], ["y"])
    path = write_onnx([node], {"x": ["n", 4]}, {"shape": np.array([3, -1])})
    model = pyconv.load(path, engine="onnxruntime")
    message = rf"^{re.escape(str(path))}: onnxruntime cannot run it: .*Reshape[^\n]*$"
    with pytest.raises(ModelError, match=message):
        model.run({"x": np.zeros((1, 4), np.float32)})
