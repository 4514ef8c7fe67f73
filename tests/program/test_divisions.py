"""However a program's work is divided, over threads or batches, its results are the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pyconv import _core

_POOL = {"pool_size": [2, 2], "pool_strides": [2, 2], "activation": "relu"}
_SAME = {"pads": [1, 1, 1, 1]}


def _conv2d(kernel: tuple[int, int, int, int], **settings: Any) -> tuple[str, dict[str, Any]]:
    weights = np.random.default_rng(kernel).uniform(-1, 1, kernel).astype(np.float32)
    return "conv2d", {"kernel": weights, "bias": weights[0, 0, 0], **settings}


def _dense(ins: int, outs: int, **settings: Any) -> tuple[str, dict[str, Any]]:
    weights = np.random.default_rng([ins, outs]).uniform(-1, 1, (ins, outs)).astype(np.float32)
    return "dense", {"weights": weights, "bias": weights[0], **settings}


# What each is, its operator, the shape of an image.
LAYERS: dict[str, tuple[tuple[str, dict[str, Any]], tuple[int, ...]]] = {
    "stencil, weights in registers": (_conv2d((3, 3, 3, 17), **_SAME), (13, 14, 3)),
    # By Winograd's smallest tile, or direct where there are 32 registers.
    "stencil": (_conv2d((3, 3, 1, 33), **_POOL), (15, 70, 1)),
    "Winograd F(4x4, 3x3)": (_conv2d((3, 3, 16, 33), **_SAME), (32, 31, 16)),
    "Winograd F(5x5, 3x3)": (_conv2d((3, 3, 17, 40), **_POOL), (12, 12, 17)),
    "Winograd": (_conv2d((3, 3, 16, 40), **_POOL), (29, 33, 16)),
    "depthwise": (_conv2d((3, 3, 1, 19), groups=19, **_SAME), (11, 41, 19)),
    "depthwise by planes": (
        _conv2d((3, 3, 1, 5), groups=5, channels_first=1, output_channels_first=1, **_SAME),
        (5, 11, 21),
    ),
    "matrix product by planes": (
        _conv2d((1, 1, 17, 13), channels_first=1, output_channels_first=1),
        (17, 9, 11),
    ),
    "matrix product": (_conv2d((1, 1, 17, 40)), (9, 11, 17)),
    "indirect": (_conv2d((2, 3, 9, 33), pads=[1, 0, 0, 2], activation="tanh"), (12, 13, 9)),
    "indirect matrix product": (_conv2d((5, 5, 4, 17), **_POOL), (12, 13, 4)),
    "from channels first": (_conv2d((3, 3, 16, 33), channels_first=1, **_POOL), (16, 29, 33)),
    "direct": (("max_pool2d", {"kernel_size": [3, 3], "strides": [2, 2], **_SAME}), (9, 12, 17)),
    "rows first": (("global_average_pool2d", {}), (9, 12, 17)),
    "by rows": (("softmax", {"axis": 1}), (9, 17)),
    "matrix product, fused": (_dense(50, 200, activation="gelu"), (50,)),
    "matrix product, bfloat16": (_dense(50, 200, storage="bfloat16"), (50,)),
    "matrix product, int8": (_dense(51, 130, storage="int8"), (51,)),
    "integer product": (_dense(51, 130, storage="int8", x_scale=1 / 128, x_below=128), (51,)),
}


@pytest.mark.parametrize("algorithm", LAYERS)
def test_results_are_the_same_bits_however_the_work_is_divided(algorithm: str) -> None:
    (name, attributes), shape = LAYERS[algorithm]
    images = np.random.default_rng(0).uniform(-1, 1, (37, *shape)).astype(np.float32)
    programs = []
    for threads in (1, 2, 3, 4):
        builder = _core.ProgramBuilder()
        y = builder.add(name, [builder.input("x", [-1, *shape])], attributes)
        programs.append(builder.build([y], threads=threads))
    assert programs[0].steps()[0].algorithm.startswith(algorithm)
    expected = np.concatenate([programs[0].run([images[i : i + 1]])[0] for i in range(37)])
    for program in programs:
        for piece in (37, 1, 2, 3, 5, 16):
            parts = [program.run([images[i : i + piece]])[0] for i in range(0, 37, piece)]
            np.testing.assert_array_equal(np.concatenate(parts), expected)
