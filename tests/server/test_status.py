from __future__ import annotations

import logging
from urllib.parse import quote

import grpc
import pytest

from pyconv.errors import InputError, ModelError, PictureError, PyconvError
from pyconv.server.errors import (
    BusyError,
    DeadlineError,
    LimitError,
    NotFoundError,
    NotReadyError,
)
from pyconv.server.status import Status, status_of


@pytest.mark.parametrize(
    ("kind", "code", "http"),
    [
        (NotFoundError, grpc.StatusCode.NOT_FOUND, 404),
        (LimitError, grpc.StatusCode.RESOURCE_EXHAUSTED, 413),
        (DeadlineError, grpc.StatusCode.DEADLINE_EXCEEDED, 504),
        (NotReadyError, grpc.StatusCode.UNAVAILABLE, 503),
        (InputError, grpc.StatusCode.INVALID_ARGUMENT, 400),
        (PictureError, grpc.StatusCode.INVALID_ARGUMENT, 400),
        (ModelError, grpc.StatusCode.FAILED_PRECONDITION, 422),
        (PyconvError, grpc.StatusCode.FAILED_PRECONDITION, 422),
    ],
)
def test_status_of_an_error_raised_on_purpose(
    kind: type[PyconvError], code: grpc.StatusCode, http: int, caplog: pytest.LogCaptureFixture
) -> None:
    assert status_of(kind("what is wrong")) == Status(code, http, "what is wrong")
    assert not caplog.records


def test_status_of_a_full_queue_says_when_to_come_again() -> None:
    assert status_of(BusyError("full", 7)) == Status(
        grpc.StatusCode.RESOURCE_EXHAUSTED, 429, "full", retry_after_ms=7
    )


def test_status_of_a_fault_hides_its_insides_and_logs_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR):
        status = status_of(KeyError("secret"))
    assert (status.code, status.http) == (grpc.StatusCode.INTERNAL, 500)
    assert "secret" not in status.message
    assert "KeyError: 'secret'" in caplog.text


@pytest.mark.parametrize("letter", ["a", "é", "鞋", "👢"])
def test_status_of_a_long_message_fits_into_trailers(letter: str) -> None:
    message = status_of(InputError(letter * 100_000)).message
    assert message.startswith(letter * 100)
    assert message.endswith("…")
    assert len(quote(message)) < 8192 - 1024
