"""What the compiler makes of a file, pass by pass: `pyconv explain`."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pyconv.engines.base import Step, WeightStorage
from pyconv.errors import InputError, ModelError, unknown_name
from pyconv.graph import importer, reader
from pyconv.graph.batch import BatchError
from pyconv.graph.compiler import Memory, compile_network, optimized
from pyconv.graph.importer import ValuesNeeded
from pyconv.graph.ir import Graph
from pyconv.graph.passes import PASSES
from pyconv.graph.reader import OnnxFile

_SUMMARIES = {
    step.__name__: (inspect.getdoc(step) or "").splitlines()[0].rstrip(".") for step in PASSES
}


@dataclass(frozen=True, slots=True)
class Rewrite:
    """What one pass did.

    Attributes:
        name: the pass, a function of `pyconv.graph.passes`.
        purpose: what it is for, in a sentence.
        before: how many nodes of each native operator there were.
        after: how many there are then.
        removed: the nodes and outputs that are no more, as text.
        added: those that are new.
    """

    name: str
    purpose: str
    before: dict[str, int]
    after: dict[str, int]
    removed: tuple[str, ...]
    added: tuple[str, ...]

    @property
    def changed(self) -> bool:
        """Whether it did anything."""
        return bool(self.removed or self.added)


@dataclass(frozen=True, slots=True)
class Explanation:
    """How a network became a program.

    Attributes:
        name: the file's name.
        outputs: the tensors that the program is for.
        opset: the file's version of ONNX's operator set.
        onnx_nodes: operators of the file.
        known_nodes: those among them that are computed when it is loaded.
        imported: how many nodes of each native operator the others become.
        rewrites: the passes in their order.
        steps: the program.
        memory: what a thread holds while it runs.
    """

    name: str
    outputs: tuple[str, ...]
    opset: int
    onnx_nodes: int
    known_nodes: int
    imported: dict[str, int]
    rewrites: tuple[Rewrite, ...]
    steps: tuple[Step, ...]
    memory: Memory

    def to_json(self) -> dict[str, Any]:
        """The same as an object that `json` can write."""
        return asdict(self)

    def text(self, *, lines: bool = True) -> str:
        """The same for people.

        Args:
            lines: whether to list the nodes that each pass changed.
        """
        parts = [
            f"{self.name}, for {', '.join(self.outputs)}",
            "",
            f"read    {self.onnx_nodes} ONNX nodes of opset {self.opset}",
            f"import  {self.known_nodes} of them are known when the file is loaded; the others "
            f"become {_counts(self.imported)}",
            "",
        ]
        for rewrite in self.rewrites:
            if rewrite.changed:
                parts += [f"{rewrite.name}: {rewrite.purpose}", f"  {_change(rewrite)}"]
                if lines:
                    parts += [f"  - {line}" for line in rewrite.removed]
                    parts += [f"  + {line}" for line in rewrite.added]
                parts.append("")
        idle = [rewrite.name for rewrite in self.rewrites if not rewrite.changed]
        parts += [f"nothing to do for {', '.join(dict.fromkeys(idle))}", "", *self._program()]
        return "\n".join(parts)

    def _program(self) -> list[str]:
        flops = sum(step.flops for step in self.steps)
        memory = self.memory
        head = (
            f"program  {_many(len(self.steps), 'step')}, {flops:,} FLOPs an image; a thread holds "
            f"{memory.arena_bytes:,} bytes ({_many(memory.images, 'image')} at a time)"
        )
        rows = [["", "operator", "algorithm", "output", "buffer", "FLOPs"]]
        for index, step in enumerate(self.steps, 1):
            sizes = ["n" if size is None else str(size) for size in step.shape]
            offset = step.arena_offset_bytes
            rows.append(
                [
                    str(index),
                    step.operator,
                    step.algorithm,
                    f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})",
                    "output" if offset is None else f"from byte {offset:,}",
                    f"{step.flops:,}",
                ]
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = [
            "  ".join(
                cell.rjust(width) if place in (0, 5) else cell.ljust(width)
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        return [head, "", *table]


def explain(
    path: Path,
    outputs: Sequence[str] | None = None,
    threads: int = 1,
    exact: bool = False,
    weights: WeightStorage = "float32",
) -> Explanation:
    """Compile a file for every batch size, and keep account of it.

    Args:
        path: the ONNX file.
        outputs: the tensors wanted, intermediate ones included; the file's own outputs by default.
        threads: how many threads a run may use.
        exact: whether convolutions keep to direct products.
        weights: how dense layers keep their weights.

    Raises:
        InputError: there is no such tensor.
        ModelError: the file is broken, or has no program before it is known what shapes come.
    """
    file = reader.read(path)
    names = tuple(info.name for info in file.outputs) if outputs is None else tuple(outputs)
    try:
        return _explanation(file, names, threads, exact, weights)
    except (BatchError, ValuesNeeded) as error:
        why = error if isinstance(error, BatchError) else f"it needs the elements of {error}"
        raise ModelError(
            f"{path}: there is no one program for every batch size ({why}); such a network is "
            "compiled for the arrays that come"
        ) from error


def _explanation(
    file: OnnxFile, names: tuple[str, ...], threads: int, exact: bool, weights: WeightStorage
) -> Explanation:
    network = importer.build(file, importer.batch_shapes(file))
    for name in names:
        if network.shape(name) is None:
            raise InputError(unknown_name("tensor", name, file.tensors()))
    rewrites: list[Rewrite] = []
    current = network.graph

    def record(name: str, graph: Graph) -> None:
        nonlocal current
        rewrites.append(_rewrite(name, current, graph))
        current = graph.copy()

    computed = [name for name in names if name not in network.known]
    optimized(network, computed, record)
    compiled = compile_network(network, names, threads, exact, weights)
    return Explanation(
        name=file.path.name,
        outputs=names,
        opset=file.opset,
        onnx_nodes=len(file.nodes),
        known_nodes=sum(
            all(name in network.known for name in node.outputs if name) for node in file.nodes
        ),
        imported=_operators(network.graph),
        rewrites=tuple(rewrites),
        steps=compiled.steps,
        memory=compiled.memory,
    )


def _rewrite(name: str, before: Graph, after: Graph) -> Rewrite:
    old, new = before.lines(), after.lines()
    # The file as imported has no outputs yet: that some are wanted is no rewrite.
    gone, come = Counter(old) - Counter(new), Counter(new) - Counter(old)
    if not before.outputs:
        come -= Counter(line for line in new if line.startswith("output "))
    return Rewrite(
        name=name,
        purpose=_SUMMARIES[name],
        before=_operators(before),
        after=_operators(after),
        removed=tuple(gone.elements()),
        added=tuple(come.elements()),
    )


def _operators(graph: Graph) -> dict[str, int]:
    return dict(sorted(Counter(node.op for node in graph.nodes).items()))


def _counts(operators: dict[str, int]) -> str:
    each = ", ".join(f"{count} {name}" for name, count in operators.items())
    return _many(sum(operators.values()), "native node") + (f" ({each})" if each else "")


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _change(rewrite: Rewrite) -> str:
    names = sorted({*rewrite.before, *rewrite.after})
    pairs = [(name, rewrite.before.get(name, 0), rewrite.after.get(name, 0)) for name in names]
    moved = [f"{name} {old} → {new}" for name, old, new in pairs if old != new]
    total = f"{sum(rewrite.before.values())} → {sum(rewrite.after.values())} nodes"
    return f"{total}: {', '.join(moved)}" if moved else f"{total}, {len(rewrite.added)} changed"
