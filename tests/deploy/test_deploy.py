"""What deploy/ says fits the server that it runs."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from pyconv.server.configuration import gather
from pyconv.server.metrics import Metrics
from pyconv.server.settings import DEFAULT_HTTP_PORT, DEFAULT_PORT, Settings

_DEPLOY = Path(__file__).parents[2] / "deploy"
_DASHBOARD = json.loads((_DEPLOY / "grafana" / "pyconv.json").read_text(encoding="utf-8"))


def _metrics() -> dict[str, set[str]]:
    """Every series that a server shows, with its labels."""
    metrics = Metrics()
    metrics.answered("m", "1", 0.1, 0.01)
    metrics.refused("m", "1", "INTERNAL")
    metrics.ran("m", "1", "native", 1, 0.1)
    metrics.shadowed("m", "1", agrees=False)
    metrics.observed("m", "1", "conv2d", (0.0, 1.0, 0.5, 1e-5))
    # Whatever is added to the metrics has to be counted above, to show its labels here.
    assert all(family.samples for family in metrics.collect())
    found: dict[str, set[str]] = {}
    for line in metrics.page().decode().splitlines():
        if line and not line.startswith("#"):
            name, labels = re.match(r"(\w+)(?:\{(.*)\})?", line).groups()  # type: ignore[union-attr]
            found.setdefault(name, set()).update(re.findall(r'(\w+)="', labels or ""))
    return found


def _expressions() -> list[str]:
    panels = [target["expr"] for panel in _DASHBOARD["panels"] for target in panel["targets"]]
    return panels + [each["query"] for each in _DASHBOARD["templating"]["list"]]


def test_dashboard_names_metrics_that_exist() -> None:
    known = _metrics()
    named = {name for text in _expressions() for name in re.findall(r"pyconv_\w+", text)}
    assert named
    assert named <= set(known)
    # And none is forgotten: each is on some panel, in one of its series.
    bases = {re.sub(r"_(bucket|sum|count|total|created)$", "", name) for name in known}
    assert bases == {re.sub(r"_(bucket|sum|count|total)$", "", name) for name in named}


@pytest.mark.parametrize("expression", _expressions())
def test_dashboard_asks_for_labels_that_exist(expression: str) -> None:
    known = _metrics()
    for name, selector in re.findall(r"(pyconv_\w+)\{([^}]*)\}", expression):
        assert set(re.findall(r"(\w+)[=!]", selector)) <= known[name]
    grouped = {
        label.strip()
        for group in re.findall(r"\bby \(([^)]*)\)", expression)
        for label in group.split(",")
    }
    every = set().union(*(known[name] for name in re.findall(r"pyconv_\w+", expression)), set())
    assert grouped <= every | {"le", "instance"}
    assert expression.count("(") == expression.count(")")


def _containers() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Of each manifest that has pods: the pod's specification, and its container's."""
    deployment = yaml.safe_load((_DEPLOY / "kubernetes" / "deployment.yaml").read_text("utf-8"))
    kserve = yaml.safe_load((_DEPLOY / "kserve.yaml").read_text("utf-8"))
    pods = {
        "kubernetes": deployment["spec"]["template"]["spec"],
        "kserve": kserve["spec"]["predictor"],
    }
    return {name: (pod, pod["containers"][0]) for name, pod in pods.items()}


@pytest.mark.parametrize("name", ["kubernetes", "kserve"])
def test_pods_have_settings_that_exist_and_time_to_stop(name: str) -> None:
    pod, container = _containers()[name]
    variables = {each["name"]: each["value"] for each in container["env"]}
    variables.pop("STORAGE_URI", None)
    settings = gather({}, environ=variables).settings
    stopping = settings.drain_seconds + settings.grace_seconds
    assert stopping + 5 <= pod["terminationGracePeriodSeconds"]
    probe = container["readinessProbe"]
    noticed = probe["periodSeconds"] * probe["failureThreshold"] + probe["timeoutSeconds"]
    assert noticed <= settings.drain_seconds
    assert str(settings.concurrency) == container["resources"]["limits"]["cpu"]


