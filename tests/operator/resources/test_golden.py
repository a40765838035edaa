"""The objects that a PersonaModel leads to, against golden files.

Each folder of `golden/` is one case: `input.yaml` (a PersonaModel) and `settings.yaml` (the
administrator's settings) lead to the other files. After an intended change write them again and
read the difference:

    UPDATE_GOLDEN=1 python -m pytest tests/operator/resources/test_golden.py
"""

import json
import os
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from persona_operator.reconcile import Apply, Observed, Persona
from persona_operator.reconcile.context import Context, make_context
from persona_operator.reconcile.plan import PlanBuilder
from persona_operator.reconcile.serving import reconcile_serving
from persona_operator.reconcile.stage_results import parse_evaluation, revision_from_evaluation
from persona_operator.resources.job import build_job
from persona_operator.settings import Settings
from support.fake_cluster import START, evaluation_metrics

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(path.name for path in GOLDEN.iterdir())
INPUTS = {"input.yaml", "settings.yaml"}
# Content keys have golden files of their own.
KEY = "0123456789abcdef" * 4
ATTEMPTS = {"mask": 1, "rewrite": 3}


def context(case: str) -> Context:
    document = yaml.safe_load((GOLDEN / case / "input.yaml").read_text())
    document["metadata"]["uid"] = "11111111-2222-3333-4444-555555555555"
    settings = Settings.load(GOLDEN / case / "settings.yaml")
    made = make_context(Persona.from_object(document), Observed(), settings, START)
    return replace(made, stages=tuple(replace(stage, key=KEY) for stage in made.stages))


@cache
def objects(case: str) -> dict[str, dict[str, Any]]:
    """Return the objects of a case by file name: the ConfigMap, two Jobs, all of serving."""
    given = context(case)
    found = {"config-map": given.config_map}
    for stage in given.stages:
        if stage.name in ATTEMPTS:
            job = build_job(given.stage_job(stage, ATTEMPTS[stage.name]))
            found[f"job-{stage.name}"] = job
    evaluation = parse_evaluation(evaluation_metrics())
    assert evaluation is not None
    revision = revision_from_evaluation(
        evaluation,
        spec=given.spec,
        slice_key=KEY,
        evaluate_key=KEY,
        finished_at="2026-01-01T12:00:00Z",
        store=given.store.identity,
    )
    builder = PlanBuilder()
    reconcile_serving(given, revision, builder)
    applied = [action.manifest for action in builder.actions if isinstance(action, Apply)]
    found |= {manifest["kind"].lower(): manifest for manifest in applied}
    return {name: json.loads(json.dumps(manifest)) for name, manifest in found.items()}


@pytest.mark.parametrize("case", CASES)
def test_a_persona_model_leads_to_the_golden_objects(case: str) -> None:
    folder, built = GOLDEN / case, objects(case)
    if os.environ.get("UPDATE_GOLDEN"):
        for path in folder.iterdir():
            if path.name not in INPUTS:
                path.unlink()
        for name, manifest in built.items():
            text = yaml.safe_dump(manifest, sort_keys=False, width=100, allow_unicode=True)
            (folder / f"{name}.yaml").write_text(text)
    golden = {
        path.stem: yaml.safe_load(path.read_text())
        for path in folder.iterdir()
        if path.name not in INPUTS
    }
    assert golden == built


def pod_specs() -> dict[str, dict[str, Any]]:
    return {
        f"{case}/{name}": manifest["spec"]["template"]["spec"]
        for case in CASES
        for name, manifest in objects(case).items()
        if manifest["kind"] in {"Job", "Deployment"}
    }


@pytest.mark.parametrize("name", sorted(pod_specs()))
def test_pods_meet_pod_security_restricted(name: str) -> None:
    """The rules of https://kubernetes.io/docs/concepts/security/pod-security-standards."""
    pod = pod_specs()[name]
    assert pod["securityContext"]["runAsNonRoot"] is True
    users = {"runAsUser", "runAsGroup", "fsGroup"} & set(pod["securityContext"])
    by_platform = name.startswith("pod-template/")
    assert users == (set() if by_platform else {"runAsUser", "runAsGroup", "fsGroup"})
    assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    assert pod["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    allowed = {"configMap", "emptyDir", "persistentVolumeClaim", "ephemeral"}
    assert all(set(volume) - {"name"} <= allowed for volume in pod["volumes"])
    for container in pod["containers"] + pod.get("initContainers", []):
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security["readOnlyRootFilesystem"] is True


@pytest.mark.parametrize("name", sorted(pod_specs()))
def test_every_mount_has_its_volume(name: str) -> None:
    pod = pod_specs()[name]
    volumes = [volume["name"] for volume in pod["volumes"]]
    assert len(volumes) == len(set(volumes))
    for container in pod["containers"] + pod.get("initContainers", []):
        paths = [mount["mountPath"] for mount in container["volumeMounts"]]
        assert len(paths) == len(set(paths))
        assert {mount["name"] for mount in container["volumeMounts"]} <= set(volumes)


def test_no_manifest_holds_the_value_of_a_secret() -> None:
    for name, pod in pod_specs().items():
        for container in pod["containers"] + pod.get("initContainers", []):
            named = {item["name"]: item for item in container["env"]}
            secret = {"HF_TOKEN", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY"} & set(named)
            assert all("value" not in named[item] for item in secret), name
