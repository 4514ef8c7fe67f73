"""Files that are there whole or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from pyconv.errors import InputError


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under another name in the same folder, then rename it over `path`.

    Whoever reads `path` sees the old content or the new one, never half of it; where writing fails,
    the old content stays and nothing else is left behind.

    Args:
        path: the file to make or replace.
        write: writes the whole content to the path that it is given, which has the same suffix.

    Raises:
        InputError: it cannot be written: the disk is full, say.
    """
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            # A file of its own, not one made by mkstemp: it gets the usual permissions.
            unfinished = Path(folder) / path.name
            write(unfinished)
            unfinished.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error