def test_kserve_scales_by_what_its_mode_knows() -> None:
    kserve = yaml.safe_load((_DEPLOY / "kserve.yaml").read_text("utf-8"))
    assert kserve["spec"]["predictor"]["scaleMetric"] == "cpu"
    prefix = "serving.kserve.io/"
    told = kserve["metadata"]["annotations"]
    assert (told[f"{prefix}deploymentMode"], told[f"{prefix}autoscalerClass"]) == (
        "Standard",
        "hpa",
    )


@pytest.mark.parametrize("name", ["kubernetes", "kserve"])
def test_pods_are_asked_where_the_server_answers(name: str) -> None:
    _, container = _containers()[name]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert set(ports.values()) <= {DEFAULT_PORT, DEFAULT_HTTP_PORT}
    probes = [container[probe] for probe in container if probe.endswith("Probe")]
    assert len(probes) >= 2
    for probe in probes:
        asked = probe["httpGet"]
        assert ports.get(asked["port"], asked["port"]) == DEFAULT_HTTP_PORT
        assert asked["path"] in ("/v2/health/ready", "/v2/health/live")


@pytest.mark.parametrize("name", ["kubernetes", "kserve"])
def test_pods_run_as_nobody_and_write_nothing(name: str) -> None:
    pod, container = _containers()[name]
    assert pod["securityContext"]["runAsNonRoot"]
    inside = container["securityContext"]
    assert inside["readOnlyRootFilesystem"]
    assert not inside["allowPrivilegeEscalation"]
    assert inside["capabilities"]["drop"] == ["ALL"]
    assert container["resources"]["limits"]["memory"]


def test_image_has_settings_that_exist_and_ports_that_the_server_takes() -> None:
    text = (_DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    names = re.findall(r"PYCONV_SERVE_(\w+)=", text)
    assert {name.lower() for name in names} <= {each.name for each in dataclasses.fields(Settings)}
    assert f"EXPOSE {DEFAULT_PORT} {DEFAULT_HTTP_PORT}\n" in text
    assert re.search(r"^USER \d+:\d+$", text, re.MULTILINE)


def test_image_is_built_from_what_the_build_needs() -> None:
    """Every top-level name that CMake or the package's metadata use is let through."""
    ignored = (_DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").split("\n")
    let_through = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    root = _DEPLOY.parent
    assert all((root / name).exists() for name in let_through)
    cmake = (root / "CMakeLists.txt").read_text(encoding="utf-8")
    used = set(re.findall(r"\$\{PROJECT_SOURCE_DIR\}/(\w+)", cmake))
    used |= {"LICENSE", "README.md", "pyproject.toml", "CMakeLists.txt", "pyconv", "server"}
    assert used <= let_through


@pytest.mark.parametrize("tls", [False, True])
def test_image_asks_the_server_for_its_health(
    tls: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (_DEPLOY / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", "")
    asked = json.loads(re.search(r"^HEALTHCHECK .*?CMD (\[.*\])$", text, re.M)[1])  # type: ignore[index]
    assert asked[0] == "python"
    if tls:
        for name, blob in _certificate().items():
            (tmp_path / name).write_bytes(blob)
            monkeypatch.setenv(f"PYCONV_SERVE_TLS_{name.upper()}", str(tmp_path / name))
    command = [sys.executable, "-m", "pyconv", "serve", "--model", "digits", "--json"]
    command += ["--port", "0", "--http-port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            told = json.loads(server.stdout.readline())
            code = asked[2].replace("127.0.0.1:8080", told["http_address"])
            assert code != asked[2]
            subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
        finally:
            server.terminate()


def _certificate() -> dict[str, bytes]:
    made = trustme.CA().issue_cert("pyconv")
    chain = b"".join(blob.bytes() for blob in made.cert_chain_pems)
    return {"certificate": chain, "key": made.private_key_pem.bytes()}
