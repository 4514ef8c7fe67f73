"""What a server is told when it starts."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from pyconv import bundled
from pyconv.engines.base import EngineName, WeightStorage
from pyconv.errors import InputError, unknown_name
from pyconv.pictures import MAX_PIXELS
from pyconv.server.logs import LogFormat, LogLevel

DEFAULT_PORT = 50051
DEFAULT_HTTP_PORT = 8080
"""Of `pyconv serve`; a server inside a program has no HTTP unless it is told to."""
MIB = 1 << 20

_MOST_AT_ONCE = 1024

_OWN = re.compile("(;(engine|max_batch|max_wait_ms)=[^;]*)+$")
"""Settings of one model behind its name or path."""

_SETTING = re.compile(r";\w+=")
"""What looks like one, whether there is such a setting or not."""

ENGINES: Mapping[str, Sequence[EngineName]] = {
    "native": ("native",),
    "onnxruntime": ("onnxruntime",),
    "both": ("native", "onnxruntime"),
}
"""What people write for the engines that a model is loaded on, the default first."""


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """What one model has in place of the server's own settings.

    Attributes:
        engines: on which engines it is loaded, the default first; empty: the server's.
        max_batch: the most images that run together; None: the server's.
        max_wait_ms: how long a request waits for others; None: the server's.

    Raises:
        InputError: a value that makes no sense.
    """

    engines: Sequence[EngineName] = ()
    max_batch: int | None = None
    max_wait_ms: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "engines", tuple(self.engines))
        if len(set(self.engines)) != len(self.engines):
            raise InputError(f"engines: expected each at most once, got {list(self.engines)}")
        if self.max_batch is not None and self.max_batch < 1:
            raise InputError(f"max_batch: expected at least 1, got {self.max_batch}")
        if self.max_wait_ms is not None and not 0 <= self.max_wait_ms < float("inf"):
            raise InputError(f"max_wait_ms: expected 0 or more, got {self.max_wait_ms}")

    @classmethod
    def parse(cls, text: str) -> ModelSettings:
        """Read `;engine=both;max_batch=16;max_wait_ms=2`, or some of it.

        Raises:
            InputError: it is not of that form, or a setting makes no sense or is given twice.
        """
        own = cls()
        given: dict[str, str] = {}
        for part in text.split(";")[1:]:
            key, _, value = part.partition("=")
            if key in given:
                raise InputError(f"{key} is given twice: {given[key]} and {value}; say it once")
            given[key] = value
            try:
                if key == "engine":
                    own = replace(own, engines=ENGINES[value])
                elif key == "max_batch":
                    own = replace(own, max_batch=int(value))
                elif key == "max_wait_ms":
                    own = replace(own, max_wait_ms=float(value))
                else:
                    raise KeyError(key)
            except InputError:
                raise
            except (KeyError, ValueError):
                raise InputError(
                    f"expected engine={'|'.join(ENGINES)}, max_batch=N or max_wait_ms=MS after "
                    f"the semicolon, got {part}"
                ) from None
        return own

    @property
    def text(self) -> str:
        """What `parse` reads as this."""
        parts = []
        if self.engines:
            parts.append(f";engine={'both' if len(self.engines) > 1 else self.engines[0]}")
        if self.max_batch is not None:
            parts.append(f";max_batch={self.max_batch}")
        if self.max_wait_ms is not None:
            parts.append(f";max_wait_ms={self.max_wait_ms!r}")
        return "".join(parts)


class Applied(NamedTuple):
    """What counts for a model, in the terms of `ModelSettings`."""

    engines: Sequence[EngineName]
    max_batch: int
    max_wait_ms: float


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except OSError:  # no file can be called so
        return False


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model to serve.

    Attributes:
        name: what requests call it.
        source: a bundled model's name, or the path of an ONNX file.
        version: which of the model's versions it is.
        own: settings of its own, which count before those of `Settings.model_settings`.
    """

    name: str
    source: str
    version: str = "1"
    own: ModelSettings = ModelSettings()

    @classmethod
    def parse(cls, text: str) -> ModelSpec:
        """Read `NAME=PATH`, a bundled name, or a path, whose name is then the file's stem.

        Semicolons divide it from settings of this model alone, in the terms of the server's own.

        >>> ModelSpec.parse("shoes=runs/7/model.onnx")
        ModelSpec(name='shoes', source='runs/7/model.onnx')
        >>> ModelSpec.parse("runs/shoes.onnx;engine=both;max_batch=16;max_wait_ms=2").own.max_batch
        16

        Raises:
            InputError: nothing stands before or after the sign, or a setting makes no sense.
        """
        # A file's own name may hold semicolons, too.
        source = text if _is_file(text) else _OWN.sub("", text)
        name, sign, path = source.partition("=")
        if not sign or _is_file(source):  # a file's own name may hold the sign
            name, path = source if source in bundled.names() else Path(source).stem, source
        stray = _SETTING.search(source)
        if stray and not _is_file(source) and not _is_file(path):
            _own(name.partition(";")[0], source[stray.start() :])  # says which are settings
        if not name or not path:
            raise InputError(f"model: expected NAME=PATH, a bundled name or a path, got {text!r}")
        return cls(name, path, own=_own(name, text[len(source) :]))

    @property
    def text(self) -> str:
        """What `parse` reads as this."""
        try:
            short = ModelSpec.parse(self.source) == ModelSpec(self.name, self.source)
        except InputError:  # such as "/", which has no stem
            short = False
        return (self.source if short else f"{self.name}={self.source}") + self.own.text


