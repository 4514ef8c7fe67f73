from __future__ import annotations

import argparse
import dataclasses
import string
import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pyconv import bundled
from pyconv.cli import build_parser
from pyconv.errors import InputError
from pyconv.server.configuration import gather
from pyconv.server.settings import ModelSettings, ModelSpec, Settings


def _write(folder: Path, text: str) -> Path:
    path = folder / "serve.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_nothing_given_is_the_defaults() -> None:
    found = gather({}, environ={"PATH": "/bin", "PYCONV_ISA": "avx2"})
    assert [spec.name for spec in found.settings.models] == bundled.names()
    assert found.settings == Settings(models=found.settings.models, http_port=8080)
    assert set(found.origins.values()) == {"default"}


def test_a_flag_counts_before_the_environment_before_the_file(tmp_path: Path) -> None:
    file = _write(tmp_path, "port = 1\nmax_queue = 1\nmax_images = 1\n")
    environ = {"PYCONV_SERVE_PORT": "2", "PYCONV_SERVE_MAX_QUEUE": "2"}
    found = gather({"port": 3}, file, environ)
    taken = found.settings
    assert (taken.port, taken.max_queue, taken.max_images) == (3, 2, 1)
    assert found.origins["port"] == "flag"
    assert found.origins["max_queue"] == "PYCONV_SERVE_MAX_QUEUE"
    assert found.origins["max_images"] == str(file)


def test_lists_stand_in_variables_with_commas_and_in_files_as_lists(tmp_path: Path) -> None:
    environ = {"PYCONV_SERVE_ENGINES": "onnxruntime, native", "PYCONV_SERVE_MODELS": "a=x,b=y"}
    found = gather({}, environ=environ).settings
    assert found.engines == ["onnxruntime", "native"]
    assert found.models == [ModelSpec("a", "x"), ModelSpec("b", "y")]
    file = _write(tmp_path, 'models = ["a=x", "b=y"]\nengines = ["onnxruntime", "native"]')
    assert gather({}, file, {}).settings == found


