"""Check what an sdist and a wheel of pyconv hold: `check_distribution.py FOLDER`."""

import re
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

WHEEL_NEEDS = (
    r"pyconv/_core\.[^/]*\.so",
    r"pyconv/_core\.pyi",
    r"pyconv/py\.typed",
    r"pyconv/bundled/models/fashion\.onnx",
    r"pyconv/bundled/models/digits\.onnx",
    r"pyconv/bundled/models/fashion-best\.onnx",
    r"pyconv/bundled/models/digits-best\.onnx",
    r"pyconv/bundled/models/fashion\.md",
    r"pyconv/bundled/samples/fashion/.*\.png",
    r"pyconv/bundled/samples/digits/.*\.png",
    r"pyconv/server/__init__\.py",
    r"pyconv/server/web/index\.html",
    r"pyconv/server/web/app\.js",
    r"pyconv/v1/classifier_pb2\.py",
    r"pyconv/v1/classifier_pb2\.pyi",
    r"pyconv/v1/classifier_pb2_grpc\.py",
    r"pyconv/v2/open_inference_pb2\.py",
    r"pyconv/v2/open_inference_pb2\.pyi",
    r"pyconv/v2/open_inference_pb2_grpc\.py",
    r"pyconv-[^/]*\.dist-info/licenses/LICENSE",
)
WHEEL_HOLDS_ONLY = r"pyconv/|pyconv-[^/]*\.dist-info/"
SDIST_NEEDS = (
    r"CMakeLists\.txt",
    r"LICENSE",
    r"README\.md",
    r"cpp/kernels/kernels\.cpp",
    r"proto/pyconv/v1/classifier\.proto",
    r"proto/pyconv/v2/open_inference\.proto",
    r"pyconv/__init__\.py",
    r"server/__init__\.py",
    r"tests/test_package\.py",
)
NEITHER_HOLDS = r"(^|/)(__pycache__|build|\.git|\.venv|\.keras)(/|$)|\.keras$|\.py[co]$"
LARGEST_WHEEL_BYTES = 5 << 20


def main(folder: Path) -> int:
    """Print the sizes and everything that is wrong; returns the exit status."""
    (wheel,) = folder.glob("*.whl")
    (sdist,) = folder.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = archive.namelist()
    with tarfile.open(sdist) as archive:
        in_sdist = [name.partition("/")[2] for name in archive.getnames()]
    faults = [
        *(f"wheel: nothing matches {pattern}" for pattern in _missing(WHEEL_NEEDS, in_wheel)),
        *(f"sdist: nothing matches {pattern}" for pattern in _missing(SDIST_NEEDS, in_sdist)),
        *(f"wheel: {name}" for name in in_wheel if not re.match(WHEEL_HOLDS_ONLY, name)),
        *(f"wheel: {name}" for name in in_wheel if re.search(NEITHER_HOLDS, name)),
        *(f"sdist: {name}" for name in in_sdist if re.search(NEITHER_HOLDS, name)),
    ]
    size = wheel.stat().st_size
    if size > LARGEST_WHEEL_BYTES:
        faults.append(f"wheel: {size} bytes, more than {LARGEST_WHEEL_BYTES}")
    for path in (wheel, sdist):
        print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB")
    print("\n".join(faults))
    return 1 if faults else 0


def _missing(patterns: Sequence[str], names: Sequence[str]) -> list[str]:
    return [
        pattern for pattern in patterns if not any(re.fullmatch(pattern, name) for name in names)
    ]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
