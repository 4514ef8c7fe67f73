"""What goes wrong around a server, tried for real: on a process of its own, while witnesses ask it.

The faults are tried a few times each. `PYCONV_FAULTS=20` tries each twenty times as often, and
`PYCONV_FAULTS_TABLE=FILE` appends a line of docs/reliability.md's table for each.
`PYCONV_FAULTS_MINUTES=60` is how long memory is watched.
"""

from __future__ import annotations

import contextlib
import datetime
import http.client
import json
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import numpy as np
import pytest
import trustme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pyconv
from pyconv import Client, Credentials, ServerError
from pyconv.v1 import classifier_pb2 as v1
from pyconv.v1 import classifier_pb2_grpc
from pyconv.v2 import open_inference_pb2 as pb
from pyconv.v2 import open_inference_pb2_grpc
from pyconv.wire import tensor_to_wire

TIMES = int(os.environ.get("PYCONV_FAULTS", "1"))
_TABLE = os.environ.get("PYCONV_FAULTS_TABLE")
_CASES = 16
# Longer than a machine that is shared may be taken away.
_PATIENCE = 180
_SETTLE_SECONDS = 60.0
# Python's and protobuf's allocators keep some of what they had at most.
_GROWTH_BYTES = 48 << 20


@dataclass(frozen=True)
class Case:
    """An input, the request that holds it, and the right answer, which no other case has."""

    pixels: Any
    request: pb.ModelInferRequest
    scores: Any

    def is_right(self, scores: Any) -> bool:
        return np.shape(scores) == (1, 3) and bool(np.allclose(scores, self.scores, atol=1e-5))


def make_cases(path: Path) -> list[Case]:
    model = pyconv.load(path, engine="onnxruntime")
    cases = []
    for seed in range(_CASES):
        pixels = np.random.default_rng(seed).random((1, 6, 8, 1), np.float32)
        request = pb.ModelInferRequest(model_name="small", raw_input_contents=[pixels.tobytes()])
        request.inputs.add(name="pixels", datatype="FP32", shape=pixels.shape)
        cases.append(Case(pixels, request, model.predict(pixels)))
    return cases


@dataclass
class Running:
    """A server's process.

    Attributes:
        host: its address without the port.
        port: gRPC's.
        http: `HOST:PORT` of HTTP.
        cases: what it may be asked.
    """

    process: subprocess.Popen[str]
    host: str
    port: int
    http: str
    cases: list[Case]

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def http_port(self) -> int:
        return int(self.http.rpartition(":")[2])

    def open_files(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))  # noqa: PTH208

    def files_settle(self, files: int) -> bool:
        """Whether hardly more files are open than so many, once connections are closed."""
        deadline = time.monotonic() + _SETTLE_SECONDS
        while self.open_files() > files + 3 and time.monotonic() < deadline:
            time.sleep(0.1)
        return self.open_files() <= files + 3

    def memory_bytes(self) -> int:
        text = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        return int(text.partition("VmRSS:")[2].split()[0]) * 1024


@contextmanager
def serving(model: Path, cases: list[Case], *flags: str, **options: Any) -> Iterator[Running]:
    """Serve a model as "small", until SIGTERM ends it with 0."""
    command = [sys.executable, "-m", "pyconv", "serve", "--json", "--port", "0", *flags]
    if "--model-dir" not in flags:
        command += ["--model", f"small={model}"]
    options.setdefault("stderr", subprocess.PIPE)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, errors="replace", **options
    ) as process:
        said: list[str] = []
        if process.stderr is not None:
            threading.Thread(target=_keep, args=(process.stderr, said), daemon=True).start()
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, said
            facts = json.loads(line)
            host, _, port = facts["address"].rpartition(":")
            running = Running(process, host, int(port), facts["http_address"], cases)
            yield running
            assert process.poll() is None, said
            process.send_signal(signal.SIGTERM)
            assert process.wait(_PATIENCE) == 0, said
            assert not [line for line in said if "Traceback" in line], said
        finally:
            process.kill()


def _keep(lines: Iterable[str], kept: list[str]) -> None:
    with contextlib.suppress(ValueError):  # closed, once the process has ended
        kept.extend(lines)


@dataclass
class Seen:
    """What became of the requests that were sent while something went wrong."""

    right: int = 0
    wrong: int = 0
    refused: Counter[str] = field(default_factory=Counter)


