"""The whole operator, kopf included, against an API server in memory over HTTP."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from persona_jobs.api import KIND, RECIPE_KIND
from persona_jobs.pipeline.graph import keys
from persona_jobs.pipeline.references import read_references
from persona_jobs.store import FileStore, StageArtifacts, StageManifest
from persona_operator import handlers
from support.fake_cluster import Raw, evaluation_metrics, failed_message
from support.operator_world import (
    NAMESPACE,
    laptop_spec,
    persona_document,
    recipe_document,
)
from support.running_operator import Operator, config


async def test_from_apply_to_ready(operator: Operator) -> None:
    async with operator.running(config()):
        operator.cluster.create(persona_document())
        await operator.work_until(lambda: operator.ready().get("status") == "True", "Ready")
    assert len(operator.created_jobs()) == 7
    status = operator.status()
    assert status["url"] == "http://captain.stories.svc:8000"
    # What kopf would add by itself: results of handlers, annotations, a finalizer.
    assert set(status) <= {
        "observedGeneration", "conditions", "phase", "baseModel", "sparsityPercent", "stages",
        "revision", "revisions", "serving", "sources", "writtenHash",
        "size", "score", "judges", "latency", "url", "store", "finishedKeys",
    }  # fmt: skip
    head = operator.cluster.get(KIND, NAMESPACE, "captain")["metadata"]  # type: ignore[index]
    assert not head.get("annotations")
    assert not head.get("finalizers")
    reasons = [event["reason"] for event in operator.cluster.find("Event")]
    assert reasons.count("StageStarted") == 7
    assert reasons.count("StageSucceeded") == 7
    assert reasons.count("Ready") == 1


async def test_sources_are_looked_up_once_and_survive_a_restart(operator: Operator) -> None:
    document = persona_document(baseModel={"uri": "hf://org/model"})
    operator.cluster.create(document)
    async with operator.running(config()):
        await operator.work_until(lambda: operator.status().get("stages"), "a plan")
    async with operator.running(config()):
        await operator.work_until(lambda: operator.ready().get("status") == "True", "Ready")
    names = [name.split("-")[1] for name in operator.created_jobs()]
    assert names.count("resolve") == 1
    assert len(names) == 8
    recorded = {item["name"]: item["revision"] for item in operator.status()["sources"]}
    assert recorded["baseModel"] == "c" * 40
    stages = {item["name"]: item["key"] for item in operator.status()["stages"]}
    assert stages == keys(laptop_spec(document, baseModel="c" * 40))


async def test_changed_profiles_apply_without_a_restart(operator: Operator, tmp_path: Path) -> None:
    path = tmp_path / "profiles.yaml"

    def write(text: str) -> None:
        # A mounted ConfigMap changes at once: no reader sees half of it.
        (tmp_path / "new").write_text(text)
        (tmp_path / "new").replace(path)

    write("default: {cpu: 1}")

    def requests() -> set[str]:
        pods = [job["spec"]["template"]["spec"] for job in operator.cluster.open_jobs()]
        return {pod["containers"][0]["resources"]["requests"]["cpu"] for pod in pods}

    given = config(profilesFile=str(path))
    async with operator.running(given) as runtime:
        write("default: {cpus: 2}")
        await operator.until(lambda: b"profiles_valid 0.0" in runtime.metrics.render(), "a note")
        operator.cluster.create(persona_document())
        write("default: {cpu: 2}")
        await operator.until(lambda: requests() == {"2"}, "Jobs of the new profile")


async def test_a_restarted_operator_continues(operator: Operator) -> None:
    operator.cluster.create(persona_document())
    for count in (1, 3, 5):
        async with operator.running(config()):
            await operator.work_until(
                lambda count=count: len(operator.created_jobs()) >= count, f"{count} Jobs"
            )
        operator.work()  # Jobs end while no operator runs
    async with operator.running(config()):
        await operator.work_until(lambda: operator.ready().get("status") == "True", "Ready")
    assert len(operator.created_jobs()) == len(set(operator.created_jobs())) == 7


async def test_two_personas_share_equal_results(operator: Operator) -> None:
    async with operator.running(config()):
        for name in ("captain", "twin"):
            document = persona_document(name)
            document["spec"]["persona"] = {"text": "You are a sailor."}
            operator.cluster.create(document)
        await operator.work_until(
            lambda: {operator.ready(n).get("status") for n in ("captain", "twin")} == {"True"},
            "both Ready",
        )
    assert len(operator.created_jobs()) == 7


async def test_personas_follow_their_recipe(operator: Operator) -> None:
    def sparsities() -> list[int]:
        revisions = [operator.status(name).get("revisions") for name in ("captain", "poet")]
        return [found[0]["sparsityPercent"] for found in revisions if found]

    async with operator.running(config()):
        for name in ("captain", "poet"):
            document = persona_document(name, recipeRef={"name": "recipe"})
            del document["spec"]["baseModel"]
            operator.cluster.create(document)
        await operator.until(
            lambda: operator.ready().get("reason") == "RecipeNotFound", "RecipeNotFound"
        )
        operator.cluster.create(recipe_document(pruning={"sparsityPercent": 40}))
        await operator.work_until(lambda: sparsities() == [40, 40], "both made by the recipe")
        first = len(operator.created_jobs())

        def thinner(document: Raw) -> None:
            document["spec"]["pruning"] = {"sparsityPercent": 50}

        operator.cluster.update(RECIPE_KIND, NAMESPACE, "recipe", thinner)
        await operator.work_until(lambda: sparsities() == [50, 50], "both made again")
    again = operator.created_jobs()[first:]
    assert sorted(name.split("-")[1] for name in again) == sorted(
        2 * ["mask", "recover", "slice", "evaluate"]
    )


async def test_a_refused_job_is_reported_and_created_once_it_is_allowed(operator: Operator) -> None:
    operator.server.refuse[("POST", "jobs")] = (403, "Forbidden", "no permission to make Jobs")
    async with operator.running(config()):
        operator.cluster.create(persona_document())
        await operator.until(lambda: operator.ready().get("reason") == "Forbidden", "Forbidden")
        assert "no permission to make Jobs" in operator.ready()["message"]
        operator.server.refuse.clear()
        await operator.until(operator.created_jobs, "a Job")
    assert operator.created_jobs()[0].count("-") == 2  # the refused ones count as no attempt


async def test_an_unavailable_api_server_is_survived(operator: Operator) -> None:
    async with operator.running(config()):
        operator.server.refuse[("PATCH", "personamodels")] = (500, "InternalError", "etcd is down")
        operator.cluster.create(persona_document())
        await operator.until(operator.created_jobs, "a Job")
        await asyncio.sleep(0.3)
        operator.server.refuse.clear()
        await operator.work_until(lambda: operator.ready().get("status") == "True", "Ready")
    assert len(operator.created_jobs()) == 7


async def test_a_suspension_that_failed_once_is_requested_again(operator: Operator) -> None:
    def suspend(wanted: bool) -> None:
        def change(document: Raw) -> None:
            document["spec"]["suspend"] = wanted

        operator.cluster.update(KIND, NAMESPACE, "captain", change)

    def suspended() -> bool:
        return bool(operator.cluster.find("Job")[0]["spec"].get("suspend"))

    def refused() -> int:
        return operator.server.requests.count(("PATCH", "jobs"))

    async with operator.running(config()):
        operator.cluster.create(persona_document())
        await operator.until(operator.created_jobs, "a Job")
        for wanted, answer in (
            (True, (503, "ServiceUnavailable", "the API server is shutting down")),
            (False, (503, "ServiceUnavailable", "the API server is shutting down")),
            (True, (403, "Forbidden", "not now")),
        ):
            before = refused()
            operator.server.refuse[("PATCH", "jobs")] = answer
            suspend(wanted)
            await operator.until(lambda before=before: refused() > before, "a refused request")
            assert suspended() is not wanted
            operator.server.refuse.clear()
            await operator.until(lambda wanted=wanted: suspended() is wanted, f"{wanted}")


@pytest.mark.parametrize("minutes", [-10, 10])
async def test_a_clock_that_is_off_loses_no_result(operator: Operator, minutes: int) -> None:
    operator.server.skew = timedelta(minutes=minutes)
    async with operator.running(config()):
        operator.cluster.now = datetime.now(UTC) + operator.server.skew
        operator.cluster.create(persona_document())
        await operator.until(operator.created_jobs, "a Job")
        # The Job's end is known before that of its pod, as often in a cluster.
        (job,) = operator.cluster.find("Job")
        pod = operator.cluster.make_pod(job)
        operator.cluster.run_pod(pod)
        operator.cluster.end_job(job, failed=("PodFailurePolicy", "exit code 2"))
        await asyncio.sleep(1)
        message = failed_message("reference", "InputError", "The data is empty.")
        operator.cluster.end_pod(pod, 2, message)
        await operator.until(lambda: operator.ready().get("status") == "False", "a failure")
    assert operator.ready()["reason"] == "InvalidInput"
    assert "The data is empty." in operator.ready()["message"]


async def test_objects_of_others_stay_unchanged(operator: Operator) -> None:
    foreign: Raw = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "captain", "namespace": NAMESPACE, "labels": {"app": "theirs"}},
        "spec": {"selector": {"app": "theirs"}},
    }
    operator.cluster.create(foreign)
    async with operator.running(config()):
        operator.cluster.create(persona_document())
        await operator.work_until(
            lambda: operator.ready().get("reason") == "NameTaken", "NameTaken"
        )
    assert operator.cluster.get("Service", NAMESPACE, "captain")["spec"] == foreign["spec"]  # type: ignore[index]


async def test_the_text_may_come_from_a_config_map(operator: Operator) -> None:
    async with operator.running(config()):
        document = persona_document()
        document["spec"]["persona"] = {"configMapRef": {"name": "texts", "key": "captain"}}
        operator.cluster.create(document)
        await operator.until(
            lambda: operator.ready().get("reason") == "PersonaTextNotFound", "PersonaTextNotFound"
        )
        operator.cluster.create(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "texts", "namespace": NAMESPACE},
                "data": {"captain": "You are a sailor."},
            }
        )
        await operator.work_until(lambda: operator.ready().get("status") == "True", "Ready")


async def test_a_stalled_watch_is_detected(operator: Operator) -> None:
    async with operator.running(config(watchDeadlineSeconds=1.0)) as runtime:
        operator.cluster.create(persona_document())
        await operator.until(operator.status, "a status")
        assert runtime.health.problem() is None
        operator.server.stalled = True
        operator.cluster.create(persona_document("poet"))
        await operator.until(runtime.health.problem, "detected")


def publish(store: FileStore, document: Raw, stages: set[str] | None = None) -> dict[str, str]:
    planned = {str(k): v for k, v in keys(laptop_spec(document)).items()}
    for stage, key in planned.items():
        if stages is None or stage in stages:
            folder = Path(store.url.removeprefix("file://")) / f"made-{stage}-{key[:8]}"
            folder.mkdir()
            (folder / "result.json").write_text("{}")
            metrics = evaluation_metrics() if stage == "evaluate" else {}
            StageArtifacts(store).publish(
                StageManifest(stage=stage, stage_version=1, key=key, created_at=datetime.now(UTC),
                         files={}, inputs={}, parameters={}, metrics=metrics, timings={},
                         versions={}, environment={}),
                folder,
            )  # fmt: skip
    return planned


def file_store(tmp_path: Path) -> tuple[FileStore, Raw]:
    root = tmp_path / "store"
    root.mkdir()
    volume = {"claimName": "shared", "mountPath": str(root)}
    return FileStore(root), {"uri": f"file://{root}", "volume": volume}


async def test_stored_results_are_not_computed_again(operator: Operator, tmp_path: Path) -> None:
    store, where = file_store(tmp_path)
    publish(store, persona_document())
    async with operator.running(config(store=where)):
        operator.cluster.create(persona_document())
        await operator.work_until(lambda: operator.ready().get("status") == "True", "Ready")
        head = operator.cluster.get(KIND, NAMESPACE, "captain")["metadata"]  # type: ignore[index]
        await operator.until(lambda: head["uid"] in read_references(store), "references")
    assert operator.created_jobs() == []
    assert all(stage["reused"] for stage in operator.status()["stages"])
    used = {(stage["name"], stage["key"]) for stage in operator.status()["stages"]}
    assert read_references(store)[head["uid"]] == used


async def test_a_retry_makes_again_what_the_store_has_lost(
    operator: Operator, tmp_path: Path
) -> None:
    store, where = file_store(tmp_path)
    planned = publish(store, persona_document())
    async with operator.running(config(store=where)):
        operator.cluster.create(persona_document())
        await operator.work_until(lambda: operator.ready().get("status") == "True", "Ready")

        def long_ago(document: Raw) -> None:
            for stage in document["status"]["stages"]:
                stage["finishedAt"] = "2026-01-01T00:00:00Z"

        operator.cluster.update(KIND, NAMESPACE, "captain", long_ago)
        StageArtifacts(store).delete("slice", planned["slice"])

        def ask(document: Raw) -> None:
            document["metadata"]["annotations"] = {"persona-pruner.io/retry": "1"}

        operator.cluster.update(KIND, NAMESPACE, "captain", ask)
        await operator.until(operator.created_jobs, "a Job")
        await operator.work_until(
            lambda: (
                operator.status().get("lastHandledRetry") == "1"
                and operator.ready().get("status") == "True"
            ),
            "Ready again",
        )
    assert [name.split("-")[1] for name in operator.created_jobs()] == ["slice"]


async def test_deletion_removes_results_that_no_other_persona_uses(
    operator: Operator, tmp_path: Path
) -> None:
    store, where = file_store(tmp_path)
    document = persona_document(artifactPolicy="Delete")
    planned = publish(store, document)
    async with operator.running(config(store=where)):
        operator.cluster.create(document)
        operator.cluster.create(persona_document("poet"))  # shares the reference stage
        await operator.work_until(lambda: operator.ready().get("status") == "True", "Ready")
        head = operator.cluster.get(KIND, NAMESPACE, "captain")["metadata"]  # type: ignore[index]
        assert head["finalizers"] == ["persona-pruner.io/artifacts"]
        assert "old sailor" not in str(head["annotations"])
        operator.cluster.delete(KIND, NAMESPACE, "captain")
        await operator.until(
            lambda: operator.cluster.get(KIND, NAMESPACE, "captain") is None, "released"
        )
    left = {stage for stage, key in planned.items() if StageArtifacts(store).manifest(stage, key)}
    assert left == {"reference"}
    assert "ArtifactsRemoved" in [event["reason"] for event in operator.cluster.find("Event")]


async def test_deletion_ends_without_credentials_for_the_store(operator: Operator) -> None:
    async with operator.running(config()):
        operator.cluster.create(persona_document(artifactPolicy="Delete"))
        await operator.until(
            lambda: operator.cluster.find(KIND)[0]["metadata"].get("finalizers"), "held"
        )
        operator.cluster.delete(KIND, NAMESPACE, "captain")
        await operator.until(lambda: operator.cluster.find(KIND) == [], "released")
    assert "ArtifactsRetained" in [event["reason"] for event in operator.cluster.find("Event")]


async def test_metrics_disappear_with_their_persona(operator: Operator) -> None:
    async with operator.running(config()) as runtime:
        operator.cluster.create(persona_document())
        await operator.work_until(lambda: operator.ready().get("status") == "True", "Ready")
        ready = 'persona_pruner_personas{state="Ready"} 1.0'
        await operator.until(lambda: ready in runtime.metrics.render().decode(), "counted as Ready")
        text = runtime.metrics.render().decode()
        served = 'persona_pruner_checkpoint_bytes{namespace="stories",persona="captain"'
        assert f'{served},variant="served"}} 2.1e+08' in text
        assert 'persona_pruner_api_requests_total{code="201",method="POST",resource="jobs"}' in text
        operator.cluster.delete(KIND, NAMESPACE, "captain")
        await operator.until(
            lambda: 'persona="captain"' not in runtime.metrics.render().decode(), "gone"
        )


def test_all_kopf_decorators_are_in_handlers() -> None:
    folder = Path(handlers.__file__).parent
    using = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*.py")
        if "@kopf." in path.read_text()
    }
    assert using == {"handlers.py"}


async def test_why_no_pod_is_made_is_reported_although_no_watched_object_changes(
    operator: Operator,
) -> None:
    async with operator.running(config()):
        operator.cluster.create(persona_document())
        await operator.until(operator.created_jobs, "a Job")
        await operator.until(lambda: operator.ready().get("reason") == "Reference", "a stage")
        (name,) = operator.created_jobs()
        refused = 'pods "x" is forbidden: exceeded quota: none, requested: pods=1, used: pods=0, '
        operator.cluster.create(
            {
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {"name": "refused", "namespace": NAMESPACE},
                "involvedObject": {"kind": "Job", "name": name, "namespace": NAMESPACE},
                "type": "Warning",
                "reason": "FailedCreate",
                "message": f"Error creating: {refused}limited: pods=0",
            }
        )
        await operator.until(
            lambda: operator.ready().get("reason") == "QuotaExceeded", "QuotaExceeded"
        )
