"""The onnxruntime engine: the same interface over `onnxruntime.InferenceSession`."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import onnxruntime as ort

from pyconv.engines.base import (
    Array,
    EngineName,
    Step,
    TensorInfo,
    WeightStorage,
    check_inputs,
    tensor_names,
)
from pyconv.errors import InputError, ModelError, unknown_name

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(int16)": "int16",
    "tensor(uint16)": "uint16",
    "tensor(int32)": "int32",
    "tensor(uint32)": "uint32",
    "tensor(int64)": "int64",
    "tensor(uint64)": "uint64",
    "tensor(bool)": "bool",
    "tensor(string)": "object",
}

MOST_SESSIONS = 16
"""Sessions with further outputs that are kept; each holds the weights once more."""


class OnnxRuntimeEngine:
    """Runs the graph with onnxruntime on the CPU.

    onnxruntime computes only declared graph outputs, so a request for an intermediate tensor makes
    a session whose graph declares it too. Sessions are kept by the set of extra outputs, those that
    were asked for last.

    Attributes:
        session: onnxruntime's own session for the file as it is, for whoever wants to call it with
            nothing in between (`pyconv bench` does).
    """

    name: EngineName = "onnxruntime"

    def __init__(
        self,
        path: Path,
        threads: int = 1,
        exact: bool = False,
        weights: WeightStorage = "float32",
    ) -> None:
        """Load a file. onnxruntime's convolutions are direct products, `exact` or not.

        Raises:
            InputError: `weights` are to be stored in another type than the file's.
            ModelError: onnxruntime refuses the file.
        """
        if weights != "float32":
            raise InputError(
                f"weights: onnxruntime keeps weights as the file has them, so {weights!r} is for "
                "engine='native' alone; for onnxruntime make a file of int8 with pyconv quantize"
            )
        self.threads = threads
        self._path = path
        self._lock = threading.Lock()
        # Sessions to come are of the file as it is now, whatever is written over it meanwhile.
        self._model = path.read_bytes()
        self.session = self._open(self._model)
        self._sessions: OrderedDict[frozenset[str], ort.InferenceSession] = OrderedDict()
        self.inputs: Sequence[TensorInfo] = [_info(item) for item in self.session.get_inputs()]
        self.outputs: Sequence[TensorInfo] = [_info(item) for item in self.session.get_outputs()]
        self._output_names = [info.name for info in self.outputs]

    def run(
        self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None
    ) -> dict[str, Array]:
        """See `pyconv.engines.base.Engine.run`."""
        check_inputs(self.inputs, inputs)
        wanted = tensor_names(outputs) if outputs is not None else self._output_names
        session = self._session_for(wanted)
        # A graph input may be asked for like any tensor; onnxruntime does not return inputs.
        computed = [name for name in dict.fromkeys(wanted) if name not in inputs]
        try:
            arrays = session.run(computed, dict(inputs)) if computed else []
        except Exception as error:  # onnxruntime's own exception types share no other base
            raise self._refused("run", error) from error
        by_name = dict(zip(computed, arrays, strict=True))
        return {name: by_name[name] if name in by_name else inputs[name].copy() for name in wanted}

    def rank(self, tensor: str) -> int | None:
        """See `pyconv.engines.base.Engine.rank`; onnxruntime tells inputs and outputs alone."""
        for info in (*self.inputs, *self.outputs):
            if info.name == tensor and info.shape:  # an unknown shape looks like that of a scalar
                return len(info.shape)
        return None

    def steps(self) -> Sequence[Step]:
        """Nothing: onnxruntime does not tell what it compiled."""
        return ()

    def _open(self, model: bytes) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # nothing: errors reach the caller as exceptions
        try:
            return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own exception types share no other base
            raise self._refused("load", error) from error

    def _refused(self, action: str, error: Exception) -> ModelError:
        sentence = (str(error).strip() or type(error).__name__).splitlines()[0]
        return ModelError(f"{self._path}: onnxruntime cannot {action} it: {sentence}")

    def _session_for(self, wanted: Sequence[str]) -> ort.InferenceSession:
        known = {info.name for info in (*self.inputs, *self.outputs)}
        extra = frozenset(wanted) - known
        if not extra:
            return self.session
        with self._lock:
            if extra not in self._sessions:
                self._sessions[extra] = self._open(self._with_outputs(extra))
            self._sessions.move_to_end(extra)
            if len(self._sessions) > MOST_SESSIONS:
                self._sessions.popitem(last=False)
            return self._sessions[extra]

    def _with_outputs(self, extra: frozenset[str]) -> bytes:
        model = onnx.load_from_string(self._model)
        produced = [name for node in model.graph.node for name in node.output if name]
        for name in sorted(extra):
            if name not in produced:
                raise InputError(unknown_name("tensor", name, produced))
            # Neither type nor shape is needed: onnxruntime infers both.
            model.graph.output.append(onnx.ValueInfoProto(name=name))
        return model.SerializeToString()


def _info(item: ort.NodeArg) -> TensorInfo:
    return TensorInfo(
        name=item.name,
        dtype=_DTYPES.get(item.type, item.type),
        shape=tuple(size if isinstance(size, int) else None for size in item.shape),
    )
