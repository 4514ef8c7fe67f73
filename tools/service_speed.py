"""Measure the service against an empty one, and other projects': docs/benchmarks.md, "The service".

    python tools/service_speed.py --rounds 3 --seconds 2 --peer triton=VENV/bin/python

All run at the same time, each in processes of its own, and take turns under the load of `pyconv
load-test`: one load on one after the other, then the next load. The empty service is grpc.aio with
the same messages: it parses the request and sends an answer that was made beforehand, so what it
takes is grpcio's own. Other projects' servers are started by tools/serve_by_peer.py with a Python
that has them: `--peer` names one and that Python, and may be given several times.

With `--generator h2load` the load comes from h2load (Debian's nghttp2-client), which takes a fifth
of the processor that `pyconv load-test` takes, and drives HTTP too: pyconv's own, with the tensor
in the binary form of the Open Inference Protocol, and mosec's, which takes nothing but the
elements. h2load does not see whether gRPC answers with an error; one answer of each server is
looked at beforehand.

With `--results FILE` turns are kept there, and those of earlier runs count, too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from pyconv import bundled
from pyconv.v2 import open_inference_pb2 as pb

_CELLS = ("1x1", "1x8", "1x32", "64x1", "64x4")  # images a request x requests in flight
_EMPTY = "an empty grpc.aio service"
_HTTP = ", HTTP"
_METHOD = "/inference.GRPCInferenceService/ModelInfer"
_CONNECTIONS = 8  # at most, to one server: one of them reaches one of several processes

_Found = dict[str, dict[str, list[float]]]
"""Images a second of every turn, by server and cell."""


def main() -> int:
    """Measure, and print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="a turn")
    parser.add_argument("--cells", default=",".join(_CELLS), help="images x in flight, with commas")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--generator", choices=("load-test", "h2load"), default="load-test")
    parser.add_argument("--results", type=Path, metavar="FILE")
    parser.add_argument("--empty", action="store_true", help="be the empty service")
    args = parser.parse_args()
    if args.empty:
        asyncio.run(_serve_nothing())
        return 0
    found: _Found = {}
    if args.results and args.results.exists():
        found = json.loads(args.results.read_text())
    with ExitStack() as running:
        servers = {
            name: running.enter_context(_running(command))
            for name, command in _commands(dict(text.split("=", 1) for text in args.peer)).items()
        }
        loads = _loads({name: _listening(process) for name, process in servers.items()}, args)
        for number in range(args.rounds):
            for cell in args.cells.split(","):
                images, in_flight = map(int, cell.split("x"))
                for name in list(loads)[:: -1 if number % 2 else 1]:
                    if name != _EMPTY or images == 1:
                        rate = loads[name].rate(images, in_flight, args.seconds)
                        found.setdefault(name, {}).setdefault(cell, []).append(rate * images)
                        if args.results:
                            args.results.write_text(json.dumps(found, indent=1))
    _print(found)
    return 0


def _print(found: _Found) -> None:
    """Medians, and in brackets the least and the most."""
    print("| images a second |", " | ".join(cell.replace("x", " × ") for cell in _CELLS), "|")
    print("|---|" + "---:|" * len(_CELLS))
    for name, cells in found.items():
        texts = []
        for cell in _CELLS:
            turns = cells.get(cell, [])
            low, high = min(turns, default=0), max(turns, default=0)
            spread = f" ({low:,.0f}-{high:,.0f})" if len(turns) > 1 else ""
            texts.append(f"{statistics.median(turns):,.0f}{spread}" if turns else "")
        print(f"| {name} |", " | ".join(texts), "|")


def _commands(peers: dict[str, str]) -> dict[str, list[str]]:
    """What starts each server."""
    serve = [sys.executable, "-m", "pyconv", "serve", "--model", "fashion", "--port", "0", "--json"]
    serve += ["--http-port", "0"]
    commands = {
        _EMPTY: [sys.executable, __file__, "--empty"],
        "pyconv serve": serve,
        "pyconv serve --workers 2": [*serve, "--workers", "2"],
    }
    script = str(Path(__file__).with_name("serve_by_peer.py"))
    for name, python in peers.items():
        commands[name] = [python, script, name, str(bundled.resolve("fashion"))]
    return commands


def _loads(
    listening: dict[str, dict[str, str]], args: argparse.Namespace
) -> dict[str, _LoadTest | _H2Load]:
    """The load on every server, which `pyconv load-test` cannot drive where it is not gRPC."""
    grpc = {name: told["address"] for name, told in listening.items() if name != "mosec"}
    if args.generator == "load-test":
        return {name: _LoadTest(address) for name, address in grpc.items()}
    loads: dict[str, _LoadTest | _H2Load] = {}
    for name, told in listening.items():
        if name == "mosec":
            loads[name] = _H2Load(f"http://{told['address']}/inference", _Bare)
        else:
            _check(told["address"])
            loads[name] = _H2Load(f"http://{told['address']}{_METHOD}", _Grpc)
        if told.get("http_address"):
            url = f"http://{told['http_address']}/v2/models/fashion/infer"
            loads[name + _HTTP] = _H2Load(url, _Rest)
    return loads


