from __future__ import annotations

import json
from pathlib import Path

import pytest

from pyconv.cli import main

_BRIEF = ["--seconds", "0.01", "--rounds", "3", "--threads", "1", "--batch", "1", "2"]


def test_bench_prints_a_table_of_both_engines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "digits", *_BRIEF]) == 0
    text = capsys.readouterr().out
    assert text.count("native ") >= 2
    assert text.count("onnxruntime ") >= 2
    assert "digits" in text
    assert "GFLOP/s a core" in text


def test_bench_json_is_all_that_standard_output_holds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "digits", *_BRIEF, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["schema"] == "pyconv-bench/1"
    assert [cell["subject"]["batch"] for cell in report["cells"]] == [1, 2]


def test_bench_writes_the_files_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    figures, chart = tmp_path / "bench.json", tmp_path / "bench.png"
    options = ["--json", str(figures), "--plot", str(chart)]
    assert main(["bench", "digits", *_BRIEF, *options]) == 0
    assert len(json.loads(figures.read_text(encoding="utf-8"))["cells"]) == 2
    assert chart.stat().st_size > 10_000
    assert "digits" in capsys.readouterr().out


def test_bench_compares_with_an_earlier_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = tmp_path / "bench.json"
    assert main(["bench", "digits", *_BRIEF, "--json", str(figures)]) == 0
    capsys.readouterr()
    assert main(["bench", "digits", *_BRIEF, "--compare", str(figures)]) == 0
    text = capsys.readouterr().out
    assert "Beside the earlier figures" in text
    assert main(["bench", "digits", "--compare", str(tmp_path / "none.json")]) == 1
    assert f"pyconv bench: {tmp_path / 'none.json'}: cannot be read" in capsys.readouterr().err


def test_bench_of_a_missing_model_says_which(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "nowhere"]) == 1
    assert capsys.readouterr().err.startswith("pyconv bench: there is no model 'nowhere'")


def test_bench_exits_1_when_a_cell_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["bench", "digits", "--tolerance", "1e-30", *_BRIEF]) == 1
    assert "not timed: native and onnxruntime differ" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options", [["--json", "digits"], ["--plot", "chart.txt"], ["--batch", "many"]]
)
def test_bench_refuses_a_wrong_flag(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["bench", *options])
    assert stop.value.code == 2
    assert options[1] in capsys.readouterr().err


def test_bench_compares_stored_weights_with_float32(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "digits", "--weights", "int8", "--layers", "--json", *_BRIEF]) == 0
    cell = json.loads(capsys.readouterr().out)["cells"][0]
    assert set(cell["timings"]) == {"native", "onnxruntime", "float32"}
    assert 0 < cell["difference"] < 0.1
    assert any("int8 weights" in step["algorithm"] for step in cell["steps"])


def test_bench_refuses_a_tolerance_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "digits", "--tolerance", "0", *_BRIEF]) == 1
    assert "--tolerance: expected a number above 0, got 0.0" in capsys.readouterr().err
