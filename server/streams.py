"""Streams of requests that are answered in their order, many of them at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

_Request = TypeVar("_Request")
_Answer = TypeVar("_Answer")


async def in_order(
    requests: AsyncIterator[_Request],
    answer: Callable[[_Request], Awaitable[_Answer]],
    depth: int,
) -> AsyncIterator[_Answer]:
    """The answers to a stream of requests, in their order.

    Args:
        requests: what comes.
        answer: makes the answer to one; it deals with errors itself.
        depth: how many are under way at the same time; more are not read meanwhile.
    """
    under_way: asyncio.Queue[asyncio.Future[_Answer] | None] = asyncio.Queue(depth)

    async def read() -> None:
        try:
            async for request in requests:
                await under_way.put(asyncio.ensure_future(answer(request)))
        except Exception as error:
            failed: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
            failed.set_exception(error)
            await under_way.put(failed)
        await under_way.put(None)

    reading = asyncio.ensure_future(read())
    try:
        while (future := await under_way.get()) is not None:
            try:
                yield await future
            finally:
                future.cancel()  # of no effect on one that is done
    finally:
        reading.cancel()
        while not under_way.empty():
            if (future := under_way.get_nowait()) is not None:
                future.cancel()