def named_settings(text: str) -> tuple[str, ModelSettings]:
    """Read `NAME;engine=both;max_batch=16`: a model's name, and settings of its own.

    Raises:
        InputError: it is not of that form, or a setting makes no sense.
    """
    name, semicolon, rest = text.partition(";")
    if not name or not rest:
        raise InputError(f"model settings: expected NAME;KEY=VALUE, got {text!r}")
    return name, _own(name, semicolon + rest)


def _own(name: str, text: str) -> ModelSettings:
    try:
        return ModelSettings.parse(text)
    except InputError as error:
        raise InputError(f"model {name!r}: {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a server is told when it starts; every limit is for one request.

    Attributes:
        models: what to serve; names are unique.
        model_dir: a folder of models that come and go: NAME.onnx or NAME/VERSION/model.onnx.
        watch_seconds: how often the folder is looked at; 0: only when told to.
        model_settings: by model, of those above or of the folder, what it has in place of
            `engines`, `max_batch` and `max_wait_ms`.
        engines: on which engines each model is loaded; requests get the first unless they choose.
        host: the address to listen on.
        port: gRPC's port; 0 takes a free one.
        http_port: HTTP's port, for the Open Inference Protocol in JSON, the metrics and the web
            page; 0 takes a free one, -1 is none.
        threads: how many threads the engine may use for one call.
        weights: how the native engine keeps the weights of dense layers.
        workers: how many processes share the ports, each with all the models.
        concurrency: how many runs of networks there are at the same time.
        max_batch: the most images of several requests that run together; a larger request runs
            alone.
        max_wait_ms: how long a request waits for others to run with while a thread is free.
        max_queue: the most requests that wait for one model on one engine.
        shadow_share: the share of requests, 0 to 1, that are run on the other engine too, to count
            disagreements; the models must be loaded on both.
        observed_layers: layers whose values are measured for the metrics.
        observed_share: in what share of the requests.
        max_message_bytes: the largest request message, and the largest answer with activations.
        max_images: the most images in one request.
        max_pixels: the most pixels of a picture file; a larger one is not decoded.
        max_outputs: the most outputs or layers asked for in one request.
        max_streams: the most streams that are open at the same time.
        max_heat_maps: the most pictures drawn for one request.
        grace_seconds: how long a stopping server waits for the requests in flight.
        drain_seconds: how long a stopping server still takes requests, after it has said that it is
            not ready: the time that balancers need to hear of it.
        tls_certificate: a PEM file with the server's certificate; it talks TLS only where given.
        tls_key: a PEM file with the certificate's private key.
        tls_client_ca: a PEM file of the authorities that a client's certificate must come from;
            clients need none if None.
        token_file: a file of API tokens, one a line, of which every request must carry one; it
            need not if None.
        log_format: what is logged: lines of text, or one JSON object a line.
        log_level: the least that is logged.
        log_requests: whether every request is logged.
        trace: whether spans are sent to OpenTelemetry.
        ray: whether copies on a Ray cluster serve, in place of this process.
        ray_address: the cluster; that of RAY_ADDRESS or of this machine if None, or else a new one.
        min_replicas: the fewest copies.
        max_replicas: the most; Ray adds and removes copies as requests come.
        replica_requests: how many requests under way a copy shall have; above, copies are added.
        replica_delay_seconds: for how long copies must have more before some are added.
        replica_cpus: the cores that a copy takes.

    Raises:
        InputError: a value that makes no sense.
    """

    models: Sequence[ModelSpec] = ()
    model_dir: Path | None = None
    watch_seconds: float = 1.0
    model_settings: Mapping[str, ModelSettings] = field(default_factory=dict)
    engines: Sequence[EngineName] = ("native",)
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    http_port: int = -1
    threads: int = 1
    weights: WeightStorage = "float32"
    workers: int = 1
    concurrency: int = os.cpu_count() or 1
    max_batch: int = 64
    max_wait_ms: float = 0.0
    max_queue: int = 1024
    shadow_share: float = 0.0
    observed_layers: Sequence[str] = ()
    observed_share: float = 0.01
    max_message_bytes: int = 16 * MIB
    max_images: int = 256
    max_pixels: int = MAX_PIXELS
    max_outputs: int = 256
    max_streams: int = 256
    max_heat_maps: int = 1024
    grace_seconds: float = 10.0
    drain_seconds: float = 0.0
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    token_file: Path | None = None
    log_format: LogFormat = "text"
    log_level: LogLevel = "warning"
    log_requests: bool = False
    trace: bool = False
    ray: bool = False
    ray_address: str | None = None
    min_replicas: int = 1
    max_replicas: int = 1
    replica_requests: int = 16
    replica_delay_seconds: float = 30.0
    replica_cpus: float = 1.0

    @property
    def several(self) -> bool:
        """Whether other processes serve the same models, which a request does not reach."""
        return self.workers > 1 or (self.ray and self.max_replicas > 1)

    def of_model(self, spec: ModelSpec) -> Applied:
        """What counts for a model: its own settings, or else the server's."""
        engines, max_batch, max_wait_ms = self.engines, self.max_batch, self.max_wait_ms
        for own in (self.model_settings.get(spec.name, ModelSettings()), spec.own):
            engines = own.engines or engines
            max_batch = max_batch if own.max_batch is None else own.max_batch
            max_wait_ms = max_wait_ms if own.max_wait_ms is None else own.max_wait_ms
        return Applied(engines, max_batch, max_wait_ms)

    def __post_init__(self) -> None:
        object.__setattr__(self, "observed_layers", tuple(self.observed_layers))
        if not self.models and self.model_dir is None:
            raise InputError("models: expected at least one, or a folder of them")
        names = [spec.name for spec in self.models]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(
                f"models: the name {twice[0]!r} is given twice; tell them apart with NAME=PATH"
            )
        for name in self.model_settings:
            if self.model_dir is None and name not in names:
                raise InputError(f"model_settings: {unknown_name('model', name, names)}")
        if not self.engines or len(set(self.engines)) != len(self.engines):
            raise InputError(
                f"engines: expected one or more, each at most once, got {list(self.engines)}"
            )
        if not self.host:
            raise InputError("host: expected an address, got an empty text")
        if self.host.startswith("["):
            raise InputError(f"host: expected an address without brackets, got {self.host}")
        if not 0 <= self.port <= 65535:
            raise InputError(f"port: expected 0 to 65535, got {self.port}")
        if not -1 <= self.http_port <= 65535:
            raise InputError(f"http_port: expected -1 to 65535, got {self.http_port}")
        for name in (
            "threads",
            "workers",
            "concurrency",
            "max_batch",
            "max_queue",
            "max_message_bytes",
            "max_images",
            "max_pixels",
            "max_outputs",
            "max_streams",
            "max_heat_maps",
            "min_replicas",
            "replica_requests",
        ):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: expected at least 1, got {getattr(self, name)}")
        for name in ("workers", "concurrency"):  # each takes threads or processes at once
            if getattr(self, name) > _MOST_AT_ONCE:
                raise InputError(
                    f"{name}: expected at most {_MOST_AT_ONCE}, got {getattr(self, name)}"
                )
        for name in ("shadow_share", "observed_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name}: expected 0 to 1, got {getattr(self, name)}")
        own = [*(spec.own for spec in self.models), *self.model_settings.values()]
        engines = [self.engines, *(each.engines for each in own)]
        if self.shadow_share and all(len(each) < 2 for each in engines):
            raise InputError("shadow_share: expected a model on both engines, see engines")
        if self.max_message_bytes >= 1 << 31:  # gRPC holds it in a signed 32-bit integer
            raise InputError(
                f"max_message_bytes: expected less than 2 GiB, got {self.max_message_bytes}"
            )
        durations = ("grace_seconds", "drain_seconds", "watch_seconds", "replica_delay_seconds")
        for name in (*durations, "max_wait_ms"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"{name}: expected 0 or more, got {getattr(self, name)}")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise InputError("tls_certificate, tls_key: expected both or neither")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise InputError("tls_client_ca: expected a server's certificate beside it")
        if not 0 < self.replica_cpus < float("inf"):
            raise InputError(f"replica_cpus: expected more than 0, got {self.replica_cpus}")
        if self.max_replicas < self.min_replicas:
            raise InputError(
                f"max_replicas: expected at least min_replicas ({self.min_replicas}), got "
                f"{self.max_replicas}"
            )
        if self.ray:
            self._check_ray()

    def _check_ray(self) -> None:
        """Refuse what Ray's proxies do not do."""
        refused = {
            "workers": self.workers > 1,
            "http_port": self.http_port >= 0,
            "tls_certificate": self.tls_certificate is not None,
            "log_requests": self.log_requests,
            "trace": self.trace,
        }
        for name, given in refused.items():
            if given:
                raise InputError(f"{name}: not with ray, whose proxies cannot do it")
        if self.host not in ("0.0.0.0", "::"):
            raise InputError(
                f"host: Ray's proxies listen on every address of every node, not on {self.host}; "
                "agree with --host 0.0.0.0"
            )
