"""Killed operators, deleted pods, an unreachable store: the persona becomes ready regardless."""

import time
from collections.abc import Iterator
from itertools import pairwise

import pytest

from support.cluster import Cluster
from support.personas import Persona, Spec, merged
from support.recorder import Recorder
from support.release import Release
from support.stage_names import DEFAULT_STAGES

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]
OUTAGE_SECONDS = 60
OUTAGE_IN = "rewrite"
POD_DELETED_IN = "mask"
OPERATOR_KILLED_IN = {"score", "rewrite", "mask", "evaluate"}
BOATSWAIN = "You are the boatswain. You shout each answer over a rising storm."


@pytest.fixture
def store_outage(cluster: Cluster) -> Iterator[Cluster]:
    """Bring the store back after the test, whatever happens."""
    yield cluster
    _scale_store(cluster, 1)


def _scale_store(cluster: Cluster, replicas: int) -> None:
    cluster.kubectl("-n", "minio", "scale", "deploy/minio", f"--replicas={replicas}")
    cluster.kubectl("-n", "minio", "rollout", "status", "deploy/minio", "--timeout=60s")


def kill_operator(release: Release) -> None:
    """Delete the operator's pods without a grace period."""
    for pod in release.operator_pods():
        release.cluster.delete("Pod", release.namespace, pod, grace=0)


def running_pods(persona: Persona, stage: str) -> list[str]:
    return [
        pod["metadata"]["name"]
        for pod in persona.stage_pods(stage)
        if pod["status"].get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]
    ]


def started(persona: Persona, stage: str) -> bool:
    """Return whether the stage's pod runs or has already succeeded."""
    return any(
        pod["status"].get("phase") in {"Running", "Succeeded"} for pod in persona.stage_pods(stage)
    )


def test_every_stage_finishes_once_despite_interruptions(
    release: Release,
    recorder: Recorder,
    namespaces: dict[str, str],
    tiny: Spec,
    store_outage: Cluster,
):
    own = {"persona": {"text": BOATSWAIN}, "instructions": {"maxSamples": 39}}
    persona = Persona(store_outage, namespaces["storm"], "boatswain").apply(merged(tiny, own))
    for stage in DEFAULT_STAGES:
        persona.until(f"{stage} starts", lambda: started(persona, stage), 300, every=0.2)
        if stage in OPERATOR_KILLED_IN:
            kill_operator(release)
        if stage == POD_DELETED_IN:
            for pod in running_pods(persona, stage):
                store_outage.delete("Pod", persona.namespace, pod)
        if stage == OUTAGE_IN:
            _scale_store(store_outage, 0)
            time.sleep(OUTAGE_SECONDS)
            _scale_store(store_outage, 1)
    persona.until_ready()
    assert persona.kstatus().startswith("Current")
    for stage, key in persona.keys().items():
        jobs, pods = recorder.jobs(stage, key), recorder.pods(stage, key)
        assert len([job for job in jobs if job.succeeded]) == 1, jobs
        assert len([pod for pod in pods if pod.succeeded]) == 1, pods
        # No attempt started beside or after the one that succeeded.
        assert jobs[-1].succeeded, jobs
        assert pods[-1].succeeded, pods
        assert all(one.created < next_.created for one, next_ in pairwise(jobs)), jobs
    assert len(recorder.pods(POD_DELETED_IN, persona.keys()[POD_DELETED_IN])) >= 2
    assert persona.ask("/v1/models").is_success
    persona.delete()
