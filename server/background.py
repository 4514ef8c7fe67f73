"""A server in a thread of this process, for as long as a `with` block lasts."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from types import TracebackType

from pyconv.server import event_loop
from pyconv.server.app import Server
from pyconv.server.settings import Settings


class BackgroundServer:
    """A server in a thread of this process, for as long as a `with` block lasts.

    >>> with BackgroundServer(settings) as address:         # doctest: +SKIP
    ...     pyconv.Client(address).classify(["boot.png"])

    Nothing of it outlives the block, nor the process.

    Attributes:
        address: `HOST:PORT` of gRPC, inside the block.
        http_address: `HOST:PORT` of HTTP, inside the block; empty where the settings want none.

    Raises:
        ModelError: a model cannot be loaded (on entering the block).
        ServerError: the address cannot be listened on (on entering the block).
    """

    def __init__(self, settings: Settings) -> None:
        self.address = ""
        self.http_address = ""
        self._settings = settings
        self._started: Future[None] = Future()
        self._stop = threading.Event()
        # A daemon, so that an interpreter that ends inside the block is not kept from it.
        self._thread = threading.Thread(target=self._run, name="pyconv-server", daemon=True)

    def __enter__(self) -> str:
        self._thread.start()
        try:
            self._started.result()
        except BaseException:
            self._end()
            raise
        return self.address

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        event_loop.run(self._serve())

    async def _serve(self) -> None:
        try:
            server = await Server.start(self._settings)
        except BaseException as error:
            self._started.set_exception(error)
            return
        self.address, self.http_address = server.address, server.http_address
        self._started.set_result(None)
        await asyncio.to_thread(self._stop.wait)
        await server.stop()
