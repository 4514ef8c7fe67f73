"""What a benchmark compares: each contestant loads a model and says what call is to be timed.

A new one is a function here that returns a `Runner`, and a row in `CONTESTANTS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pyconv.engines.base import Array, Step, WeightStorage


@dataclass(frozen=True, slots=True)
class Runner:
    """A model, loaded and ready.

    Attributes:
        call: the library's own call, with nothing of ours around it, on the inputs by name. This
            is what is timed.
        outputs: brings what `call` returned to arrays by the names of the graph's outputs.
        steps: what the model is computed by, in order; empty where the library does not tell.
        time_steps: runs once for the seconds that each of `steps` takes.
    """

    call: Callable[[dict[str, Array]], Any]
    outputs: Callable[[Any], dict[str, Array]]
    steps: Sequence[Step] = ()
    time_steps: Callable[[dict[str, Array]], Sequence[float]] = lambda _: ()


@dataclass(frozen=True, slots=True)
class Contestant:
    """A library that runs ONNX files.

    Attributes:
        package: its name on PyPI, for the version.
        load: loads an ONNX file for that many threads.
    """

    package: str
    load: Callable[[Path, int], Runner]


def _native(
    path: Path, threads: int, *, exact: bool = False, weights: WeightStorage = "float32"
) -> Runner:
    from pyconv.engines.native import NativeEngine

    engine = NativeEngine(path, threads, exact, weights)
    return Runner(engine.run, dict, engine.steps(), engine.time_steps)


def _onnxruntime(path: Path, threads: int) -> Runner:
    from pyconv.engines.onnxruntime import OnnxRuntimeEngine

    engine = OnnxRuntimeEngine(path, threads)
    names = [info.name for info in engine.outputs]
    return Runner(
        # The session's own call: our checks around it would only make onnxruntime look slower.
        call=partial(engine.session.run, None),
        outputs=lambda arrays: dict(zip(names, arrays, strict=True)),
    )


CONTESTANTS: Mapping[str, Contestant] = {
    "native": Contestant("pyconv", _native),
    "onnxruntime": Contestant("onnxruntime", _onnxruntime),
}
"""By name. The first is the one that the ratios are about."""


def chosen(
    peers: Sequence[str] | None, *, exact: bool = False, weights: WeightStorage = "float32"
) -> dict[str, Contestant]:
    """The engines, and other runtimes beside them.

    Args:
        peers: their names, of those in `pyconv.bench.peers.PEERS`; empty for all that are
            installed, None for none.
        exact: whether native keeps convolutions to direct products.
        weights: how native keeps the weights of dense layers; if not in float32, native with
            float32 takes part too, as `"float32"`.

    Raises:
        MissingExtraError: one that was named is not installed.
        InputError: all were asked for, and none is installed.
    """
    from pyconv.bench.peers import installed

    native = partial(_native, exact=exact, weights=weights)
    found = {**CONTESTANTS, "native": Contestant("pyconv", native)}
    if weights != "float32":
        found["float32"] = Contestant("pyconv", partial(_native, exact=exact))
    return found if peers is None else found | installed(peers)
