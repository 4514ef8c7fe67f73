"""What the server writes on standard error: lines for people, or JSON for collectors of logs.

Every line that is written amid a request carries its id, and its trace's where there is one.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import sys
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal, TextIO

LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

REQUEST_ID = "x-request-id"
"""The header in which a caller may give the request's id, and gets it back with an error."""

_LONGEST_ID = 128
_request_id: ContextVar[str] = ContextVar("request_id", default="")
_trace_id: Callable[[], str] = str
# What every record has; the rest was given as `extra`.
_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure(log_format: LogFormat, level: LogLevel, *, requests: bool) -> None:
    """Write what is logged in this process to standard error from now on.

    Args:
        log_format: lines for people, or one JSON object a line.
        level: the least that is written.
        requests: whether to write a line for every request.
    """
    handler = _Handler()
    handler.setFormatter(_Json() if log_format == "json" else _Text())
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    logging.getLogger("pyconv.server.requests").setLevel("INFO" if requests else "WARNING")


def close() -> None:
    """End the log. Where a full disk kept it from being written, no exit status tells of that."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _Handler) and handler.failed:
            # Python itself writes there once more when it ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def show_traces(trace_id: Callable[[], str]) -> None:
    """Write the trace that a line belongs to.

    Args:
        trace_id: the current one's, in hexadecimal; empty where there is none.
    """
    global _trace_id
    _trace_id = trace_id


def begin_request(given: str | None) -> None:
    """From now on, what this task and those that it starts log belongs to a request.

    Args:
        given: the id that the caller chose. What cannot stand in a line of a log is ignored.
    """
    sound = given and len(given) <= _LONGEST_ID and given.isascii() and given.isprintable()
    _request_id.set(given if given and sound else "")


def request_id() -> str:
    """The id of the request at hand; a new one where its caller gave none."""
    known = _request_id.get()
    if not known:
        known = secrets.token_hex(8)
        _request_id.set(known)
    return known


class _Handler(logging.StreamHandler[TextIO]):
    failed = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """A line that cannot be written is lost: there is nowhere to say so."""
        if isinstance(sys.exc_info()[1], OSError):
            self.failed = True
        else:
            super().handleError(record)


class _Text(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        known = _request_id.get()
        return super().formatMessage(record) + (f" [request {known}]" if known else "")


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        facts: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if known := _request_id.get():
            facts["request_id"] = known
        if trace := _trace_id():
            facts["trace_id"] = trace
        facts |= {name: value for name, value in vars(record).items() if name not in _PLAIN}
        if record.exc_info:
            facts["exception"] = self.formatException(record.exc_info)
        return json.dumps(facts, default=str)
