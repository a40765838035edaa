"""Two personas on the same base model and data; deletion; metrics that appear and disappear."""

import pytest

from support.bucket import Bucket
from support.personas import Persona, Spec, merged
from support.recorder import Recorder
from support.release import Release
from support.stage_names import DEFAULT_STAGES

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
MATE = "You are the first mate. You answer each question with an order to the crew."
OWNED = ("Job", "Deployment", "Service", "ConfigMap", "Pod")


@pytest.fixture(scope="module")
def mate(captain: Persona, namespaces: dict[str, str], tiny: Spec) -> Persona:
    """Return another persona in another namespace, on the same base model and data."""
    persona = Persona(captain.cluster, namespaces["guests"], "mate")
    persona.apply(merged(tiny, {"persona": {"text": MATE}, "artifactPolicy": "Delete"}))
    persona.until_ready()
    return persona


def test_the_captain_is_served(captain: Persona):
    assert captain.kstatus().startswith("Current")
    body = {
        "model": "captain",
        "messages": [{"role": "user", "content": "Where?"}],
        "max_tokens": 8,
    }
    answer = captain.ask("/v1/chat/completions", body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] > 0


def test_the_second_persona_starts_no_job_for_shared_stages(
    captain: Persona, mate: Persona, recorder: Recorder
):
    shared = {name for name, key in mate.keys().items() if captain.keys()[name] == key}
    assert shared == {"reference"}
    assert mate.stages()["reference"]["reused"] is True
    started = recorder.of_persona(mate.namespace, mate.name)
    assert started == {stage: 1 for stage in DEFAULT_STAGES if stage not in shared}
    assert len(recorder.jobs("reference", captain.keys()["reference"])) == 1


def series(release: Release, persona: Persona) -> list[str]:
    labels = f'namespace="{persona.namespace}",persona="{persona.name}"'
    return [line for line in release.metrics() if labels in line]


def test_metrics_artifacts_and_objects_live_as_long_as_their_persona(
    captain: Persona, mate: Persona, release: Release, bucket: Bucket
):
    checkpoint = 'persona_pruner_checkpoint_bytes{namespace="%s",persona="%s",variant="served"} '
    mine = [line for line in series(release, mate) if 'variant="served"' in line]
    assert any(line.startswith(checkpoint % (mate.namespace, mate.name)) for line in mine)
    assert {line.split("{")[0] for line in mine} >= {
        "persona_pruner_parameters",
        "persona_pruner_generic_loss",
        "persona_pruner_decode_seconds_per_token",
    }
    assert series(release, captain)
    keys, artifacts = mate.keys(), bucket.artifacts()
    assert set(keys) == set(DEFAULT_STAGES)
    assert all(artifacts.manifest(stage, key) for stage, key in keys.items())
    pointer = f"personas/{mate.namespace}/{mate.name}.json"
    assert bucket.store().stat(pointer) is not None

    mate.cluster.kubectl(
        "-n", mate.namespace, "delete", "persona", mate.name, "--wait", "--timeout=90s"
    )

    left = [stage for stage, key in keys.items() if artifacts.manifest(stage, key)]
    assert left == ["reference"]
    assert bucket.store().stat(pointer) is None
    for stage, key in captain.keys().items():
        assert artifacts.manifest(stage, key), (
            f"the artifact of {stage} of the other persona was removed"
        )
    mate.until("its metrics disappear", lambda: not series(release, mate), 30)
    assert series(release, captain)

    def owned() -> list[str]:
        return [
            f"{kind} {item['metadata']['name']}"
            for kind in OWNED
            for item in mate.cluster.find(
                kind, mate.namespace, "app.kubernetes.io/managed-by=persona-operator"
            )
        ]

    mate.until("its objects disappear", lambda: not owned(), 120)
    events = mate.cluster.find("Event", mate.namespace)
    assert [event for event in events if event["reason"] == "ArtifactsRemoved"]
