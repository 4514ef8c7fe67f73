"""The models and sample pictures that come with pyconv.

`models/NAME.onnx` is a network, `models/NAME.md` its card; `samples/NAME/*.png` are pictures for
it and for `NAME-best`, each file named after what it shows.
"""

from __future__ import annotations

from pathlib import Path

from pyconv.errors import ModelError

_ROOT = Path(__file__).parent


def names() -> list[str]:
    """The names that `pyconv.load` takes besides paths."""
    return sorted(path.stem for path in (_ROOT / "models").glob("*.onnx"))


def resolve(model: str | Path) -> Path:
    """The ONNX file of a bundled name, or the path itself.

    Raises:
        ModelError: neither a bundled model nor a file has that name.
    """
    if isinstance(model, str) and model in names():
        return _ROOT / "models" / f"{model}.onnx"
    path = Path(model)
    if not path.is_file():
        raise ModelError(
            f"there is no model {str(model)!r}: expected a bundled name "
            f"({', '.join(names())}) or the path of an .onnx file"
        )
    return path


def card(name: str) -> str:
    """The model card of a bundled model, as Markdown."""
    return (_ROOT / "models" / f"{name}.md").read_text(encoding="utf-8")


def samples(name: str) -> list[Path]:
    """The sample pictures for a bundled model, sorted by file name."""
    return sorted((_ROOT / "samples" / name.removesuffix("-best")).glob("*.png"))
