"""The status names what is wrong, and the persona recovers once the cause is fixed."""

from collections.abc import Callable
from typing import Any

import pytest

from support.bucket import ACCESS_KEY, SECRET_KEY, Bucket
from support.cluster import Cluster
from support.personas import Persona, Spec, merged
from support.release import Release
from support.tiny import tiny_checkpoint

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

Fix = Callable[[Persona], Any]


class Fault:
    """One mistake.

    Attributes:
        changes: the mistake, as a change of the spec.
        reason: reason of the condition Ready.
        words: what its message must contain.
        fix: what a person does about it.
    """

    def __init__(self, changes: Spec, reason: str, words: tuple[str, ...], fix: Fix) -> None:
        self.changes = changes
        self.reason = reason
        self.words = words
        self.fix = fix


NAMES = ["secret", "credentials", "bucket", "gpu", "quota", "base", "memory"]


@pytest.fixture(scope="module")
def faults(
    cluster: Cluster, bucket: Bucket, prefix: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Fault]:
    def make_secret(name: str, key: str) -> Fix:
        def fix(persona: Persona) -> None:
            metadata = {"name": name, "namespace": persona.namespace}
            keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": key}
            cluster.apply(
                {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": keys}
            )

        return fix

    def right_credentials(persona: Persona) -> None:
        make_secret("wrong-keys", SECRET_KEY)(persona)
        persona.retry("fixed")

    def make_bucket(persona: Persona) -> None:
        bucket.make(f"{prefix}-later")
        persona.retry("fixed")

    def fewer_gpus(persona: Persona) -> None:
        persona.change(execution={"stages": [{"name": "reference", "resources": {"gpus": 0}}]})

    def no_quota(persona: Persona) -> None:
        cluster.kubectl("-n", persona.namespace, "delete", "resourcequota", "none")

    def more_memory(persona: Persona) -> None:
        enough = {"stages": [{"name": "reference", "resources": {"memory": "3Gi"}}]}
        persona.change(execution=enough)

    def put_base(persona: Persona) -> None:
        bucket.put("base/later", tiny_checkpoint(tmp_path_factory.mktemp("later"), layers=2))
        persona.retry("fixed")

    one_retry = {"stages": [{"name": "reference", "maxRetries": 1}]}
    gpus = {"stages": [{"name": "reference", "resources": {"gpus": 64}}]}
    return {
        "secret": Fault(
            {"storage": {"credentialsSecretRef": {"name": "absent"}}},
            "MissingSecret",
            ("absent", "Create it"),
            make_secret("absent", SECRET_KEY),
        ),
        "credentials": Fault(
            {"storage": {"credentialsSecretRef": {"name": "wrong-keys"}}, "execution": one_retry},
            "StoreUnavailable",
            ("Check AWS_SECRET_ACCESS_KEY",),
            right_credentials,
        ),
        "bucket": Fault(
            {"storage": {"uri": f"s3://{prefix}-later/personas"}, "execution": one_retry},
            "StoreUnavailable",
            (f"{prefix}-later", "Create the bucket"),
            make_bucket,
        ),
        "gpu": Fault({"execution": gpus}, "Unschedulable", ("nvidia.com/gpu",), fewer_gpus),
        "quota": Fault({}, "QuotaExceeded", ("pods=0",), no_quota),
        "base": Fault(
            {"baseModel": {"uri": f"s3://{bucket.name}/base/later"}},
            "InvalidInput",
            ("base/later",),
            put_base,
        ),
        "memory": Fault(
            {"execution": {"stages": [{"name": "reference", "resources": {"memory": "64Mi"}}]}},
            "OutOfMemory",
            ("memory limit",),
            more_memory,
        ),
    }


@pytest.fixture(scope="module")
def personas(
    cluster: Cluster,
    release: Release,
    namespaces: dict[str, str],
    tiny: Spec,
    faults: dict[str, Fault],
) -> dict[str, Persona]:
    """Apply all of them at once: each waits most of the time."""
    metadata = {"name": "none", "namespace": namespaces["quota"]}
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata}
    cluster.apply({**quota, "spec": {"hard": {"pods": "0"}}})
    keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": "not-the-key"}
    metadata = {"name": "wrong-keys", "namespace": namespaces["faults"]}
    cluster.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": keys})
    found = {}
    for name, fault in faults.items():
        namespace = namespaces["quota" if name == "quota" else "faults"]
        # Each has its own number of samples, so that it finds no finished work in the store.
        own = {"instructions": {"maxSamples": 30 + NAMES.index(name)}}
        spec = merged(merged(tiny, fault.changes), own)
        found[name] = Persona(cluster, namespace, f"wrong-{name}").apply(spec)
    return found


