"""Keras and TensorFlow, imported when they are needed; a clear error where they are missing."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyconv.errors import MissingExtraError


def import_keras(purpose: str, *, any_backend: bool = False) -> Any:
    """Keras, on TensorFlow.

    Args:
        purpose: what needs it, for the error, such as `"training a network"`.
        any_backend: JAX or PyTorch will do, too, where `KERAS_BACKEND` names them.

    Raises:
        MissingExtraError: Keras or its backend is not installed, or Keras runs on another backend
            than TensorFlow where nothing else will do.
    """
    backend = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if backend == "tensorflow" or not any_backend:
        import_tensorflow(purpose)
    try:
        import keras
    except ImportError:
        raise MissingExtraError("keras", "train", purpose) from None
    if keras.backend.backend() != "tensorflow" and not any_backend:
        raise MissingExtraError(
            f"Keras on TensorFlow (it runs on {keras.backend.backend()} here)", "train", purpose
        )
    return keras


def import_tensorflow(purpose: str) -> Any:
    """TensorFlow, without its greetings on standard error.

    Raises:
        MissingExtraError: it is not installed.
    """
    if "tensorflow" in sys.modules:
        return sys.modules["tensorflow"]
    # Read once, while TensorFlow is imported. 3: nothing is shown but what ends the process. Some
    # of its own data sets count as errors there, and what goes wrong comes as an exception.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with _without_standard_error():
            import tensorflow

            tensorflow.config.list_physical_devices()
    except ImportError:
        raise MissingExtraError("tensorflow", "train", purpose) from None
    return tensorflow


@contextmanager
def _without_standard_error() -> Iterator[None]:
    """Send what is written to file descriptor 2 nowhere.

    While TensorFlow is imported and first looks for devices, its C++ reports its options and the
    missing GPU there, whatever its log level. What goes wrong comes as an exception.
    """
    saved = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)
