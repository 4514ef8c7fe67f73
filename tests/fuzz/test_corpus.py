"""Every file that the fuzzer keeps loads and runs, or is refused in words."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import onnx
import pytest

HERE = Path(__file__).parent
CORPUS = sorted((HERE / "corpus").iterdir())


@pytest.fixture(scope="module")
def fuzzer() -> dict[str, Any]:
    return runpy.run_path(str(HERE / "fuzz_loader.py"))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy, about nonsense that it computes
@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_corpus(fuzzer: dict[str, Any], tmp_path: Path, path: Path) -> None:
    outcome = fuzzer["check"](path.read_bytes(), tmp_path)
    assert outcome.startswith(("refused", "loaded", "ran"))


def test_corpus_has_files_of_every_outcome(fuzzer: dict[str, Any], tmp_path: Path) -> None:
    outcomes = {fuzzer["check"](path.read_bytes(), tmp_path).split(":")[0] for path in CORPUS}
    assert outcomes >= {"refused", "loaded", "ran"}


def test_mutations_make_other_files_and_are_repeatable(fuzzer: dict[str, Any]) -> None:
    contents = (HERE / "corpus" / "classifier.onnx").read_bytes()
    made = [fuzzer["mutated"](contents, seed, lambda data: data[::-1]) for seed in range(50)]
    again = [fuzzer["mutated"](contents, seed, lambda data: data[::-1]) for seed in range(50)]
    assert made == again
    assert len({*made, contents}) > 25
    parsed = [onnx.ModelProto.FromString(data) for data in made if data != contents[::-1]]
    assert len(parsed) > 25
