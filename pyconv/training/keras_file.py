"""Reading a `.keras` file, with an error that says what is wrong with it."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from pyconv.errors import ModelError
from pyconv.training.backend import import_keras

if TYPE_CHECKING:
    import keras


def load(path: Path, *, training: bool = False) -> keras.Model:
    """Load a Keras model from a file.

    Args:
        path: what `model.save` wrote, a `.keras` file or an older `.h5`.
        training: whether its optimizer's state is wanted too.

    Raises:
        ModelError: it is missing, broken, or uses what cannot be read from a file.
        MissingExtraError: TensorFlow is not installed.
    """
    keras = import_keras("reading a Keras model", any_backend=True)
    if not path.is_file():
        raise ModelError(f"there is no file {path}: expected a Keras model (.keras)")
    if path.suffix not in (".h5", ".hdf5") and not zipfile.is_zipfile(path):
        raise ModelError(
            f"{path}: not a Keras model: expected a .keras file, as model.save(…) writes it"
        )
    try:
        return keras.models.load_model(path, compile=training)
    except Exception as error:  # Keras lets zipfile's, h5py's and its own errors through
        raise ModelError(f"{path}: {_problem(error)}") from error


_IN_PYTHON = "load it in Python, where that is defined, and call pyconv.training.export(…)"


def _problem(error: Exception) -> str:
    if unknown := re.search(r"Could not locate class '(\w+)'", str(error)):
        return f"it uses {unknown[1]}, which Keras does not know; {_IN_PYTHON}"
    if "safe_mode" in str(error):
        return f"a Lambda layer holds Python code, which is not run from a file; {_IN_PYTHON}"
    lines = str(error).strip().splitlines()
    return f"Keras cannot load it: {lines[0] if lines else type(error).__name__}"
