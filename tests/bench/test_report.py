from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from pyconv.bench.measure import Spread
from pyconv.bench.report import Report

_DOCS = Path(__file__).parents[2] / "docs" / "benchmarks.md"


def _keys(value: Any, path: str = "") -> set[str]:
    if isinstance(value, dict):
        return {path} | {
            key for name, item in value.items() for key in _keys(item, f"{path}.{name}")
        }
    if isinstance(value, list):
        return {path} | {key for item in value for key in _keys(item, f"{path}[]")}
    return {path}


def test_to_dict_has_the_form_that_the_docs_show(report: Report) -> None:
    match = re.search(r"```json\n(.*?)```", _DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert match is not None
    shown = json.loads(match[1])
    written = json.loads(json.dumps(report.to_dict()))
    names = set(shown["machine"].pop("versions")), set(written["machine"].pop("versions"))
    assert all("python" in each for each in names)
    assert _keys(written) == _keys(shown)
    assert written["schema"] == shown["schema"]


@pytest.mark.parametrize(("q3", "noisy"), [(1.2, False), (1.3, True)])
def test_cell_is_noisy_when_its_quartiles_lie_far_apart(
    report: Report, q3: float, noisy: bool
) -> None:
    cell = dataclasses.replace(report.cells[0], ratios={"onnxruntime": Spread(1.0, 1.0, q3)})
    assert cell.noisy is noisy
    timing = report.cells[0].timings["native"]
    unsteady = dataclasses.replace(timing, seconds=Spread(1.0, 1.0, q3))
    assert dataclasses.replace(report.cells[0], timings={"native": unsteady}).noisy is noisy
