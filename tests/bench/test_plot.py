from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
from PIL import Image

from pyconv.bench import plot
from pyconv.bench.report import Report
from pyconv.errors import InputError, MissingExtraError


def test_draw_has_a_bar_for_every_timing_as_high_as_its_rate(report: Report) -> None:
    pytest.importorskip("matplotlib")
    figure = plot.draw(report)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["small · 1 thread", "small · 2 threads"]
    for axes in figure.axes:
        heights = [round(bar.get_height()) for bar in axes.patches]
        assert heights == [1000, 16000, 333, 5333]
        assert [text.get_text() for text in axes.texts] == ["3.0×", "3.0×"]
        low, high = axes.get_ylim()
        assert low == 0
        assert high > 16000


def test_save_writes_a_picture(report: Report, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot.save(report, tmp_path / "chart.png")
    with Image.open(tmp_path / "chart.png") as picture:
        assert picture.width > 1000
        assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 10


def test_save_names_the_place_it_cannot_write_to(report: Report, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(InputError, match="missing"):
        plot.save(report, tmp_path / "missing" / "chart.png")


def test_draw_without_a_timed_cell_is_refused(report: Report) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(InputError, match="nothing to draw"):
        plot.draw(dataclasses.replace(report, cells=[]))


def test_draw_without_matplotlib_names_the_extra(
    report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"pyconv\[plot\]"):
        plot.draw(report)
