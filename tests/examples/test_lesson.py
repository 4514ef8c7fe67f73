"""The notebook runs from its first cell to its last, quickly: one epoch on few images."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from pyconv import data

NOTEBOOK = Path(__file__).parents[2] / "examples" / "lesson.ipynb"


@pytest.mark.train
@pytest.mark.data
@pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None, reason="TensorFlow is not installed"
)
def test_lesson_notebook_runs(tmp_path: Path) -> None:
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    if data.locate("mnist") is None or data.locate("fashion-mnist") is None:
        pytest.skip("the data sets are not on this machine: pyconv data fetch")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    (parameters,) = (
        cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])
    )
    assert "EPOCHS, IMAGES = " in parameters.source
    parameters.source += f"\nEPOCHS, IMAGES, OUT = 1, 600, Path({str(tmp_path / 'runs')!r})"
    nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()

    pictures = sum(
        "image/png" in output.get("data", {})
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )
    assert pictures == 5  # clothes, curves, two figures of activations, digits
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {
        *("activations", "baseline", "early", "runs")
    }
