"""The machine that a benchmark ran on, and how much arithmetic it can do at best."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PEAK_TRIES = 5
_PEAK_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Machine:
    """Where and with what a benchmark ran.

    Attributes:
        cpu: the processor's name as it gives it.
        cores: how many of them this process may use.
        system: operating system and architecture, such as `"Linux x86_64"`.
        isa: the ISA level that the native kernels use, such as `"avx512"`.
        peak_gflops: measured float32 fused multiply-adds of one core at that level, each counted as
            two operations, in 1e9 a second.
        versions: of Python and of the packages that were measured, by name.
    """

    cpu: str
    cores: int
    system: str
    isa: str
    peak_gflops: float
    versions: dict[str, str]


def describe(packages: Iterable[str], peak_gflops: float) -> Machine:
    """This machine.

    Args:
        packages: whose versions are wanted, by their names on PyPI.
        peak_gflops: as `measure_peak` gives it.
    """
    from pyconv import _core

    return Machine(
        cpu=_cpu_name(),
        cores=available_cores(),
        system=f"{platform.system()} {platform.machine()}",
        isa=_core.isa(),
        peak_gflops=peak_gflops,
        versions={
            "python": platform.python_version(),
            **{package: _version(package) for package in packages},
        },
    )


def measure_peak() -> float:
    """The float32 fused-multiply-add peak of one core, in GFLOP/s, best of a few tries."""
    from pyconv import _core

    # The best, since interruptions and clocks that still rise can only make it look lower.
    return max(_core.peak_gflops(_PEAK_SECONDS) for _ in range(_PEAK_TRIES))


def available_cores() -> int:
    """How many cores this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "not installed"


def _cpu_name() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return platform.processor() or platform.machine()
