"""Serve models over gRPC and HTTP.

Speaks pyconv.v1.Classifier, the Open Inference Protocol (KServe V2) over gRPC and over HTTP, the
standard health service and server reflection. Prints the addresses once it answers. SIGTERM or
Ctrl-C stops it when the requests in flight are finished.

Every setting may be a variable of the environment or stand in a TOML file too. A flag counts before
the variable, the variable before the file. --print-config shows what came out and from where, in
the names that the variables (PYCONV_SERVE_MAX_QUEUE=64) and the file (max_queue = 64) use.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from pathlib import Path

HELP = "serve models over gRPC and HTTP"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments: the `dest` of each is the setting's name."""
    # What is not given is left out, so that the environment and the file are heard.
    parser.argument_default = argparse.SUPPRESS
    models = parser.add_argument_group("models")
    models.add_argument(
        "--model",
        dest="models",
        action="append",
        metavar="MODEL",
        help="a bundled model's name, an .onnx file, or NAME=FILE to choose its name, with "
        "settings of its own after semicolons: 'fashion;engine=both;max_batch=16'; may be "
        "given several times (default: every bundled model, where there is no --model-dir)",
    )
    models.add_argument(
        "--model-dir",
        type=Path,
        metavar="DIR",
        help="a folder of models that come and go while the server runs: NAME.onnx, or "
        "NAME/VERSION/model.onnx",
    )
    models.add_argument(
        "--watch",
        dest="watch_seconds",
        type=float,
        metavar="S",
        help="seconds from one look at that folder to the next; 0: look only when told to "
        "(default: 1)",
    )
    models.add_argument(
        "--model-settings",
        action="append",
        metavar="SETTINGS",
        help="settings of one model, of that folder too, behind its name: "
        "'shoes;engine=both;max_batch=16;max_wait_ms=2'; may be given several times, once for each "
        "model; in the TOML file a table: [model_settings.shoes] with engines, max_batch and "
        "max_wait_ms",
    )
    models.add_argument(
        "--engine",
        dest="engines",
        type=_engines,
        metavar="{native,onnxruntime,both}",
        help="what runs the models; with both, a request may choose, and gets native if it does "
        "not (default: native)",
    )
    models.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="threads that the engine may use for one call (default: 1)",
    )
    models.add_argument(
        "--weights",
        choices=("float32", "bfloat16", "int8"),
        help="how the native engine keeps the weights of dense layers: bfloat16 and int8 take a "
        "half and a quarter of the memory and answer sooner, a little less exactly "
        "(default: float32)",
    )
    network = parser.add_argument_group("where it listens")
    network.add_argument(
        "--host",
        metavar="ADDRESS",
        help="the address to listen on; 0.0.0.0 lets other machines in (default: 127.0.0.1)",
    )
    network.add_argument(
        "--port",
        type=int,
        metavar="N",
        help="the port for gRPC; 0 takes a free one (default: 50051)",
    )
    network.add_argument(
        "--http-port",
        type=int,
        metavar="N",
        help="the port for HTTP: REST, metrics, the web page; 0 takes a free one, -1 is none "
        "(default: 8080; a free one where --port is 0)",
    )
    security = parser.add_argument_group("who may ask")
    security.add_argument(
        "--tls-certificate",
        type=Path,
        metavar="FILE",
        help="talk TLS with this certificate (PEM, with those between it and the root); read again "
        "when the file changes",
    )
    security.add_argument(
        "--tls-key", type=Path, metavar="FILE", help="the certificate's private key (PEM)"
    )
    security.add_argument(
        "--tls-client-ca",
        type=Path,
        metavar="FILE",
        help="let in only clients with a certificate of these authorities (PEM)",
    )
    security.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="let in only requests with the header authorization: Bearer TOKEN, where TOKEN is a "
        "line of this file; health may be asked without",
    )
    batching = parser.add_argument_group("batching")
    batching.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes that share the ports; one that dies is replaced (default: 1)",
    )
    batching.add_argument(
        "--concurrency",
        type=int,
        metavar="N",
        help="runs of networks at the same time (default: one a core)",
    )
    batching.add_argument(
        "--max-batch",
        type=int,
        metavar="N",
        help="the most images of several requests that run together (default: 64)",
    )
    batching.add_argument(
        "--max-wait",
        dest="max_wait_ms",
        type=float,
        metavar="MS",
        help="how long a request waits for others to run with while a thread is free, in "
        "milliseconds (default: 0)",
    )
    batching.add_argument(
        "--max-queue",
        type=int,
        metavar="N",
        help="the most requests that wait for one model; more are refused at once (default: 1024)",
    )
    watching = parser.add_argument_group("looking closer")
    watching.add_argument(
        "--shadow",
        dest="shadow_share",
        type=float,
        metavar="SHARE",
        help="the share of requests, 0 to 1, that the other engine runs too, once they are "
        "answered; disagreements are counted (default: 0)",
    )
    watching.add_argument(
        "--observe",
        dest="observed_layers",
        action="append",
        metavar="LAYER",
        help="a layer whose values are measured for the metrics; may be given several times",
    )
    watching.add_argument(
        "--observe-share",
        dest="observed_share",
        type=float,
        metavar="SHARE",
        help="in what share of the requests, 0 to 1 (default: 0.01)",
    )
    cluster = parser.add_argument_group("on a Ray cluster (pip install 'pyconv[ray]')")
    cluster.add_argument(
        "--ray",
        action=argparse.BooleanOptionalAction,
        default=argparse.SUPPRESS,
        help="let copies on a Ray cluster serve, over gRPC: Ray places them on its nodes, replaces "
        "those that die, and adds some under load. Wants --host 0.0.0.0, where Ray listens",
    )
    cluster.add_argument(
        "--ray-address",
        metavar="HOST:PORT",
        help="the cluster (default: that of RAY_ADDRESS or of this machine; where there is none, a "
        "new one on this machine for as long as the server runs)",
    )
    cluster.add_argument(
        "--min-replicas", type=int, metavar="N", help="the fewest copies (default: 1)"
    )
    cluster.add_argument(
        "--max-replicas", type=int, metavar="N", help="the most copies (default: 1)"
    )
    cluster.add_argument(
        "--replica-requests",
        type=int,
        metavar="N",
        help="requests under way that a copy shall have; above, Ray adds copies (default: 16)",
    )
    cluster.add_argument(
        "--replica-delay",
        dest="replica_delay_seconds",
        type=float,
        metavar="S",
        help="for how many seconds there must be more before it does (default: 30)",
    )
    cluster.add_argument(
        "--replica-cpus", type=float, metavar="N", help="cores that a copy takes (default: 1)"
    )
    limits = parser.add_argument_group("limits of a request")
    limits.add_argument(
        "--max-message",
        dest="max_message_bytes",
        type=_mebibytes,
        metavar="MIB",
        help="the largest request, and the largest answer with activations, in MiB (default: 16)",
    )
    limits.add_argument(
        "--max-images",
        type=int,
        metavar="N",
        help="the most images in one request (default: 256)",
    )
    limits.add_argument(
        "--max-pixels",
        type=int,
        metavar="N",
        help="the most pixels of a picture file; a larger one is not decoded (default: 64,000,000)",
    )
    limits.add_argument(
        "--max-outputs",
        type=int,
        metavar="N",
        help="the most outputs or layers asked for in one request (default: 256)",
    )
    limits.add_argument(
        "--max-heat-maps",
        type=int,
        metavar="N",
        help="the most pictures drawn for one request (default: 1024)",
    )
    limits.add_argument(
        "--max-streams",
        type=int,
        metavar="N",
        help="the most streams open at the same time (default: 256)",
    )
    operation = parser.add_argument_group("operation")
    operation.add_argument(
        "--grace",
        dest="grace_seconds",
        type=float,
        metavar="S",
        help="seconds that a stopping server waits for the requests in flight (default: 10)",
    )
    operation.add_argument(
        "--drain",
        dest="drain_seconds",
        type=float,
        metavar="S",
        help="seconds that a stopping server still takes requests after it has said that it is not "
        "ready, so that balancers hear of it (default: 0)",
    )
    operation.add_argument(
        "--log-format",
        choices=("text", "json"),
        help="how to log on standard error: for people, or one JSON object a line (default: text)",
    )
    operation.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        help="the least to log (default: warning)",
    )
    operation.add_argument(
        "--log-requests",
        action=argparse.BooleanOptionalAction,
        default=argparse.SUPPRESS,
        help="log a line for every request: its id (that of its header x-request-id, or a new "
        "one), method, status and time",
    )
    operation.add_argument(
        "--trace",
        action=argparse.BooleanOptionalAction,
        default=argparse.SUPPRESS,
        help="send a span for every request to OpenTelemetry, where OTEL_EXPORTER_OTLP_ENDPOINT "
        "says",
    )
    operation.add_argument(
        "--config",
        type=Path,
        default=None,
        metavar="FILE",
        help="a TOML file with settings (default: that of PYCONV_SERVE_CONFIG, or none)",
    )
    operation.add_argument(
        "--print-config",
        action="store_true",
        default=False,
        help="print the settings and where each came from, as a TOML file, and end",
    )
    operation.add_argument(
        "--json",
        action="store_true",
        default=False,
        help="print the address and the models as one line of JSON",
    )
    parser.epilog = """examples:
  pyconv serve
  pyconv serve --model fashion --engine both --port 0
  pyconv serve --model shoes=runs/7/model.onnx --engine onnxruntime
  pyconv serve --model-dir models --model-settings 'shoes;engine=both;max_batch=16'
  pyconv serve --host 0.0.0.0 --tls-certificate cert.pem --tls-key key.pem --token-file tokens
  pyconv serve --config serve.toml --print-config
  pyconv serve --ray --host 0.0.0.0 --min-replicas 2 --max-replicas 8
  PYCONV_SERVE_MODELS=fashion,digits PYCONV_SERVE_PORT=9000 pyconv serve
  grpcurl -plaintext 127.0.0.1:50051 pyconv.v1.Classifier/ListModels

exit status: 0 after SIGTERM or Ctrl-C, 1 if the server cannot start"""