class Witnesses:
    """Two who ask by gRPC and one by HTTP, without pause, for as long as the block lasts."""

    def __init__(self, server: Running) -> None:
        self._server = server
        self._random = random.Random(7)
        self._over = threading.Event()
        self._lock = threading.Lock()
        asks = [self._by_grpc, self._by_grpc, self._by_http]
        self._threads = [threading.Thread(target=ask) for ask in asks]
        self.seen = Seen()

    def __enter__(self) -> Witnesses:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def wait_for_one(self) -> None:
        """Wait until one was answered."""
        deadline = time.monotonic() + _PATIENCE
        while not self.seen.right + self.seen.wrong and time.monotonic() < deadline:
            time.sleep(0.01)

    def _note(self, case: Case, scores: Any, refusal: str = "") -> None:
        with self._lock:
            if refusal:
                self.seen.refused[refusal] += 1
            elif case.is_right(scores):
                self.seen.right += 1
            else:
                self.seen.wrong += 1

    def _by_grpc(self) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(self._server.address, options) as channel:
            stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
            while not self._over.is_set():
                case = self._random.choice(self._server.cases)
                try:
                    # Connecting anew, where a server has gone, is no request that was lost.
                    answer = stub.ModelInfer(case.request, timeout=_PATIENCE, wait_for_ready=True)
                    self._note(case, scores_of(answer))
                except grpc.RpcError as error:
                    self._note(case, None, error.code().name)
                self._over.wait(0.002)

    def _by_http(self) -> None:
        while not self._over.is_set():
            case = self._random.choice(self._server.cases)
            try:
                self._note(case, infer_by_http(self._server.http, case))
            except urllib.error.HTTPError as error:
                self._note(case, None, f"HTTP {error.code}")
            except (OSError, http.client.HTTPException) as error:
                self._note(case, None, f"HTTP {type(error).__name__}")
            self._over.wait(0.005)


def scores_of(answer: pb.ModelInferResponse) -> Any:
    (output,) = answer.outputs
    return np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(output.shape)


