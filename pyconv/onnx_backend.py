"""The native engine as an ONNX backend: `onnx.backend.base`, which ONNX's own test suite speaks.

    import onnx
    from pyconv import onnx_backend

    outputs = onnx_backend.prepare(onnx.load("network.onnx")).run([images])

The suite runs against it by `onnx.backend.test.BackendTest(onnx_backend.PyconvBackend)`; see
docs/conformance.md.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import shape_inference
from onnx.backend.base import Backend, BackendRep, namedtupledict

from pyconv.engines.base import Array
from pyconv.engines.native import NativeEngine
from pyconv.errors import InputError, ModelError
from pyconv.graph.reader import OPSETS


class PyconvRep(BackendRep):
    """A network on the native engine.

    Attributes:
        engine: what runs it.
    """

    def __init__(self, engine: NativeEngine) -> None:
        self.engine = engine

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Array, ...]:
        """Compute the network's outputs.

        Args:
            inputs: an array for each input in the graph's order; a dict of arrays by name; or one
                array, where there is one input.
            kwargs: ONNX's interface leaves them to the backend; there are none.

        Returns:
            A named tuple of the outputs in the graph's order.

        Raises:
            InputError: the arrays do not fit the network.
            ModelError: the network cannot be computed for them.
        """
        if kwargs:
            raise InputError(f"run: there are no settings, got {sorted(kwargs)}")
        names = [info.name for info in self.engine.inputs]
        if isinstance(inputs, np.ndarray):
            inputs = [inputs]
        if not isinstance(inputs, dict):
            if len(inputs) != len(names):
                raise InputError(f"expected arrays for the inputs {names}, got {len(inputs)}")
            inputs = dict(zip(names, map(np.asarray, inputs), strict=True))
        results = self.engine.run(inputs)
        return namedtupledict("Outputs", list(results))(*results.values())


class PyconvBackend(Backend):
    """Loads models into the native engine."""

    @classmethod
    def is_compatible(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """Whether `prepare` takes the model."""
        try:
            cls.prepare(model, device, **kwargs)
        except (InputError, ModelError):
            return False
        return True

    @classmethod
    def prepare(
        cls, model: onnx.ModelProto, device: str = "CPU", *, threads: int = 1, **kwargs: Any
    ) -> PyconvRep:
        """Load a model.

        Args:
            model: the network.
            device: `"CPU"`; there is no other.
            threads: how many threads a run may use.
            kwargs: ONNX's interface leaves them to the backend; there are no more.

        Raises:
            InputError: another device, or a setting that does not exist.
            ModelError: the model is broken.
            UnsupportedOperatorError: the native engine lacks operators that it uses.
        """
        if not cls.supports_device(device):
            raise InputError(f"device: expected 'CPU', got {device!r}")
        if kwargs:
            raise InputError(f"prepare: there is no setting {sorted(kwargs)}")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            path.write_bytes(model.SerializeToString())
            return PyconvRep(NativeEngine(path, threads))

    @classmethod
    def run_node(
        cls,
        node: onnx.NodeProto,
        inputs: Sequence[Array],
        device: str = "CPU",
        outputs_info: Sequence[tuple[Any, tuple[int, ...]]] | None = None,
        **kwargs: Any,
    ) -> tuple[Array, ...]:
        """Compute one node.

        Args:
            node: the operator, in the newest version that is understood.
            inputs: an array for each input that the node has.
            device: `"CPU"`.
            outputs_info: ignored: the engine finds the outputs' types itself.
            kwargs: as for `prepare`.
        """
        names = [name for name in node.input if name]
        arrays = dict(zip(names, map(np.asarray, inputs), strict=True))
        infos = [
            onnx.helper.make_tensor_value_info(
                name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
            )
            for name, array in arrays.items()
        ]
        outputs = shape_inference.infer_node_outputs(
            onnx.defs.get_schema(node.op_type, OPSETS.stop - 1, node.domain),
            node,
            {info.name: info.type for info in infos},
        )
        graph = onnx.helper.make_graph(
            [node],
            "node",
            infos,
            [onnx.helper.make_value_info(name, kind) for name, kind in outputs.items()],
        )
        opsets = [onnx.helper.make_opsetid("", OPSETS.stop - 1)]
        model = onnx.helper.make_model(graph, opset_imports=opsets)
        return cls.prepare(model, device, **kwargs).run(arrays)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether models can be prepared for a device: `"CPU"` alone."""
        return device.partition(":")[0] == "CPU"


is_compatible = PyconvBackend.is_compatible
prepare = PyconvBackend.prepare
run_model = PyconvBackend.run_model
run_node = PyconvBackend.run_node
supports_device = PyconvBackend.supports_device
