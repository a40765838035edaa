"""Lookups of owned objects and expected Jobs."""

from typing import Any

from persona_operator.expectations import Expectations
from persona_operator.owned_objects import (
    ALL,
    Indexes,
    OwnedObjects,
    index_job,
    index_pod,
    index_rollout_wait,
)
from support.operator_world import World, persona_document


def _indexes(jobs: list[Any], pods: list[Any]) -> Indexes:
    by_key: dict[Any, list[Any]] = {}
    for document in jobs:
        for key, job in index_job(document).items():
            by_key.setdefault(key, []).append(job)
    by_pod: dict[Any, list[Any]] = {}
    for document in pods:
        for key, pod in index_pod(document).items():
            by_pod.setdefault(key, []).append(pod)
    return Indexes(by_key, by_pod, {}, {}, ())


def test_a_job_counts_from_the_decision_to_create_it() -> None:
    world = World()
    world.add(persona_document())
    plan = world.plan()
    manifest = next(item.manifest for item in plan.actions if item.manifest["kind"] == "Job")  # type: ignore[union-attr]
    now = [0.0]
    owned = OwnedObjects(_indexes([], []), Expectations(lambda: now[0]))
    owned.expectations.reserve(manifest)
    stage = (manifest["metadata"]["labels"]["persona-pruner.io/stage"],
             manifest["metadata"]["annotations"]["persona-pruner.io/key"])  # fmt: skip
    assert [job.active for job in owned.jobs(("stories", "poet"), [stage])] == [True]
    assert len(owned.jobs(("stories", "captain"), [])) == 1
    assert owned.active_jobs() == 1
    now[0] = 60  # a lost answer of the API server doesn't hold back a stage forever
    assert owned.jobs(("stories", "captain"), []) == ()


def test_a_watched_job_replaces_its_reservation() -> None:
    world = World()
    world.add(persona_document())
    world.step()
    world.cluster.make_pod(world.job("reference"))
    indexes = _indexes(world.cluster.find("Job"), world.cluster.find("Pod"))
    now = [0.0]
    owned = OwnedObjects(indexes, Expectations(lambda: now[0]))
    owned.expectations.reserve(world.job("reference"))
    (job,) = owned.jobs(("stories", "captain"), [])
    assert len(job.pods) == 1
    assert owned.active_jobs() == 1
    owned.expectations.expect_suspend("stories", job.name, suspend=True)
    assert owned.jobs(("stories", "captain"), [])[0].suspended
    owned.expectations.fulfil("stories", job.name)
    assert not owned.jobs(("stories", "captain"), [])[0].suspended
    owned.expectations.expect_suspend("stories", job.name, suspend=True)
    now[0] = 60  # a lost answer of the API server isn't taken for a suspended Job forever
    assert not owned.jobs(("stories", "captain"), [])[0].suspended


def test_those_that_waited_longest_for_their_roll_out_are_first() -> None:
    documents = [
        {
            "metadata": {"namespace": "stories", "name": name},
            "status": {"serving": {"rolloutWaitingSince": since} if since else {}},
        }
        for name, since in (
            ("late", "2026-01-01T00:00:09Z"),
            ("early", "2026-01-01T00:00:01Z"),
            ("serves", None),
        )
    ]
    entries = [index_rollout_wait(document) for document in [*documents, {"metadata": {}}]]
    waiting = [entry[ALL] for entry in entries if entry]
    owned = OwnedObjects(Indexes({}, {}, {}, {ALL: waiting}, ()), Expectations(lambda: 0.0))
    assert [name for _, (_, name) in owned.rollout_waits()] == ["early", "late"]
