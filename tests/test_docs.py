"""The Markdown pages point at what exists, and the README's commands are those that CI runs."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[1]
_PAGES = [*_ROOT.glob("*.md"), *(_ROOT / "docs").rglob("*.md")]


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: str(page.relative_to(_ROOT)))
def test_links_point_at_files_that_exist(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    local = [target for target in targets if "://" not in target]
    missing = [target for target in local if not (page.parent / target).exists()]
    assert not missing


def test_index_of_the_docs_lists_every_page() -> None:
    index = (_ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    pages = [path.relative_to(_ROOT / "docs") for path in (_ROOT / "docs").rglob("*.md")]
    unlisted = [str(p) for p in pages if p != Path("README.md") and f"]({p})" not in index]
    assert not unlisted


def test_readme_gives_the_two_commands() -> None:
    lines = (_ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert "pip install . && pyconv demo" in lines
    assert 'pip install -e ".[test]" && pytest' in lines


def test_ci_takes_its_test_command_from_the_readme() -> None:
    script = (_ROOT / ".ci" / "run").read_text(encoding="utf-8")
    (lookup,) = re.findall(r"^test_command=\$\((.*)\)$", script, re.MULTILINE)
    found = subprocess.run(
        ["bash", "-c", lookup], cwd=_ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == 'pip install -e ".[test]" && pytest'
