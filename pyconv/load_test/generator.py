"""Sends one gRPC request over and over, by a plan, and keeps how long each answer took.

A closed loop keeps a number of requests in flight: it finds out what a server can do, and its
latencies are those of callers who wait for each other. An open loop sends at moments fixed in
advance, whatever the server does, and measures from the moment at which a request was due: a server
that stalls is charged for all the requests that were due meanwhile (no "coordinated omission",
Gil Tene's term).
"""

from __future__ import annotations

import math
import time
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote

from pyconv.errors import InputError, MissingExtraError, ServerError

if TYPE_CHECKING:
    from types import ModuleType

    import pycurl

    from pyconv.credentials import Credentials
    from pyconv.load_test.target import Target

# gRPC's status codes by number (grpc/grpc, doc/statuscodes.md).
_STATUS_NAMES = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)
MAX_CONNECTIONS = 500
"""select(), by which libcurl waits here, takes 1,024 files."""

MAX_CONCURRENCY = 10_000
_TELL_SECONDS = 0.1
_PREPARE_SECONDS = 0.05

Tell = Callable[[float, int, int], None]
"""Is told of progress: seconds since the start, answers, failures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """When requests are sent.

    Attributes:
        concurrency: the most requests in flight.
        seconds: for how long requests are sent; those in flight then are waited for.
        rate: requests a second, evenly spaced (an open loop); None keeps `concurrency` of them in
            flight (a closed loop).
        connections: how many connections share them.
        timeout: seconds after which a request counts as failed.
        warmup_seconds: for how long the same load is sent before anything is measured.

    Raises:
        InputError: a value that makes no sense.
    """

    concurrency: int = 1
    seconds: float = 10.0
    rate: float | None = None
    connections: int = 1
    timeout: float = 10.0
    warmup_seconds: float = 1.0

    def __post_init__(self) -> None:
        _require("concurrency", self.concurrency, 1, MAX_CONCURRENCY)
        _require("connections", self.connections, 1, MAX_CONNECTIONS)
        _require("duration", self.seconds, 0.05, 86_400)
        _require("timeout", self.timeout, 0.001, 3600)
        _require("warmup", self.warmup_seconds, 0, 3600)
        if self.rate is not None:
            _require("rate", self.rate, 0.01, 1_000_000)


@dataclass(slots=True)
class Measured:
    """What came of a load.

    Attributes:
        latencies: seconds, of the requests that were answered, in the order of the answers: from
            the moment at which a request was due, which in a closed loop is when it was sent.
        failures: how many requests ended in each status other than OK.
        messages: for each of those, what the first one said.
        seconds: from the first request to the last answer.
        unsent: requests of an open loop that were due and could not be sent in time, since
            `concurrency` others were still in flight.
        cpu_share: how much of one core the generator itself used. Near 1, the figures are its own.
    """

    latencies: array[float] = field(default_factory=lambda: array("d"))
    failures: Counter[str] = field(default_factory=Counter)
    messages: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    unsent: int = 0
    cpu_share: float = 0.0


def generate(
    address: str,
    credentials: Credentials,
    target: Target,
    load: Load,
    tell: Tell | None = None,
) -> Measured:
    """Send `target`'s request by the plan of `load`.

    Args:
        address: the server, `HOST:PORT`.
        credentials: what to show it, and whom to trust.
        target: the request, and what an answer to it must look like.
        load: how many, when, for how long.
        tell: is told of progress about ten times a second.

    Raises:
        MissingExtraError: libcurl's binding, of the extra `load-test`, is not installed.
        ServerError: no request of the warm-up, or where there is none of the first 50 ms, was
            answered.
    """
    generator = _Generator(address, credentials, target, load)
    try:
        first = generator.run(max(load.warmup_seconds, _PREPARE_SECONDS), None)
        if not first.latencies:
            status, count = first.failures.most_common(1)[0] if first.failures else ("UNKNOWN", 0)
            raise ServerError(
                f"no request to {address} was answered, of {count} tried: {status}: "
                f"{first.messages.get(status, 'nothing came back')}",
                status,
            )
        return generator.run(load.seconds, tell)
    finally:
        generator.close()


class _Generator:
    """A handle of libcurl's for each request that may be in flight; they share its connections."""

    def __init__(self, address: str, credentials: Credentials, target: Target, load: Load) -> None:
        self._curl = curl = _pycurl()
        self._target = target
        self._load = load
        self._multi = curl.CurlMulti()
        streams = math.ceil(load.concurrency / load.connections)
        self._multi.setopt(curl.M_MAX_CONCURRENT_STREAMS, streams)
        self._multi.setopt(curl.M_MAX_TOTAL_CONNECTIONS, load.connections)
        self._multi.setopt(curl.M_MAXCONNECTS, load.connections)
        self._slots = [
            _Slot(curl, address, credentials, target, load) for _ in range(load.concurrency)
        ]
        self._slot_of = {slot.handle: slot for slot in self._slots}

    def close(self) -> None:
        """Close the connections."""
        for slot in self._slots:
            slot.handle.close()
        self._multi.close()

    def run(self, seconds: float, tell: Tell | None) -> Measured:
        """Send for so many seconds, and wait for the answers."""
        measured = Measured()
        idle = list(self._slots)
        clock = time.perf_counter
        interval = 0.0 if self._load.rate is None else 1 / self._load.rate
        due_in_all = math.ceil(seconds / interval) if interval else 0
        sent = 0
        cpu = time.process_time()
        started = clock()
        end = started + seconds
        told = started
        while True:
            now = clock()
            next_due = started + sent * interval if interval else now
            # What was due before the end may be late, but not by more than an answer may.
            open_until = end + self._load.timeout if interval else end
            more = sent < due_in_all if interval else True
            while idle and more and next_due <= now < open_until:
                slot = idle.pop()
                slot.begin(next_due)
                self._multi.add_handle(slot.handle)
                sent += 1
                if interval:
                    next_due = started + sent * interval
                    more = sent < due_in_all
            more = more and now < open_until
            if not more and len(idle) == len(self._slots):
                break
            self._multi.perform()
            if not self._collect(measured, idle):
                wait = min(next_due - now, _TELL_SECONDS) if more and idle else _TELL_SECONDS
                self._wait(wait, busy=len(idle) < len(self._slots))
            if tell is not None and clock() - told > _TELL_SECONDS:
                told = clock()
                tell(told - started, len(measured.latencies), measured.failures.total())
        measured.seconds = clock() - started
        measured.cpu_share = (time.process_time() - cpu) / measured.seconds
        measured.unsent = max(0, due_in_all - sent)
        return measured

    def _wait(self, seconds: float, *, busy: bool) -> None:
        """Until a connection has something to say, or for so long."""
        if seconds <= 0:
            return
        if not busy:
            time.sleep(seconds)
        elif self._multi.select(seconds) < 0:  # libcurl has no connection to wait for yet
            time.sleep(min(seconds, 0.001))

    def _collect(self, measured: Measured, idle: list[_Slot]) -> bool:
        """Keep what has ended; whether anything has."""
        _, answered, failed = self._multi.info_read(len(self._slots))
        now = time.perf_counter()
        outcomes = [(handle, 0, "") for handle in answered]
        for handle, number, message in [*outcomes, *failed]:
            slot = self._slot_of[handle]
            self._multi.remove_handle(handle)
            status, why = slot.outcome(number, message, self._target)
            if status == "OK":
                measured.latencies.append(now - slot.due)
            else:
                measured.failures[status] += 1
                measured.messages.setdefault(status, why)
            idle.append(slot)
        return bool(outcomes or failed)


