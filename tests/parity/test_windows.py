"""Convolution and pooling in forms that the public suites leave out.

What is drawn: pads that differ at the two ends, `auto_pad` in all its forms, groups with dilation,
strides larger than the kernel, kernels larger than the map, maps of one pixel, empty batches, last
windows that lie on padding alone, channels from 1 to 33.

Every network is held against naive loops in double precision, and against onnxruntime where that
computes it as ONNX says. A failure prints the network and the line `@reproduce_failure(...)` that
draws it again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from pyconv import _core
from pyconv.engines.native import NativeEngine
from pyconv.errors import ModelError

Array = NDArray[Any]


@dataclass(frozen=True)
class Window:
    """A sliding window over a map, as ONNX says it; one entry for each spatial axis.

    Attributes:
        pads: begins, then ends; of `auto_pad` NOTSET alone.
    """

    size: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    auto_pad: str = "NOTSET"
    ceil_mode: int = 0

    @property
    def attributes(self) -> dict[str, Any]:
        """ONNX's attributes, but for `ceil_mode`, which Conv lacks."""
        placed = {"pads": self.pads} if self.auto_pad == "NOTSET" else {"auto_pad": self.auto_pad}
        settings = {"strides": self.strides, "dilations": self.dilations, **placed}
        return {"kernel_shape": self.kernel, **settings}

    @property
    def explicit(self) -> Window:
        """The same window with the pads that ONNX's text gives for its `auto_pad`."""
        begins, ends = [], []
        for size, extent, stride in zip(self.size, self.extents, self.strides, strict=True):
            outputs = math.ceil(size / stride)
            total = max((outputs - 1) * stride + extent - size, 0)
            begins.append(total // 2 if self.auto_pad == "SAME_UPPER" else total - total // 2)
            ends.append(total - begins[-1])
        pads = {"NOTSET": self.pads, "VALID": (0,) * len(self.pads)}
        return replace(
            self,
            auto_pad="NOTSET",
            pads=pads.get(self.auto_pad, (*begins, *ends)),
            ceil_mode=self.ceil_mode if self.auto_pad == "NOTSET" else 0,
        )

    @property
    def extents(self) -> list[int]:
        """Pixels from the first tap to the last."""
        return [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]

    @property
    def fits(self) -> bool:
        """Whether there is room for the window once on every axis."""
        window = self.explicit
        begins, ends = np.split(np.array(window.pads), 2)
        missing = self.extents - (np.array(self.size) + begins + ends)
        # With ceil_mode a window may hang over by less than a stride.
        return bool((missing < (self.strides if window.ceil_mode else 1)).all())

    @property
    def onnxruntime_has_it(self) -> bool:
        """Whether onnxruntime computes what ONNX says.

        With `auto_pad` SAME it refuses a dilation of a Conv and forgets that of a pool, and cuts a
        map off that strides do not cover, where ONNX's shape inference has no pads below 0. With
        VALID it has a window hang over the end, of which ONNX's formula knows nothing.
        """
        if self.auto_pad == "NOTSET":
            return True
        if self.auto_pad == "VALID":
            return not self.ceil_mode
        covered = all(
            (math.ceil(size / stride) - 1) * stride + kernel >= size
            for size, stride, kernel in zip(self.size, self.strides, self.kernel, strict=True)
        )
        return covered and max(self.dilations) == 1

    @property
    def pads_are_small(self) -> bool:
        """Whether onnxruntime takes it for a pool's: pads below the kernel, dilated or not."""
        window = self.explicit
        return all(pad < size for pad, size in zip(window.pads, window.kernel * 2, strict=True))

    def without_room(self) -> Window:
        """The same with a kernel that is one pixel too large."""
        room = self.size[0] + self.pads[0] + self.pads[len(self.size)]
        strides = (1, *self.strides[1:])
        return replace(
            self, auto_pad="NOTSET", kernel=(room + 1, *self.kernel[1:]), strides=strides
        )

    def native(self) -> dict[str, list[int]]:
        """The attributes of the native operators, which have two spatial axes."""
        window, one = self.explicit, [1] * (2 - len(self.size))
        begins, ends = np.split(np.array(window.pads), 2)
        zero = [0] * len(one)
        return {
            "strides": [*one, *window.strides],
            "dilations": [*one, *window.dilations],
            "pads": [*zero, *map(int, begins), *zero, *map(int, ends)],
        }


_SIZES = st.one_of(st.just(1), st.integers(1, 4), st.integers(5, 14))


@st.composite
def windows(draw: st.DrawFn, *, pool: bool = False) -> Window:
    """Windows of one and two axes, most of which fit."""
    spatial = draw(st.sampled_from([2, 2, 2, 1]))

    def each(strategy: st.SearchStrategy[int]) -> tuple[int, ...]:
        return tuple(draw(strategy) for _ in range(spatial))

    kernel = each(st.one_of(st.just(1), st.just(3), st.integers(1, 6)))
    dilations = each(st.sampled_from([1, 1, 1, 2, 3]))
    # A pool's pads are smaller than its window: each window has a pixel of the map.
    most = [(k - 1) * d if pool else 5 for k, d in zip(kernel, dilations, strict=True)]
    auto_pad = draw(st.sampled_from(["NOTSET"] * 5 + ["VALID", "SAME_UPPER", "SAME_LOWER"]))
    return Window(
        size=each(_SIZES),
        kernel=kernel,
        strides=each(st.one_of(st.just(1), st.integers(1, 3), st.integers(1, 8))),
        dilations=dilations,
        pads=tuple(draw(st.integers(0, bound)) for bound in (*most, *most)),
        auto_pad=auto_pad,
        ceil_mode=draw(st.integers(0, 1)) if pool else 0,
    )


def _model(
    nodes: Sequence[onnx.NodeProto], shape: Sequence[int], weights: dict[str, Array], opset: int
) -> onnx.ModelProto:
    """A network from x to y of a free batch; `shape` is one image's."""
    graph = helper.make_graph(
        nodes,
        "windows",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("windows")


def _native(model: onnx.ModelProto, folder: Path, x: Array, threads: int = 1) -> Array:
    path = folder / "network.onnx"
    onnx.save(model, path)
    return NativeEngine(path, threads).run({"x": x})["y"]


def _onnxruntime(model: onnx.ModelProto, x: Array) -> Array:
    options = ort.SessionOptions()
    options.log_severity_level = 4  # it warns of shapes that it inferred wrongly
    session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": x})
    return np.asarray(y)


def _channels_last(x: Array) -> Array:
    """(n, c, width) or (n, c, height, width) → (n, height, width, c)."""
    four = x if x.ndim == 4 else x[:, :, np.newaxis]
    return np.ascontiguousarray(four.transpose(0, 2, 3, 1))


def _channels_first(y: Array, spatial: int) -> Array:
    """(n, height, width, c) → (n, c, width) or (n, c, height, width)."""
    moved = y.transpose(0, 3, 1, 2)
    return moved if spatial == 2 else moved[:, :, 0]


def _reference(op: str, x: Array, attributes: dict[str, Any]) -> Array:
    y = _core.reference_operator(op, [_channels_last(x)], attributes)
    return _channels_first(y, x.ndim - 2)


def _uniform(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


@dataclass(frozen=True)
class Convolution:
    """A Conv over random numbers of a seed."""

    window: Window
    groups: int
    group_in: int
    group_out: int
    bias: bool
    batch: int
    seed: int

    @property
    def weights(self) -> dict[str, Array]:
        out = self.groups * self.group_out
        shape = (out, self.group_in, *self.window.kernel)
        weights: dict[str, Array] = {"w": _uniform(self.seed, *shape)}
        if self.bias:
            weights["b"] = _uniform(self.seed + 1, out)
        return weights

    @property
    def images(self) -> Array:
        channels = self.groups * self.group_in
        return _uniform(self.seed + 2, self.batch, channels, *self.window.size)

    def node(self, output: str) -> onnx.NodeProto:
        attributes = {**self.window.attributes, "group": self.groups}
        return helper.make_node("Conv", ["x", *self.weights], [output], **attributes)

    def native(self) -> dict[str, Any]:
        """The attributes of the native operator."""
        kernel = np.moveaxis(self.weights["w"], (0, 1), (-1, -2))  # (spatial…, in / groups, out)
        kernel = np.ascontiguousarray(kernel if kernel.ndim == 4 else kernel[np.newaxis])
        settings = {**self.window.native(), "kernel": kernel, "groups": self.groups}
        return {**settings, "bias": self.weights["b"]} if self.bias else settings

    @property
    def tolerance(self) -> float:
        """1e-5 of the sums' deviation, which Winograd's algorithm is held to."""
        return 1e-5 * math.sqrt(math.prod(self.window.kernel) * self.group_in + 2)


@st.composite
def convolutions(draw: st.DrawFn) -> Convolution:
    grouped = draw(st.sampled_from(["whole", "whole", "groups", "depthwise"]))
    channels = st.one_of(st.integers(1, 33), st.sampled_from([15, 16, 17, 31, 32, 33]))
    groups = {"whole": 1, "groups": draw(st.integers(2, 4)), "depthwise": draw(channels)}[grouped]
    few = st.integers(1, 9)
    each = {"whole": channels, "groups": few, "depthwise": st.just(1)}[grouped]
    return Convolution(
        window=draw(windows()),
        groups=groups,
        group_in=draw(each),
        group_out=draw(each if grouped != "depthwise" else st.sampled_from([1, 1, 2])),
        bias=draw(st.booleans()),
        batch=draw(st.sampled_from([1, 1, 2, 3, 0])),
        seed=draw(st.integers(0, 999)),
    )


def _check_convolution(case: Convolution, folder: Path) -> None:
    x = case.images
    model = _model([case.node("y")], x.shape[1:], case.weights, 18)
    got = _native(model, folder, x)
    expected = _reference("conv2d", x, case.native())
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=0, atol=case.tolerance)
    if case.window.onnxruntime_has_it:
        theirs = _onnxruntime(model, x)
        np.testing.assert_allclose(got, theirs, rtol=0, atol=2 * case.tolerance)


_THREE = Window((1, 1), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1))


@settings(max_examples=300, deadline=None, print_blob=True)
@given(case=convolutions())
@example(Convolution(_THREE, 1, 16, 16, True, 0, 0))
@example(Convolution(_THREE, 1, 1, 33, True, 2, 0))
def test_convolution(folder: Path, case: Convolution) -> None:
    assume(case.window.fits)
    _check_convolution(case, folder)


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_convolution_of_every_count_of_channels(folder: Path, kernel: int) -> None:
    window = Window((5, 6), (kernel,) * 2, (1, 1), (1, 1), (0, 1, 0, 1))
    for channels in range(1, 34):
        for into, out in ((channels, channels), (channels, 34 - channels), (1, channels)):
            _check_convolution(Convolution(window, 1, into, out, True, 2, channels), folder)


@settings(max_examples=100, deadline=None, print_blob=True)
@given(case=convolutions(), pool=windows(pool=True), threads=st.sampled_from([1, 2]))
def test_convolution_that_is_pooled(
    folder: Path, case: Convolution, pool: Window, threads: int
) -> None:
    assume(case.window.fits and case.window.onnxruntime_has_it)
    x = case.images
    pool = replace(pool, dilations=(1,) * len(pool.size))
    pools = {**pool.attributes, "ceil_mode": pool.ceil_mode}
    nodes = [
        case.node("map"),
        helper.make_node("Relu", ["map"], ["active"]),
        helper.make_node("MaxPool", ["active"], ["y"], **pools),
    ]
    model = _model(nodes, x.shape[1:], case.weights, 18)
    assume(len(pool.size) == x.ndim - 2)
    pool = replace(pool, size=_reference("conv2d", x, case.native()).shape[2:])
    assume(pool.fits and pool.onnxruntime_has_it and pool.pads_are_small)
    got = _native(model, folder, x, threads)
    np.testing.assert_allclose(got, _onnxruntime(model, x), rtol=0, atol=2 * case.tolerance)


@settings(max_examples=60, deadline=None, print_blob=True)
@given(case=convolutions())
def test_convolution_that_has_no_room(folder: Path, case: Convolution) -> None:
    case = replace(case, window=case.window.without_room())
    model = _model([case.node("y")], case.images.shape[1:], case.weights, 18)
    with pytest.raises(ModelError, match="does not fit into the map"):
        _native(model, folder, case.images)


@dataclass(frozen=True)
class Pool:
    """A MaxPool, or an AveragePool that counts the padding or does not, over random numbers."""

    window: Window
    channels: int
    batch: int
    count_include_pad: int | None
    seed: int

    @property
    def images(self) -> Array:
        return _uniform(self.seed, self.batch, self.channels, *self.window.size)

    def node(self) -> onnx.NodeProto:
        settings = {**self.window.attributes, "ceil_mode": self.window.ceil_mode}
        if self.count_include_pad is None:
            return helper.make_node("MaxPool", ["x"], ["y"], **settings)
        settings["count_include_pad"] = self.count_include_pad
        return helper.make_node("AveragePool", ["x"], ["y"], **settings)

    def reference(self) -> Array:
        settings: dict[str, Any] = self.window.native()
        settings["kernel_size"] = [*(1,) * (2 - len(self.window.size)), *self.window.kernel]
        settings["ceil_mode"] = self.window.explicit.ceil_mode
        if self.count_include_pad is None:
            return _reference("max_pool2d", self.images, settings)
        settings["count_include_pad"] = self.count_include_pad
        return _reference("average_pool2d", self.images, settings)

    @property
    def model(self) -> onnx.ModelProto:
        return _model([self.node()], self.images.shape[1:], {}, 22)


_POOLS = st.builds(
    Pool,
    window=windows(pool=True),
    channels=st.integers(1, 33),
    batch=st.sampled_from([1, 1, 2, 3, 0]),
    count_include_pad=st.sampled_from([None, 0, 1]),
    seed=st.integers(0, 999),
)

# Its last window lies on padding alone, but for which it would be left out.
_ON_PADDING = Window((4, 5), (2, 3), (3, 2), (1, 1), (1, 1, 1, 2), ceil_mode=1)


@settings(max_examples=300, deadline=None, print_blob=True)
@given(case=_POOLS)
@example(Pool(_ON_PADDING, 3, 2, None, 0))
@example(Pool(_ON_PADDING, 3, 2, 0, 0))
@example(Pool(_ON_PADDING, 3, 2, 1, 0))
@example(Pool(Window((2, 2), (3, 4), (2, 3), (1, 1), (0, 0, 0, 0), ceil_mode=1), 1, 1, None, 0))
def test_pool(folder: Path, case: Pool) -> None:
    assume(case.window.fits)
    x = case.images
    got = _native(case.model, folder, x)
    tolerance = 0.0 if case.count_include_pad is None else 1e-6
    np.testing.assert_allclose(got, case.reference(), rtol=0, atol=tolerance)
    if case.window.onnxruntime_has_it and case.window.pads_are_small:
        theirs = _onnxruntime(case.model, x)
        # The maximum of a window that lies on padding alone: the lowest number there, -inf here.
        theirs = np.where(theirs == np.finfo(np.float32).min, -np.inf, theirs)
        np.testing.assert_allclose(got, theirs, rtol=0, atol=2 * tolerance)


@settings(max_examples=60, deadline=None, print_blob=True)
@given(case=_POOLS)
def test_pool_that_has_no_room(folder: Path, case: Pool) -> None:
    case = replace(case, window=case.window.without_room())
    with pytest.raises(ModelError, match="does not fit into the map"):
        _native(case.model, folder, case.images)
