"""Where a server's settings come from: flags, the environment, a TOML file.

What is set in several places counts from the first of: a flag, a variable `PYCONV_SERVE_…`, the
file. A name that is no setting is refused wherever it stands.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_origin, get_type_hints

from pydantic import BeforeValidator, ValidationError, create_model
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from pyconv import bundled
from pyconv.errors import InputError, unknown_name
from pyconv.server.settings import (
    DEFAULT_HTTP_PORT,
    ModelSettings,
    ModelSpec,
    Settings,
    named_settings,
)

PREFIX = "PYCONV_SERVE_"
FILE_VARIABLE = f"{PREFIX}CONFIG"
"""The variable that names the TOML file where `--config` does not."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """Settings, and where each came from.

    Attributes:
        settings: what the server is told.
        origins: for every setting, `"flag"`, the variable's name, the file's path or `"default"`.
        file: the TOML file that was read, if one was.
    """

    settings: Settings
    origins: Mapping[str, str]
    file: Path | None

    def to_toml(self) -> str:
        """The settings as a TOML file that says where each came from, and that `gather` reads."""
        lines = [
            "# The settings as pyconv serve takes them. A flag counts before the environment, the",
            f"# environment before the file ({self.file or 'none is read'}).",
        ]
        written = [
            (f"{name} = {_toml(value)}" if value is not None else f"# {name} is not set", name)
            for name, value in _values(self.settings)
        ]
        width = min(60, max(len(text) for text, _ in written))
        lines += [f"{text.ljust(width)}  # {self.origins[name]}" for text, name in written]
        for model, own in self.settings.model_settings.items():
            key = model if re.fullmatch("[A-Za-z0-9_-]+", model) else _toml(model)
            lines += ["", f"[model_settings.{key}]  # {self.origins['model_settings']}"]
            given = {key: value for key, value in asdict(own).items() if value not in (None, ())}
            lines += [f"{key} = {_toml(value)}" for key, value in given.items()]
        return "\n".join(lines) + "\n"


def setting_names() -> Sequence[str]:
    """The names of all settings."""
    return [each.name for each in fields(Settings)]


def gather(
    flags: Mapping[str, Any], file: Path | None = None, environ: Mapping[str, str] | None = None
) -> Configuration:
    """Put the settings together.

    Args:
        flags: those given on the command line, by the name of the setting.
        file: a TOML file with settings by name; that of `PYCONV_SERVE_CONFIG` if None, or none.
        environ: the environment; this process's if None.

    Raises:
        InputError: a name that is no setting, a value that does not fit, a file that cannot be
            read.
    """
    environ = os.environ if environ is None else environ
    if file is None and environ.get(FILE_VARIABLE):
        file = Path(environ[FILE_VARIABLE])
    model = _model()
    names = list(model.model_fields)
    sources: list[tuple[dict[str, Any], Mapping[str, str]]] = [
        (dict(flags), dict.fromkeys(flags, "flag"))
    ]
    variables = _variables(environ, names)
    env = _read_environment(model, variables)
    sources.append((env, {name: PREFIX + name.upper() for name in env}))
    if file is not None:
        values = _read_file(model, file)
        for name in values:
            if name not in names:
                raise InputError(f"{file}: {unknown_name('setting', name, names)}")
        sources.append((values, dict.fromkeys(values, str(file))))

    chosen: dict[str, Any] = {}
    origins = dict.fromkeys(names, "default")
    for values, places in reversed(sources):
        chosen |= values
        origins |= places
    try:
        found = model(**chosen)
    except ValidationError as error:
        raise InputError(_explain(error, origins)) from None
    checked = {name: getattr(found, name) for name in found.model_fields_set}
    models = checked.pop("models", None)
    if models is None:
        models = [] if checked.get("model_dir") else bundled.names()
    specs = [ModelSpec.parse(text) for text in models]
    # Whoever takes any free port for gRPC wants no fixed one for HTTP; on Ray there is none.
    free = -1 if checked.get("ray") else 0 if checked.get("port") == 0 else DEFAULT_HTTP_PORT
    checked.setdefault("http_port", free)
    return Configuration(Settings(models=specs, **checked), origins, file)


class _Source(BaseSettings):
    """Only what it is given: the sources are read one by one, to know what came from where."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="forbid", validate_default=False, protected_namespaces=()
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


