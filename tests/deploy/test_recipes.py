"""Recipes hold to the schemas of what reads them, and to what the server can be told."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import jsonschema
import pytest
import yaml
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from service.settings import PREFIX, ServerSettings

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
SCRIPTS = sorted((DEPLOY / "slurm").glob("*.sbatch"))

NAME = {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", "maxLength": 63}
LABELS = {"type": "object", "additionalProperties": {"type": "string", "maxLength": 63}, "minProperties": 1}
QUANTITY = {"type": "string", "pattern": r"^[0-9.]+(m|Ki|Mi|Gi|Ti)?$"}
QUANTITIES = {
    "type": "object",
    "propertyNames": {"pattern": "^(cpu|memory|nvidia.com/gpu)$"},
    "additionalProperties": QUANTITY,
}


def strict(properties: dict[str, Any], required: str = "") -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required.split(), "additionalProperties": False}


def array(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1}


TEXT, TEXTS, COUNT, FLAG = (
    {"type": "string"},
    array({"type": "string"}),
    {"type": "integer", "minimum": 0},
    {"type": "boolean"},
)
PORT = {"type": "integer", "minimum": 1, "maximum": 65535}
PROBE = strict(
    {
        "exec": strict({"command": TEXTS}, "command"),
        "tcpSocket": strict({"port": {"type": ["integer", "string"]}}, "port"),
        **dict.fromkeys(("periodSeconds", "timeoutSeconds", "failureThreshold", "initialDelaySeconds"), COUNT),
    }
)
SECURITY = strict(
    {
        "runAsNonRoot": FLAG, "runAsUser": COUNT, "fsGroup": COUNT, "allowPrivilegeEscalation": FLAG,
        "readOnlyRootFilesystem": FLAG, "seccompProfile": strict({"type": TEXT}, "type"),
        "capabilities": strict({"drop": TEXTS, "add": TEXTS}),
    }
)  # fmt: skip
CONTAINER = strict(
    {
        "name": NAME, "image": TEXT, "imagePullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
        "command": TEXTS, "args": TEXTS, "env": array(strict({"name": TEXT, "value": TEXT}, "name value")),
        "ports": array(strict({"name": NAME, "containerPort": PORT}, "containerPort")),
        "resources": strict({"requests": QUANTITIES, "limits": QUANTITIES}, "requests limits"),
        "securityContext": SECURITY, "startupProbe": PROBE, "readinessProbe": PROBE, "livenessProbe": PROBE,
        "volumeMounts": array(strict({"name": NAME, "mountPath": TEXT, "readOnly": FLAG}, "name mountPath")),
    },
    "name image resources",
)  # fmt: skip
VOLUME = strict(
    {
        "name": NAME,
        "persistentVolumeClaim": strict({"claimName": NAME, "readOnly": FLAG}, "claimName"),
        "secret": strict({"secretName": NAME, "defaultMode": COUNT}, "secretName"),
        "emptyDir": strict({"sizeLimit": QUANTITY}),
    },
    "name",
) | {"minProperties": 2, "maxProperties": 2}
POD = strict(
    {
        "metadata": strict({"labels": LABELS}, "labels"),
        "spec": strict(
            {
                "containers": array(CONTAINER), "volumes": array(VOLUME), "securityContext": SECURITY,
                "terminationGracePeriodSeconds": COUNT, "automountServiceAccountToken": FLAG,
            },
            "containers",
        ),
    },
    "metadata spec",
)  # fmt: skip
SELECTOR = strict({"matchLabels": LABELS}, "matchLabels")
RAY_PARAMS = {"type": "object", "additionalProperties": TEXT}
SPECS: dict[tuple[str, str], dict[str, Any]] = {
    ("apps/v1", "Deployment"): strict({"replicas": COUNT, "selector": SELECTOR, "template": POD}, "selector template"),
    ("v1", "Service"): strict(
        {
            "clusterIP": TEXT, "selector": LABELS,
            "ports": array(strict({"name": NAME, "port": PORT, "targetPort": {"type": ["integer", "string"]}}, "port")),
        },
        "selector ports",
    ),
    ("policy/v1", "PodDisruptionBudget"): strict({"minAvailable": COUNT, "selector": SELECTOR}, "selector"),
    ("networking.k8s.io/v1", "NetworkPolicy"): strict(
        {
            "podSelector": SELECTOR, "policyTypes": array({"enum": ["Ingress", "Egress"]}),
            "ingress": array(
                strict(
                    {
                        "from": array(strict({"podSelector": SELECTOR})),
                        "ports": array(strict({"protocol": {"enum": ["TCP", "UDP"]}, "port": PORT}, "port")),
                    }
                )
            ),
        },
        "podSelector policyTypes",
    ),
    ("ray.io/v1", "RayCluster"): strict(
        {
            "rayVersion": {"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
            "headGroupSpec": strict({"rayStartParams": RAY_PARAMS, "template": POD}, "rayStartParams template"),
            "workerGroupSpecs": array(
                strict(
                    {
                        "groupName": NAME, "replicas": COUNT, "minReplicas": COUNT, "maxReplicas": COUNT,
                        "rayStartParams": RAY_PARAMS, "template": POD,
                    },
                    "groupName replicas minReplicas maxReplicas rayStartParams template",
                )
            ),
        },
        "headGroupSpec workerGroupSpecs",
    ),
}  # fmt: skip
METADATA = strict({"name": NAME, "labels": LABELS, "annotations": LABELS}, "name")


def kubernetes_objects() -> Iterator[Any]:
    for path in KUBERNETES:
        for number, found in enumerate(yaml.safe_load_all(path.read_text())):
            yield pytest.param(found, id=f"{path.stem}-{number}-{found['kind']}")


def pods(found: dict[str, Any]) -> list[dict[str, Any]]:
    spec = found["spec"]
    groups = [spec.get("headGroupSpec"), *spec.get("workerGroupSpecs", ()), spec if "template" in spec else None]
    return [group["template"] for group in groups if group]


@pytest.mark.parametrize("found", list(kubernetes_objects()))
def test_kubernetes_objects_hold_to_their_schema(found: dict[str, Any]) -> None:
    spec = SPECS[found["apiVersion"], found["kind"]]
    jsonschema.validate(
        found, strict({"apiVersion": {}, "kind": {}, "metadata": METADATA, "spec": spec}, "metadata spec")
    )


@pytest.mark.parametrize("found", list(kubernetes_objects()))
def test_what_a_pod_names_is_there(found: dict[str, Any]) -> None:
    for pod in pods(found):
        volumes = {volume["name"] for volume in pod["spec"].get("volumes", ())}
        for container in pod["spec"]["containers"]:
            mounted = {mount["name"] for mount in container.get("volumeMounts", ())}
            assert mounted <= volumes
            ports = {port["name"] for port in container.get("ports", ())}
            probe = container.get("livenessProbe", {}).get("tcpSocket", {}).get("port")
            assert probe is None or probe in ports


def test_a_mistake_is_found_by_the_schema() -> None:
    found = next(yaml.safe_load_all((DEPLOY / "kubernetes/penfield.yaml").read_text()))
    found["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(jsonschema.ValidationError, match="readynessProbe"):
        jsonschema.validate(found["spec"], SPECS["apps/v1", "Deployment"])


def test_services_find_their_pods() -> None:
    for path in KUBERNETES:
        objects = list(yaml.safe_load_all(path.read_text()))
        labels = [pod["metadata"]["labels"] for found in objects if "spec" in found for pod in pods(found)]
        ports = {
            port["name"]
            for found in objects
            for pod in pods(found)
            for container in pod["spec"]["containers"]
            for port in container.get("ports", ())
        }
        for service in [found for found in objects if found["kind"] == "Service"]:
            wanted = service["spec"]["selector"].items()
            assert any(wanted <= found.items() for found in labels)
            assert all(port["targetPort"] in ports for port in service["spec"]["ports"])


@pytest.mark.parametrize("path", [DEPLOY / "Containerfile", *KUBERNETES, *SCRIPTS], ids=lambda path: path.name)
def test_settings_that_are_set_exist(path: Path) -> None:
    named = set(re.findall(rf"{PREFIX}([A-Z_]+)", path.read_text()))
    assert {name.lower() for name in named} <= set(ServerSettings.model_fields)


def test_what_the_container_copies_is_there() -> None:
    text = (DEPLOY / "Containerfile").read_text()
    copied = [line.split()[1:-1] for line in text.splitlines() if line.startswith("COPY") and "--from" not in line]
    assert copied and all((DEPLOY.parent / name).exists() for names in copied for name in names)
    assert text.index("USER 10001") < text.index('CMD ["penfield"')


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_slurm_scripts_are_bash_with_known_directives(path: Path) -> None:
    subprocess.run(["bash", "-n", path], check=True)
    directives = re.findall(r"^#SBATCH --([a-z-]+)=", path.read_text(), re.MULTILINE)
    assert set(directives) <= {"job-name", "time", "cpus-per-task", "mem", "signal", "partition", "gpus"}
    assert "job-name" in directives and "time" in directives


def probe(address: str) -> int:
    return subprocess.run([sys.executable, DEPLOY / "health.py", address, "--timeout", "2"], timeout=60).returncode


def test_the_probe_tells_serving_from_draining_and_from_nobody() -> None:
    server = grpc.server(ThreadPoolExecutor(2))
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    try:
        assert probe(address) == 0
        servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        assert probe(address) == 1
    finally:
        server.stop(0).wait()
    assert probe(address) == 1