def test_a_variable_names_the_file(tmp_path: Path) -> None:
    file = _write(tmp_path, "max_batch = 3")
    found = gather({}, environ={"PYCONV_SERVE_CONFIG": str(file)})
    assert found.settings.max_batch == 3
    assert found.file == file


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prot = 1", "there is no setting 'prot'; did you mean 'port'"),
        ("[limits]\nmax_images = 1", "there is no setting 'limits'"),
        ('port = "high"', r"port \(.*serve.toml\): expected a valid integer.*got 'high'"),
        ("port = 70000", "port: expected 0 to 65535"),
        ('engines = ["natve"]', "engines.*: expected 'native' or 'onnxruntime', got 'natve'"),
        ("models = []", "models: expected at least one"),
        ("[model_settings.shoe]", "model_settings: there is no model 'shoe'"),
        (
            "[model_settings.digits]\nmax_batc = 3",
            "model 'digits': there is no setting of a model 'max_batc'; did you mean 'max_batch'",
        ),
        (
            '[model_settings.digits]\nmax_batch = "many"',
            r"model_settings.digits.max_batch \(.*toml\): expected a valid integer.*got 'many'",
        ),
        (
            "[model_settings.digits]\nmax_batch = 0",
            r"model_settings.digits \(.*toml\): max_batch: expected at least 1, got 0",
        ),
        ('model_settings = ["digits"]', "expected NAME;KEY=VALUE, got 'digits'"),
        (
            "model_settings = [5]",
            r"model_settings \(.*toml\): expected texts NAME;KEY=VALUE or a table by name, got 5",
        ),
        (
            'model_settings = ["digits;max_batch=4", "digits;max_wait_ms=3"]',
            r"model_settings \(.*toml\): model 'digits' is given twice",
        ),
        (
            "[model_settings.digits]\nmax_batch = true",
            "model 'digits': max_batch: expected a number, got true",
        ),
        (
            "[model_settings.digits]\nmax_wait_ms = false",
            "model 'digits': max_wait_ms: expected a number, got false",
        ),
        (
            'model_settings = ["digits;max_batch=4;max_batch=5"]',
            r"model 'digits': max_batch is given twice: 4 and 5",
        ),
        ("port = true", r"port \(.*toml\): expected a number, got true"),
        ("log_requests = 1", r"log_requests \(.*toml\): expected true or false, got 1"),
        (
            'log_requests = "maybe"',
            r"log_requests \(.*toml\): expected true or false, got 'maybe'",
        ),
        ("trace = 0.0", r"trace \(.*toml\): expected true or false, got 0.0"),
        ("max_wait_ms = true", r"max_wait_ms \(.*toml\): expected a number, got true"),
        ("model_settings = 3", r"model_settings \(.*toml\): expected .*, got 3"),
        ("engines = []", r"engines: expected one or more, each at most once, got \[\]"),
        ("token_file = 7", r"token_file \(.*toml\): expected a path, got 7"),
        (
            "[model_settings]\ndigits = 3",
            r"model_settings \(.*toml\): model 'digits': expected a table of settings, got 3",
        ),
        (
            '[model_settings.digits]\nengines = "both"',
            r"engines.0 \(.*\): expected 'native' or 'onnxruntime', got 'both'",
        ),
        ('host = ""', "host: expected an address, got an empty text"),
        ("concurrency = 1025", "concurrency: expected at most 1024, got 1025"),
        (
            'models = ["shoes=x.onnx;max_bach=2;max_batch=3"]',
            "model 'shoes': expected engine=native.* after the semicolon, got max_bach=2",
        ),
        (
            'models = ["digits;max_bach=2"]',
            "model 'digits': expected engine=native.* after the semicolon, got max_bach=2",
        ),
        ("port =", "not a TOML file"),
    ],
)
def test_file_that_is_wrong(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        gather({}, _write(tmp_path, text), {})


def test_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        gather({}, tmp_path / "none.toml", {})


def test_settings_of_a_model(tmp_path: Path) -> None:
    """As a flag, a variable, and a table in the file; its own, behind its path, count first."""
    text = "a;engine=both;max_batch=3"
    own = {"a": ModelSettings(("native", "onnxruntime"), 3), "b": ModelSettings(max_wait_ms=0.5)}
    flags = {"models": ["a=x;max_batch=7", "b=y"], "max_batch": 9, "max_wait_ms": 4}
    found = gather({**flags, "model_settings": [text, "b;max_wait_ms=0.5"]}, environ={}).settings
    assert found.model_settings == own
    variable = {"PYCONV_SERVE_MODEL_SETTINGS": f"{text}, b;max_wait_ms=0.5"}
    assert gather(flags, environ=variable).settings == found
    file = _write(
        tmp_path,
        '[model_settings.a]\nengines = ["native", "onnxruntime"]\nmax_batch = 3\n'
        "[model_settings.b]\nmax_wait_ms = 0.5\n",
    )
    read = gather(flags, file, {})
    assert read.settings == found
    again = gather({}, _write(tmp_path, read.to_toml()), {}).settings
    assert (again.models, again.model_settings) == (found.models, own)
    a, b = found.models
    assert found.of_model(a) == (("native", "onnxruntime"), 7, 4)
    assert found.of_model(b) == (("native",), 9, 0.5)
    assert found.of_model(ModelSpec("c", "z")) == (("native",), 9, 4)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("PYCONV_SERVE_MAX_IMAGE", "1", "no setting 'max_image'; did you mean 'max_images'"),
        (
            "PYCONV_SERVE_MODEL_SETTINGS",
            "digits;max_batch=4, digits;max_wait_ms=3",
            r"model_settings \(PYCONV_SERVE_MODEL_SETTINGS\): model 'digits' is given twice",
        ),
        ("PYCONV_SERVE_PORT", "x", r"port \(PYCONV_SERVE_PORT\): expected a valid integer"),
        ("pyconv_serve_port", "1", "a variable is PYCONV_SERVE_ and the name in capitals"),
    ],
)
def test_variable_that_is_wrong(name: str, value: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        gather({}, environ={name: value})


_names = st.text(string.ascii_letters, min_size=1, max_size=5)
_paths = st.text(
    st.characters(blacklist_categories=["Cs", "Cc"], blacklist_characters="=,\x7f"), min_size=1
)


@example(models={"A": "0" * 300}, max_wait_ms=1.0, max_queue=1)  # longer than a file's name may be
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(
    models=st.dictionaries(_names, _paths, min_size=1, max_size=3),
    max_wait_ms=st.floats(0, 1e6),
    max_queue=st.integers(1, 1 << 60),
)
def test_what_is_printed_reads_back_the_same(
    tmp_path: Path, models: dict[str, str], max_wait_ms: float, max_queue: int
) -> None:
    flags = {
        "models": [f"{name}={path}" for name, path in models.items()],
        "max_wait_ms": max_wait_ms,
        "max_queue": max_queue,
        "engines": ["native", "onnxruntime"],
    }
    first = gather(flags, environ={})
    printed = first.to_toml()
    tomllib.loads(printed)
    assert gather({}, _write(tmp_path, printed), {}).settings == first.settings


def test_every_setting_has_a_flag_with_its_default() -> None:
    """And no flag is without its setting, but for those that are about settings."""
    commands = next(
        action
        for action in build_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    actions = {action.dest: action for action in commands.choices["serve"]._actions}
    for name in ("help", "json", "config", "print_config"):
        del actions[name]
    assert set(actions) == {field.name for field in dataclasses.fields(Settings)}
    for field in dataclasses.fields(Settings):
        said = (actions[field.name].help or "").rpartition("(default: ")[2].rstrip(")")
        unsure = {"models", "http_port", "engines", "concurrency", "max_message_bytes"}
        default = field.default
        if field.name not in unsure and default not in (None, False, (), dataclasses.MISSING):
            same = said == default if isinstance(default, str) else _number(said) == default
            assert same, (field.name, said, default)


def _number(text: str) -> float:
    return float(text.replace(",", ""))
