"""What can be wrong with a request besides its arguments."""

from __future__ import annotations

from pyconv.errors import InputError, PyconvError


class NotFoundError(InputError):
    """A name that does not exist here: a model, an engine of a model, a layer."""


class LimitError(PyconvError):
    """More than this server is set to take or to give in one request."""
