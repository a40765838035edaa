"""The chart's permissions are sufficient and minimal, in named namespaces and cluster-wide."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from support.cluster import Cluster, run
from support.personas import Persona, Spec, merged
from support.release import CHART, Release

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
CLUSTER_KINDS = {"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"}


def may(release: Release, verb: str, resource: str, namespace: str | None) -> bool:
    account = f"system:serviceaccount:{release.namespace}:{release.name}"
    where = ["-n", namespace] if namespace else ["--all-namespaces"]
    arguments = ["auth", "can-i", verb, resource, "--as", account, *where]
    return release.cluster.kubectl(*arguments, check=False).split()[-1] == "yes"


def refusals(release: Release) -> list[str]:
    """Return the requests that the API server forbade, and the log lines about them."""
    counted = [
        line
        for line in release.metrics()
        if line.startswith("persona_pruner_api_requests_total") and 'code="403"' in line
    ]
    return counted + [line for line in release.log().splitlines() if "orbidden" in line]


def test_named_namespaces_only(release: Release, captain: Persona, namespaces: dict[str, str]):
    for namespace in release.watched:
        assert may(release, "create", "jobs.batch", namespace)
        assert may(release, "watch", "pods", namespace)
    for namespace in (namespaces["elsewhere"], release.namespace, None):
        assert not may(release, "list", "personamodels.persona-pruner.io", namespace)
        assert not may(release, "create", "jobs.batch", namespace)
    for namespace in (*release.watched, release.namespace):
        for verb in ("get", "list"):
            assert not may(release, verb, "secrets", namespace)
        assert not may(release, "delete", "pods", namespace)
    assert refusals(release) == []


def test_cluster_wide_objects_can_be_switched_off(release: Release):
    values = yaml.safe_dump(
        merged(release.values, {"rbac": {"aggregate": False}, "crds": {"install": False}})
    )
    # Without a cluster helm takes the version it was built for, which may be an old one.
    command = ["helm", "template", "--kube-version", "1.31.0", release.name, str(CHART)]
    rendered = run(*command, "-f", "-", text=values)
    kinds = {document["kind"] for document in yaml.safe_load_all(rendered) if document}
    assert "Role" in kinds
    assert kinds & CLUSTER_KINDS == set()


@pytest.fixture
def cluster_wide(release: Release) -> Iterator[Release]:
    """Give the release a ClusterRole for one test."""
    strangers = [
        item["metadata"]["namespace"]
        for item in json.loads(release.cluster.kubectl("get", "personas", "-A", "-o", "json"))[
            "items"
        ]
        if item["metadata"]["namespace"] not in release.watched
    ]
    if strangers:
        pytest.skip(f"there are other PersonaModels in {', '.join(sorted(set(strangers)))}")
    release.install(namespaces=[])
    yield release
    release.install()


def test_the_whole_cluster(
    cluster: Cluster,
    cluster_wide: Release,
    captain: Persona,
    namespaces: dict[str, str],
    tiny: Spec,
):
    for namespace in (namespaces["elsewhere"], None):
        assert may(cluster_wide, "create", "jobs.batch", namespace)
        assert not may(cluster_wide, "get", "secrets", namespace)
    changes: dict[str, Any] = {"evaluation": {"bootstrapSamples": 200}}
    traveler = Persona(cluster, namespaces["elsewhere"], "traveler").apply(merged(tiny, changes))
    traveler.until_ready()
    # The sources are looked up, and everything but the evaluation is reused from the captain.
    assert traveler.status["resolution"]["state"] == "Succeeded"
    made = [item["name"] for item in traveler.status["stages"] if not item.get("reused")]
    assert made == ["evaluate"]
    traveler.cluster.kubectl("-n", traveler.namespace, "delete", "persona", traveler.name, "--wait")
    assert refusals(cluster_wide) == []
