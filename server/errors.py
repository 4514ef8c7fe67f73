"""What can be wrong with a request besides its arguments."""

from __future__ import annotations

from pyconv.errors import InputError, PyconvError


class NotFoundError(InputError):
    """A name that does not exist here: a model, a version, an engine of a model, a layer."""


class LimitError(PyconvError):
    """More than this server is set to take or to give in one request."""


class BusyError(PyconvError):
    """So many requests wait already that this one is refused at once.

    Attributes:
        retry_after_ms: when to come again: about as long as what waits now will take.
    """

    def __init__(self, message: str, retry_after_ms: int) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


class DeadlineError(PyconvError):
    """The caller's deadline passed before the request was computed."""


class NotReadyError(PyconvError):
    """The model or the server takes no requests: it is loading, or stopping."""
