"""A benchmark beside an earlier one: what became faster since, and what slower."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyconv.bench.machine import Machine
from pyconv.bench.measure import Spread
from pyconv.bench.report import SCHEMA, Change, Report, Subject
from pyconv.errors import InputError

_PEAK_DRIFT = 0.1


@dataclass(frozen=True, slots=True)
class Earlier:
    """What a comparison needs of an earlier report.

    Attributes:
        path: its file.
        created: when it was made, ISO 8601 in UTC.
        machine: what it was measured on.
        cells: by subject and contestant, the seconds of a call and the time over native's, which
            native itself has not.
    """

    path: Path
    created: str
    machine: Machine
    cells: Mapping[tuple[Subject, str], tuple[Spread, Spread | None]]


def read(path: Path) -> Earlier:
    """Read a file that `pyconv bench --json` wrote.

    Raises:
        InputError: it is missing, or none such.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: expected what pyconv bench --json wrote: {error}") from error
    schema = values.get("schema") if isinstance(values, dict) else None
    if schema != SCHEMA:
        raise InputError(
            f"{path}: expected what pyconv bench --json wrote, of the form {SCHEMA!r}, "
            f"got {schema!r}"
        )
    try:
        return Earlier(
            path, values["created"], Machine(**values["machine"]), dict(_cells(values["cells"]))
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{path}: the figures are not whole: {error!r}") from error


def _cells(
    cells: list[dict[str, Any]],
) -> Iterator[tuple[tuple[Subject, str], tuple[Spread, Spread | None]]]:
    for cell in cells:
        subject = Subject(**cell["subject"])
        for name, timing in cell["timings"].items():
            ratio = cell["ratios"].get(name)
            yield (
                (subject, name),
                (Spread(**timing["seconds"]), None if ratio is None else Spread(**ratio)),
            )


def compare_with(report: Report, earlier: Earlier) -> Report:
    """The report with the changes of every figure that the earlier one has too, and with notes."""
    changes = []
    for cell in report.cells:
        for name, timing in cell.timings.items():
            before = earlier.cells.get((cell.subject, name))
            if before is not None:
                seconds, ratio = before
                changes.append(
                    Change(
                        cell.subject, name, seconds, timing.seconds, ratio, cell.ratios.get(name)
                    )
                )
    notes = [*report.notes, *_notes(report, earlier, bool(changes))]
    return dataclasses.replace(report, changes=changes, notes=notes)


def _notes(report: Report, earlier: Earlier, any_changes: bool) -> Iterator[str]:
    if not any_changes:
        yield f"{earlier.path} has none of these models, batch sizes and threads."
        return
    then, now = earlier.machine, report.machine
    if (then.cpu, then.cores, then.system) != (now.cpu, now.cores, now.system):
        yield (
            f"{earlier.path} was measured on another machine ({then.cpu}, {then.cores} cores, "
            f"{then.system}): only ratios can be compared."
        )
    elif then.isa == now.isa and abs(now.peak_gflops / then.peak_gflops - 1) > _PEAK_DRIFT:
        yield (
            f"The core's peak was {then.peak_gflops:.0f} GFLOP/s then and is "
            f"{now.peak_gflops:.0f} now: compare the ratios, not the times."
        )
    if then.isa != now.isa:
        yield f"{earlier.path} was measured at the ISA level {then.isa}, this at {now.isa}."
    for name, version in now.versions.items():
        if then.versions.get(name, version) != version:
            yield f"{name} was {then.versions[name]} then and is {version} now."
