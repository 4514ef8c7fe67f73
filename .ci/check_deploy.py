"""Check deploy/ with hadolint and against Kubernetes' own schemas.

KServe's InferenceService is no part of those: of it, the pod that it describes is checked.
"""

import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import yaml

KSERVE_FIELDS = ("minReplicas", "maxReplicas", "scaleMetric", "scaleTarget")
"""Of a predictor: what is no part of a pod."""


def resources() -> list[dict]:
    """Every resource of deploy/, KServe's as the pod that it makes."""
    found = []
    for path in sorted(Path("deploy/kubernetes").glob("*.yaml")):
        if path.name != "kustomization.yaml":
            found += yaml.safe_load_all(path.read_text(encoding="utf-8"))
    predictor = yaml.safe_load(Path("deploy/kserve.yaml").read_text(encoding="utf-8"))["spec"]
    pod = {k: v for k, v in predictor["predictor"].items() if k not in KSERVE_FIELDS}
    found.append({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "kserve"}, "spec": pod})
    return found


def main() -> int:
    """The number of what is wrong."""
    wrong = subprocess.run(["hadolint", "deploy/Dockerfile"], check=False).returncode
    version = kubernetes_validate.latest_version()
    for resource in resources():
        try:
            kubernetes_validate.validate(resource, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            print(f"{resource['kind']} {resource['metadata']['name']}: {error.message}")
            wrong += 1
    return wrong


if __name__ == "__main__":
    sys.exit(main())