@contextmanager
def _running(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def _listening(process: subprocess.Popen[str]) -> dict[str, str]:
    """Where it listens; some peers write lines of their own first."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith('{"address"'):
            told: dict[str, str] = json.loads(line)
            return told
    raise SystemExit(f"it did not start: {process.args}")


def _check(address: str) -> None:
    """Ask once what h2load will ask."""
    import grpc

    with grpc.insecure_channel(address) as channel:
        answer = channel.unary_unary(_METHOD)(_Grpc(1).message, timeout=10)
    shape = pb.ModelInferResponse.FromString(answer).outputs[0].shape
    if list(shape) != [1, 10]:
        raise SystemExit(f"{address}: expected one row of ten numbers, got {list(shape)}")


class _LoadTest:
    """`pyconv load-test`, which checks every answer."""

    def __init__(self, address: str) -> None:
        self._address = address

    def rate(self, images: int, in_flight: int, seconds: float) -> float:
        """Requests a second."""
        command = [sys.executable, "-m", "pyconv", "load-test", self._address, "--json"]
        command += ["--model", "fashion", "--images-per-request", str(images)]
        command += ["--concurrency", str(in_flight)]
        command += ["--connections", str(min(in_flight, _CONNECTIONS))]
        command += ["--duration", str(seconds), "--warmup", "0.2"]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        (cell,) = json.loads(done.stdout)["cells"]
        if cell["failures"]:
            raise SystemExit(f"requests failed: {cell['failures']}")
        return float(cell["images_per_second"]) / images


class _H2Load:
    """h2load, which counts answers."""

    def __init__(self, url: str, body: type[_Body]) -> None:
        self._url = url
        self._kind = body

    def rate(self, images: int, in_flight: int, seconds: float) -> float:
        """Requests a second."""
        body = self._kind(images)
        connections = in_flight if body.http1 else min(in_flight, _CONNECTIONS)
        command = ["h2load", f"-c{connections}", f"-m{in_flight // connections}"]
        command += [f"-D{seconds * 1e3:.0f}ms", "--warm-up-time=200ms"]
        command += ["--h1"] if body.http1 else []
        for name, value in body.headers.items():
            command += ["-H", f"{name}: {value}"]
        with tempfile.NamedTemporaryFile() as file:
            file.write(body.data)
            file.flush()
            command += ["-d", file.name, self._url]
            told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        rate = re.search(r"([\d.]+) req/s", told)
        if rate is None or " 0 failed" not in told or " 0 4xx, 0 5xx" not in told:
            raise SystemExit(f"requests failed: {told}")
        return float(rate[1])


class _Body:
    """A request: bytes, and the headers that belong to them."""

    http1 = True

    def __init__(self, images: int) -> None:
        self.headers: dict[str, str] = {}
        self.data = np.random.default_rng(20).random((images, 28, 28, 1), np.float32).tobytes()


class _Bare(_Body):
    """The elements, and nothing else."""


class _Rest(_Body):
    """The Open Inference Protocol over HTTP, with the elements as they are behind the JSON."""

    def __init__(self, images: int) -> None:
        super().__init__(images)
        size = {"binary_data_size": len(self.data)}
        tensor = {"name": "image", "datatype": "FP32", "shape": [images, 28, 28, 1]}
        asked = {"inputs": [tensor | {"parameters": size}]}
        head = json.dumps(asked | {"parameters": {"binary_data_output": True}}).encode()
        self.headers["inference-header-content-length"] = str(len(head))
        self.headers["content-type"] = "application/octet-stream"
        self.data = head + self.data


class _Grpc(_Body):
    """The Open Inference Protocol over gRPC: not compressed, the message's size, the message."""

    http1 = False

    def __init__(self, images: int) -> None:
        super().__init__(images)
        request = pb.ModelInferRequest(model_name="fashion", raw_input_contents=[self.data])
        request.inputs.add(name="image", datatype="FP32", shape=[images, 28, 28, 1])
        self.message = request.SerializeToString()
        self.headers |= {"content-type": "application/grpc", "te": "trailers"}
        self.data = b"\0" + len(self.message).to_bytes(4, "big") + self.message


async def _serve_nothing() -> None:
    import grpc

    from pyconv.v2 import open_inference_pb2_grpc

    answer = pb.ModelInferResponse(model_name="fashion", raw_output_contents=[bytes(40)])
    answer.outputs.add(name="dense_1", datatype="FP32", shape=[1, 10])
    about = pb.ModelMetadataResponse(name="fashion", versions=["1"])
    about.inputs.add(name="input", datatype="FP32", shape=[-1, 28, 28, 1])
    about.outputs.add(name="dense_1", datatype="FP32", shape=[-1, 10])

    class Empty(open_inference_pb2_grpc.GRPCInferenceServiceServicer):
        async def ModelInfer(self, request: object, context: object) -> object:  # noqa: N802
            return answer

        async def ModelMetadata(self, request: object, context: object) -> object:  # noqa: N802
            return about

    server = grpc.aio.server()
    open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Empty(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(json.dumps({"address": f"127.0.0.1:{port}"}), flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    sys.exit(main())
