"""Lookups of owned objects and expected Jobs."""

from typing import Any

from persona_jobs.api import KIND
from persona_operator.expectations import Expectations
from persona_operator.object_cache import ObjectCache
from persona_operator.owned_objects import OwnedObjects
from support.operator_world import World, persona_document


def _cache(*documents: Any) -> ObjectCache:
    cache = ObjectCache()
    for document in documents:
        cache.observe(document.get("kind", KIND), document)
    return cache


def test_a_job_counts_from_the_decision_to_create_it() -> None:
    world = World()
    world.add(persona_document())
    plan = world.plan()
    manifest = next(item.manifest for item in plan.actions if item.manifest["kind"] == "Job")  # type: ignore[union-attr]
    now = [0.0]
    owned = OwnedObjects(_cache(), Expectations(lambda: now[0]))
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
    cache = _cache(*world.cluster.find("Job"), *world.cluster.find("Pod"))
    now = [0.0]
    owned = OwnedObjects(cache, Expectations(lambda: now[0]))
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
    owned = OwnedObjects(_cache(*documents), Expectations(lambda: 0.0))
    assert [name for _, (_, name) in owned.rollout_waits()] == ["early", "late"]
