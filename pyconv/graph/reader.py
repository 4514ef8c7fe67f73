"""ONNX file → checked contents as plain Python objects."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import external_data_helper, helper, inliner, numpy_helper

from pyconv.engines.base import TensorInfo
from pyconv.errors import ModelError
from pyconv.graph.limits import (
    MOST_CALLS,
    MOST_FILE_BYTES,
    MOST_NODES,
    MOST_OPERANDS,
    brief,
)

OPSETS = range(6, 29)
"""The versions of ONNX's own operator set that are understood."""


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
        return f"{brief(self.operator)} {brief(named)!r}"


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


def parse(path: Path) -> onnx.ModelProto:
    """An ONNX file as it is, external data left where it lies.

    Raises:
        ModelError: it is missing, too large or no ONNX file.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
    if size > MOST_FILE_BYTES:
        raise ModelError(f"{path}: {size:,} bytes; an ONNX file has at most {MOST_FILE_BYTES:,}")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
    except Exception as error:  # protobuf and onnx raise types that share no other base
        raise ModelError(f"{path}: not an ONNX file: {brief(error)}") from error
    _check_size(path, model)
    return model


def read(path: Path) -> OnnxFile:
    """Read an ONNX file and check it.

    Raises:
        ModelError: it is missing, too large, no ONNX file, breaks ONNX's rules, keeps data outside
            its own folder, or is of an operator set that is not understood.
    """
    model = parse(path)
    opset = _check_opset(path, model)
    try:
        _load_external_data(path, model)
        onnx.checker.check_model(_with_shapes(model))
        if model.functions:
            model = inliner.inline_local_functions(model)
            _check_outputs(path, model)
        return _contents(path, opset, model)
    except ModelError:
        raise
    except Exception as error:
        # Also what decoding a damaged tensor raises: ValueError, TypeError, onnx's own.
        raise ModelError(f"{path}: the ONNX file is broken: {brief(error)}") from error


def _check_outputs(path: Path, model: onnx.ModelProto) -> None:
    """Refuse what the checker lets through: a function that does not make what it says."""
    made = {name for node in model.graph.node for name in node.output}
    made |= {item.name for item in model.graph.input}
    made |= {item.name for item in model.graph.initializer}
    made |= {item.values.name for item in model.graph.sparse_initializer}
    for output in model.graph.output:
        if output.name not in made:
            raise ModelError(f"{path}: no node makes the output {output.name!r}")


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
    constants = {_name(item.name): numpy_helper.to_array(item) for item in graph.initializer}
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
        inputs=tuple(map(_name, proto.input)),
        outputs=tuple(map(_name, proto.output)),
        attributes={_name(item.name): _attribute(item) for item in proto.attribute},
        proto=proto,
    )


def _name(name: str | bytes) -> str:
    if isinstance(name, bytes):  # what protobuf makes of a text that is none
        raise ValueError(f"the name {name!r} is not UTF-8")
    return name


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
    if item.type.WhichOneof("value") != "tensor_type":
        raise ValueError(f"{item.name!r} is no tensor, but {item.type.WhichOneof('value')}")
    tensor = item.type.tensor_type
    try:
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name
    except KeyError:
        dtype = "undefined"
    shape = None
    if tensor.HasField("shape"):
        shape = tuple(
            axis.dim_value if axis.HasField("dim_value") and axis.dim_value != -1 else None
            for axis in tensor.shape.dim
        )
        # Some exporters write -1 for a free axis.
        if any(size is not None and size < 0 for size in shape):
            raise ValueError(f"{item.name!r} has the shape {shape}")
    return TensorInfo(_name(item.name), dtype, shape)


def _check_opset(path: Path, model: onnx.ModelProto) -> int:
    versions = [item.version for item in model.opset_import if item.domain in ("", "ai.onnx")]
    if len(versions) != 1 or versions[0] not in OPSETS:
        raise ModelError(
            f"{path}: expected an operator set of version {OPSETS.start} to {OPSETS.stop - 1}, "
            f"got {', '.join(map(str, versions)) or 'none'}; "
            "onnx.version_converter can convert the file"
        )
    return versions[0]


def _check_size(path: Path, model: onnx.ModelProto) -> None:
    """Refuse graphs beyond all measure, before anything goes through them node by node."""
    functions = {(item.domain, item.name, item.overload): item for item in model.functions}
    counted: dict[tuple[str, str, str], tuple[int, int]] = {}

    def within(nodes: Sequence[onnx.NodeProto], depth: int) -> tuple[int, int]:
        """Nodes and operands, those of subgraphs and functions included."""
        if len(nodes) > MOST_NODES:
            raise ModelError(f"{path}: {len(nodes):,} nodes; expected at most {MOST_NODES:,}")
        if depth > MOST_CALLS:
            raise ModelError(
                f"{path}: its functions call themselves, or more than {MOST_CALLS} of them call "
                "one another"
            )
        total = operands = 0
        for node in nodes:
            total, operands = total + 1, operands + len(node.input) + len(node.output)
            parts = [within(graph.node, depth + 1) for graph in _subgraphs(node)]
            key = (node.domain, node.op_type, node.overload)
            if key in functions:
                if key not in counted:
                    counted[key] = within(functions[key].node, depth + 1)
                parts.append(counted[key])
            total += sum(part[0] for part in parts)
            operands += sum(part[1] for part in parts)
        return total, operands

    total, operands = within(model.graph.node, 0)
    if total > MOST_NODES or operands > MOST_OPERANDS:
        raise ModelError(
            f"{path}: {total:,} nodes with {operands:,} inputs and outputs; expected at most "
            f"{MOST_NODES:,} with {MOST_OPERANDS:,}"
        )


def _subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    graphs = []
    for item in node.attribute:
        graphs += [item.g] if item.HasField("g") else []
        graphs += item.graphs
    return graphs


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of the file, wherever it stands."""
    graphs: list[onnx.GraphProto] = [model.graph]
    nodes: list[onnx.NodeProto] = [node for item in model.functions for node in item.node]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield from (sparse.values, sparse.indices)
            nodes += graph.node
            continue
        node = nodes.pop()
        graphs += _subgraphs(node)
        for item in node.attribute:
            yield from ([item.t] if item.HasField("t") else [])
            yield from item.tensors
            sparse_tensors = [item.sparse_tensor] if item.HasField("sparse_tensor") else []
            for sparse in (*sparse_tensors, *item.sparse_tensors):
                yield from (sparse.values, sparse.indices)