@pytest.fixture(scope="module")
def reported(personas: dict[str, Persona], faults: dict[str, Fault]) -> dict[str, Any]:
    """Return the condition Ready of each, once it names the fault."""
    return {name: personas[name].until_reason(faults[name].reason) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_the_condition_names_what_is_wrong(name, reported, faults, personas):
    message = reported[name]["message"]
    for word in faults[name].words:
        assert word in message
    assert SECRET_KEY not in message
    # A fault that often passes by itself stalls only after some time, or after some attempts.
    if name not in {"gpu", "quota", "credentials", "bucket"}:
        assert personas[name].kstatus().startswith("Failed")
    personas[name].until("Failed", lambda: personas[name].kstatus().startswith("Failed"), 200)
    events = personas[name].cluster.find("Event", personas[name].namespace)
    mine = [item for item in events if item["involvedObject"]["name"] == personas[name].name]
    assert [event for event in mine if event["type"] == "Warning"]


@pytest.fixture(scope="module")
def fixed(reported: dict[str, Any], personas: dict[str, Persona], faults: dict[str, Fault]) -> None:
    for name in NAMES:
        faults[name].fix(personas[name])


@pytest.mark.parametrize("name", NAMES)
def test_the_stage_succeeds_once_the_cause_is_fixed(name, fixed, personas):
    persona = personas[name]
    persona.until_stage("reference", "Succeeded", seconds=240)
    persona.until("not stalled", lambda: persona.condition("Stalled")["status"] == "False", 30)
    persona.delete()


def test_a_missing_serving_image_is_reported_and_the_old_revision_keeps_serving(captain: Persona):
    before = captain.status["serving"]["revision"]
    captain.change(serving={"image": "registry.invalid/no/such:image"})
    condition = captain.until_reason("ImagePullFailed")
    assert "registry.invalid/no/such:image" in condition["message"]
    assert captain.kstatus().startswith("Failed")
    assert captain.status["serving"]["revision"] == before
    assert captain.ask("/v1/models").status_code == 200
    captain.change(serving={"image": None})
    captain.until_ready(120)


def test_a_missing_stage_image_is_reported(
    cluster: Cluster, release: Release, namespaces: dict[str, str], tiny: Spec
):
    namespace = namespaces["elsewhere"]
    values = release.values | {"namespaces": [namespace]}
    # A second operator for its own namespace creates no cluster-wide object.
    apart: dict[str, Any] = {"rbac": {"aggregate": False}, "crds": {"install": False}}
    second = Release(cluster, namespace, [namespace], merged(values, apart), "two-persona-pruner")
    persona = Persona(cluster, namespace, "stowaway")
    try:
        second.install(jobs={"image": {"tag": "absent"}})
        persona.apply(merged(tiny, {"instructions": {"maxSamples": 38}}))
        condition = persona.until_reason("ImagePullFailed")
        assert "jobs:absent" in condition["message"]
        assert persona.kstatus().startswith("Failed")
        second.install()
        persona.until_stage("reference", "Succeeded")
    finally:
        cluster.kubectl("-n", namespace, "delete", "personas", "--all", check=False)
        second.uninstall()
