"""Copies of the service on a Ray cluster of several nodes, on this machine: some of them die."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import pyconv
from pyconv import Client, Credentials, InputError, pictures
from pyconv.channel import open_channel, retry_policy
from pyconv.cli import main
from pyconv.v2 import open_inference_pb2 as pb
from pyconv.v2 import open_inference_pb2_grpc

ray = pytest.importorskip("ray", reason="needs the extra ray")
parquet = pytest.importorskip("pyarrow.parquet")

pytestmark = pytest.mark.slow
_PATIENCE = 180


def _try_start_cluster(head_cpus: int, nodes: int) -> Any:
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    try:
        cluster.add_node(num_cpus=head_cpus, include_dashboard=False)
        for _ in range(nodes):
            cluster.add_node(num_cpus=2, wait=False)
        cluster.wait_for_nodes(120)
    except BaseException:
        cluster.shutdown()
        raise
    return cluster


def _start_cluster(head_cpus: int, nodes: int) -> Any:
    for left in reversed(range(4)):
        try:
            return _try_start_cluster(head_cpus, nodes)
        except Exception:  # Ray gives a node 30 s to start, which a busy machine may exceed
            if not left:
                raise
    return None


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head that computes nothing, and two nodes."""
    cluster = _start_cluster(0, 2)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def _children(pid: int) -> list[tuple[int, str]]:
    """The processes below one, and their names."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split():
        with contextlib.suppress(OSError):
            found.append(
                (int(child), Path(f"/proc/{child}/cmdline").read_text().replace("\0", " "))
            )
    return found


def _raylet(node: Any) -> int:
    pid: int = node.all_processes["raylet"][0].process.pid
    return pid


def _actors(node: Any, name: str) -> list[int]:
    """The processes of a node's actors of some kind."""
    return [pid for pid, told in _children(_raylet(node)) if told.startswith(f"ray::{name}")]


@dataclass
class Serving:
    address: str
    process: subprocess.Popen[str]


_WHO = Credentials(token="a-token-that-is-long-enough")


