"""The Kubernetes example, checked without a cluster."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from rushes.cli import main as cli
from rushes.wire import keys
from rushes_service.settings import Settings

DIRECTORY = Path(__file__).parents[2] / "docker" / "k8s"
MANIFESTS = [
    (path.name, document)
    for path in sorted(DIRECTORY.glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
]
CORE = [(name, document) for name, document in MANIFESTS if not document["apiVersion"].startswith("keda.sh/")]
SCALER_FIELDS = {"address", "stream", "streamLength"}
"""Of KEDA's redis-streams scaler; more would be other ways to count."""


def titled(manifests: list[tuple[str, dict[str, Any]]]) -> Any:
    return [pytest.param(document, id=f"{name}-{document['kind']}") for name, document in manifests]


def containers() -> list[dict[str, Any]]:
    return [
        container
        for _, document in CORE
        if "template" in document["spec"]
        for container in document["spec"]["template"]["spec"]["containers"]
    ]


def of_kind(kind: str) -> dict[str, Any]:
    (found,) = [document for _, document in MANIFESTS if document["kind"] == kind]
    return found


@pytest.mark.parametrize("manifest", titled(CORE))
def test_a_manifest_follows_kubernetes_own_schema(manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("container", containers(), ids=lambda container: container["name"])
def test_every_container_runs_confined_and_its_commands_exist(container: dict[str, Any]) -> None:
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert not container["securityContext"]["allowPrivilegeEscalation"]
    if "/rushes-" in container["image"]:
        assert re.fullmatch(r"registry\.example/rushes-\w+:\w+", container["image"])  # else the node asks a public hub
        cli.parse(container["args"])
    if container["name"] == "worker":
        cli.parse(container["readinessProbe"]["exec"]["command"][1:])


def test_nobody_runs_as_root() -> None:
    pods = [document["spec"]["template"]["spec"] for _, document in CORE if "template" in document["spec"]]
    assert len(pods) == 3
    assert all(pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] for pod in pods)


def test_the_api_may_keep_uploads_below_its_first_root() -> None:
    (api,) = [container for container in containers() if container["name"] == "api"]
    roots = next(variable["value"] for variable in api["env"] if variable["name"] == "RUSHES_ROOTS")
    read_only = {mount["mountPath"]: mount.get("readOnly", False) for mount in api["volumeMounts"]}
    assert not read_only[roots.split(":")[0]]


@pytest.mark.parametrize("container", containers(), ids=lambda container: container["name"])
def test_every_variable_is_a_setting(container: dict[str, Any]) -> None:
    names = {variable["name"] for variable in container["env"] if variable["name"].startswith("RUSHES_")}
    assert names <= {f"RUSHES_{field.upper()}" for field in Settings.model_fields}


def test_a_worker_is_given_its_grace_before_it_is_killed() -> None:
    (worker,) = [document for name, document in CORE if name == "worker.yaml"]
    assert (
        worker["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        >= Settings.model_fields["grace_s"].default + 15
    )


def test_the_autoscaler_looks_at_lanes_of_the_worker_deployment() -> None:
    scaled = of_kind("ScaledObject")["spec"]
    workers = [document["metadata"]["name"] for name, document in CORE if name == "worker.yaml"]
    assert [scaled["scaleTargetRef"]["name"]] == workers
    assert scaled["minReplicaCount"] <= scaled["maxReplicaCount"]
    for trigger in scaled["triggers"]:
        assert trigger["type"] == "redis-streams"
        assert set(trigger["metadata"]) == SCALER_FIELDS
        assert int(trigger["metadata"]["streamLength"]) > 0
        assert trigger["authenticationRef"]["name"] == of_kind("TriggerAuthentication")["metadata"]["name"]
        fingerprint, priority = trigger["metadata"]["stream"].removeprefix(keys.LANE_PREFIX).split(":")
        assert keys.lane(fingerprint, priority) == trigger["metadata"]["stream"]
        assert re.fullmatch(r"[0-9a-f]{16}", fingerprint)
        assert priority in keys.PRIORITIES