def _load_external_data(path: Path, model: onnx.ModelProto) -> None:
    """Read data that lies in the file's own folder; refuse what lies anywhere else."""
    folder = path.parent.resolve()
    external = [each for each in _tensors(model) if external_data_helper.uses_external_data(each)]
    sizes: dict[Path, int] = {}
    for tensor in external:
        location = external_data_helper.ExternalDataInfo(tensor).location
        whose = f"{path}: the data of {brief(tensor.name)!r} should lie in {brief(location)!r}"
        target = (folder / location).resolve()
        if not location or not target.is_relative_to(folder):
            raise ModelError(f"{whose}, outside the model's folder; such files are refused")
        if not target.is_file():
            raise ModelError(f"{whose} beside the model, and is not there")
        sizes[target] = target.stat().st_size
        needed = _data_bytes(tensor)
        if sizes[target] < needed:
            raise ModelError(f"{whose}, which has {sizes[target]:,} of {needed:,} bytes")
        lengths = [entry.value for entry in tensor.external_data if entry.key == "length"]
        if any(length != str(needed) for length in lengths):
            raise ModelError(f"{whose}: expected {needed:,} bytes, got {brief(lengths[0])}")
        if not lengths:  # or all of the file would be read
            tensor.external_data.add(key="length", value=str(needed))
    asked, there = sum(map(_data_bytes, external)), sum(sizes.values())
    if asked > 4 * there:  # some may be shared
        raise ModelError(f"{path}: {asked:,} bytes are wanted of files that have {there:,} in all")
    for tensor in external:
        external_data_helper.load_external_data_for_tensor(tensor, str(folder))
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


_BITS = {"FLOAT4E2M1": 4, "INT4": 4, "UINT4": 4, "INT2": 2, "UINT2": 2}
"""Types of which several elements lie in one byte."""


def _data_bytes(tensor: onnx.TensorProto) -> int:
    """The bytes that a tensor's type and shape ask for."""
    if any(size < 0 for size in tensor.dims):
        raise ValueError(f"{tensor.name!r} has the shape {list(tensor.dims)}")
    bits = _BITS.get(onnx.TensorProto.DataType.Name(tensor.data_type))
    if bits is None:
        bits = 8 * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return -(-math.prod(tensor.dims) * bits // 8)
