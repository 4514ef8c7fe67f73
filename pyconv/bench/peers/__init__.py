"""Other runtimes to compare with, each where it is installed.

OpenVINO reads ONNX files itself. The others do not: for them the network is written anew in their
own functions, from the compiler's intermediate representation, with images channels last as all of
them like it on a CPU.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence

from pyconv.bench.contestants import Contestant
from pyconv.bench.peers import litert, openvino, tensorflow, torch
from pyconv.errors import InputError, MissingExtraError

PEERS: Mapping[str, Contestant] = {
    "openvino": Contestant("openvino", openvino.load),
    "torch": Contestant("torch", torch.load),
    "xla": Contestant("tensorflow", tensorflow.load),
    "litert": Contestant("ai-edge-litert", litert.load),
}
"""By name: the package on PyPI, and how a model is loaded."""

_MODULES = {
    "openvino": ["openvino"],
    "torch": ["torch"],
    "xla": ["tensorflow"],
    "litert": ["ai_edge_litert", "tensorflow"],  # tensorflow converts
}


def installed(names: Sequence[str] = ()) -> dict[str, Contestant]:
    """The peers that this environment has.

    Args:
        names: those that it must have; empty for whichever it has.

    Raises:
        MissingExtraError: one of the names is not installed.
        InputError: no name was given, and none is installed.
    """
    found = {}
    for name in names or PEERS:
        missing = [m for m in _MODULES[name] if importlib.util.find_spec(m) is None]
        if not missing:
            found[name] = PEERS[name]
        elif names:
            raise MissingExtraError(missing[0], "peers", f"comparing with {name}")
    if not found:
        raise InputError(
            f"none of {', '.join(PEERS)} is installed; install them with: "
            "pip install 'pyconv[peers]'"
        )
    return found
