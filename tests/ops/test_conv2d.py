"""Every algorithm of conv2d against the definition, over the edges of its tiles."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pyconv import _core
from pyconv.errors import InputError

# Around one, two and four vectors of every level, and around the panels that they make.
CHANNELS = [*range(1, 34), 47, 48, 63, 64, 65]
FEW_CHANNELS = [1, 2, 3, 5, 8, 16, 17, 33, 65]


@dataclass(frozen=True)
class Case:
    """A convolution: sizes, and the attributes as the operator takes them."""

    algorithm: str
    size: tuple[int, int] = (6, 7)
    channels: int = 3
    filters: int = 5
    kernel: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1
    bias: bool = True
    activation: str = "linear"
    pool: tuple[int, int, int, int] | None = None  # the window's size, its strides
    batch: int = 2
    exact: bool = False

    def attributes(self) -> dict[str, Any]:
        random = np.random.default_rng(self.filters)
        shape = (*self.kernel, self.channels // self.groups, self.filters)
        return {
            "kernel": random.uniform(-1, 1, shape).astype(np.float32),
            "bias": random.uniform(-1, 1, self.filters).astype(np.float32) if self.bias else None,
            "strides": self.strides,
            "dilations": self.dilations,
            "pads": self.pads,
            "groups": self.groups,
            "activation": self.activation,
            "pool_size": self.pool and self.pool[:2],
            "pool_strides": self.pool and self.pool[2:],
            "exact": int(self.exact),
        }

    def images(self) -> NDArray[np.float32]:
        random = np.random.default_rng(self.channels)
        shape = (self.batch, *self.size, self.channels)
        return random.uniform(-1, 1, shape).astype(np.float32)

    @property
    def terms(self) -> int:
        return self.kernel[0] * self.kernel[1] * self.channels // self.groups

    def __str__(self) -> str:
        default = Case(self.algorithm)
        parts = [f"{k}={v}" for k, v in vars(self).items() if v != getattr(default, k)]
        return ",".join([self.algorithm.split()[0], *parts]).replace(" ", "")


@functools.cache
def expected_output(case: Case) -> NDArray[np.float64]:
    return _core.reference_operator("conv2d", [case.images()], case.attributes())


def variations(base: Case) -> list[Case]:
    """What may come with any algorithm that takes any padding."""
    return [
        replace(base, bias=False),
        *(replace(base, batch=batch) for batch in (0, 1, 5)),
        *(replace(base, activation=name) for name in ("relu", "relu6", "leaky_relu", "gelu")),
        *(
            replace(base, pads=pads)
            for pads in [(1, 1, 1, 1), (0, 1, 2, 3), (4, 0, 0, 1), (0, 5, 4, 0)]
        ),
        replace(base, pool=(2, 2, 2, 2), activation="relu"),
        replace(base, pool=(2, 2, 2, 2), activation="tanh", pads=(1, 0, 1, 0)),
        replace(base, pool=(2, 2, 2, 2), activation="negative"),  # it falls: no pooling before it
        replace(base, pool=(3, 3, 2, 2), pads=(1, 1, 1, 1)),
        replace(base, pool=(2, 3, 1, 2), pads=(1, 2, 3, 4)),
        replace(base, pool=(1, 1, 3, 2)),
    ]


STENCIL = Case("stencil", channels=1, filters=16, size=(9, 9))
STENCIL_CASES = [
    *(replace(STENCIL, filters=filters, size=(4, 5)) for filters in CHANNELS),
    # 8 or 4 columns go together, 2 or 1 where they are pooled.
    *(replace(STENCIL, filters=5, size=(4, 2 + width), pool=pool)
      for width in [*range(2, 12), 16, 17, 18, 33] for pool in (None, (2, 2, 2, 2))),
    *(replace(STENCIL, size=(height, 5)) for height in range(3, 9)),
    replace(STENCIL, size=(3, 3)),
    *(replace(STENCIL, kernel=(5, 5), filters=filters, size=(7, 12)) for filters in FEW_CHANNELS),
    *(replace(STENCIL, channels=3, filters=filters, size=(5, 12)) for filters in FEW_CHANNELS),
    replace(STENCIL, channels=3, kernel=(3, 1)),
    replace(STENCIL, channels=9, kernel=(3, 1)),
    replace(STENCIL, channels=5, kernel=(5, 1)),
    replace(STENCIL, channels=1, kernel=(3, 9), size=(5, 12)),
    *(replace(STENCIL, strides=strides, size=(11, 12))
      for strides in [(2, 2), (3, 1), (1, 3), (5, 4)]),
    replace(STENCIL, strides=(2, 2), pads=(1, 1, 1, 1), pool=(2, 2, 2, 2), size=(12, 13)),
    replace(STENCIL, size=(1, 1), pads=(1, 1, 1, 1)),
    *variations(STENCIL),
    *variations(replace(STENCIL, kernel=(5, 5), filters=17)),
    *variations(replace(STENCIL, channels=3, filters=33)),
]  # fmt: skip

# Of one channel, pooled: Winograd's smallest tile over a stencil; 32 outputs of a row go together.
STENCIL_WINOGRAD = Case("stencil", channels=1, filters=16, pool=(2, 2, 2, 2), activation="relu")
STENCIL_WINOGRAD_CASES = [
    *(replace(STENCIL_WINOGRAD, filters=filters, size=(5, 6)) for filters in CHANNELS),
    *(replace(STENCIL_WINOGRAD, filters=3, size=(4, 2 * outputs + extra))
      for outputs in [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 34, 65] for extra in (2, 3)),
    *(replace(STENCIL_WINOGRAD, size=(height, 9)) for height in range(4, 10)),
    *(replace(STENCIL_WINOGRAD, pads=pads, activation=name, bias=bias)
      for pads, name, bias in [((1, 1, 1, 1), "relu6", True), ((0, 1, 2, 3), "linear", False)]),
]  # fmt: skip

WINOGRAD = Case("Winograd", channels=16, filters=16)
WINOGRAD_EDGES = [16, 17, 24, 31, 32, 33, 47, 48, 63, 64, 65]
WINOGRAD_CASES = [
    *(replace(WINOGRAD, channels=channels, size=(4, 5)) for channels in WINOGRAD_EDGES),
    *(replace(WINOGRAD, filters=filters, size=(5, 4)) for filters in WINOGRAD_EDGES),
    replace(WINOGRAD, channels=64, filters=64),
    replace(WINOGRAD, channels=65, filters=65),
    # Odd maps cut the last tile; one image's tiles end within a block of them.
    *(replace(WINOGRAD, size=(height, width)) for height in range(3, 9) for width in range(3, 9)),
    *(replace(WINOGRAD, size=size, batch=5) for size in [(3, 3), (4, 4), (5, 3), (3, 40), (40, 3)]),
    replace(WINOGRAD, size=(21, 23), batch=3),
    replace(WINOGRAD, size=(1, 1), pads=(1, 1, 1, 1)),
    replace(WINOGRAD, size=(1, 2), pads=(2, 0, 0, 3)),
    *(case for case in variations(WINOGRAD) if case.pool is None),
    *(replace(WINOGRAD, activation=name, size=(5, 5), batch=5) for name in ("elu", "sigmoid")),
    *(replace(WINOGRAD, pool=(2, 2, 2, 2), size=(height, width), filters=filters, activation="relu")
      for height in (4, 5, 6, 7) for width in (4, 5, 9) for filters in (16, 33)),
    replace(WINOGRAD, pool=(2, 2, 2, 2), pads=(1, 0, 2, 1), batch=5, activation="relu6"),
    # Every tile: cut along the edges, over blocks of tiles, pooled in it and across it.
    *(replace(WINOGRAD, algorithm=f"Winograd F({m}x{m}", size=(m + 2, m + 2)) for m in (2, 4, 5)),
    *(replace(WINOGRAD, size=(height, width), batch=3)
      for height in (9, 10, 11, 12, 13) for width in (9, 12, 14, 17)),
    *(replace(WINOGRAD, pool=(2, 2, 2, 2), size=(height, width), filters=filters, activation="relu",
              batch=batch)
      for height, width in [(10, 10), (11, 11), (12, 12), (13, 13), (12, 22), (14, 14), (30, 31)]
      for filters in (16, 33, 65) for batch in (1, 9)),
    # 48 tiles go together: more of them in a row, about as many in a map, and blocks that begin
    # within a row of one image and end within another.
    *(replace(WINOGRAD, size=(5, width), batch=1) for width in (194, 198, 241, 246, 250)),
    *(replace(WINOGRAD, size=size) for size in [(26, 34), (30, 30), (34, 26), (42, 32), (37, 47)]),
    *(replace(WINOGRAD, size=size, pool=(2, 2, 2, 2), activation="relu", batch=3)
      for size in [(5, 200), (27, 35), (30, 31), (19, 51), (22, 22)]),
]  # fmt: skip

EXACT_CASES = [
    Case("indirect", channels=16, filters=17, size=(12, 12), exact=True),
    Case("indirect", channels=33, filters=16, pool=(2, 2, 2, 2), activation="relu", exact=True),
    replace(
        STENCIL, pool=(2, 2, 2, 2), activation="relu", algorithm="stencil, weights", exact=True
    ),
]

DEPTHWISE = Case("depthwise", channels=17, filters=17, groups=17)


def depthwise(channels: int, **changes: Any) -> Case:
    return replace(DEPTHWISE, channels=channels, filters=channels, groups=channels, **changes)


DEPTHWISE_CASES = [
    *(depthwise(channels) for channels in CHANNELS if channels > 1),
    *(depthwise(9, kernel=kernel) for kernel in [(1, 1), (1, 4), (2, 2), (4, 3), (5, 5), (6, 7)]),
    *(depthwise(9, strides=strides, size=(11, 9)) for strides in [(2, 2), (1, 3), (5, 4)]),
    depthwise(9, dilations=(2, 1)),
    depthwise(9, dilations=(2, 3), pads=(0, 1, 2, 3)),
    *variations(depthwise(19)),
]

INDIRECT = Case("indirect")
INDIRECT_CASES = [
    *(replace(INDIRECT, kernel=(2, 3), channels=channels) for channels in CHANNELS),
    *(replace(INDIRECT, kernel=(2, 3), filters=filters) for filters in CHANNELS),
    # Tiles of up to 8 pixels, evened out at the end of a block.
    *(replace(INDIRECT, kernel=(2, 2), size=(2, 1 + width), batch=1) for width in range(1, 20)),
    *(replace(INDIRECT, kernel=(2, 2), size=(1 + height, 2), batch=1) for height in range(1, 20)),
    replace(INDIRECT, kernel=(2, 2), size=(20, 21)),
    replace(INDIRECT, kernel=(2, 2), size=(2, 90)),
    *(replace(INDIRECT, kernel=(height, width), channels=channels, size=(8, 9))
      for height in (1, 2, 3, 4, 5, 7) for width in (1, 2, 3, 4, 5, 7) for channels in (2, 4)
      if (height, width) != (1, 1) and (height, width * channels) not in {(3, 9), (5, 5)}),
    *(replace(INDIRECT, kernel=(4, 4), strides=strides, size=(12, 13))
      for strides in [(1, 2), (2, 2), (3, 3), (5, 6), (2, 1)]),
    *(replace(INDIRECT, dilations=dilations, size=(9, 11), pads=pads)
      for dilations in [(1, 2), (2, 1), (2, 2), (3, 4)] for pads in [(0, 0, 0, 0), (3, 1, 0, 2)]),
    replace(INDIRECT, dilations=(2, 2), strides=(2, 3), pads=(1, 2, 3, 4), channels=8),
    *variations(replace(INDIRECT, kernel=(2, 3), channels=17, filters=33)),
    *variations(replace(INDIRECT, kernel=(4, 4))),
    # Too few channels for Winograd, and windows that the stencils lack.
    replace(INDIRECT, channels=15, filters=16),
    replace(INDIRECT, channels=16, filters=15),
    replace(INDIRECT, channels=16, filters=16, strides=(1, 2)),
    replace(INDIRECT, channels=16, filters=16, pool=(2, 2, 2, 2), activation="gelu"),
    replace(INDIRECT, channels=1, dilations=(1, 2)),
    # A map so wide that the scratch for the pool holds less than one window of rows.
    replace(INDIRECT, kernel=(2, 2), filters=65, size=(7, 100), pool=(3, 3, 2, 2), batch=1),
]  # fmt: skip

GROUPED_CASES = [
    *(Case("indirect", kernel=kernel, channels=2 * half, filters=filters, groups=2)
      for half in (1, 2, 8, 9, 17) for filters in (2, 6, 34, 66) for kernel in [(2, 2), (3, 3)]
      if (2 * half, filters) != (2, 2)),
    *(Case("indirect", channels=channels, filters=2 * channels, groups=channels, pads=(1, 1, 1, 1))
      for channels in (2, 5, 16, 33)),
    Case("indirect", channels=3, filters=9, groups=3, kernel=(5, 4), strides=(2, 1)),
    *variations(Case("indirect", channels=12, filters=8, groups=4)),
]  # fmt: skip

POINTWISE = Case("matrix product", kernel=(1, 1))
POINTWISE_CASES = [
    *(replace(POINTWISE, channels=channels, size=(3, 3)) for channels in FEW_CHANNELS),
    *(replace(POINTWISE, filters=filters, size=(3, 3)) for filters in FEW_CHANNELS),
    replace(POINTWISE, strides=(2, 3)),
    replace(POINTWISE, channels=4, filters=6, groups=2),
    replace(POINTWISE, size=(1, 1)),
    *variations(POINTWISE),
]

CASES = (
    STENCIL_CASES
    + STENCIL_WINOGRAD_CASES
    + WINOGRAD_CASES
    + EXACT_CASES
    + DEPTHWISE_CASES
    + INDIRECT_CASES
    + GROUPED_CASES
)
CASES = list(dict.fromkeys(CASES + POINTWISE_CASES))


def algorithm_of(case: Case, isa: str) -> str:
    builder = _core.ProgramBuilder(isa)
    x = builder.input("x", [-1, *case.size, case.channels])
    program = builder.build([builder.add("conv2d", [x], case.attributes())])
    return program.steps()[0].algorithm


def test_one_channel_with_a_pool_of_two_by_two_goes_by_winograd(isa: str) -> None:
    assert algorithm_of(STENCIL_WINOGRAD, isa).startswith("stencil, Winograd F(2x2, 3x3)")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_conv2d_equals_definition(
    case: Case, isa: str, product_tolerance: Callable[..., float]
) -> None:
    algorithm = algorithm_of(case, isa)
    assert algorithm.startswith(case.algorithm)
    got = _core.run_operator("conv2d", [case.images()], case.attributes(), isa=isa)
    expected = expected_output(case)
    assert got.shape == expected.shape
    # No activation used here is steeper than gelu, by 1.13; each is exact to a few roundings.
    tolerance = 1.13 * product_tolerance(case.terms, algorithm) + 2.0**-21
    np.testing.assert_allclose(got, expected, rtol=2.0**-21, atol=tolerance)


# Of more rows than are brought to channels last in one go.
STRIPS = [
    depthwise(65, size=(61, 33), pads=(1, 1, 1, 1)),
    depthwise(130, size=(40, 33), strides=(2, 2), pads=(0, 0, 1, 1)),
    replace(WINOGRAD, channels=65, size=(61, 33), pads=(1, 1, 1, 1)),
    replace(INDIRECT, channels=65, size=(61, 33), strides=(2, 2), pool=(3, 3, 2, 2)),
    replace(POINTWISE, channels=65, size=(61, 33)),
    replace(STENCIL, channels=3, size=(61, 233), pads=(3, 0, 1, 2)),
]


@pytest.mark.parametrize("case", [*dict.fromkeys(STRIPS + CASES)], ids=str)
def test_conv2d_channels_first_equals_channels_last(case: Case, isa: str) -> None:
    images = case.images()
    channels_first = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    attributes = {**case.attributes(), "channels_first": 1}
    got = _core.run_operator("conv2d", [channels_first], attributes, isa=isa)
    expected = _core.run_operator("conv2d", [images], case.attributes(), isa=isa)
    np.testing.assert_array_equal(got, expected)


# From planes to planes: rows around one and two vectors, in blocks of four, two and one.
PLANES = [
    replace(depthwise(3, size=size, **changes), pads=pads)
    for size, pads, changes in [
        *(((3, width), (1, 1, 1, 1), {}) for width in [*range(1, 35), 48, 49]),
        *(((height, 5), (1, 1, 1, 1), {}) for height in range(1, 12)),
        *(((5, 18), (top, 1, bottom, 1), {}) for top, bottom in [(0, 0), (0, 1), (1, 0), (4, 5)]),
        *(((1, 9), (top, 1, bottom, 1), {}) for top, bottom in [(2, 0), (0, 2), (3, 3)]),
        *(((6, 7), (1, 1, 1, 1), {"batch": batch}) for batch in (0, 1, 5)),
        *(((6, 17), (1, 1, 1, 1), {"activation": name}) for name in ("relu", "relu6", "gelu")),
        ((6, 17), (1, 1, 1, 1), {"bias": False}),
    ]
]


# Panels of two vectors of pixels, cut at the end of a map; tiles of up to eight filters; strips.
POINTWISE_PLANES = [
    *(
        replace(POINTWISE, size=(1, width), channels=3, filters=9)
        for width in [*range(1, 35), 64, 65]
    ),
    *(replace(POINTWISE, size=(5, 7), filters=filters) for filters in range(1, 26)),
    *(replace(POINTWISE, size=(5, 7), channels=channels) for channels in (1, 2, 31, 64, 130)),
    *(replace(POINTWISE, size=(31, 33), channels=channels, batch=1) for channels in (1, 60, 300)),
    *(replace(POINTWISE, size=(6, 7), batch=batch) for batch in (0, 1, 5)),
    *(replace(POINTWISE, size=(6, 7), activation=name) for name in ("relu", "relu6", "gelu")),
    replace(POINTWISE, size=(6, 7), bias=False),
]


@pytest.mark.parametrize("case", [*dict.fromkeys(PLANES + POINTWISE_PLANES)], ids=str)
def test_convolution_by_planes_equals_definition(
    case: Case, isa: str, product_tolerance: Callable[..., float]
) -> None:
    planes = np.ascontiguousarray(case.images().transpose(0, 3, 1, 2))
    attributes = case.attributes() | {"channels_first": 1, "output_channels_first": 1}
    got = _core.run_operator("conv2d", [planes], attributes, isa=isa)
    expected = expected_output(case).transpose(0, 3, 1, 2)
    assert got.shape == expected.shape
    tolerance = 1.13 * product_tolerance(case.terms + 1) + 2.0**-21
    np.testing.assert_allclose(got, expected, rtol=2.0**-21, atol=tolerance)


@pytest.mark.parametrize("width", [5, 16, 37])
def test_nan_and_infinity_reach_their_neighbours_alone_by_planes(width: int, isa: str) -> None:
    case = depthwise(2, size=(5, width), pads=(1, 1, 1, 1), batch=1, activation="relu")
    attributes = case.attributes() | {"channels_first": 1, "output_channels_first": 1}
    for value in (np.nan, np.inf):
        for place in range(5 * width):
            images = case.images()
            images[0, place // width, place % width, -1] = value
            expected = _core.reference_operator("conv2d", [images], case.attributes())
            planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
            got = _core.run_operator("conv2d", [planes], attributes, isa=isa)
            not_finite = ~np.isfinite(expected.transpose(0, 3, 1, 2))
            np.testing.assert_array_equal(~np.isfinite(got), not_finite)


BY_PLANES = [replace(DEPTHWISE, pads=(1, 1, 1, 1)), replace(POINTWISE, size=(6, 7))]


@pytest.mark.parametrize(
    ("which", "changes"),
    [
        (0, {"kernel": (5, 5)}),
        (0, {"strides": (2, 2)}),
        (0, {"dilations": (2, 1)}),
        (0, {"pads": (1, 0, 1, 1)}),
        (0, {"groups": 1}),
        (0, {"filters": 34}),
        (1, {"kernel": (1, 2)}),
        (1, {"strides": (1, 2)}),
        (1, {"pads": (0, 0, 1, 0)}),
        (1, {"channels": 8, "filters": 8, "groups": 2}),
        *((which, {"pool": (2, 2, 2, 2)}) for which in (0, 1)),
    ],
    ids=str,
)
def test_planes_refuse_what_does_not_go_by_them(which: int, changes: dict[str, Any]) -> None:
    case = replace(BY_PLANES[which], **changes)
    planes = np.ascontiguousarray(case.images().transpose(0, 3, 1, 2))
    attributes = case.attributes() | {"channels_first": 1, "output_channels_first": 1}
    with pytest.raises(
        InputError, match="output_channels_first: expected channels_first, no fused"
    ):
        _core.run_operator("conv2d", [planes], attributes)


@pytest.mark.parametrize("case", BY_PLANES, ids=str)
def test_planes_come_from_planes_and_add_nothing(case: Case) -> None:
    images, attributes = case.images(), case.attributes() | {"output_channels_first": 1}
    with pytest.raises(
        InputError, match="output_channels_first: expected channels_first, no fused"
    ):
        _core.run_operator("conv2d", [images], attributes)
    planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    attributes |= {"channels_first": 1, "residual": 1}
    with pytest.raises(
        InputError, match="output_channels_first: expected channels_first, no fused"
    ):
        _core.run_operator("conv2d", [planes, planes], attributes)


ADDED = [
    *(replace(case, activation=activation, batch=batch)
      for case in (
          depthwise(17, pads=(1, 1, 1, 1)), POINTWISE, replace(POINTWISE, strides=(2, 2)), INDIRECT,
          replace(INDIRECT, channels=4, filters=6, groups=2, size=(12, 13)), STENCIL,
          replace(WINOGRAD, size=(13, 11), pads=(1, 1, 1, 1)),
      )
      for activation, batch in (("linear", 1), ("relu6", 3), ("gelu", 0), ("hard_swish", 2))),
]  # fmt: skip


@pytest.mark.parametrize("channels_first", [0, 1])
@pytest.mark.parametrize("case", ADDED, ids=str)
def test_conv2d_adds_a_residual_before_its_activation(
    case: Case, channels_first: int, isa: str, product_tolerance: Callable[..., float]
) -> None:
    images, attributes = case.images(), case.attributes() | {"residual": 1}
    residual = np.random.default_rng(7).uniform(-5, 5, expected_output(case).shape)
    residual = residual.astype(np.float32)
    expected = _core.reference_operator("conv2d", [images, residual], attributes)
    if channels_first:
        images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        attributes["channels_first"] = 1
    got = _core.run_operator("conv2d", [images, residual], attributes, isa=isa)
    # hard_swish is the steepest, by 1.5.
    tolerance = 1.5 * product_tolerance(case.terms, algorithm_of(case, isa)) + 2.0**-20
    np.testing.assert_allclose(got, expected, rtol=2.0**-21, atol=tolerance)


POOLED = [
    replace(STENCIL, size=(8, 8), pool=(2, 2, 2, 2), exact=True),
    replace(STENCIL, size=(8, 8), channels=1, filters=16, pool=(2, 2, 2, 2)),
    replace(WINOGRAD, size=(6, 6), pool=(2, 2, 2, 2)),
    replace(WINOGRAD, size=(10, 10), pool=(2, 2, 2, 2)),
    replace(WINOGRAD, size=(12, 12), filters=64, pool=(2, 2, 2, 2)),
    replace(INDIRECT, size=(9, 9), pool=(3, 3, 2, 2)),
]


@pytest.mark.parametrize("case", POOLED, ids=str)
def test_nan_is_let_through_by_a_fused_pool(case: Case, isa: str) -> None:
    case = replace(case, batch=1)
    height, width = case.size
    for place in range(height * width):
        images = case.images()
        images[0, place // width, place % width, -1] = np.nan
        expected = np.isnan(_core.reference_operator("conv2d", [images], case.attributes()))
        got = np.isnan(_core.run_operator("conv2d", [images], case.attributes(), isa=isa))
        assert expected.any()
        # Winograd's algorithm computes the outputs of a tile from all of its pixels.
        assert got[expected].all()
        if "Winograd" not in algorithm_of(case, isa):
            np.testing.assert_array_equal(got, expected)


@settings(print_blob=True, deadline=None, max_examples=150)
@given(data=st.data())
def test_conv2d_random_settings(data: st.DataObject) -> None:
    small = st.integers(1, 3)
    groups = data.draw(st.sampled_from([1, 1, 1, 2, 3]), "groups")
    kernel = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5)), "kernel")
    dilations = data.draw(st.tuples(small, small), "dilations")
    pads = data.draw(st.tuples(*[st.integers(0, 4)] * 4), "pads")
    extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    smallest = [max(1, e - pads[i] - pads[i + 2]) for i, e in enumerate(extents)]
    case = Case(
        "",
        size=(
            smallest[0] + data.draw(st.integers(0, 9), "rows"),
            smallest[1] + data.draw(st.integers(0, 9), "columns"),
        ),
        channels=groups * data.draw(st.integers(1, 20), "channels"),
        filters=groups * data.draw(st.integers(1, 36), "filters"),
        kernel=kernel,
        strides=data.draw(st.tuples(st.integers(1, 6), st.integers(1, 6)), "strides"),
        dilations=dilations,
        pads=pads,
        groups=groups,
        bias=data.draw(st.booleans(), "bias"),
        activation=data.draw(st.sampled_from(["linear", "relu", "tanh"]), "activation"),
        batch=data.draw(st.integers(0, 3), "batch"),
    )
    expected = expected_output.__wrapped__(case)
    for level in _core.isa_levels():
        got = _core.run_operator("conv2d", [case.images()], case.attributes(), isa=level)
        assert got.shape == expected.shape
        # As in product_tolerance, for whichever algorithm.
        tolerance = max(2.0**-24 * (case.terms + 2) ** 1.5, 1e-5 * (case.terms + 2) ** 0.5)
        np.testing.assert_allclose(got, expected, rtol=2.0**-21, atol=tolerance)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": (2, 7)}, "padded map of at least 3 by 3.*got 2 by 7"),
        ({"size": (0, 7)}, "padded map"),
        ({"kernel": (5, 1), "dilations": (2, 1), "size": (8, 8)}, "at least 9 by 1"),
        ({"strides": (0, 1)}, "strides.*two integers of at least 1.*0, 1"),
        ({"dilations": (1, -1)}, "dilations.*two integers of at least 1"),
        ({"pads": (0, -1, 0, 0)}, r"pads.*\[top, left, bottom, right\]"),
        ({"pool": (0, 2, 2, 2)}, "pool_size.*two integers of at least 1"),
        ({"pool": (5, 2, 2, 2)}, "fused pool"),
        ({"activation": "rely"}, "activation.*one of.*relu.*'rely'"),
        ({"groups": 3, "filters": 4}, "multiple of 3 filters"),
    ],
)
def test_conv2d_refuses_what_does_not_fit(changes: dict[str, Any], message: str) -> None:
    case = replace(Case(""), **changes)
    with pytest.raises(InputError, match=message):
        _core.run_operator("conv2d", [case.images()], case.attributes())


def test_conv2d_refuses_wrong_shapes(uniform: Callable[..., NDArray[np.float32]]) -> None:
    x, kernel = uniform(1, 5, 5, 3), uniform(3, 3, 3, 4)
    wrong: list[tuple[list[Any], dict[str, Any], str]] = [
        ([x[0]], {"kernel": kernel}, r"x: expected shape \(n, height, width, channels\)"),
        ([x], {"kernel": kernel[0]}, "kernel: expected shape"),
        ([x], {"kernel": kernel[:, :, :2]}, "in / groups = 3 / 1"),
        ([x], {"kernel": kernel[:, :, :, :0]}, "none of them 0"),
        ([x], {"kernel": kernel, "bias": uniform(3)}, r"bias: expected shape \(4,\)"),
        ([x], {}, "kernel: expected a float32 array, got nothing"),
        ([x], {"kernel": kernel, "stride": [1, 1]}, "no attribute named stride"),
        ([x, x], {"kernel": kernel}, "inputs: expected x alone, unless residual is 1, got 2"),
        ([x, x, x], {"kernel": kernel}, "inputs: expected 1 to 2, got 3"),
        ([], {"kernel": kernel}, "inputs: expected 1 to 2, got 0"),
        (
            [x],
            {"kernel": kernel, "residual": 1},
            "expected x and the residual that is added, got 1",
        ),
        ([x, x], {"kernel": kernel, "residual": 1}, r"the output's shape, \(1, 3, 3, 4\), got"),
        (
            [x, x],
            {"kernel": kernel, "residual": 1, "pool_size": [2, 2]},
            "a pool cannot be fused behind a residual",
        ),
    ]
    for inputs, attributes, message in wrong:
        with pytest.raises(InputError, match=message):
            _core.run_operator("conv2d", inputs, attributes)
