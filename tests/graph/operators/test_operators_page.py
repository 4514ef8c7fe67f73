"""docs/operators.md is what the registries say."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import onnx
import pytest

from pyconv import _core
from pyconv.graph.native_operators import NATIVE_OPERATORS
from pyconv.graph.operators import OPERATORS
from pyconv.graph.reader import OPSETS

TOOL = Path(__file__).parents[3] / "tools" / "list_operators.py"


@pytest.fixture(scope="module")
def tool() -> dict[str, Any]:
    return runpy.run_path(str(TOOL))


@pytest.mark.skipif(
    onnx.defs.onnx_opset_version() != OPSETS.stop - 1,
    reason="this onnx knows other versions of the operators than the page was written with",
)
def test_operators_page_is_up_to_date(tool: dict[str, Any]) -> None:
    assert tool["PAGE"].read_text(encoding="utf-8") == tool["page"](), (
        "the operators have changed: run `python tools/list_operators.py`"
    )


def test_operators_page_knows_what_each_becomes(tool: dict[str, Any]) -> None:
    nothing = {name for name in OPERATORS if not tool["native_operators"](name)}
    assert nothing == {"Identity"}
    assert tool["native_operators"]("Conv") >= {"conv2d", "transpose"}
    assert tool["native_operators"]("Softmax") == {"reshape", "softmax"}


def test_operators_page_knows_what_is_lacking(tool: dict[str, Any]) -> None:
    assert "in training mode" in tool["lacking"]("Dropout")
    assert tool["lacking"]("Relu") == []


def test_operators_page_knows_versions(tool: dict[str, Any]) -> None:
    assert tool["versions"]("Relu")[:2] == [6, 13]
    assert tool["versions"]("Gelu") == [20]
    assert tool["versions"]("LSTMs") == []


def test_native_operators_are_known_wherever_they_must_be() -> None:
    """The registry in C++, the compiler's, and the table in docs/architecture.md."""
    built = set(_core.operators())
    assert set(NATIVE_OPERATORS) - {"identity"} == built
    page = (TOOL.parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = page[page.index("| operator | inputs | attributes") :].partition("\n\n")[0]
    names = " ".join(line.split("|")[1] for line in table.splitlines()[2:])
    assert set(re.findall(r"`(\w+)`", names)) == built
