"""Looking inside a network, from its ONNX file alone.

>>> import pyconv
>>> from pyconv import inspect
>>> model = pyconv.load("fashion")                                    # doctest: +SKIP
>>> inspect.receptive_fields(model)["conv2d_1"].size                  # doctest: +SKIP
(8, 8)

Every function takes a `pyconv.Model` on either engine and returns arrays in a small object, whose
`plot` draws them as a Matplotlib figure (the extra `plot`). Everything is imported when it is first
used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyconv.lazy import attributes

if TYPE_CHECKING:
    from pyconv.graph.receptive_field import Box as Box
    from pyconv.graph.receptive_field import ReceptiveField as ReceptiveField
    from pyconv.inspect.fields import receptive_fields as receptive_fields

_HOMES = {
    "pyconv.graph.receptive_field": ["Box", "ReceptiveField"],
    "pyconv.inspect.fields": ["receptive_fields"],
}

__all__ = sorted(name for names in _HOMES.values() for name in names)

__getattr__ = attributes(__name__, _HOMES)
