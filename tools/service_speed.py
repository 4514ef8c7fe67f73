"""Measure the service against an empty one: docs/benchmarks.md, "The service".

    python tools/service_speed.py --rounds 3 --seconds 3

Both run in processes of their own, one after the other in every round, under the load of
`pyconv load-test`. The empty service is grpc.aio with the same messages: it parses the request and
sends an answer that was made beforehand, so what it takes is grpcio's own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_CELLS = ((1, 1), (1, 8), (1, 32), (64, 1), (64, 4))  # images a request, requests in flight


def main() -> int:
    """Measure, and print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="a cell")
    parser.add_argument("--empty", action="store_true", help="be the empty service")
    args = parser.parse_args()
    if args.empty:
        asyncio.run(_serve_nothing())
        return 0
    serve = [sys.executable, "-m", "pyconv", "serve", "--model", "fashion", "--port", "0", "--json"]
    serve += ["--http-port", "-1"]
    commands = {
        "an empty grpc.aio service": [sys.executable, __file__, "--empty"],
        "pyconv serve": serve,
        "pyconv serve --workers 2": [*serve, "--workers", "2"],
    }
    found: dict[str, list[list[float]]] = {name: [[] for _ in _CELLS] for name in commands}
    for _ in range(args.rounds):
        for name, command in commands.items():
            with _running(command) as address:
                for place, (images, in_flight) in enumerate(_CELLS):
                    if name != "an empty grpc.aio service" or images == 1:
                        rate = _load(address, images, in_flight, args.seconds)
                        found[name][place].append(rate)
    print("| requests (images) a second |", " | ".join(f"{n} × {c}" for n, c in _CELLS), "|")
    print("|---|" + "---:|" * len(_CELLS))
    for name, cells in found.items():
        numbers = [f"{statistics.median(cell):,.0f}" if cell else "" for cell in cells]
        print(f"| {name} |", " | ".join(numbers), "|")
    return 0


@contextmanager
def _running(command: list[str]) -> Iterator[str]:
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())["address"]
        finally:
            process.terminate()


def _load(address: str, images: int, in_flight: int, seconds: float) -> float:
    """Images a second."""
    command = [sys.executable, "-m", "pyconv", "load-test", address, "--model", "fashion", "--json"]
    command += ["--concurrency", str(in_flight), "--images-per-request", str(images)]
    command += ["--duration", str(seconds), "--warmup", "1"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    (cell,) = json.loads(done.stdout)["cells"]
    if cell["failures"]:
        raise SystemExit(f"requests failed: {cell['failures']}")
    return float(cell["images_per_second"])


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
