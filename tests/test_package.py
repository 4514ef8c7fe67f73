"""What holds for the package as a whole: its imports, its names, its commands."""

from __future__ import annotations

import subprocess
import sys

import pytest

import pyconv
from pyconv.cli import COMMANDS, main

_HEAVY = {"tensorflow", "keras", "onnxruntime", "grpc", "onnx", "matplotlib", "PIL", "rich"}


def _imported_by(code: str) -> set[str]:
    """The top-level modules that a fresh Python has loaded after running the code."""
    program = f"{code}\nimport sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}


def test_import_loads_nothing_heavy() -> None:
    assert "pyconv" in (loaded := _imported_by("import pyconv"))
    assert not loaded & (_HEAVY | {"numpy"})


def test_help_loads_nothing_heavy() -> None:
    code = "from pyconv.cli import build_parser; build_parser().format_help()"
    assert "argparse" in (loaded := _imported_by(code))
    assert not loaded & _HEAVY


@pytest.mark.parametrize("name", pyconv.__all__)
def test_public_name_exists(name: str) -> None:
    assert getattr(pyconv, name) is not None
    assert name in dir(pyconv)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'no_such_thing'"):
        _ = pyconv.no_such_thing


def test_module_is_the_command() -> None:
    command = [sys.executable, "-m", "pyconv", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"pyconv {pyconv.__version__}"


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert set(COMMANDS) <= set(listed)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_has_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    _, heading, examples = capsys.readouterr().out.partition("\nexamples:\n")
    assert heading
    assert f"pyconv {command}" in examples


@pytest.mark.parametrize("command", COMMANDS)
def test_wrong_flag_exits_with_2(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--no-such-flag"])
    assert stop.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_missing_command_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
    assert "COMMAND" in capsys.readouterr().err
