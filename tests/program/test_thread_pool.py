"""What the engine's threads do to the process around them."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pyconv import _core


def _threads() -> set[int]:
    return {int(path.name) for path in Path("/proc/self/task").iterdir()}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells where threads may run")
def test_workers_may_run_where_their_caller_may() -> None:
    others = _threads()
    # No other test has a pool of so many threads.
    builder = _core.ProgramBuilder()
    weights = np.ones((256, 512), np.float32)
    y = builder.add("dense", [builder.input("x", [-1, 256])], {"weights": weights})
    program = builder.build([y], threads=7)
    x = np.ones((64, 256), np.float32)
    allowed = os.sched_getaffinity(0)

    def kept_off() -> list[int]:
        return [t for t in _threads() - others if os.sched_getaffinity(t) != allowed]

    assert _threads() - others
    for _ in range(5):
        deadline = time.monotonic() + 30
        time.sleep(0.01)  # they fall asleep, and the next call wakes them up
        program.run([x])
        while kept_off() and time.monotonic() < deadline:
            time.sleep(0.01)
            program.run([x])
        assert kept_off() == []
