"""Several processes behind one port: one that dies is replaced, and the others never notice.

The kernel deals out connections among the processes that listen on a port with SO_REUSEPORT. The
supervisor holds the port without listening, so that it is the same for all and stays theirs while
they come and go; it serves nothing itself.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from pyconv.errors import ModelError, PyconvError, ServerError
from pyconv.server import event_loop, logs, ports
from pyconv.server.app import Server, serve
from pyconv.server.settings import Settings

_log = logging.getLogger("pyconv.server")

_PAUSE_S = 0.5  # before a process that died is replaced, so that one that always dies costs little


@dataclass(frozen=True, slots=True)
class Serving:
    """What the processes say once they answer.

    Attributes:
        address: `HOST:PORT` of gRPC.
        http_address: the same of HTTP; empty where there is none.
        models: the names of the models.
    """

    address: str
    http_address: str
    models: Sequence[str]


@dataclass(slots=True)
class _Worker:
    process: BaseProcess
    pipe: Connection  # the worker ends when this end is closed, however the supervisor ends


def supervise(settings: Settings, ready: Callable[[Serving], None]) -> None:
    """Serve in `settings.workers` processes until SIGTERM or SIGINT; SIGHUP reloads in all of them.

    Args:
        settings: what to serve, and where.
        ready: called once, when all of them answer.

    Raises:
        PyconvError: a process cannot start; none of them is left behind.
    """
    with ExitStack() as stack:
        folder = _shared_folder(stack)
        grpc_port = stack.enter_context(ports.held(settings.host, settings.port))
        http_port = settings.http_port
        if http_port >= 0:
            http_port = stack.enter_context(ports.held(settings.host, http_port))
        settings = replace(settings, port=grpc_port, http_port=http_port)
        _Supervisor(settings, folder).run(ready)


def _shared_folder(stack: ExitStack) -> Path:
    """Where the processes share their metrics.

    Raises:
        ServerError: there is no place for it.
    """
    try:
        return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pyconv-metrics-")))
    except OSError as error:
        raise ServerError(
            "workers: several processes share their metrics in a folder for temporary files, and "
            f"none can be made ({error.strerror or error}); let /tmp be written, or set TMPDIR"
        ) from error


class _Supervisor:
    def __init__(self, settings: Settings, metrics: Path) -> None:
        self._settings = settings
        self._metrics = metrics
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[_Worker] = []
        self._told = 0

    def run(self, ready: Callable[[Serving], None]) -> None:
        # Signals wake the loop below by a byte in a pipe.
        woken, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        handlers = {
            signal.SIGTERM: self._stop,
            signal.SIGINT: self._stop,
            signal.SIGHUP: self._reload,
        }
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            self._workers = [self._start() for _ in range(self._settings.workers)]
            try:
                serving = [self._answer(worker) for worker in self._workers]
            except ServerError:
                if not self._told:  # those that were still starting end at once
                    raise
            if not self._told:
                ready(serving[0])
            while not self._told:
                wait([woken, *(worker.process.sentinel for worker in self._workers)])
                _drain(woken)
                if not self._told:
                    self._replace_the_dead()
        finally:
            signal.set_wakeup_fd(-1)
            self._end()
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(woken)
            os.close(wake)

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(self._settings, self._metrics, theirs))
        process.start()
        theirs.close()
        return _Worker(process, ours)

    def _answer(self, worker: _Worker) -> Serving:
        """What a worker says when it has started.

        Raises:
            PyconvError: what it could not start for.
        """
        try:
            said = worker.pipe.recv()
        except EOFError:
            raise ServerError(
                "a process of the server died while it started; its log has the details"
            ) from None
        if isinstance(said, PyconvError):
            raise said
        assert isinstance(said, Serving)
        return said

    def _replace_the_dead(self) -> None:
        for place, worker in enumerate(self._workers):
            if worker.process.is_alive():
                continue
            _log.error(
                "process %s died with exit code %s; another takes its place",
                worker.process.pid,
                worker.process.exitcode,
            )
            worker.pipe.close()
            time.sleep(_PAUSE_S)
            self._workers[place] = self._start()

    def _stop(self, number: int, _frame: object) -> None:
        self._told += 1
        self._send(signal.SIGTERM)
        if self._told > 1:
            signal.signal(number, signal.SIG_DFL)
            self._send(signal.SIGKILL)
            os.kill(os.getpid(), number)

    def _reload(self, _number: int, _frame: object) -> None:
        self._send(signal.SIGHUP)

    def _send(self, number: int) -> None:
        for worker in self._workers:
            if worker.process.pid is not None and worker.process.is_alive():
                os.kill(worker.process.pid, number)

    def _end(self) -> None:
        self._send(signal.SIGTERM)
        for worker in self._workers:
            worker.process.join(self._settings.drain_seconds + self._settings.grace_seconds + 5)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.pipe.close()


def _drain(pipe: int) -> None:
    while wait([pipe], timeout=0):
        os.read(pipe, 512)


def _work(settings: Settings, metrics: Path, pipe: Connection) -> None:
    """What each process does."""
    logs.configure(settings.log_format, settings.log_level, requests=settings.log_requests)
    # Ctrl-C reaches the whole group; the supervisor passes on what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def tell(server: Server) -> None:
        server.share_metrics(metrics)
        pipe.send(Serving(server.address, server.http_address, list(server.models)))
        threading.Thread(target=_end_with_the_supervisor, args=(pipe,), daemon=True).start()

    try:
        event_loop.run(serve(settings, tell, signals=(signal.SIGTERM,)))
    except PyconvError as error:
        # The exact kind may not be made anew from its message alone.
        kind = ModelError if isinstance(error, ModelError) else ServerError
        pipe.send(kind(str(error)))


def _end_with_the_supervisor(pipe: Connection) -> None:
    try:
        pipe.recv()
    except (EOFError, OSError):
        os.kill(os.getpid(), signal.SIGTERM)
