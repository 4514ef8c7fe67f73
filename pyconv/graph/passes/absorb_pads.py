"""Zeros around a map need not be stored: a convolution knows what lies outside."""

from __future__ import annotations

from dataclasses import replace

from pyconv.graph.ir import Graph, Node
from pyconv.graph.passes.fusion import fuse


def absorb_pads(graph: Graph) -> None:
    """Let a convolution pad what it reads.

    conv2d(pad(x, zeros), pads) → conv2d(x, pads + zeros), where height and width alone are padded
    and the window is larger than a pixel: one of a pixel is a plain product without pads
    """

    def merge(pad: Node, conv2d: Node) -> Node | None:
        if pad.op != "pad" or conv2d.op != "conv2d" or conv2d.inputs[0] != pad.output:
            return None
        kernel = conv2d.attributes["kernel"].shape
        if conv2d.attributes.get("channels_first") or kernel[0] * kernel[1] == 1:
            return None
        settings = pad.attributes
        if settings.get("mode", "constant") != "constant" or settings.get("value", 0) != 0:
            return None
        begins, ends = settings["pads"][:4], settings["pads"][4:]
        if begins[0] or begins[3] or ends[0] or ends[3] or min(*begins, *ends) < 0:
            return None
        pads = conv2d.attributes.get("pads", [0, 0, 0, 0])
        added = [*begins[1:3], *ends[1:3]]
        merged = conv2d.with_inputs(pad.inputs[0], *conv2d.inputs[1:]).with_attributes(
            pads=[own + more for own, more in zip(pads, added, strict=True)]
        )
        return replace(merged, tensors=pad.tensors + conv2d.tensors)

    fuse(graph, merge)
