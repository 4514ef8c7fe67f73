"""Measure the service against an empty one, and other projects': docs/benchmarks.md, "The service".

    python tools/service_speed.py --rounds 3 --seconds 2 --peer triton=VENV/bin/python

All run at the same time, each in processes of its own, and take turns under the load of `pyconv
load-test`: one load on one after the other, then the next load. The empty service is grpc.aio with
the same messages: it parses the request and sends an answer that was made beforehand, so what it
takes is grpcio's own. Other projects' servers are started by tools/serve_by_peer.py with a Python
that has them: `--peer` names one and that Python, and may be given several times. mosec speaks HTTP
of its own; its load comes from h2load (Debian's nghttp2-client), as many connections as requests in
flight.
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

_CELLS = ((1, 1), (1, 8), (1, 32), (64, 1), (64, 4))  # images a request, requests in flight
_EMPTY = "an empty grpc.aio service"


def main() -> int:
    """Measure, and print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="a cell")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--empty", action="store_true", help="be the empty service")
    args = parser.parse_args()
    if args.empty:
        asyncio.run(_serve_nothing())
        return 0
    commands = _commands(dict(text.split("=", 1) for text in args.peer))
    found: dict[str, list[list[float]]] = {name: [[] for _ in _CELLS] for name in commands}
    with ExitStack() as running:
        processes = {
            name: running.enter_context(_running(command)) for name, command in commands.items()
        }
        addresses = {name: _address(process) for name, process in processes.items()}
        for _ in range(args.rounds):
            for place, (images, in_flight) in enumerate(_CELLS):
                for name, address in addresses.items():
                    if name != _EMPTY or images == 1:
                        load = _http_load if name == "mosec" else _load
                        found[name][place].append(load(address, images, in_flight, args.seconds))
    print("| images a second |", " | ".join(f"{n} × {c}" for n, c in _CELLS), "|")
    print("|---|" + "---:|" * len(_CELLS))
    for name, cells in found.items():
        numbers = [f"{statistics.median(cell):,.0f}" if cell else "" for cell in cells]
        print(f"| {name} |", " | ".join(numbers), "|")
    return 0


def _commands(peers: dict[str, str]) -> dict[str, list[str]]:
    """What starts each server."""
    serve = [sys.executable, "-m", "pyconv", "serve", "--model", "fashion", "--port", "0", "--json"]
    serve += ["--http-port", "-1"]
    commands = {
        _EMPTY: [sys.executable, __file__, "--empty"],
        "pyconv serve": serve,
        "pyconv serve --workers 2": [*serve, "--workers", "2"],
    }
    script = str(Path(__file__).with_name("serve_by_peer.py"))
    for name, python in peers.items():
        commands[name] = [python, script, name, str(bundled.resolve("fashion"))]
    return commands


@contextmanager
def _running(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def _address(process: subprocess.Popen[str]) -> str:
    """Where it listens; some peers write lines of their own first."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith('{"address"'):
            return str(json.loads(line)["address"])
    raise SystemExit(f"it did not start: {process.args}")


def _load(address: str, images: int, in_flight: int, seconds: float) -> float:
    """Images a second."""
    command = [sys.executable, "-m", "pyconv", "load-test", address, "--model", "fashion", "--json"]
    command += ["--concurrency", str(in_flight), "--images-per-request", str(images)]
    # Several connections, since one of them reaches one of several processes.
    command += ["--connections", str(min(in_flight, 4))]
    command += ["--duration", str(seconds), "--warmup", "0.3"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    (cell,) = json.loads(done.stdout)["cells"]
    if cell["failures"]:
        raise SystemExit(f"requests failed: {cell['failures']}")
    return float(cell["images_per_second"])


def _http_load(address: str, images: int, in_flight: int, seconds: float) -> float:
    """Images a second of a server that takes them as the body of an HTTP request."""
    with tempfile.NamedTemporaryFile() as body:
        np.random.default_rng(20).random((images, 28, 28, 1), np.float32).tofile(body.name)
        command = [
            "h2load",
            "--h1",
            f"-c{in_flight}",
            f"-D{seconds * 1e3:.0f}ms",
            "--warm-up-time=300ms",
        ]
        command += ["-d", body.name, f"http://{address}/inference"]
        told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    rate = re.search(r"([\d.]+) req/s", told)
    if rate is None or " 0 failed" not in told:
        raise SystemExit(f"requests failed: {told}")
    return float(rate[1]) * images


async def _serve_nothing() -> None:
    import grpc

    from pyconv.v2 import open_inference_pb2 as pb
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
