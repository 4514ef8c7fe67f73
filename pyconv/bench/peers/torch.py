"""PyTorch, traced, frozen and optimised for inference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyconv.bench.contestants import Runner
from pyconv.bench.peers.translation import Translation
from pyconv.engines.base import Array


def load(path: Path, threads: int) -> Runner:
    """Trace the network; images are channels last in memory."""
    import torch
    from torch.nn import functional

    def to_maps(x: Any) -> Any:
        return x.permute(0, 3, 1, 2)

    def from_maps(x: Any) -> Any:
        return x.permute(0, 2, 3, 1)

    def activated(attributes: dict[str, Any], x: Any) -> Any:
        name = attributes.get("activation") or "linear"
        return {
            "linear": lambda: x,
            "relu": lambda: functional.relu(x),
            "relu6": lambda: functional.relu6(x),
            "sigmoid": lambda: torch.sigmoid(x),
            "tanh": lambda: torch.tanh(x),
        }[name]()

    def conv2d(attributes: dict[str, Any], x: Any, residual: Any = None) -> Any:
        top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
        maps = to_maps(x)
        if (top, left) != (bottom, right):
            maps, top, left = functional.pad(maps, (left, right, top, bottom)), 0, 0
        y = functional.conv2d(
            maps,
            attributes["kernel"].permute(3, 2, 0, 1),
            attributes.get("bias"),
            stride=attributes.get("strides", [1, 1]),
            padding=(top, left),
            dilation=attributes.get("dilations", [1, 1]),
            groups=attributes.get("groups", 1),
        )
        y = activated(attributes, y if residual is None else y + to_maps(residual))
        if "pool_size" in attributes:
            y = functional.max_pool2d(y, attributes["pool_size"], attributes["pool_strides"])
        return from_maps(y)

    def max_pool2d(attributes: dict[str, Any], x: Any) -> Any:
        maps = functional.max_pool2d(to_maps(x), attributes["kernel_size"], attributes["strides"])
        return from_maps(maps)

    def dense(attributes: dict[str, Any], x: Any) -> Any:
        return activated(
            attributes,
            functional.linear(x, attributes["weights"].transpose(0, 1), attributes.get("bias")),
        )

    network = Translation(
        path,
        "torch",
        {
            "conv2d": conv2d,
            "max_pool2d": max_pool2d,
            "dense": dense,
            "activation": activated,
            "softmax": lambda attributes, x: torch.softmax(x, attributes.get("axis", -1)),
            "reshape": lambda attributes, x: x.reshape(attributes["shape"]),
            "transpose": lambda attributes, x: x.permute(attributes["permutation"]),
            "add": lambda _, a, b: a + b,
            "multiply": lambda _, a, b: a * b,
        },
    )
    network.constants(torch.from_numpy)

    class Module(torch.nn.Module):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            return network(x)

    torch.set_num_threads(threads)
    example = torch.zeros([size or 2 for size in network.shape or ()])
    with torch.inference_mode():
        traced = torch.jit.optimize_for_inference(
            torch.jit.freeze(torch.jit.trace(Module().eval(), example))
        )

    def call(inputs: dict[str, Array]) -> Any:
        with torch.inference_mode():
            return traced(torch.from_numpy(inputs[network.input]))

    return Runner(call, lambda result: {network.output: result.numpy()})
