"""The cache: what is read of every object, whatever the order in which it arrives."""

import copy
from typing import Any

from persona_jobs.api import KIND, RECIPE_KIND
from persona_operator.object_cache import ACTIVE, ObjectCache
from support.operator_world import NAMESPACE, World, persona_document, recipe_document

Raw = dict[str, Any]


def made_job() -> tuple[World, Raw]:
    world = World()
    world.add(persona_document())
    world.step()
    return world, world.job("reference")


def test_an_older_version_changes_nothing() -> None:
    world, old = made_job()
    world.cluster.finish(old)
    new = world.job("reference")
    cache = ObjectCache()
    at = (NAMESPACE, new["metadata"]["name"])
    assert cache.observe("Job", new)
    assert not cache.observe("Job", old)
    assert not cache.observe("Job", new)
    assert cache.jobs.get(at).complete  # type: ignore[union-attr]


def test_a_change_that_nothing_reads_is_no_news() -> None:
    _, job = made_job()
    cache = ObjectCache()
    cache.observe("Job", job)
    job["metadata"]["resourceVersion"] = "999"
    job["status"] = {"terminating": 0, "uncountedTerminatedPods": {}}
    assert not cache.observe("Job", job)
    assert not cache.is_older("Job", (NAMESPACE, job["metadata"]["name"]), "999")


def test_a_deleted_object_does_not_come_back_with_a_late_answer() -> None:
    _, job = made_job()
    cache = ObjectCache()
    at = (NAMESPACE, job["metadata"]["name"])
    cache.observe("Job", job)
    assert cache.remove("Job", at, "50")
    assert not cache.observe("Job", job)
    assert cache.jobs.get(at) is None
    again = copy.deepcopy(job)
    again["metadata"]["resourceVersion"] = "51"
    assert cache.observe("Job", again)
    assert not cache.remove("Job", at, "50")  # the former object of this name
    assert cache.jobs.get(at) is not None


def test_jobs_are_found_by_persona_and_counted_while_they_are_active() -> None:
    world, job = made_job()
    cache = ObjectCache()
    cache.observe("Job", job)
    assert cache.jobs.count(ACTIVE) == cache.jobs.count((ACTIVE, NAMESPACE)) == 1
    assert list(cache.jobs.find(("persona", NAMESPACE, "captain"))) == [
        (NAMESPACE, job["metadata"]["name"])
    ]
    world.cluster.finish(job)
    cache.observe("Job", world.job("reference"))
    assert cache.jobs.count(ACTIVE) == cache.jobs.count((ACTIVE, NAMESPACE)) == 0


def test_a_persona_is_kept_as_it_is_without_its_managed_fields() -> None:
    world = World()
    world.add(persona_document())
    document = world.cluster.find(KIND)[0]
    cache = ObjectCache()
    cache.observe(KIND, {**document, "metadata": {**document["metadata"], "managedFields": [1]}})
    assert cache.persona((NAMESPACE, "captain")) == document
    assert cache.persona((NAMESPACE, "poet")) is None


def test_a_recipe_concerns_the_personas_that_name_it() -> None:
    cache = ObjectCache()
    for number, (name, recipe) in enumerate((("captain", "a"), ("poet", "b"), ("cook", "a"))):
        document = persona_document(name, recipeRef={"name": recipe})
        document["metadata"] |= {"uid": name, "resourceVersion": str(number)}
        cache.observe(KIND, document)
    recipe = recipe_document("a")
    recipe["metadata"]["resourceVersion"] = "9"
    cache.observe(RECIPE_KIND, recipe)
    concerned = cache.concerned(RECIPE_KIND, (NAMESPACE, "a"))
    assert concerned == [(NAMESPACE, "captain"), (NAMESPACE, "cook")]
