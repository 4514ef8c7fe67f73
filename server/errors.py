"""What can be wrong with a request besides its arguments."""

from __future__ import annotations

from pathlib import Path

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


def without_path(error: PyconvError, path: str, name: str) -> PyconvError:
    """The error, with a model's name where it tells of the model's file.

    Where a file lies on the server is for its log, and no business of a caller's.

    Args:
        error: what callers are to be told.
        path: the file; one without a folder tells nothing, and may be part of any word.
        name: the model.
    """
    path = str(Path(path))
    told = str(error).replace(path, name)
    if Path(path).name == path or told == str(error):
        return error
    other = Exception.__new__(type(error), told)
    other.__dict__.update(error.__dict__)
    other.__cause__ = error
    return other
