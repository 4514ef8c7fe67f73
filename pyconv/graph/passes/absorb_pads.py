"""Zeros around a map need not be stored: what slides a window over it knows what lies outside."""

from __future__ import annotations

from dataclasses import replace

from pyconv.graph.ir import Graph, Node
from pyconv.graph.passes.fusion import fuse


def absorb_pads(graph: Graph) -> None:
    """Let a convolution or max pool pad what it reads.

    conv2d(pad(x, zeros), pads) → conv2d(x, pads + zeros), where height and width alone are padded
    and the window is larger than a pixel: one of a pixel is a plain product without pads.

    max_pool2d(pad(x, zeros)) → max_pool2d(x, pads=zeros), where x is the output of an activation
    that is never below zero, so that no zero is greater than what else a window holds.
    """
    producers = graph.producers()

    def merge(pad: Node, node: Node) -> Node | None:
        if (
            pad.op != "pad"
            or node.op not in ("conv2d", "max_pool2d")
            or node.inputs[0] != pad.output
        ):
            return None
        settings = pad.attributes
        if settings.get("mode", "constant") != "constant" or settings.get("value", 0) != 0:
            return None
        begins, ends = settings["pads"][:4], settings["pads"][4:]
        if begins[0] or begins[3] or ends[0] or ends[3] or min(*begins, *ends) < 0:
            return None
        added = [*begins[1:3], *ends[1:3]]
        if node.op == "conv2d":
            kernel = node.attributes["kernel"].shape
            fits = kernel[0] * kernel[1] > 1 and not node.attributes.get("channels_first")
        else:
            fits = _never_negative(producers.get(pad.inputs[0])) and _every_window_holds_a_pixel(
                node, added
            )
        if not fits:
            return None
        pads = node.attributes.get("pads", [0, 0, 0, 0])
        merged = node.with_inputs(pad.inputs[0], *node.inputs[1:]).with_attributes(
            pads=[own + more for own, more in zip(pads, added, strict=True)]
        )
        return replace(merged, tensors=pad.tensors + node.tensors)

    fuse(graph, merge)


def _never_negative(node: Node | None) -> bool:
    if node is None or node.op != "activation":
        return False
    name = node.attributes["activation"]
    return name in ("relu", "relu6", "sigmoid") or (
        name == "clip" and node.attributes.get("alpha", -1) >= 0
    )


def _every_window_holds_a_pixel(pool: Node, pads: list[int]) -> bool:
    """Whether no window lies in the pads alone; with none but these, for they become -inf."""
    settings = pool.attributes
    plain = not any(settings.get("pads", [0] * 4)) and not settings.get("ceil_mode", 0)
    dilated = list(settings.get("dilations", [1, 1])) != [1, 1]
    kernel = settings["kernel_size"]
    return plain and not dilated and all(pads[i] < kernel[i % 2] for i in range(4))
