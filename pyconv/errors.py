"""The exceptions that pyconv raises on purpose.

Every one derives from `PyconvError`, so a caller can catch them all at once. Each message says what
was expected, what came, and what to do about it. None of them knows a transport: the server maps
them to status codes in one table of its own.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PyconvError(Exception):
    """Base of every error that pyconv raises on purpose."""


class InputError(PyconvError, ValueError):
    """An argument has the wrong shape, dtype, range or name."""


class PictureError(InputError):
    """A picture file cannot be read, or is too large to be one."""


class ModelError(PyconvError):
    """A model file is missing, broken, or not one that pyconv can use."""


class UnsupportedOperatorError(ModelError):
    """The native engine lacks operators that the model needs.

    Attributes:
        operators: every operator that is missing, sorted, such as `["LSTM", "Loop"]`.
    """

    def __init__(self, message: str, operators: Iterable[str]) -> None:
        super().__init__(message)
        self.operators = sorted(operators)


class DataError(PyconvError):
    """A data set's file is missing, truncated, mislabelled or corrupted."""


class ExportError(PyconvError):
    """A Keras model could not be exported to an ONNX file that computes the same."""


class ServerError(PyconvError):
    """A server cannot be started, cannot be reached, or failed to answer.

    Attributes:
        code: gRPC's name of the status that the server sent, such as `"RESOURCE_EXHAUSTED"`;
            `"UNAVAILABLE"` where nobody answered; None where no server was asked.
    """

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code


class MissingExtraError(PyconvError, ImportError):
    """A library that belongs to one of pyconv's extras is not installed.

    Args:
        package: the import name that is missing, such as `"tensorflow"`.
        extra: pyconv's extra that installs it, such as `"train"`.
        purpose: what needs it, such as `"training a network"`.
    """

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs {package}, which is not installed; "
            f"install it with: pip install 'pyconv[{extra}]'"
        )


def unknown_name(kind: str, name: object, known: Iterable[str]) -> str:
    """The sentence for a name that does not exist: what came, the nearest names, all names.

    >>> unknown_name("layer", "conv2", ["conv2d", "dense"])
    "there is no layer 'conv2'; did you mean 'conv2d'? (known: conv2d, dense)"
    """
    names = list(known)
    close = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
    shown = names if len(names) <= 30 else [*names[:30], f"… {len(names) - 30} more"]
    return f"there is no {kind} {name!r}{hint} (known: {', '.join(shown) or 'none'})"
