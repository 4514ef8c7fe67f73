"""How much memory a call takes: the most that is resident during it, beyond what was before.

Each contestant is asked in a process of its own, whose memory nobody else has shaped. The figure
holds for a first call, with everything that the library allocates for it, its result included.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

from pyconv.errors import InputError, PyconvError


def call_bytes(contestant: str, path: Path, batch: int, threads: int) -> int:
    """The growth of resident memory while a contestant computes its first batch.

    Args:
        contestant: its name, of an engine or a peer.
        path: the ONNX file.
        batch: images in the batch.
        threads: that the call may use.

    Raises:
        InputError: this system does not tell a process's peak; only Linux does.
        PyconvError: the contestant cannot run the file.
    """
    if sys.platform != "linux":
        raise InputError("memory is measured on Linux only, where a process can ask for its peak")
    program = f"from {__name__} import main; main()"
    command = [sys.executable, "-c", program, contestant, str(path), str(batch), str(threads)]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    if child.returncode != 0:
        why = (child.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        raise PyconvError(f"{contestant} cannot be asked for its memory: {why}")
    return int(child.stdout.splitlines()[-1])


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise LookupError(field)


def _give_back_freed_memory() -> None:
    """What loading has freed would otherwise be used again by the call, and hide its growth."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)


def _measure(contestant: str, path: Path, batch: int, threads: int) -> int:
    from pyconv.bench.contestants import CONTESTANTS
    from pyconv.bench.inputs import random_inputs
    from pyconv.bench.peers import PEERS
    from pyconv.graph import reader

    # Read, not loaded on an engine: what that frees would be used again, and not be seen to grow.
    inputs = random_inputs(reader.read(path).inputs, batch)
    runner = {**CONTESTANTS, **PEERS}[contestant].load(path, threads)
    _give_back_freed_memory()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak so far
    before = _status_bytes("VmRSS")
    result = runner.call(inputs)
    grown = _status_bytes("VmHWM") - before
    del result
    return grown


def main() -> None:
    """The process that `call_bytes` starts: prints what it measured."""
    contestant, path, batch, threads = sys.argv[1:]
    print(_measure(contestant, Path(path), int(batch), int(threads)))