class _Slot:
    """One request that may be in flight."""

    def __init__(
        self,
        curl: ModuleType,
        address: str,
        credentials: Credentials,
        target: Target,
        load: Load,
    ) -> None:
        self.handle: pycurl.Curl = curl.Curl()
        self.due = 0.0
        self._curl = curl
        self._body: list[bytes] = []
        self._fields: list[bytes] = []
        size = len(target.message).to_bytes(4, "big")
        headers = {
            "content-type": "application/grpc",
            "te": "trailers",
            "grpc-timeout": f"{max(1, round(load.timeout * 1e3))}m",
            **credentials.metadata,
        }
        scheme = "https" if credentials.tls else "http"
        version = curl.CURL_HTTP_VERSION_2_PRIOR_KNOWLEDGE
        if credentials.tls:
            version = curl.CURL_HTTP_VERSION_2TLS
        options = {
            curl.URL: f"{scheme}://{address}{target.path}",
            curl.HTTP_VERSION: version,
            curl.HTTPHEADER: [f"{name}: {value}" for name, value in headers.items()]
            + ["expect:", "accept:"],
            curl.USERAGENT: "pyconv-load-test",
            # gRPC's frame of a message: not compressed, its length, itself.
            curl.POSTFIELDS: b"\0" + size + target.message,
            curl.WRITEFUNCTION: self._body.append,
            curl.HEADERFUNCTION: self._fields.append,
            curl.TIMEOUT_MS: max(1, round(load.timeout * 1e3)),
            curl.NOSIGNAL: 1,
            curl.PROXY: "",
            # A request waits for a connection that is being made, rather than making one more.
            curl.PIPEWAIT: 1,
        }
        files = {
            curl.CAINFO: credentials.ca,
            curl.SSLCERT: credentials.certificate,
            curl.SSLKEY: credentials.key,
        }
        for option, value in options.items():
            self.handle.setopt(option, value)
        for option, path in files.items():
            if path is not None:
                self.handle.setopt(option, str(path))

    def begin(self, due: float) -> None:
        """Forget the last answer."""
        self.due = due
        self._body.clear()
        self._fields.clear()

    def outcome(self, number: int, message: str, target: Target) -> tuple[str, str]:
        """The status of what has ended, and why where it is not OK."""
        if number == self._curl.E_OPERATION_TIMEDOUT:
            return "DEADLINE_EXCEEDED", message
        if number:
            return "UNAVAILABLE", message or f"libcurl's error {number}"
        status = text = ""
        # The status stands in the trailers, or, where there is no answer, in the headers.
        for line in self._fields:
            if line.startswith(b"grpc-"):
                name, _, value = line.partition(b":")
                if name == b"grpc-status":
                    status = value.strip().decode("ascii", "replace")
                elif name == b"grpc-message":
                    text = unquote(value.strip().decode("ascii", "replace"))
        if status != "0":
            if not status.isdigit() or int(status) >= len(_STATUS_NAMES):
                code = self.handle.getinfo(self._curl.RESPONSE_CODE)
                return "UNKNOWN", f"not gRPC: HTTP status {code}, no grpc-status"
            return _STATUS_NAMES[int(status)], text
        body = b"".join(self._body)
        if len(body) < 5 or body[0] or len(body) - 5 != int.from_bytes(body[1:5], "big"):
            return "WRONG_ANSWER", "the answer is not one uncompressed gRPC message"
        wrong = target.check(body[5:])
        return ("WRONG_ANSWER", wrong) if wrong else ("OK", "")


def _pycurl() -> ModuleType:
    try:
        import pycurl
    except ModuleNotFoundError:
        raise MissingExtraError("pycurl", "load-test", "generating load") from None
    return pycurl


def _require(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise InputError(f"{name}: expected {low:g} to {high:g}, got {value:g}")
