"""HTTP's port: beside gRPC's, in the same process and on the same event loop."""

from __future__ import annotations

import logging

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from pyconv.errors import ServerError
from pyconv.server import http_calls
from pyconv.server.inference import Inference
from pyconv.server.repository import Repository
from pyconv.server.rest import make_app
from pyconv.server.security import Security
from pyconv.server.settings import Settings
from pyconv.server.tracing import Tracing


def _is_for_the_log(record: logging.LogRecord) -> bool:
    """Not so of bytes that are no HTTP, or not what the head says: that is the caller's fault."""
    kinds = (HttpProcessingError, web.RequestPayloadError)
    return not (record.exc_info and isinstance(record.exc_info[1], kinds))


logging.getLogger("aiohttp.server").addFilter(_is_for_the_log)


class Http:
    """Listens from `start` to `stop`."""

    def __init__(
        self,
        inference: Inference,
        repository: Repository,
        settings: Settings,
        security: Security,
        tracing: Tracing | None = None,
    ) -> None:
        self._settings = settings
        self._tls = security.tls
        self._leaving = False
        app = make_app(inference, repository, settings, security.tokens)
        app.middlewares.insert(0, http_calls.middleware(lines=settings.log_requests))
        if tracing is not None:
            app.middlewares.insert(0, tracing.http_middleware())
        app.on_response_prepare.append(self._close_if_leaving)
        self._runner = web.AppRunner(
            app,
            handler_cancellation=True,  # what nobody waits for any more is not computed
            access_log=None,
            shutdown_timeout=settings.grace_seconds,
        )

    async def start(self) -> int:
        """Listen.

        Returns:
            The port that was taken.

        Raises:
            ServerError: the address cannot be listened on.
        """
        host, port = self._settings.host, self._settings.http_port
        await self._runner.setup()
        try:
            context = self._tls.ssl_context() if self._tls is not None else None
            shared = self._settings.workers > 1
            self._site = web.TCPSite(
                self._runner, host, port, ssl_context=context, reuse_port=shared
            )
            await self._site.start()
        except OSError as error:
            await self._runner.cleanup()
            raise ServerError(
                f"cannot listen on {host}:{port} for HTTP: {error.strerror or error}; choose "
                "another port (0 takes a free one, -1 does without)"
            ) from error
        taken: int = self._runner.addresses[0][1]
        return taken

    def leave(self) -> None:
        """From now on each connection ends with its next answer, and so with none lost on it.

        A client that is not told might send a request into a connection that is just being closed.
        """
        self._leaving = True

    async def _close_if_leaving(self, _: web.Request, answer: web.StreamResponse) -> None:
        if self._leaving:
            answer.force_close()
            answer.headers["Connection"] = "close"  # aiohttp has made its own by now

    async def close(self) -> None:
        """Let no connection in any more; those that there are go on."""
        await self._site.stop()

    async def stop(self) -> None:
        """Refuse new requests, finish those in flight within the grace period, and end."""
        await self._runner.cleanup()
