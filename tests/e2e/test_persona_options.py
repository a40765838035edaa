"""Persona text in a ConfigMap, suspend, autoscaling and disruption budget."""

import pytest

from support.cluster import Cluster
from support.personas import Persona, Spec, merged
from support.recorder import Recorder
from support.release import Release

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
NAME = "cook"


def put_text(cluster: Cluster, namespace: str, text: str) -> None:
    metadata = {"name": "galley", "namespace": namespace}
    data = {"t": text}
    cluster.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})


@pytest.fixture(scope="module")
def cook(
    cluster: Cluster, release: Release, recorder: Recorder, namespaces: dict[str, str], tiny: Spec
) -> Persona:
    """Apply a suspended persona whose ConfigMap does not exist yet."""
    reference = {"configMapRef": {"name": "galley", "key": "t"}}
    scaling = {"minReplicas": 2, "maxReplicas": 3, "targetCPUUtilizationPercentage": 70}
    spec = merged(tiny, {"serving": {"autoscaling": scaling}, "suspend": True})
    return Persona(cluster, namespaces["crew"], NAME).apply({**spec, "persona": reference})


def test_a_missing_text_is_reported_and_planning_starts_when_it_appears(cook: Persona):
    condition = cook.until(
        "a condition that names the ConfigMap",
        lambda: cook.condition() if "galley" in cook.condition()["message"] else None,
        seconds=60,
    )
    assert condition["status"] != "True"
    put_text(cook.cluster, cook.namespace, "You are a ship's cook. You speak of broth and salt.")
    cook.until_reason("Suspended", seconds=60)


def test_a_suspended_persona_starts_nothing_until_it_is_resumed(cook: Persona, recorder: Recorder):
    cook.until_reason("Suspended", seconds=60)
    running = [job for job in cook.jobs() if not job["spec"].get("suspend")]
    assert not [job for job in running if not job["status"].get("conditions")]
    assert cook.kstatus().startswith("InProgress")
    cook.change(suspend=False)
    cook.until_ready()
    assert set(recorder.of_persona(cook.namespace, NAME).values()) == {1}


def test_autoscaler_and_disruption_budget_exist(cook: Persona):
    listed = cook.cluster.kubectl("-n", cook.namespace, "get", "hpa,pdb", "-o", "name")
    assert f"horizontalpodautoscaler.autoscaling/{NAME}" in listed
    assert f"poddisruptionbudget.policy/{NAME}" in listed
    deployment = cook.cluster.get("Deployment", cook.namespace, NAME)
    assert deployment is not None
    cook.until(
        "the two replicas that the autoscaler asks for",
        lambda: (
            cook.cluster.get("Deployment", cook.namespace, NAME)["status"].get("readyReplicas") == 2
        ),
        seconds=120,
    )


def test_another_text_reruns_all_but_the_reference(cook: Persona, recorder: Recorder):
    before = cook.keys()
    started = recorder.of_persona(cook.namespace, NAME)
    put_text(cook.cluster, cook.namespace, "You are a ship's cook who hates soup and loves cake.")
    cook.until("other keys", lambda: cook.keys().get("score") not in (None, before["score"]), 120)
    cook.until_ready()
    assert cook.keys()["reference"] == before["reference"]
    again = recorder.of_persona(cook.namespace, NAME) - started
    assert "reference" not in again
    assert set(again.values()) == {1}
    assert set(again) == set(before) - {"reference"}
    cook.delete()
