"""ONNX file → checked contents as plain Python objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import external_data_helper, helper, inliner, numpy_helper

from pyconv.engines.base import TensorInfo
from pyconv.errors import ModelError

OPSETS = range(6, 29)
"""The versions of ONNX's own operator set that are understood."""

MOST_BYTES = 2**31 - 1
"""Protobuf's own limit on a message."""


@dataclass(frozen=True, slots=True, eq=False)
class OnnxNode:
    """One operator of the file.

    Attributes:
        operator: its name, with the domain in front where that is not ONNX's own.
        inputs: names of tensors; `""` for an optional one left out.
        outputs: the same.
        attributes: by name, as Python values; tensors as NumPy arrays.
        proto: the node itself.
    """

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    proto: onnx.NodeProto

    def __str__(self) -> str:
        named = self.proto.name or next((name for name in self.outputs if name), "")
        return f"{self.operator} {named!r}"


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """The checked contents of a file.

    Attributes:
        path: where it lies.
        opset: the version of ONNX's operator set.
        inputs: what is given at each run; initialisers are left out.
        outputs: the graph's outputs.
        constants: the initialisers.
        nodes: in the file's order, which is one in which they can be computed.
    """

    path: Path
    opset: int
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    constants: Mapping[str, NDArray[Any]] = field(repr=False)
    nodes: tuple[OnnxNode, ...] = field(repr=False)

    def tensors(self) -> list[str]:
        """The name of every tensor that a node makes."""
        return [name for node in self.nodes for name in node.outputs if name]


def read(path: Path) -> OnnxFile:
    """Read an ONNX file and check it.

    Raises:
        ModelError: it is missing, too large, no ONNX file, breaks ONNX's rules, keeps data outside
            its own folder, or is of an operator set that is not understood.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
    if size > MOST_BYTES:
        raise ModelError(f"{path}: {size:,} bytes; an ONNX file has at most {MOST_BYTES:,}")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf and onnx raise types that share no other base
        raise ModelError(f"{path}: not an ONNX file: {error}") from error
    _check_external_data(path, model)
    opset = _check_opset(path, model)
    try:
        external_data_helper.load_external_data_for_model(model, str(path.parent))
        onnx.checker.check_model(_with_shapes(model))
        if model.functions:
            model = inliner.inline_local_functions(model)
        return _contents(path, opset, model)
    except ModelError:
        raise
    except Exception as error:
        # Also what decoding a damaged tensor raises: ValueError, TypeError, onnx's own.
        raise ModelError(f"{path}: the ONNX file is broken: {str(error).strip()}") from error


def _with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model as the checker wants it: it insists on shapes that no engine needs."""
    checked = onnx.ModelProto()
    checked.CopyFrom(model)
    for item in (*checked.graph.input, *checked.graph.output):
        if item.type.HasField("tensor_type"):
            item.type.tensor_type.shape.SetInParent()
    return checked


def _contents(path: Path, opset: int, model: onnx.ModelProto) -> OnnxFile:
    graph = model.graph
    if graph.sparse_initializer:
        names = [item.values.name for item in graph.sparse_initializer]
        raise ModelError(f"{path}: sparse initialisers are not supported: {names}")
    constants = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    return OnnxFile(
        path=path,
        opset=opset,
        inputs=tuple(_info(item) for item in graph.input if item.name not in constants),
        outputs=tuple(_info(item) for item in graph.output),
        constants=constants,
        nodes=tuple(_node(item) for item in graph.node),
    )


def _node(proto: onnx.NodeProto) -> OnnxNode:
    own = proto.domain in ("", "ai.onnx")
    return OnnxNode(
        operator=proto.op_type if own else f"{proto.domain}.{proto.op_type}",
        inputs=tuple(proto.input),
        outputs=tuple(proto.output),
        attributes={item.name: _attribute(item) for item in proto.attribute},
        proto=proto,
    )


def _attribute(item: onnx.AttributeProto) -> Any:
    value = helper.get_attribute_value(item)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return value if isinstance(value, int | float) else list(value) if _is_list(item) else value


def _is_list(item: onnx.AttributeProto) -> bool:
    kinds = onnx.AttributeProto
    return item.type in (kinds.INTS, kinds.FLOATS)


def _info(item: onnx.ValueInfoProto) -> TensorInfo:
    tensor = item.type.tensor_type
    try:
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name
    except KeyError:
        dtype = "undefined"
    shape = None
    if tensor.HasField("shape"):
        shape = tuple(
            axis.dim_value if axis.HasField("dim_value") and axis.dim_value >= 0 else None
            for axis in tensor.shape.dim
        )
    return TensorInfo(item.name, dtype, shape)


def _check_opset(path: Path, model: onnx.ModelProto) -> int:
    versions = [item.version for item in model.opset_import if item.domain in ("", "ai.onnx")]
    if len(versions) != 1 or versions[0] not in OPSETS:
        raise ModelError(
            f"{path}: expected an operator set of version {OPSETS.start} to {OPSETS.stop - 1}, "
            f"got {', '.join(map(str, versions)) or 'none'}; "
            "onnx.version_converter can convert the file"
        )
    return versions[0]


def _check_external_data(path: Path, model: onnx.ModelProto) -> None:
    """Refuse data that lies anywhere but in the file's own folder."""
    folder = path.parent.resolve()
    for tensor in external_data_helper._get_all_tensors(model):
        if not external_data_helper.uses_external_data(tensor):
            continue
        location = external_data_helper.ExternalDataInfo(tensor).location
        target = (folder / location).resolve()
        if not location or not target.is_relative_to(folder):
            raise ModelError(
                f"{path}: the data of {tensor.name!r} should lie in {location!r}, outside the "
                "model's folder; such files are refused"
            )
        if not target.is_file():
            raise ModelError(
                f"{path}: the data of {tensor.name!r} should lie in {location!r} beside the "
                "model, and is not there"
            )
