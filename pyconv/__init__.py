"""pyconv: small convolutional networks on a CPU, fast, with every activation in view.

>>> import pyconv
>>> model = pyconv.load("fashion")                      # doctest: +SKIP
>>> model.classify(images)[0]                           # doctest: +SKIP
[Prediction(label='Ankle boot', index=9, probability=0.99)]

Everything is imported when it is first used: `import pyconv` loads neither TensorFlow, nor
onnxruntime, nor grpc.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pyconv.lazy import attributes

if TYPE_CHECKING:
    __version__: str
    from pyconv import data as data
    from pyconv.client import Client as Client
    from pyconv.credentials import Credentials as Credentials
    from pyconv.errors import DataError as DataError
    from pyconv.errors import ExportError as ExportError
    from pyconv.errors import InputError as InputError
    from pyconv.errors import MissingExtraError as MissingExtraError
    from pyconv.errors import ModelError as ModelError
    from pyconv.errors import PictureError as PictureError
    from pyconv.errors import PyconvError as PyconvError
    from pyconv.errors import ServerError as ServerError
    from pyconv.errors import UnsupportedOperatorError as UnsupportedOperatorError
    from pyconv.model import Model as Model
    from pyconv.model import Prediction as Prediction
    from pyconv.model import load as load
    from pyconv.ops import activation as activation
    from pyconv.ops import add as add
    from pyconv.ops import average_pool2d as average_pool2d
    from pyconv.ops import batch_normalization as batch_normalization
    from pyconv.ops import concat as concat
    from pyconv.ops import conv2d as conv2d
    from pyconv.ops import dense as dense
    from pyconv.ops import divide as divide
    from pyconv.ops import flatten as flatten
    from pyconv.ops import global_average_pool2d as global_average_pool2d
    from pyconv.ops import global_max_pool2d as global_max_pool2d
    from pyconv.ops import log_softmax as log_softmax
    from pyconv.ops import max_pool2d as max_pool2d
    from pyconv.ops import maximum as maximum
    from pyconv.ops import minimum as minimum
    from pyconv.ops import multiply as multiply
    from pyconv.ops import pad as pad
    from pyconv.ops import power as power
    from pyconv.ops import reduce as reduce
    from pyconv.ops import relu as relu
    from pyconv.ops import reshape as reshape
    from pyconv.ops import softmax as softmax
    from pyconv.ops import subtract as subtract
    from pyconv.ops import transpose as transpose

_HOMES = {
    "pyconv.client": ["Client"],
    "pyconv.credentials": ["Credentials"],
    "pyconv.errors": [
        "DataError",
        "ExportError",
        "InputError",
        "MissingExtraError",
        "ModelError",
        "PictureError",
        "PyconvError",
        "ServerError",
        "UnsupportedOperatorError",
    ],
    "pyconv.model": ["Model", "Prediction", "load"],
    "pyconv.ops": [
        "activation",
        "add",
        "average_pool2d",
        "batch_normalization",
        "concat",
        "conv2d",
        "dense",
        "divide",
        "flatten",
        "global_average_pool2d",
        "global_max_pool2d",
        "log_softmax",
        "max_pool2d",
        "maximum",
        "minimum",
        "multiply",
        "pad",
        "power",
        "reduce",
        "relu",
        "reshape",
        "softmax",
        "subtract",
        "transpose",
    ],
}

_MODULES = ("data", "inspect")

__all__ = ["__version__", *_MODULES, *sorted(name for names in _HOMES.values() for name in names)]

_attribute = attributes(__name__, _HOMES)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"pyconv.{name}")
    if name == "__version__":
        from importlib.metadata import version

        return version("pyconv")
    return _attribute(name)


def __dir__() -> list[str]:
    return sorted(__all__)
