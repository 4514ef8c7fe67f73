"""A network and the tensors wanted of it → something that computes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pyconv import _core
from pyconv.engines.base import Array, Step, WeightStorage
from pyconv.errors import InputError, unknown_name
from pyconv.graph.batch import has_batch
from pyconv.graph.constants import Known
from pyconv.graph.importer import Network
from pyconv.graph.ir import Graph, Output
from pyconv.graph.lower import lower
from pyconv.graph.passes import run_passes


@dataclass(frozen=True, slots=True)
class Memory:
    """What one thread holds while a program runs.

    Attributes:
        arena_bytes: the tensors between the steps, and the steps' scratch memory.
        images: how many images go through all steps together.
    """

    arena_bytes: int
    images: int


@dataclass(frozen=True, slots=True)
class Compiled:
    """A program and how its inputs and outputs are named. Safe to use from many threads at once.

    Attributes:
        names: the tensors that it was compiled for.
        steps: what the program does, in order.
    """

    names: tuple[str, ...]
    steps: tuple[Step, ...]
    _program: _core.Program | None
    _inputs: tuple[str, ...]
    # By tensor: its place among the program's outputs and the view of that to hand out. Several
    # may have one place.
    _computed: tuple[tuple[str, int, tuple[int, ...] | None], ...]
    # By tensor: the input that it is, and the view of that.
    _passed: tuple[tuple[str, str, tuple[int, ...] | None], ...]
    _known: tuple[tuple[str, Known], ...]
    _batch_input: str | None
    # The tensors, where they are the program's outputs as they come.
    _plain: tuple[str, ...] | None

    @property
    def inputs(self) -> tuple[str, ...]:
        """The inputs that the program reads."""
        return self._inputs

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Compute the tensors.

        Returns:
            By name, in the order of `names`: arrays that are the caller's own; nothing else refers
            to what any of them holds.

        Raises:
            InputError: an array does not fit the program.
            KeyError: an input is missing.
        """
        results: dict[str, Array] = {}
        if self._program is not None:
            arrays = self._program.run([inputs[name] for name in self._inputs])
            if self._plain is not None:  # as nearly always, and at a microsecond less
                return dict(zip(self._plain, arrays, strict=True))
            taken: set[int] = set()
            for name, place, permutation in self._computed:
                array = arrays[place] if place not in taken else arrays[place].copy()
                taken.add(place)
                results[name] = array if permutation is None else array.transpose(permutation)
        for name, source, permutation in self._passed:
            array = inputs[source].copy()
            results[name] = array if permutation is None else array.transpose(permutation)
        if self._known:
            batch = len(inputs[self._batch_input]) if self._batch_input else 1
            for name, known in self._known:
                results[name] = known.at_batch(batch)
        if self._passed or self._known:
            return {name: results[name] for name in self.names}
        return results

    @property
    def memory(self) -> Memory:
        """What one thread holds while it runs."""
        program = self._program
        if program is None:
            return Memory(0, 1)
        return Memory(program.arena_bytes, program.chunk)

    def time_steps(self, inputs: Mapping[str, Array]) -> list[float]:
        """Compute the tensors once, for the seconds that each of `steps` takes."""
        if self._program is None:
            return []
        return self._program.time_steps([inputs[name] for name in self._inputs])


def compile_network(
    network: Network,
    names: Sequence[str],
    threads: int,
    exact: bool = False,
    weights: WeightStorage = "float32",
) -> Compiled:
    """Compile what computes some tensors of a network and nothing else.

    Args:
        network: as imported; not changed.
        names: ONNX tensors, each once.
        threads: how many threads a run may use.
        exact: whether convolutions keep to direct products.
        weights: how dense layers keep their weights.

    Raises:
        BatchError: there is no one program for every batch size.
        InputError: a tensor does not exist.
        ModelError: the native engine refuses a step.
    """
    for name in names:
        if network.shape(name) is None:
            existing = [tensor for tensor in network.graph.types if "//" not in tensor]
            raise InputError(unknown_name("tensor", name, existing))
    graph = optimized(network, [name for name in names if name not in network.known])
    values = list(dict.fromkeys(o.value for o in graph.outputs if o.value not in graph.inputs))
    used = {name for node in graph.nodes for name in node.inputs}
    inputs = [name for name in graph.inputs if name in used]
    program = lower(graph, inputs, values, threads, exact, weights) if values else None
    batched = [name for name in graph.inputs if has_batch(graph.shape(name))]
    computed = tuple(
        (o.name, values.index(o.value), o.permutation)
        for o in graph.outputs
        if o.value not in graph.inputs
    )
    plain = tuple(name for name, _, permutation in computed if permutation is None)
    return Compiled(
        names=tuple(names),
        steps=_steps(graph, program),
        _program=program,
        _inputs=tuple(inputs),
        _computed=computed,
        _plain=plain if len(plain) == len(values) == len(names) else None,
        _passed=tuple(
            (o.name, o.value, o.permutation) for o in graph.outputs if o.value in graph.inputs
        ),
        _known=tuple((name, network.known[name]) for name in names if name in network.known),
        _batch_input=batched[0] if batched else None,
    )


def optimized(
    network: Network,
    names: Sequence[str],
    observe: Callable[[str, Graph], None] | None = None,
) -> Graph:
    """The graph that computes some computed tensors, after the passes.

    Args:
        network: as imported; not changed.
        names: ONNX tensors that are computed.
        observe: called after each pass with its name and the graph.
    """
    graph = network.graph.copy()
    graph.outputs = [Output(name, name) for name in names]
    run_passes(graph, observe)
    return graph


def _steps(graph: Graph, program: _core.Program | None) -> tuple[Step, ...]:
    if program is None:
        return ()
    # Reshapes are views, of which a program has no steps.
    nodes = [node for node in graph.nodes if node.op != "reshape"]
    return tuple(
        Step(
            name=step.name,
            operator=step.operator,
            algorithm=step.algorithm,
            shape=tuple(None if size == -1 else size for size in step.shape),
            flops=step.flops,
            tensors=node.tensors,
            arena_offset_bytes=None if step.arena_offset_bytes < 0 else step.arena_offset_bytes,
        )
        for node, step in zip(nodes, program.steps(), strict=True)
    )