def run(args: argparse.Namespace) -> int:
    """Serve until told to stop."""
    from pyconv.server import event_loop, logs
    from pyconv.server.configuration import gather, setting_names

    given = vars(args)
    flags = {name: given[name] for name in setting_names() if name in given}
    configuration = gather(flags, args.config)
    if args.print_config:
        print(configuration.to_toml(), end="")
        return 0
    settings = configuration.settings
    logs.configure(settings.log_format, settings.log_level, requests=settings.log_requests)
    if not settings.ray:  # whose own gRPC is left as it is
        # Read when gRPC is imported, as nothing above does; docs/decisions/0019-grpc-listener.md.
        os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener")

    from pyconv.server.app import Server, serve
    from pyconv.server.supervisor import Serving, supervise

    def tell(server: Server | Serving) -> None:
        names = list(server.models)
        scheme = "http" if settings.tls_certificate is None else "https"
        if args.json:
            facts = {
                "address": server.address,
                "http_address": server.http_address,
                "models": names,
                "engines": settings.engines,
            }
            print(json.dumps(facts), flush=True)
        else:
            print(
                f"serving {', '.join(names) or 'no model yet'} ({' and '.join(settings.engines)}) "
                f"on {server.address}"
                + (f" and {scheme}://{server.http_address}" if server.http_address else ""),
                flush=True,
            )

    if settings.ray:
        from pyconv.server import ray

        ray.serve(settings, tell)
    elif settings.workers > 1:
        supervise(settings, tell)
    else:
        event_loop.run(serve(settings, tell))
    logs.close()
    return 0


def _engines(text: str) -> list[str]:
    engines = {"native": ["native"], "onnxruntime": ["onnxruntime"]}
    engines["both"] = ["native", "onnxruntime"]
    if text not in engines:
        raise argparse.ArgumentTypeError(f"expected native, onnxruntime or both, got {text!r}")
    return engines[text]


def _mebibytes(text: str) -> int:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected more than 0 MiB, got {text}")
    return round(value * (1 << 20))
