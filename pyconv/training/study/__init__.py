"""The lesson's experiments, each of them one command: `pyconv study`.

>>> from pyconv.training import study
>>> results = study.conduct(study.STUDIES["depth"], "studies")     # doctest: +SKIP
>>> results[0].history[-1].test_accuracy                            # doctest: +SKIP
0.912

A study (`plan`) varies a network; each variant is trained once a seed (`runs`), measured on both
engines (`results`) and written down beside the lesson's own figures (`report`): that is an
`experiment`. Recipes of today compete for the best network of a budget (`best`, `contests`).

Everything is imported when it is first used, Keras and TensorFlow by the functions that need them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyconv.lazy import attributes

if TYPE_CHECKING:
    from pyconv.training.study.experiment import Listener, activations, conduct
    from pyconv.training.study.plan import STUDIES, Lesson, Study, Variant
    from pyconv.training.study.results import Result

__all__ = [
    "STUDIES",
    "Lesson",
    "Listener",
    "Result",
    "Study",
    "Variant",
    "activations",
    "conduct",
]

__getattr__ = attributes(
    __name__,
    {
        "pyconv.training.study.experiment": ["Listener", "activations", "conduct"],
        "pyconv.training.study.plan": ["STUDIES", "Lesson", "Study", "Variant"],
        "pyconv.training.study.results": ["Result"],
    },
)
