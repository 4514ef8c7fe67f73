"""Places that are taken along one axis and then along another are taken at once."""

from __future__ import annotations

from dataclasses import replace

from pyconv.graph.ir import Graph, Node
from pyconv.graph.passes.fusion import fuse


def merge_takes(graph: Graph) -> None:
    """Make one step of two in a row: nearest UpSampling2D comes as one for each axis.

    take(take(x, places), more places) → take(x, places of all axes)
    """

    def merge(first: Node, second: Node) -> Node | None:
        if first.op != "take" or second.op != "take":
            return None
        places = _places(first)
        for axis, along in _places(second).items():
            before = places.get(axis)
            places[axis] = along if before is None else [before[place] for place in along]
        merged = first.with_attributes(
            axes=list(places),
            sizes=[len(along) for along in places.values()],
            indices=[place for along in places.values() for place in along],
        )
        return replace(merged, output=second.output, tensors=first.tensors + second.tensors)

    fuse(graph, merge)


def _places(take: Node) -> dict[int, list[int]]:
    """What is taken, by axis."""
    places, begin = {}, 0
    for axis, size in zip(take.attributes["axes"], take.attributes["sizes"], strict=True):
        places[axis] = list(take.attributes["indices"][begin : begin + size])
        begin += size
    return places
