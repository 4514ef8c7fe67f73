"""Training the lesson's networks, and exporting Keras models: the extra `train`.

>>> from pyconv import training
>>> settings = training.Settings("mnist", filters=(16,), epochs=3)      # doctest: +SKIP
>>> run = training.train(settings, "runs/digits")                       # doctest: +SKIP
>>> run.history[-1].test_accuracy                                       # doctest: +SKIP
0.98
>>> training.export("own.keras", "own.onnx")                            # doctest: +SKIP

Everything is imported when it is first used, Keras and TensorFlow by the functions that need them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyconv.lazy import attributes

if TYPE_CHECKING:
    from pyconv.training.exporter import Explanation, Exported, export
    from pyconv.training.fit import Progress
    from pyconv.training.history import Epoch
    from pyconv.training.run import Run, train
    from pyconv.training.settings import Settings

__all__ = [
    "Epoch",
    "Explanation",
    "Exported",
    "Progress",
    "Run",
    "Settings",
    "export",
    "train",
]

__getattr__ = attributes(
    __name__,
    {
        "pyconv.training.exporter": ["Explanation", "Exported", "export"],
        "pyconv.training.fit": ["Progress"],
        "pyconv.training.history": ["Epoch"],
        "pyconv.training.run": ["Run", "train"],
        "pyconv.training.settings": ["Settings"],
    },
)