def _start_serving(command: list[str]) -> tuple[subprocess.Popen[str], str]:
    """The process, and its first line; that is empty where it has ended."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline()


def _free_port() -> int:
    with socket.create_server(("", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


@contextlib.contextmanager
def _serve(cluster: Any, model: Path, folder: Path, *options: str) -> Iterator[Serving]:
    """`pyconv serve --ray` for who has a token."""
    tokens = folder / "tokens"
    tokens.write_text(_WHO.token, encoding="utf-8")
    command = [sys.executable, "-m", "pyconv", "serve", "--ray", "--ray-address", cluster.address]
    # The same port for both tries: what has come up at the first keeps it.
    command += ["--host", "0.0.0.0", "--port", str(_free_port()), "--json", "--model", str(model)]
    command += ["--max-replicas", "2", "--replica-cpus", "0.5", *options]
    command += ["--token-file", str(tokens)]
    process, line = _start_serving(command)
    if not line:  # Ray gives its actors so many seconds, which a busy machine may exceed
        process, line = _start_serving(command)
    with process:
        try:
            assert line, process.stderr and process.stderr.read()
            facts = json.loads(line)
            assert facts["models"] == ["small"]
            yield Serving(facts["address"], process)
            process.send_signal(signal.SIGTERM)
            assert process.wait(_PATIENCE) == 0
        finally:
            process.kill()


@pytest.fixture(scope="module")
def serving(
    cluster: Any, small_classifier: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Serving]:
    """One copy, and another once there is load."""
    folder = tmp_path_factory.mktemp("ray")
    load = ["--replica-requests", "2", "--replica-delay", "0.5"]
    with _serve(cluster, small_classifier, folder, *load) as serving:
        yield serving


_PIXELS = [np.random.default_rng(seed).random((1, 6, 8, 1), np.float32) for seed in range(16)]


@pytest.fixture(scope="module")
def answers(small_classifier: Path) -> list[Any]:
    model = pyconv.load(small_classifier, engine="onnxruntime")
    return [model.predict(pixels) for pixels in _PIXELS]


def _request(pixels: Any) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="small", raw_input_contents=[pixels.tobytes()])
    request.inputs.add(name="pixels", datatype="FP32", shape=pixels.shape)
    return request


def test_both_protocols(serving: Serving, answers: list[Any]) -> None:
    _check_protocols(serving, answers)


def _check_protocols(serving: Serving, answers: list[Any]) -> None:
    with Client(serving.address, credentials=_WHO) as client:
        client.wait_ready()
        assert client.models() == {"small": ("native",)}
        answer = client.classify(_PIXELS[0], model="small", top=3)
        probabilities = [each.probability for each in answer.predictions[0]]
        np.testing.assert_allclose(probabilities, np.sort(answers[0][0])[::-1], atol=1e-5)
        streamed = list(client.classify_stream([_PIXELS[0], _PIXELS[1]], model="small"))
        assert [each.predictions[0][0].index for each in streamed] == [
            int(answers[place].argmax()) for place in (0, 1)
        ]
        with pytest.raises(InputError, match="there is no model 'smal'; did you mean 'small'"):
            client.classify(_PIXELS[0], model="smal")
    with open_channel(serving.address, _WHO) as channel:
        stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        requests = [_request(pixels) for pixels in _PIXELS]
        streamed = list(stub.ModelStreamInfer(iter(requests), timeout=_PATIENCE))
        for response, expected in zip(streamed, answers, strict=True):
            (raw,) = response.infer_response.raw_output_contents
            np.testing.assert_allclose(np.frombuffer(raw, np.float32), expected[0], atol=1e-5)
        requests[0].outputs.add(name="conv2d")
        layer = stub.ModelInfer(requests[0], timeout=_PATIENCE).outputs[0]
        assert (layer.name, list(layer.shape)) == ("conv2d", [1, 4, 6, 4])


def _status(method: Any, request: object) -> grpc.StatusCode:
    code: grpc.StatusCode = method.future(request, timeout=_PATIENCE).code()
    return code


def test_refusals(serving: Serving) -> None:
    _check_refusals(serving)


def _check_refusals(serving: Serving) -> None:
    with grpc.insecure_channel(serving.address) as channel:
        stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert _status(stub.ModelInfer, _request(_PIXELS[0])) is grpc.StatusCode.UNAUTHENTICATED
        stream = stub.ModelStreamInfer(iter([_request(_PIXELS[0])]), timeout=_PATIENCE)
        assert stream.code() is grpc.StatusCode.UNAUTHENTICATED
        health = health_pb2_grpc.HealthStub(channel)
        answer = health.Check(health_pb2.HealthCheckRequest(), timeout=_PATIENCE)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    with open_channel(serving.address, _WHO) as channel:
        stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        request = _request(_PIXELS[0])
        request.outputs.add(name="nothing")
        call = stub.ModelInfer.future(
            request, timeout=_PATIENCE, metadata=[("x-request-id", "seven")]
        )
        assert call.code() is grpc.StatusCode.NOT_FOUND
        assert "there is no output of model 'small' 'nothing'" in call.details()
        assert dict(call.trailing_metadata())["x-request-id"] == "seven"
        large = pb.ModelInferRequest(model_name="small", raw_input_contents=[bytes(17 << 20)])
        call = stub.ModelInfer.future(large, timeout=_PATIENCE)
        assert call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "expected a message of at most 16 MiB, got 17.0 MiB" in call.details()
        load = pb.RepositoryModelLoadRequest(model_name="small")
        assert _status(stub.RepositoryModelLoad, load) is grpc.StatusCode.FAILED_PRECONDITION


class Askers:
    """Six who ask without pause, over a connection each, and send again as gRPC's policy says."""

    def __init__(self, address: str, answers: list[Any]) -> None:
        self.seen: Counter[str] = Counter()
        self._address = address
        self._answers = answers
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(6)]

    def __enter__(self) -> Askers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        options: list[tuple[str, int | str]] = [
            ("grpc.service_config", retry_policy(4)),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        with open_channel(self._address, _WHO, options) as channel:
            stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
            turn = 0
            while not self._over.is_set():
                turn = (turn + 1) % len(_PIXELS)
                try:
                    answer = stub.ModelInfer(
                        _request(_PIXELS[turn]), timeout=_PATIENCE, wait_for_ready=True
                    )
                    scores = np.frombuffer(answer.raw_output_contents[0], np.float32)
                    right = np.allclose(scores, self._answers[turn][0], atol=1e-5)
                    self.seen["right" if right else "wrong"] += 1
                except grpc.RpcError as error:
                    self.seen[f"{error.code().name}: {error.details()}"] += 1


def _wait(until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _copies(cluster: Any) -> list[int]:
    return [
        pid
        for node in [cluster.head_node, *cluster.worker_nodes]
        for pid in _actors(node, "ServeReplica:pyconv")
    ]


def _see_copies_come_and_go(cluster: Any, asking: Askers) -> None:
    """Two are there, be it that the load called for the second; and one that dies is replaced."""
    _wait(lambda: asking.seen["right"] > 100)
    _wait(lambda: len(_copies(cluster)) == 2)
    before = _copies(cluster)
    os.kill(before[0], signal.SIGKILL)
    _wait(lambda: len(set(_copies(cluster)) - set(before)) == 1)
    much = asking.seen["right"] + 100
    _wait(lambda: asking.seen["right"] > much)


def test_no_request_is_lost_where_a_copy_or_a_node_dies(
    cluster: Any, serving: Serving, answers: list[Any]
) -> None:
    with Askers(serving.address, answers) as asking:
        _see_copies_come_and_go(cluster, asking)
        node = next(node for node in cluster.worker_nodes if _actors(node, "ServeReplica:pyconv"))
        cluster.remove_node(node, allow_graceful=False)
        _wait(lambda: len(_copies(cluster)) == 2)
        much = asking.seen["right"] + 100
        _wait(lambda: asking.seen["right"] > much)
        seen = asking.seen
    assert set(seen) == {"right"}, seen
    cluster.add_node(num_cpus=2)


def test_behind_haproxy(
    small_classifier: Path, answers: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With Ray's settings for throughput all is as it is with its own proxies."""
    for name, value in _THROUGHPUT.items():
        monkeypatch.setenv(name, value)
    for name in ("STATS", "METRICS"):
        monkeypatch.setenv(f"RAY_SERVE_HAPROXY_{name}_PORT", str(_free_port()))
    cluster = _start_cluster(2, 0)
    try:
        with _serve(cluster, small_classifier, tmp_path, "--min-replicas", "2") as serving:
            _check_protocols(serving, answers)
            _check_refusals(serving)
            with Askers(serving.address, answers) as asking:
                _see_copies_come_and_go(cluster, asking)
                seen = asking.seen
            assert set(seen) == {"right"}, seen
    finally:
        cluster.shutdown()


_THROUGHPUT = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # Copies that are told to go would wait half a minute for balancers outside the cluster.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
}


# -- Pictures by the million -----------------------------------------------------------------------


def _classify(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    """Run `pyconv classify --ray`; what it printed."""
    status = main(["classify", "--ray", *map(str, arguments), "--json"])
    output = capsys.readouterr()
    facts: dict[str, Any] = json.loads(output.out.splitlines()[-1])
    assert status == (1 if facts["failed"] else 0)
    return facts


def _check_rows(out: Path, expected: dict[tuple[str, int], Any]) -> None:
    """Every picture has one row, and the right one."""
    rows = [row for path in out.glob("*.parquet") for row in parquet.read_table(path).to_pylist()]
    assert sorted((row["file"], row["row"]) for row in rows) == sorted(expected)
    for row in rows:
        scores = expected[row["file"], row["row"]]
        if scores is None:
            assert row["label"] is None
            assert row["file"] in row["error"]
        else:
            assert row["error"] is None
            assert row["index"] == scores.argmax()
            assert row["label"] == ("left", "right", "flat")[scores.argmax()]
            assert row["probability"] == pytest.approx(scores.max(), abs=1e-5)


def _prepare(model: pyconv.Model, files: list[bytes]) -> Any:
    assert model.input_contract is not None
    return pictures.prepare_all(files, model.input_contract)


def test_no_picture_is_lost_where_a_node_dies(
    cluster: Any,
    small_classifier: Path,
    make_png: Callable[..., bytes],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, out = tmp_path / "pictures", tmp_path / "out"
    (folder / "more").mkdir(parents=True)
    pngs = [make_png(300, 400, seed) for seed in range(8)]  # each takes a while
    model = pyconv.load(small_classifier, engine="onnxruntime")
    scores = model.predict(_prepare(model, pngs))
    expected: dict[tuple[str, int], Any] = {}
    for number in range(400):
        name = f"{'more/' if number % 3 else ''}{number:04}.png"
        (folder / name).write_bytes(pngs[number % 8])
        expected[name, 0] = scores[number % 8]
    (folder / "note.txt").write_text("no picture", "utf-8")
    (folder / "broken.png").write_bytes(b"no picture")
    expected["broken.png", 0] = None

    killed: list[Any] = []

    def kill() -> None:
        """One of the nodes, amid the work."""
        _wait(lambda: len(list(out.glob("*.parquet"))) >= 3)
        busy = [node for node in cluster.worker_nodes if _actors(node, "MapWorker")]
        killed.append(busy[0])
        cluster.remove_node(busy[0], allow_graceful=False)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    arguments = [folder, "--out", out, "--model", small_classifier, "--ray-address"]
    arguments += [cluster.address, "--part", 8]
    told = _classify(capsys, *arguments)
    killer.join()
    assert killed
    assert told["parts"] == told["done"] == 51
    assert (told["pictures"], told["failed"], told["before"]) == (401, 1, 0)
    assert told["first"].startswith("broken.png: ")
    _check_rows(out, expected)
    cluster.add_node(num_cpus=2)

    # A second run does what is missing, and what is new.
    lost = parquet.read_table(removed := next(out.glob("*.parquet"))).num_rows
    removed.unlink()
    (folder / "new.png").write_bytes(pngs[0])
    expected["new.png", 0] = scores[0]
    told = _classify(capsys, *arguments)
    assert (told["pictures"], told["before"]) == (lost + 1, 401 - lost)
    _check_rows(out, expected)
    told = _classify(capsys, *arguments)
    assert (told["pictures"], told["before"]) == (0, 402)

    # Other activations, and other pictures, though by the same names.
    for other in ([*arguments, "--layer", "conv2d"], [folder / "more", *arguments[1:]]):
        assert main(["classify", "--ray", *map(str, other)]) == 1
        told_why = capsys.readouterr().err
        assert "holds results of another source, model, engine, --top, --layer or" in told_why


def test_parquet_with_activations(
    cluster: Any,
    small_classifier: Path,
    make_png: Callable[..., bytes],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import pyarrow as pa

    pngs: list[Any] = [make_png(seed=seed) for seed in range(20)]
    model = pyconv.load(small_classifier, engine="onnxruntime")
    layers = model.activations(_prepare(model, pngs), ["conv2d", "dense"])
    table = pa.table({"picture": pa.array([*pngs[:7], None, *pngs[7:]], pa.binary())})
    source, out = tmp_path / "pictures.parquet", tmp_path / "out"
    parquet.write_table(table, source, row_group_size=10)
    arguments: list[object] = [source, "--out", out, "--column", "picture", "--top", 2]
    arguments += ["--model", small_classifier, "--ray-address", cluster.address]
    arguments += ["--layer", "conv2d", "--layer", "dense"]
    told = _classify(capsys, *arguments)
    assert (told["parts"], told["pictures"], told["failed"]) == (3, 21, 1)
    found = {}
    for path in out.glob("*.parquet"):
        part = parquet.read_table(path)
        tensors = part["conv2d"].combine_chunks()
        for place, row in enumerate(part.drop_columns(["conv2d"]).to_pylist()):
            found[row["row"]] = (row, tensors[place])
    assert sorted(found) == list(range(21))
    assert found[7][0]["label"] is None
    assert found[7][0]["top"] is None
    assert "expected a file's bytes, got NoneType" in found[7][0]["error"]
    for place, number in enumerate(row for row in range(21) if row != 7):
        row, conv2d = found[number]
        order = np.argsort(-layers["dense"][place])[:2]
        assert [each["index"] for each in row["top"]] == order.tolist()
        np.testing.assert_allclose(row["dense"], layers["dense"][place], atol=1e-5)
        np.testing.assert_allclose(conv2d.to_numpy(), layers["conv2d"][place], atol=1e-4)

    next(path for path in out.glob("*.parquet") if len(parquet.read_table(path)) == 1).unlink()
    told = _classify(capsys, *arguments)
    assert (told["pictures"], told["before"]) == (1, 20)


def test_parquet_that_is_damaged_within(
    cluster: Any,
    small_classifier: Path,
    make_png: Callable[..., bytes],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    import pyarrow as pa

    source, out = tmp_path / "pictures.parquet", tmp_path / "out"
    parquet.write_table(pa.table({"image": pa.array([make_png()] * 9, pa.binary())}), source)
    data = source.read_bytes()
    source.write_bytes(data[:4] + b"\xff" * 40 + data[44:])
    arguments = [source, "--out", out, "--model", small_classifier]
    arguments += ["--ray-address", cluster.address]
    assert main(["classify", "--ray", *map(str, arguments)]) == 1
    told = capfd.readouterr().err
    assert "pyconv classify: a part failed: " in told
    assert " from pictures.parquet and on: " in told
    assert "Traceback" not in told
    assert list(out.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", "b", "--out", "c"], "expected one folder or Parquet file, got 2 paths"),
        (["a"], "expected a folder for the results"),
        (["nowhere", "--out", "{tmp}/out"], "nowhere: there is no such file or folder"),
        (["{tmp}", "--out", "{tmp}/out"], "expected a folder with picture files"),
        (["{tmp}", "--out", "{tmp}/out", "--layer", "conv"], "there is no layer 'conv'; did you"),
        (["{tmp}", "--out", "{tmp}/out", "--server", "x:1"], "--server does not go with --ray"),
        (["{tmp}", "--out", "{tmp}/out", "--profile"], "--profile does not go with --ray"),
        (["{tmp}/t.parquet", "--out", "{tmp}/out"], "there is no column 'image'"),
        (["{tmp}/t.parquet", "--out", "{tmp}/out", "--column", "x"], "got int64; see --column"),
        (["{tmp}/bad.parquet", "--out", "{tmp}/out"], "bad.parquet: cannot be used: Parquet magic"),
        (["{tmp}/p", "--out", "{tmp}/bad.parquet"], "bad.parquet: cannot be used: Cannot create"),
        (["{tmp}/p", "--out", "{tmp}/bad"], "bad/bad.parquet: cannot be used: Parquet magic"),
        (["{tmp}/p", "--out", "{tmp}/out", "--ray-address", "127.0.0.1:1"], "RAY_AUTH_MODE=token"),
        (["{tmp}/p", "--out", "s4://x/y"], "s4://x/y: cannot be used: Unrecognized filesystem"),
        (["{tmp}", "--out", "{tmp}/out", "--part", "0"], "--part: expected at least 1, got 0"),
    ],
)
def test_classify_on_ray_that_makes_no_sense(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import pyarrow as pa

    if "t.parquet" in arguments[0]:
        parquet.write_table(pa.table({"x": [1]}), tmp_path / "t.parquet")
    if "bad" in str(arguments):
        (tmp_path / "bad").mkdir()
        for path in ("bad.parquet", "bad/bad.parquet"):
            (tmp_path / path).write_bytes(b"no table")
    if arguments[0] == "{tmp}/p":
        (tmp_path / "p").mkdir()
        (tmp_path / "p" / "a.png").write_bytes(b"no picture")
    told = [argument.replace("{tmp}", str(tmp_path)) for argument in arguments]
    ray.shutdown()  # of the cluster that other tests are on
    assert main(["classify", "--ray", *told]) == 1
    assert message in capsys.readouterr().err


def test_cluster_that_does_not_start_in_time(
    small_classifier: Path,
    make_png: Callable[..., bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def too_late(*_: object, **__: object) -> None:
        raise Exception("the node timed out")  # as Ray raises it

    ray.shutdown()  # of the cluster that other tests are on
    monkeypatch.setattr(ray, "init", too_late)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "a.png").write_bytes(make_png())
    arguments = [str(tmp_path), "--out", str(tmp_path / "out"), "--model", str(small_classifier)]
    assert main(["classify", "--ray", *arguments]) == 1
    message = "no Ray cluster answers at this machine (the node timed out)"
    assert message in capsys.readouterr().err


def test_configuration_file_of_the_documentation() -> None:
    """Ray Serve takes it, its servicers are there, and its arguments are settings."""
    import yaml
    from ray._common.utils import import_attr
    from ray.serve.schema import ServeDeploySchema

    page = (Path(__file__).parents[2] / "docs" / "ray.md").read_text(encoding="utf-8")
    text = page.partition("```yaml\n")[2].partition("```")[0]
    config = ServeDeploySchema.model_validate(yaml.safe_load(text))
    for servicer in config.grpc_options.grpc_servicer_functions:
        assert callable(import_attr(servicer))
    (application,) = config.applications
    build = import_attr(application.import_path)
    copies = build({**application.args, "replica_delay_seconds": 7})._bound_deployment
    scaling = copies._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas, scaling.upscale_delay_s) == (2, 8, 7)
    with pytest.raises(
        InputError, match="there is no setting 'min_replica'; did you mean 'min_replicas'"
    ):
        build({**application.args, "min_replica": 1})
