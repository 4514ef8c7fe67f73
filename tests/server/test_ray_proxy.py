"""What a proxy does where a copy dies, without Ray: tests/server/test_ray.py has both."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from pyconv.server import ray_proxy
from pyconv.server.logs import REQUEST_ID


class _Context:
    def __init__(self) -> None:
        self._code = 0
        self._details = ""
        self.trailers: tuple[tuple[str, str], ...] = ()

    def code(self) -> int:
        return self._code

    def set_code(self, code: grpc.StatusCode) -> None:
        self._code = code.value[0]

    def set_details(self, details: str) -> None:
        self._details = details

    def trailing_metadata(self) -> tuple[tuple[str, str], ...]:
        return self.trailers


def _failing(times: int, trailers: tuple[tuple[str, str], ...] = ()) -> Any:
    """A handler whose first answers are INTERNAL, and the number of its calls."""
    calls: list[object] = []

    async def handle(request: object, context: _Context) -> bytes:
        calls.append(request)
        if len(calls) <= times:
            context.set_code(grpc.StatusCode.INTERNAL)
            context.set_details("the actor died")
            context.trailers = trailers
            return b""
        return b"answer"

    return handle, calls


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_proxy, "_FIRST_WAIT_SECONDS", 0)


async def test_a_request_whose_copy_died_is_asked_again() -> None:
    handle, calls = _failing(2)
    context = _Context()
    assert await ray_proxy.again(handle)("request", context) == b"answer"
    assert calls == ["request"] * 3
    assert context.code() == 0


async def test_a_request_whose_copies_all_die_ends() -> None:
    handle, calls = _failing(99)
    context = _Context()
    await ray_proxy.again(handle)("request", context)
    assert len(calls) == 5
    assert context.code() == grpc.StatusCode.INTERNAL.value[0]


async def test_a_fault_of_pyconvs_own_is_not_asked_again() -> None:
    handle, calls = _failing(99, ((REQUEST_ID, "7"),))
    await ray_proxy.again(handle)("request", _Context())
    assert len(calls) == 1
