"""A network behind another project's server: what tools/service_speed.py compares with.

    VENV/bin/python tools/serve_by_peer.py {kserve,mlserver,mosec,triton} fashion.onnx

Each runs in an environment of its own, with its package, onnxruntime and NumPy. Behind all of them
stands onnxruntime with one thread, as pyconv's engine has one; requests that arrive together run
together where the server can do that. A line of JSON tells where it listens, once it answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime

NAME = "fashion"
BATCH = 64


def main() -> int:
    """Serve until told to stop."""
    peer, path = sys.argv[1:]
    serve = {"kserve": _kserve, "mlserver": _mlserver, "mosec": _mosec, "triton": _triton}[peer]
    serve(path)
    return 0


class Network:
    """onnxruntime with one thread."""

    def __init__(self, path: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        self.input, self.output = self._session.get_inputs()[0], self._session.get_outputs()[0]
        self.shape = [-1, *self.input.shape[1:]]

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Images (n, h, w, c) as float32 to (n, classes)."""
        found: np.ndarray = self._session.run(None, {self.input.name: images})[0]
        return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _tell(port: int) -> None:
    """Say where it listens, as soon as somebody does."""
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            break
        time.sleep(0.1)
    time.sleep(1)  # some listen a little before they answer
    print(json.dumps({"address": f"127.0.0.1:{port}"}), flush=True)


def _tell_later(port: int) -> None:
    """The same from a process of its own, where the server takes this one."""
    if os.fork() == 0:
        _tell(port)
        os._exit(0)


def _kserve(path: str) -> None:
    from kserve import InferOutput, InferResponse, Model, ModelServer

    network = Network(path)

    class Served(Model):  # type: ignore[misc]
        def load(self) -> bool:
            self.ready = True
            return True

        async def get_input_types(self) -> list[dict[str, object]]:
            return [{"name": network.input.name, "datatype": "FP32", "shape": network.shape}]

        async def get_output_types(self) -> list[dict[str, object]]:
            return [{"name": network.output.name, "datatype": "FP32", "shape": [-1, 10]}]

        def predict(self, payload: object, headers: object = None, **_: object) -> object:
            scores = network(payload.inputs[0].as_numpy())  # type: ignore[attr-defined]
            output = InferOutput(network.output.name, list(scores.shape), "FP32")
            output.set_data_from_numpy(scores, binary_data=True)
            return InferResponse(payload.id, NAME, [output])  # type: ignore[attr-defined]

    model, port = Served(NAME), _free_port()
    model.load()
    _tell_later(port)
    ModelServer(grpc_port=port, http_port=_free_port(), enable_docs_url=False).start([model])


def _mlserver(path: str) -> None:
    folder = Path(tempfile.mkdtemp())
    network, port = Network(path), _free_port()
    settings = {"grpc_port": port, "http_port": _free_port(), "metrics_port": _free_port()}
    settings |= {"parallel_workers": 0, "host": "127.0.0.1", "metrics_endpoint": None}
    (folder / "settings.json").write_text(json.dumps(settings))
    model = {
        "name": NAME,
        "implementation": "peer_runtime.Runtime",
        "parameters": {"uri": str(Path(path).resolve())},
        "inputs": [{"name": network.input.name, "datatype": "FP32", "shape": network.shape}],
        "outputs": [{"name": network.output.name, "datatype": "FP32", "shape": [-1, 10]}],
        "max_batch_size": BATCH,
        "max_batch_time": 0.001,
    }
    (folder / "model-settings.json").write_text(json.dumps(model))
    (folder / "peer_runtime.py").write_text(
        "from mlserver import MLModel\n"
        "from mlserver.codecs import NumpyCodec\n"
        "from mlserver.types import InferenceResponse\n"
        "from serve_by_peer import Network\n"
        "class Runtime(MLModel):\n"
        "    async def load(self):\n"
        "        self.network = Network(self.settings.parameters.uri)\n"
        "        return True\n"
        "    async def predict(self, payload):\n"
        "        scores = self.network(NumpyCodec.decode_input(payload.inputs[0]))\n"
        "        output = NumpyCodec.encode_output(self.network.output.name, scores)\n"
        "        return InferenceResponse(model_name=self.name, outputs=[output])\n"
    )
    here = str(Path(__file__).parent)
    environment = {**os.environ, "PYTHONPATH": f"{here}{os.pathsep}{folder}"}
    command = [str(Path(sys.executable).with_name("mlserver")), "start", str(folder)]
    # What it writes is for people, and would stand before the address.
    with subprocess.Popen(command, env=environment, stdout=sys.stderr) as server:
        _tell(port)
        _pass_on_the_end(server)


def _mosec(path: str) -> None:
    from mosec import Server

    port = _free_port()
    sys.argv[1:] = ["--port", str(port), "--address", "127.0.0.1"]
    server = Server()
    os.environ["PEER_MODEL"] = path
    server.append_worker(_mosec_worker(), num=2, max_batch_size=32, max_wait_time=1)
    _tell_later(port)
    server.run()


def _mosec_worker() -> type:
    """The class, where the processes that mosec spawns find it by its name."""
    from mosec import Worker

    class Classifier(Worker):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self._network = Network(os.environ["PEER_MODEL"])

        def deserialize(self, data: bytes) -> np.ndarray:
            images = np.frombuffer(data, np.float32)
            return images.reshape(-1, *self._network.shape[1:])

        def forward(self, data: list[np.ndarray]) -> list[np.ndarray]:
            counts = np.cumsum([len(images) for images in data])[:-1]
            return np.split(self._network(np.concatenate(data)), counts)

        def serialize(self, data: np.ndarray) -> bytes:
            return data.tobytes()

    Classifier.__qualname__ = "Classifier"
    globals()["Classifier"] = Classifier
    return Classifier


def _triton(path: str) -> None:
    from pytriton.decorators import batch
    from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
    from pytriton.triton import Triton, TritonConfig

    # Triton starts an interpreter that may otherwise take another libpython than this one's.
    os.environ["LD_LIBRARY_PATH"] = str(sysconfig.get_config_var("LIBDIR"))
    network, port = Network(path), _free_port()

    @batch  # type: ignore[untyped-decorator]
    def infer(**inputs: np.ndarray) -> list[np.ndarray]:
        return [network(inputs[network.input.name])]

    config = TritonConfig(grpc_port=port, http_port=_free_port(), metrics_port=_free_port())
    with Triton(config=config) as triton:
        triton.bind(
            NAME,
            infer,
            inputs=[Tensor(name=network.input.name, dtype=np.float32, shape=network.shape[1:])],
            outputs=[Tensor(name=network.output.name, dtype=np.float32, shape=(10,))],
            config=ModelConfig(max_batch_size=BATCH, batcher=DynamicBatcher()),
        )
        triton.run()
        _tell(port)
        asyncio.run(asyncio.Event().wait())


def _pass_on_the_end(server: subprocess.Popen[bytes]) -> None:
    import signal

    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    server.wait()


if __name__ == "__mp_main__" and "PEER_MODEL" in os.environ:
    _mosec_worker()
if __name__ == "__main__":
    sys.exit(main())