@cache
def _model() -> type[BaseSettings]:
    """The fields of `Settings` with their types; the models as their texts."""
    hints = get_type_hints(Settings)
    declared: dict[str, Any] = {}
    for each in fields(Settings):
        hint = list[str] if each.name == "models" else hints[each.name]
        if each.name == "model_settings":
            hint = Annotated[hint, NoDecode, BeforeValidator(_by_model)]
        elif hint in (int, float):
            hint = Annotated[hint, BeforeValidator(_number)]
        elif hint is bool:
            hint = Annotated[hint, BeforeValidator(_truth)]
        elif isinstance(get_origin(hint), type) and issubclass(
            get_origin(hint) or object, Sequence
        ):
            hint = Annotated[hint, NoDecode, BeforeValidator(_split)]
        declared[each.name] = (hint, None)  # never heard: what is not given, `Settings` fills in
    model: type[BaseSettings] = create_model("Settings", __base__=_Source, **declared)
    return model


def _by_model(value: object) -> object:
    """Settings of models: a table of tables, or texts, which a variable holds with commas."""
    if isinstance(value, str | list):
        found: dict[str, ModelSettings] = {}
        for text in _split(value):
            if not isinstance(text, str):
                raise InputError(f"expected texts NAME;KEY=VALUE or a table by name, got {text!r}")
            model, own_settings = named_settings(text)
            if model in found:
                raise InputError(
                    f"model {model!r} is given twice; put all its settings behind its name once, "
                    "with semicolons between"
                )
            found[model] = own_settings
        return found
    known = [each.name for each in fields(ModelSettings)]
    if not isinstance(value, Mapping):
        return value
    for model, own in value.items():
        if not isinstance(own, Mapping):
            raise InputError(f"model {model!r}: expected a table of settings, got {own!r}")
        for name, item in own.items():
            if name not in known:
                told = unknown_name("setting of a model", name, known)
                raise InputError(f"model {model!r}: {told}")
            if name != "engines":
                try:
                    _number(item)
                except InputError as error:
                    raise InputError(f"model {model!r}: {name}: {error}") from None
    return {
        model: {name: _split(item) if name == "engines" else item for name, item in own.items()}
        for model, own in value.items()
    }


def _number(value: object) -> object:
    """What pydantic may read as a number: not `true`, which it takes for 1."""
    if isinstance(value, bool):
        raise InputError(f"expected a number, got {_toml(value)}")
    return value


def _truth(value: object) -> object:
    """What pydantic may read as a truth value: not 1, which a file need not write for `true`."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise InputError(f"expected true or false, got {_toml(value)}")
    return value


def _split(value: Any) -> Any:
    """A list as a variable holds it: with commas between."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def _variables(environ: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    found = {name: value for name, value in environ.items() if name.upper().startswith(PREFIX)}
    found.pop(FILE_VARIABLE, None)
    known = [PREFIX + name.upper() for name in names]
    for name in found:
        if name not in known:
            # Without the prefix, which all have and which would make all of them near.
            near = unknown_name("setting", name.upper().removeprefix(PREFIX).lower(), names)
            raise InputError(f"{name}: {near}; a variable is {PREFIX} and the name in capitals")
    return found


def _read_environment(model: type[BaseSettings], variables: Mapping[str, str]) -> dict[str, Any]:
    source = EnvSettingsSource(model)
    source.env_vars = {name.lower(): value for name, value in variables.items() if value}
    return source()


def _read_file(model: type[BaseSettings], file: Path) -> dict[str, Any]:
    try:
        # The source takes a file that is not there for an empty one.
        with file.open("rb"):
            return TomlConfigSettingsSource(model, toml_file=file)()
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not a TOML file: {error}") from error


def _explain(error: ValidationError, origins: Mapping[str, str]) -> str:
    first = error.errors()[0]
    name = str(first["loc"][0])
    where = ".".join(str(part) for part in first["loc"])
    told = f"{where} ({origins.get(name, 'flag')})"
    if first["type"] == "value_error":  # of our own saying
        return f"{told}: {first['ctx']['error']}"
    expected = _EXPECTED.get(first["type"]) or first["msg"].removeprefix("Input should be ")
    return f"{told}: expected {expected}, got {first['input']!r}"


_EXPECTED = {"bool_parsing": "true or false", "path_type": "a path"}
"""What pydantic's messages say, where they do not begin by it."""


def _values(settings: Settings) -> Iterator[tuple[str, Any]]:
    for each in fields(settings):
        value = getattr(settings, each.name)
        if each.name == "model_settings":
            continue  # tables, which stand behind everything else
        if each.name == "models":
            value = [spec.text for spec in value]
        yield each.name, value


def _toml(value: Any) -> str:
    """A value as TOML writes it (https://toml.io/en/v1.0.0)."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | Path):
        escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'
    return "[" + ", ".join(_toml(item) for item in value) + "]"