def infer_by_http(address: str, case: Case) -> Any:
    tensor = {
        "name": "pixels",
        "datatype": "FP32",
        "shape": list(case.pixels.shape),
        "data": case.pixels.ravel().tolist(),
    }
    request = urllib.request.Request(
        f"http://{address}/v2/models/small/infer",
        json.dumps({"inputs": [tensor]}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:
        output = json.load(answer)["outputs"][0]
    return np.array(output["data"], np.float32).reshape(output["shape"])


Try = Callable[[], None]


def endure(
    server: Running,
    name: str,
    tries: int,
    fault: Callable[[int], object],
    refusals: tuple[str, ...] = (),
) -> Seen:
    """Try a fault many times under the eyes of witnesses, and see that the server is well after.

    Args:
        server: the server.
        name: what the table calls the fault; nothing is written where it is empty.
        tries: how often, before it is multiplied.
        fault: is given the number of the try.
        refusals: the statuses with which a valid request may be refused meanwhile.
    """
    files, memory = server.open_files(), server.memory_bytes()
    with Witnesses(server) as witnesses:
        for number in range(tries * TIMES):
            fault(number)
        assert_ready(server)
        witnesses.wait_for_one()
    seen = witnesses.seen
    assert seen.wrong == 0
    assert seen.right > 0
    assert set(seen.refused) <= set(refusals), seen.refused
    assert server.files_settle(files), "connections leak"
    assert server.memory_bytes() - memory < _GROWTH_BYTES, "memory leaks"
    if name:
        write_row(name, tries * TIMES, seen)
    return seen


def write_row(name: str, tries: int, seen: Seen) -> None:
    """Print a line of the table, for `pytest -s`, and write it where that is wanted."""
    refused = ", ".join(f"{count:,} {code}" for code, count in sorted(seen.refused.items()))
    row = f"| {name} | {tries:,} | {seen.right:,} | {refused or 'none'} | {seen.wrong} |\n"
    print(row, end="")
    if _TABLE:
        with Path(_TABLE).open("a", encoding="utf-8") as table:
            table.write(row)


def assert_ready(server: Running) -> None:
    """Both ports answer, and answer right."""
    case = server.cases[0]
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(server.address, options) as channel:
        stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert stub.ServerReady(pb.ServerReadyRequest(), timeout=_PATIENCE).ready
        assert case.is_right(scores_of(stub.ModelInfer(case.request, timeout=_PATIENCE)))
    assert case.is_right(infer_by_http(server.http, case))


@pytest.fixture(scope="session")
def cases(small_classifier: Path) -> list[Case]:
    return make_cases(small_classifier)


@pytest.fixture(scope="module")
def server(
    small_classifier: Path, small_unexplained: Path, small_maps: Path, cases: list[Case]
) -> Iterator[Running]:
    """The server that most faults are tried on, one after the other."""
    limits = ["--max-queue", "8", "--max-streams", "16", "--max-message", "0.25", "--grace", "2"]
    models = [f"--model={path}" for path in (small_unexplained, small_maps)]
    with serving(small_classifier, cases, *limits, *models, "--engine", "both") as running:
        # What is made once (threads, caches) is no leak.
        with Witnesses(running) as witnesses:
            witnesses.wait_for_one()
            time.sleep(0.5)
        yield running


# -- Bytes that are no requests --------------------------------------------------------------------

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_SETTINGS = b"\0\0\0\4\0\0\0\0\0"


def _throw(host: str, port: int, data: bytes, *, wait: bool = False) -> None:
    """Send bytes over a connection of their own, and hang up."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=5) as raw:
        raw.sendall(data)
        if wait:
            raw.settimeout(0.05)
            raw.recv(65536)


def _garbage(number: int) -> bytes:
    chance = random.Random(number)
    return chance.randbytes(chance.choice([0, 1, 9, 100, 5000, 70_000]))


@pytest.mark.parametrize("port", ["gRPC", "HTTP"])
def test_random_bytes(server: Running, port: str) -> None:
    number = server.port if port == "gRPC" else server.http_port
    endure(
        server,
        f"random bytes on {port}'s port",
        60,
        lambda i: _throw(server.host, number, _garbage(i), wait=i % 2 == 0),
    )


def _frames(number: int) -> bytes:
    """HTTP/2 frames of every type with lengths, flags, streams and payloads that do not fit."""
    chance = random.Random(number)
    data = _PREFACE + _SETTINGS
    for _ in range(chance.randint(1, 30)):
        kind, flags = chance.randint(0, 10), chance.choice([0, 1, 4, 5, 8, 0xFF])
        stream = chance.choice([0, 1, 1, 3, 2, (1 << 31) - 1])
        payload = chance.randbytes(chance.choice([0, 1, 4, 5, 6, 8, 40, 300]))
        said = chance.choice([len(payload), len(payload), len(payload) + 1, 0, 0xFFFFFF])
        data += said.to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload
    return data[: chance.choice([len(data), len(data), chance.randint(24, len(data))])]


def test_frames_of_http2_that_do_not_fit(server: Running) -> None:
    endure(
        server,
        "HTTP/2 frames that do not fit, or are cut off",
        60,
        lambda i: _throw(server.host, server.port, _frames(i), wait=True),
    )


def test_streams_that_are_reset_at_once(server: Running) -> None:
    """Rapid reset (CVE-2023-44487): a header block and its cancellation, many times over."""
    # Indexed fields: POST, http, / and an authority that is empty.
    block = bytes((0x83, 0x86, 0x84, 0x41, 0x00))
    frames = _PREFACE + _SETTINGS
    for stream in range(1, 1000, 2):
        head = stream.to_bytes(4, "big")
        frames += len(block).to_bytes(3, "big") + b"\1\4" + head + block
        frames += b"\0\0\4\3\0" + head + b"\0\0\0\x08"
    endure(
        server,
        "500 streams opened and reset at once, on one connection",
        6,
        lambda _: _throw(server.host, server.port, frames, wait=True),
    )


def test_http_requests_that_are_cut_off(server: Running) -> None:
    body = json.dumps({"inputs": [{"name": "pixels", "datatype": "FP32", "shape": [1, 6, 8, 1]}]})
    whole = (
        "POST /v2/models/small/infer HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body) + 50}\r\nInference-Header-Content-Length: 7\r\n\r\n{body}"
    ).encode()

    def cut(number: int) -> None:
        chance = random.Random(number)
        _throw(server.host, server.http_port, whole[: chance.randint(1, len(whole))])

    endure(server, "HTTP requests that are cut off", 60, cut)


# -- Requests that make no sense -------------------------------------------------------------------

_FEW = 250
"""How many of each protocol CI draws."""

_REFUSALS = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,  # a parameter may be a timeout of some microseconds
}
_HTTP_REFUSALS = {200, 400, 404, 405, 413, 422, 429, 504}

# Mostly what is right, so that a request gets far enough for its one fault to be met.
_names = st.one_of(
    st.sampled_from(["small", "plain", "maps", "pixels", "scores", "conv2d"]), st.text(max_size=8)
)
_sizes = st.sampled_from([0, 1, 2, 6, 8, -1, 1 << 31, 1 << 62, (1 << 63) - 1, -(1 << 63)])
_shapes = st.one_of(st.just([1, 6, 8, 1]), st.just([1, 6, 8, 1]), st.lists(_sizes, max_size=6))
_datatypes = st.sampled_from(["FP32", "FP32", "FP32", "UINT8", "BYTES", "BOOL", "FP16", "", "X"])
_known_parameters = st.sampled_from(
    ["engine", "timeout", "classification", "priority", "binary_data", "profile", "silence"]
)
_texts = st.one_of(st.sampled_from(["both", "native", '{"conv2d": [0, 9]}', "{"]), _names)
_parameters = st.dictionaries(
    st.one_of(_known_parameters, st.text(max_size=5)),
    st.one_of(
        st.builds(pb.InferParameter, bool_param=st.booleans()),
        st.builds(pb.InferParameter, int64_param=st.integers(-(1 << 63), (1 << 63) - 1)),
        st.builds(pb.InferParameter, string_param=_texts),
        st.builds(pb.InferParameter, double_param=st.floats()),
        st.builds(pb.InferParameter),
    ),
    max_size=3,
)
_contents = st.builds(
    pb.InferTensorContents,
    fp32_contents=st.lists(st.floats(width=32), max_size=60),
    int_contents=st.lists(st.integers(-(1 << 31), (1 << 31) - 1), max_size=3),
    bytes_contents=st.lists(st.binary(max_size=5), max_size=3),
)
_tensors = st.lists(
    st.builds(
        pb.ModelInferRequest.InferInputTensor,
        name=st.one_of(st.just("pixels"), _names),
        datatype=_datatypes,
        shape=_shapes,
        parameters=_parameters,
        contents=st.one_of(st.none(), _contents),
    ),
    max_size=2,
)
_outputs = st.lists(
    st.builds(pb.ModelInferRequest.InferRequestedOutputTensor, name=_names, parameters=_parameters),
    max_size=3,
)
_raw = st.lists(
    st.one_of(st.binary(min_size=192, max_size=192), st.binary(max_size=300)), max_size=2
)
_SOUND_TENSOR = pb.ModelInferRequest.InferInputTensor(
    name="pixels", datatype="FP32", shape=[1, 6, 8, 1]
)


def _mostly(sound: Any, other: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.just(sound), st.just(sound), st.just(sound), other)


_infer = st.builds(
    pb.ModelInferRequest,
    model_name=_mostly("small", _names),
    model_version=_mostly("", st.sampled_from(["1", "2", "-1"])),
    id=st.text(max_size=5),
    parameters=st.one_of(st.just({}), _parameters),
    inputs=_mostly([_SOUND_TENSOR], _tensors),
    outputs=st.one_of(st.just([]), _outputs),
    raw_input_contents=_mostly([bytes(192)], _raw),
)
_of_models = st.one_of(
    *(
        st.builds(message, name=_names, version=st.sampled_from(["", "1", "x"]))
        for message in (
            pb.ModelReadyRequest,
            pb.ModelMetadataRequest,
            pb.ModelConfigRequest,
            pb.ModelStatisticsRequest,
        )
    )
)

_uint32 = st.one_of(st.integers(0, 5), st.integers(0, 5), st.integers(0, (1 << 32) - 1))
_enum = st.one_of(st.integers(0, 2), st.integers(0, 2), st.integers(-(1 << 31), (1 << 31) - 1))
_selectors = st.builds(v1.ModelSelector, name=st.one_of(st.just("small"), _names), engine=_enum)


@st.composite
def _fitting_tensors(draw: st.DrawFn) -> v1.Tensor:
    """Tensors whose bytes fit their shape, so that they get past the first check."""
    right, wrong = [[1, 6, 8, 1], [2, 6, 8]], [[1, 8, 6, 1], [0, 6, 8, 1], [6, 8], []]
    shape = draw(st.sampled_from([*right, *right, *wrong]))
    dtype = draw(st.sampled_from([v1.DATA_TYPE_UINT8, v1.DATA_TYPE_FLOAT32]))
    count = 1 if dtype == v1.DATA_TYPE_UINT8 else 4
    for size in shape:
        count *= size
    return v1.Tensor(shape=shape, dtype=dtype, data=draw(st.binary(min_size=count, max_size=count)))


_images = st.one_of(
    st.builds(v1.Images),
    st.builds(v1.Images, tensor=_fitting_tensors()),
    st.builds(v1.Images, tensor=_fitting_tensors()),
    st.builds(v1.Images, tensor=_fitting_tensors()),
    st.builds(
        v1.Images,
        tensor=st.builds(
            v1.Tensor,
            shape=st.lists(_sizes, max_size=6),
            dtype=_enum,
            data=st.sampled_from([b"", bytes(48), bytes(192)]),
        ),
    ),
    st.builds(
        v1.Images,
        pictures=st.builds(
            v1.EncodedPictures,
            pictures=st.lists(
                st.builds(
                    v1.EncodedPicture, data=st.binary(max_size=100), name=st.text(max_size=9)
                ),
                max_size=3,
            ),
        ),
    ),
)
_layers = st.builds(
    v1.LayerSelection,
    name=st.one_of(
        st.sampled_from(["conv2d", "dense"]), st.sampled_from(["relu", ""]), st.text(max_size=9)
    ),
    channels=st.lists(_uint32, max_size=4),
)
_classifier = st.one_of(
    st.builds(
        v1.ClassifyRequest,
        model=_selectors,
        images=_images,
        top_k=_uint32,
        return_inputs=st.booleans(),
    ),
    st.builds(
        v1.ActivationsRequest,
        model=_selectors,
        images=_images,
        layers=st.lists(_layers, max_size=4),
        format=_enum,
        cell=_uint32,
        return_inputs=st.booleans(),
    ),
    st.builds(v1.DescribeModelRequest, model=_selectors),
)

_METHODS = {
    pb.ModelInferRequest: "/inference.GRPCInferenceService/ModelInfer",
    pb.ModelReadyRequest: "/inference.GRPCInferenceService/ModelReady",
    pb.ModelMetadataRequest: "/inference.GRPCInferenceService/ModelMetadata",
    pb.ModelConfigRequest: "/inference.GRPCInferenceService/ModelConfig",
    pb.ModelStatisticsRequest: "/inference.GRPCInferenceService/ModelStatistics",
    v1.ClassifyRequest: "/pyconv.v1.Classifier/Classify",
    v1.ActivationsRequest: "/pyconv.v1.Classifier/Activations",
    v1.DescribeModelRequest: "/pyconv.v1.Classifier/DescribeModel",
}


@pytest.mark.parametrize(
    ("protocol", "requests"),
    [("Open Inference", st.one_of(_infer, _infer, _infer, _of_models)), ("pyconv.v1", _classifier)],
)
def test_malformed_messages(server: Running, protocol: str, requests: Any) -> None:
    """Messages that are whole and make no sense, that are cut off, and random bytes."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    outcomes: Counter[str] = Counter()
    with grpc.insecure_channel(server.address, options) as channel:
        calls = {kind: channel.unary_unary(method) for kind, method in _METHODS.items()}

        @settings(
            max_examples=_FEW * TIMES,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(requests, st.binary(max_size=200), st.integers(0, 9))
        def send(request: Any, junk: bytes, kind: int) -> None:
            data = request.SerializeToString()
            if kind == 8:
                data = data[: len(junk)] + junk
            if kind == 9:
                data = junk
            call = calls[type(request)].future(data, timeout=_PATIENCE)
            assert call.code() in _REFUSALS, (call.code(), call.details(), request)
            assert call.code() is grpc.StatusCode.OK or call.details()
            outcomes[call.code().name] += 1

        seen = endure(server, "", 1, lambda number: None if number else send())
    assert outcomes.total() >= _FEW
    assert {"OK", "INVALID_ARGUMENT", "NOT_FOUND"} <= set(outcomes)  # some got far, some did not
    write_row(f"malformed messages of {protocol}, drawn by hypothesis", outcomes.total(), seen)


_json = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
_json_parameters = st.dictionaries(
    st.one_of(_known_parameters, st.sampled_from(["binary_data_size", "binary_data_output"])),
    st.one_of(st.booleans(), st.integers(-300, 300), st.floats(), _texts, _json),
    max_size=2,
)
_SOUND_INPUT = {
    "name": "pixels",
    "datatype": "FP32",
    "shape": [1, 6, 8, 1],
    "data": [0.5] * 48,
}
_json_inputs = st.lists(
    st.fixed_dictionaries(
        {
            "name": _mostly("pixels", _names),
            "datatype": _mostly("FP32", st.one_of(_datatypes, _json)),
            "shape": _mostly([1, 6, 8, 1], st.one_of(_shapes, _json)),
            "data": _mostly(_SOUND_INPUT["data"], _json),
        },
        optional={"parameters": _json_parameters},
    ),
    min_size=1,
    max_size=2,
)
_json_outputs = st.lists(
    st.fixed_dictionaries({"name": _names}, optional={"parameters": _json_parameters}), max_size=3
)
_json_requests = st.fixed_dictionaries(
    {"inputs": _mostly([_SOUND_INPUT], st.one_of(_json_inputs, _json))},
    optional={
        "id": st.text(max_size=5),
        "parameters": _json_parameters,
        "outputs": _json_outputs,
    },
)
_paths = _mostly(
    "/v2/models/small/infer",
    st.one_of(
        st.sampled_from(["/v2/models/plain/infer", "/v2/models/small/versions/1/infer", "/v2/in"]),
        _names.map(lambda name: f"/v2/models/{quote(name, safe='')}/infer"),
    ),
)


def test_malformed_requests_over_http(server: Running) -> None:
    """JSON that makes no sense, that is cut off, random bytes, and lengths that are not so."""
    connection = http.client.HTTPConnection(server.http, timeout=_PATIENCE)
    outcomes: Counter[int] = Counter()

    @settings(
        max_examples=_FEW * TIMES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(
        st.one_of(_json_requests, _json_requests, _json_requests, _json_requests, _json),
        _paths,
        st.binary(max_size=200),
        st.integers(0, 9),
        st.integers(-5, 300),
    )
    def send(request: Any, path: str, junk: bytes, kind: int, length: int) -> None:
        headers = {"Content-Type": "application/json"}
        data = json.dumps(request).encode()
        if kind == 7:
            headers["Inference-Header-Content-Length"] = str(length)
        if kind == 8:
            data = data[: len(junk)] + junk
        if kind == 9:
            data = junk
        connection.request("POST", path, data, headers)
        answer = connection.getresponse()
        told = answer.read()
        assert answer.status in _HTTP_REFUSALS, (answer.status, told, request)
        assert answer.status == 200 or json.loads(told)["error"]
        outcomes[answer.status] += 1

    with contextlib.closing(connection):
        seen = endure(server, "", 1, lambda number: None if number else send())
    assert outcomes.total() >= _FEW
    assert {200, 400, 404} <= set(outcomes)
    write_row("malformed requests over HTTP, drawn by hypothesis", outcomes.total(), seen)


# -- Clients that do not behave --------------------------------------------------------------------


def test_clients_that_vanish_amid_a_stream(server: Running) -> None:
    def vanish(_: int) -> None:
        channel = grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)])
        stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        more = threading.Event()

        def requests() -> Iterator[pb.ModelInferRequest]:
            for case in server.cases[:5]:
                yield case.request
            more.wait(_PATIENCE)

        answers = stub.ModelStreamInfer(requests())
        next(answers)
        channel.close()
        more.set()

    endure(server, "clients that vanish amid a stream", 20, vanish)


def test_clients_that_give_up_at_once(server: Running) -> None:
    def give_up(number: int) -> None:
        with grpc.insecure_channel(
            server.address, [("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
            for case in server.cases:
                call = stub.ModelInfer.future(case.request, timeout=_PATIENCE)
                if number % 2:
                    call.cancel()

    # Sixteen at once are more than the queue of eight takes.
    endure(server, "clients that give up at once", 20, give_up, ("RESOURCE_EXHAUSTED", "HTTP 429"))


def test_slow_readers(server: Running) -> None:
    """They ask for much, and read nothing."""
    case = server.cases[0]
    slow: list[socket.socket] = []
    channels: list[grpc.Channel] = []
    over = threading.Event()

    def requests() -> Iterator[pb.ModelInferRequest]:
        while not over.is_set():
            yield case.request

    def connect(number: int) -> None:
        raw = socket.create_connection((server.host, server.http_port), timeout=_PATIENCE)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.append(raw)
        raw.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
        if number < 8:
            channel = grpc.insecure_channel(
                server.address,
                [("grpc.use_local_subchannel_pool", 1), ("grpc.http2.lookahead_bytes", 1024)],
            )
            channels.append(channel)
            stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
            stub.ModelStreamInfer(requests())

    def all_of_them(_: int) -> None:
        for number in range(20):
            connect(number)
        time.sleep(0.5)
        over.set()
        for raw in slow:
            raw.close()
        for channel in channels:
            channel.close()
        slow.clear()
        channels.clear()
        over.clear()

    endure(
        server,
        "20 slow readers at once over HTTP, 8 over streams",
        1,
        all_of_them,
        ("RESOURCE_EXHAUSTED", "HTTP 429"),
    )


def test_a_thousand_connections(server: Running) -> None:
    def connect(_: int) -> None:
        with contextlib.ExitStack() as stack:
            for number in range(1000):
                port = server.port if number % 2 else server.http_port
                stack.enter_context(
                    socket.create_connection((server.host, port), timeout=_PATIENCE)
                )
            assert_ready(server)

    endure(server, "1,000 connections at once, held open", 1, connect)


def test_full_queue(small_classifier: Path, cases: list[Case]) -> None:
    """More requests at once than the queue takes: each is answered right, or refused at once."""
    outcomes: dict[str, int] = {}

    def flood(_: int) -> None:
        with grpc.insecure_channel(
            server.address, [("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
            calls = [
                (case, stub.ModelInfer.future(case.request, timeout=_PATIENCE)) for case in flooding
            ]
            for case, call in calls:
                code = call.code().name
                outcomes[code] = outcomes.get(code, 0) + 1
                if code == "OK":
                    assert case.is_right(scores_of(call.result()))
                else:
                    trailers = dict(call.trailing_metadata())
                    assert int(trailers["grpc-retry-pushback-ms"]) > 0

    flooding = cases * 16
    # Those that wait for others to run with are sure to fill the queue, however slow the sender.
    waiting = ["--max-wait", "300", "--max-queue", "8"]
    with serving(small_classifier, cases, *waiting) as server:
        endure(
            server,
            "a full queue: 256 requests at once, where 8 may wait",
            4,
            flood,
            ("RESOURCE_EXHAUSTED", "HTTP 429"),
        )
    assert set(outcomes) == {"OK", "RESOURCE_EXHAUSTED"}


# -- Around the process ----------------------------------------------------------------------------


def _workers(server: Running) -> list[int]:
    """The processes that serve; multiprocessing has one more, which tracks resources."""
    pid = server.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    found = []
    for child in children:
        with contextlib.suppress(OSError):
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(int(child))
    return found


def _listening(port: int) -> int:
    """How many sockets listen on a port (proc(5): state 0A)."""
    lines = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text("ascii").splitlines()[1:]
    ]
    return sum(line[1].endswith(f":{port:04X}") and line[3] == "0A" for line in lines)


def test_workers_that_are_killed(small_classifier: Path, cases: list[Case]) -> None:
    killed: set[int] = set()

    def kill(_: int) -> None:
        victim = _workers(server)[0]
        time.sleep(0.2)  # amid requests
        killed.add(victim)
        os.kill(victim, signal.SIGKILL)
        deadline = time.monotonic() + _PATIENCE
        while victim in _workers(server) or len(_workers(server)) < 2:
            assert time.monotonic() < deadline, "nobody took the killed one's place"
            time.sleep(0.02)
        while [_listening(server.port), _listening(server.http_port)] != listening:
            assert time.monotonic() < deadline, "the one in its place does not listen"
            time.sleep(0.02)

    # What was in flight on the one that is killed ends as its connection does.
    ended = ("UNAVAILABLE", "HTTP RemoteDisconnected", "HTTP ConnectionResetError", "HTTP URLError")
    with serving(small_classifier, cases, "--workers", "2") as server:
        listening = [_listening(server.port), _listening(server.http_port)]
        seen = endure(server, "one of two workers killed amid requests", 3, kill, ended)
    assert sum(seen.refused.values()) <= 3 * len(killed)  # one for each witness


def test_model_file_that_is_replaced_by_garbage(
    small_classifier: Path, cases: list[Case], tmp_path: Path
) -> None:
    path = tmp_path / "small.onnx"
    right = small_classifier.read_bytes()
    path.write_bytes(right)
    flags = ["--model-dir", str(tmp_path), "--watch", "0.05"]

    def replace(number: int) -> None:
        chance = random.Random(number)
        wrong = [chance.randbytes(500), right[: chance.randint(0, len(right))], b""][number % 3]
        path.write_bytes(wrong)  # in place, as it should not be done
        time.sleep(0.15)
        if number % 4 == 0:
            path.unlink()
            time.sleep(0.15)
        other = tmp_path / "other"
        other.write_bytes(right)
        other.replace(path)
        time.sleep(0.15)

    # Where the file is gone, so is the model, and requests for it say so.
    gone = ("NOT_FOUND", "HTTP 404")
    with serving(small_classifier, cases, *flags) as server:
        endure(server, "the model's file replaced by garbage, cut off, deleted", 8, replace, gone)
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            with contextlib.suppress(grpc.RpcError):
                assert_ready(server)
                break
        assert_ready(server)


def test_disk_that_is_full(small_classifier: Path, cases: list[Case]) -> None:
    """The log cannot be written: the server answers all the same."""
    flags = ["--log-requests", "--log-level", "info"]
    with (
        Path("/dev/full").open("w", encoding="utf-8") as full,
        serving(small_classifier, cases, *flags, stderr=full) as server,
    ):
        endure(server, "a full disk under the log, seconds", 2, lambda _: time.sleep(1))


_JUMPING_CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/time.h>
#include <time.h>

static int (*real)(clockid_t, struct timespec *);

static long shift(void) {  /* a day ahead or behind, changing twice a second */
    struct timespec steady;
    real(CLOCK_MONOTONIC, &steady);
    return (steady.tv_sec * 2 + steady.tv_nsec / 500000000) % 2 ? 86400 : -86400;
}
int clock_gettime(clockid_t clock, struct timespec *now) {
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(clock, now);
    if (!failed && clock == CLOCK_REALTIME) now->tv_sec += shift();
    return failed;
}
int gettimeofday(struct timeval *now, void *zone) {
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *now) {
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (now) *now = precise.tv_sec;
    return precise.tv_sec;
}
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs LD_PRELOAD")
def test_clock_that_jumps(small_classifier: Path, cases: list[Case], tmp_path: Path) -> None:
    """The wall clock of the whole process, C and Python, goes two days back and forth."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    library = tmp_path / "clock.so"
    command = [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", str(library), "-ldl"]
    subprocess.run(command, input=_JUMPING_CLOCK, text=True, check=True)
    environ = {**os.environ, "LD_PRELOAD": str(library)}
    told = subprocess.run(
        [sys.executable, "-c", "import time; print(time.time())"],
        env=environ,
        capture_output=True,
        text=True,
        check=True,
    )
    assert abs(float(told.stdout) - time.time()) > 80_000  # it does jump
    # gRPC tells what is left of a deadline by the wall clock: a request that arrives in the very
    # moment of a jump may be taken for late, at most one of each of the two witnesses.
    late = ("DEADLINE_EXCEEDED",)
    with serving(small_classifier, cases, "--log-requests", env=environ) as server:
        started = time.monotonic()
        seen = endure(
            server, "a wall clock that jumps by two days", 4, lambda _: time.sleep(0.5), late
        )
        jumps = (time.monotonic() - started) * 2 + 1
    assert sum(seen.refused.values()) <= 2 * jumps


def test_certificates_that_are_wrong(
    small_classifier: Path, cases: list[Case], tmp_path: Path
) -> None:
    ca, stranger = trustme.CA(), trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    long_ago = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    made = {
        "server": ca.issue_cert("127.0.0.1"),
        "right": ca.issue_cert("client"),
        "expired": ca.issue_cert("client", not_after=long_ago),
        "strange": stranger.issue_cert("client"),
    }
    for name, certificate in made.items():
        certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / f"{name}.pem")
    pem = {name: tmp_path / f"{name}.pem" for name in ("ca", *made)}
    flags = ["--tls-certificate", pem["server"], "--tls-key", pem["server"]]
    flags += ["--tls-client-ca", pem["ca"]]

    def ask(name: str) -> int:
        who = Credentials(ca=pem["ca"], certificate=pem[name], key=pem[name])
        with Client(server.address, credentials=who, timeout=_PATIENCE) as client:
            return len(client.classify(cases[0].pixels, model="small").predictions)

    def ask_http(name: str) -> int:
        context = ssl.create_default_context(cafile=pem["ca"])
        context.load_cert_chain(pem[name])
        host, _, port = server.http.rpartition(":")
        connection = http.client.HTTPSConnection(
            host, int(port), timeout=_PATIENCE, context=context
        )
        with contextlib.closing(connection):
            connection.request("GET", "/v2/models/small/ready")
            return int(connection.getresponse().status == 200)

    refused = answered = 0
    with serving(small_classifier, cases, *map(str, flags)) as server:
        files = server.open_files()
        for _ in range(10 * TIMES):
            for name in ("expired", "strange"):
                with pytest.raises(ServerError):
                    ask(name)
                # It depends on the moment whether the refusal or the connection's end is seen.
                with pytest.raises((OSError, http.client.HTTPException)):
                    ask_http(name)
                refused += 2
            answered += ask("right") + ask_http("right")
        assert server.files_settle(files), "connections leak"
    assert answered == 20 * TIMES
    write_row(
        "clients' certificates expired or of strangers, on both ports",
        refused,
        Seen(right=answered),
    )


# -- A long while ----------------------------------------------------------------------------------


def _everything_that_is_asked(server: Running) -> Iterator[Callable[[], object]]:
    """Calls of every kind, right and wrong, each with inputs of its own, without end."""
    chance = random.Random(3)
    options = [("grpc.use_local_subchannel_pool", 1)]
    channel = grpc.insecure_channel(server.address, options)
    stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
    classifier = classifier_pb2_grpc.ClassifierStub(channel)
    outputs = ["scores", "conv2d", "flatten", "dense", "nchw", "conv", "relu", "nhwc"]

    def infer(facts: dict[str, str | bool]) -> Callable[[], object]:
        request = pb.ModelInferRequest()
        request.CopyFrom(chance.choice(server.cases).request)
        for name in chance.sample(outputs, chance.randint(0, 4)):
            request.outputs.add(name=name)
        for name, value in facts.items():
            if isinstance(value, str):
                request.parameters[name].string_param = value
            else:
                request.parameters[name].bool_param = value
        return lambda: stub.ModelInfer(request, timeout=_PATIENCE)

    def classify() -> object:
        pixels = np.frombuffer(chance.randbytes(2 * 48), np.uint8).reshape(2, 6, 8, 1)
        images = v1.Images(tensor=tensor_to_wire(pixels))
        layers = [v1.LayerSelection(name="conv2d", channels=[chance.randint(0, 3)])]
        small = v1.ModelSelector(name="small")
        classifier.Activations(
            v1.ActivationsRequest(model=small, images=images, layers=layers, format=2)
        )
        return classifier.Classify(
            v1.ClassifyRequest(model=small, images=images), timeout=_PATIENCE
        )

    def stream() -> object:
        requests = iter([chance.choice(server.cases).request for _ in range(20)])
        return list(stub.ModelStreamInfer(requests, timeout=_PATIENCE))

    def nonsense() -> object:
        name = f"model-{chance.random()}"
        with contextlib.suppress(grpc.RpcError):
            stub.ModelInfer(pb.ModelInferRequest(model_name=name), timeout=_PATIENCE)
        _throw(server.host, server.port, chance.randbytes(100))
        return None

    def read(path: str) -> object:
        with urllib.request.urlopen(f"http://{server.http}{path}", timeout=_PATIENCE) as answer:
            return answer.read()

    while True:
        silenced = sorted(chance.sample(range(4), chance.randint(0, 3)))
        yield infer({})
        yield infer({"engine": "both"})
        yield infer({"profile": True})
        yield infer({"silence": json.dumps({"conv2d": silenced})})
        yield classify
        yield stream
        yield nonsense
        yield lambda: infer_by_http(server.http, chance.choice(server.cases))
        yield lambda: read("/v2/models/small/layers")
        yield lambda: read("/metrics")


@pytest.mark.slow
def test_memory_over_a_while(small_classifier: Path, cases: list[Case]) -> None:
    """Requests of every kind without pause: memory and open files stay what they were."""
    seconds = float(os.environ.get("PYCONV_FAULTS_MINUTES", "0.1")) * 60
    watching = ["--shadow", "0.1", "--observe", "conv2d", "--log-requests"]
    with serving(small_classifier, cases, "--engine", "both", *watching) as server:
        calls = _everything_that_is_asked(server)

        def ask(duration: float) -> int:
            """Returns how many calls there were."""
            until = time.monotonic() + duration
            for count, call in enumerate(calls, start=1):
                call()
                time.sleep(0.005)
                if time.monotonic() > until:
                    return count
            raise AssertionError("calls come without end")

        with Witnesses(server) as witnesses:
            ask(max(seconds / 12, 3))  # what is made once is no leak
            files, start = server.open_files(), server.memory_bytes()
            count = ask(seconds / 2)
            middle = server.memory_bytes()
            count += ask(seconds / 2)
            end = server.memory_bytes()
        seen = witnesses.seen
        assert seen.wrong == 0
        assert not seen.refused
        assert server.files_settle(files), "connections leak"
        assert end - middle < max(_GROWTH_BYTES / 6, (middle - start) / 2)
        assert end - start < _GROWTH_BYTES
        told = " MB, ".join(f"{at / 1e6:.1f}" for at in (start, middle, end))
        write_row(
            f"{seconds / 60:g} minutes of all that can be asked; memory {told} MB", count, seen
        )
