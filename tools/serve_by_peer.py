"""A network behind another project's server: what tools/service_speed.py compares with.

    VENV/bin/python tools/serve_by_peer.py {kserve,mlserver,mosec,triton} fashion.onnx

Each runs in an environment of its own, with its package, onnxruntime and NumPy. Behind all of them
stands onnxruntime with one thread, as pyconv's engine has one; requests that arrive together run
together where the server can do that. A line of JSON tells where it listens, once it answers.
"""

from __future__ import annotations

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
    """Triton itself, from pytriton's wheel, with its Python backend.

    pytriton's own way of serving has requests pass through one process more, at half the rate.
    """
    import pytriton

    folder, wheel = Path(tempfile.mkdtemp()), Path(pytriton.__file__).parent
    server = wheel / "tritonserver"
    backend = folder / "backends" / "python"
    backend.mkdir(parents=True)
    stubs = server / "python_backend_stubs" / f"{sys.version_info.major}.{sys.version_info.minor}"
    for file in (*(server / "backends" / "python").iterdir(), *stubs.iterdir()):
        (backend / file.name).symlink_to(file)
    network = Network(path)
    packages = [str(Path(__file__).resolve().parent), sysconfig.get_path("purelib")]
    version = folder / "models" / NAME / "1"
    version.mkdir(parents=True)
    version.with_name("config.pbtxt").write_text(
        f'name: "{NAME}"\nbackend: "python"\nmax_batch_size: {BATCH}\n'
        f'input {{ name: "{network.input.name}" data_type: TYPE_FP32 dims: {network.shape[1:]} }}\n'
        f'output {{ name: "{network.output.name}" data_type: TYPE_FP32 dims: [10] }}\n'
        "dynamic_batching {}\ninstance_group { kind: KIND_CPU count: 1 }\n"
    )
    (version / "model.py").write_text(
        f"import sys; sys.path[:0] = {packages}\n"
        "import numpy as np\n"
        "import triton_python_backend_utils as triton\n"
        "from serve_by_peer import Network\n"
        "class TritonPythonModel:\n"
        "    def initialize(self, args):\n"
        f"        self.network = Network({str(Path(path).resolve())!r})\n"
        "    def execute(self, requests):\n"
        "        given = [triton.get_input_tensor_by_name(r, self.network.input.name).as_numpy()\n"
        "                 for r in requests]\n"
        "        parts = np.split(self.network(np.concatenate(given)),\n"
        "                         np.cumsum([len(images) for images in given])[:-1])\n"
        "        name = self.network.output.name\n"
        "        return [triton.InferenceResponse([triton.Tensor(name, part)]) for part in parts]\n"
    )
    # It starts an interpreter, which shall take this one's libpython.
    libraries = [
        str(sysconfig.get_config_var("LIBDIR")),
        str(wheel.parent / "nvidia_pytriton.libs"),
    ]
    environment = {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(libraries)}
    port = _free_port()
    command = [str(server / "bin" / "tritonserver"), f"--grpc-port={port}", "--allow-http=false"]
    command += ["--allow-metrics=false", "--grpc-address=127.0.0.1"]
    command += [f"--model-repository={folder / 'models'}"]
    command += [f"--backend-directory={backend.parent}"]
    with subprocess.Popen(command, env=environment, stdout=sys.stderr) as process:
        _tell(port)
        _pass_on_the_end(process)


def _pass_on_the_end(server: subprocess.Popen[bytes]) -> None:
    import signal

    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    server.wait()


if __name__ == "__mp_main__" and "PEER_MODEL" in os.environ:
    _mosec_worker()
if __name__ == "__main__":
    sys.exit(main())
