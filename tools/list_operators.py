"""Write docs/operators.md: the ONNX operators of the native engine, as the code itself has them.

    python tools/list_operators.py

Everything comes from the registries: the versions of an operator from onnx's schemas, the native
operators and the uses that are lacking from the source of its import function and of what that
calls. A test holds the page to it.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import onnx

from pyconv.graph.constants import EVALUATED
from pyconv.graph.native_operators import DTYPES, NATIVE_OPERATORS
from pyconv.graph.operators import OPERATORS, Context, Unsupported
from pyconv.graph.reader import OPSETS

PAGE = Path(__file__).parent.parent / "docs" / "operators.md"
NATIVE = set(NATIVE_OPERATORS) - {"identity"}  # the compiler's own, which is never run


def versions(name: str) -> list[int]:
    """The versions of an ONNX operator that files of the operator sets understood may mean."""
    history = sorted(
        schema.since_version
        for schema in onnx.defs.get_all_schemas_with_history()
        if schema.name == name and schema.domain == ""
    )
    first = max((version for version in history if version <= OPSETS.start), default=0)
    return [version for version in history if first <= version < OPSETS.stop]


def reached(function: Callable[..., Any]) -> Iterator[FunctionType]:
    """A function of pyconv, those that it calls, and those that it was made with."""
    seen: set[FunctionType] = set()
    waiting: list[Any] = [function]
    while waiting:
        item = waiting.pop()
        if not inspect.isfunction(item) or item in seen:
            continue
        if not item.__module__.startswith("pyconv.graph.operators"):
            continue
        seen.add(item)
        yield item
        waiting += inspect.getclosurevars(item).nonlocals.values()
        for node in ast.walk(_source(item)):
            if isinstance(node, ast.Name):
                waiting.append(item.__globals__.get(node.id))
            elif isinstance(node, ast.Attribute) and node.attr == "take":
                waiting.append(Context.take)


def native_operators(name: str) -> set[str]:
    """The native operators that an ONNX operator may become."""
    found: set[str] = set()
    for function in reached(OPERATORS[name]):
        values = inspect.getclosurevars(function).nonlocals.values()
        found.update(value for value in values if isinstance(value, str))
        found.update(_texts(_source(function)))
    return found & NATIVE


def lacking(name: str) -> list[str]:
    """The uses of an operator that its import functions refuse."""
    found: dict[str, None] = {}
    for function in reached(OPERATORS[name]):
        if function.__module__ == Context.__module__:
            continue
        for node in ast.walk(_source(function)):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id == Unsupported.__name__
            ):
                text = _text(node.args[0], name)
                if text.split()[0] == name:
                    found[text.removeprefix(name).strip()] = None
    return sorted(found)


def _texts(node: ast.AST) -> Iterator[str]:
    """The texts in some source, those that it compares with or looks up left out."""
    if isinstance(node, ast.Compare) or (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "attribute"
    ):
        return
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    for child in ast.iter_child_nodes(node):
        yield from _texts(child)


def _source(function: FunctionType) -> ast.AST:
    return ast.parse(textwrap.dedent(inspect.getsource(function)))


def _text(message: ast.expr, name: str) -> str:
    """A message as it stands in the source: what it would fill in is written as code."""
    if isinstance(message, ast.Constant):
        return str(message.value)
    assert isinstance(message, ast.JoinedStr)
    parts = []
    for part in message.values:
        if isinstance(part, ast.Constant):
            parts.append(str(part.value))
        elif isinstance(part, ast.FormattedValue):
            source = ast.unparse(part.value)
            parts.append(name if source.endswith("node.operator") else f"`{source}`")
    return "".join(parts)


def page() -> str:
    """The whole of docs/operators.md."""
    evaluated = [f"`{name}`" for name in sorted(EVALUATED)]
    rows = []
    sets = f"{OPSETS.start} to {OPSETS.stop - 1}"
    dtypes = ", ".join(f"`{dtype}`" for dtype in DTYPES)
    for name in sorted(OPERATORS):
        native = ", ".join(f"`{op}`" for op in sorted(native_operators(name))) or "nothing"
        since = ", ".join(map(str, versions(name)))
        rows.append(f"| `{name}` | {since} | {native} | {'; '.join(lacking(name))} |")
    known = textwrap.fill(", ".join(evaluated), 100)
    return f"""# The ONNX operators of the native engine

<!-- Written by tools/list_operators.py; a test holds it to the code. -->

Operator sets {sets} are understood, {len(OPERATORS)} operators of them. *Versions* are those
that ONNX has of an operator in these sets (each means the same until the next), *becomes* the
native operators that it is composed of before the passes ([compiler.md](compiler.md)), and
*lacking* what is refused by name when a file is loaded. Element types are {dtypes}, as far as
each native operator has them ([architecture.md](architecture.md#the-native-operators)).

| operator | versions | becomes | lacking |
|---|---|---|---|
{chr(10).join(rows)}

## Known beforehand

These are computed when a file is loaded, and cost a run nothing, where all that goes into them
is known: constants, and what follows from the sizes of tensors (`Shape` and `Size`), the batch
included.

{known}
"""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
