from __future__ import annotations

import logging
from urllib.parse import quote

import grpc
import pytest

from pyconv.errors import InputError, ModelError, PictureError, PyconvError
from pyconv.server.errors import LimitError, NotFoundError
from pyconv.server.status import status_of


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (NotFoundError, grpc.StatusCode.NOT_FOUND),
        (LimitError, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (InputError, grpc.StatusCode.INVALID_ARGUMENT),
        (PictureError, grpc.StatusCode.INVALID_ARGUMENT),
        (ModelError, grpc.StatusCode.FAILED_PRECONDITION),
        (PyconvError, grpc.StatusCode.FAILED_PRECONDITION),
    ],
)
def test_status_of_an_error_raised_on_purpose(
    kind: type[PyconvError], code: grpc.StatusCode, caplog: pytest.LogCaptureFixture
) -> None:
    assert status_of(kind("what is wrong")) == (code, "what is wrong")
    assert not caplog.records


def test_status_of_a_fault_hides_its_insides_and_logs_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR):
        code, message = status_of(KeyError("secret"))
    assert code is grpc.StatusCode.INTERNAL
    assert "secret" not in message
    assert "KeyError: 'secret'" in caplog.text


@pytest.mark.parametrize("letter", ["a", "é", "鞋", "👢"])
def test_status_of_a_long_message_fits_into_trailers(letter: str) -> None:
    _, message = status_of(InputError(letter * 100_000))
    assert message.startswith(letter * 100)
    assert message.endswith("…")
    assert len(quote(message)) < 8192 - 1024
