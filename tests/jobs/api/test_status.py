"""Statuses of other versions of the operator lose nothing."""

import pytest

from persona_jobs.api.status import PersonaModelStatus

REVISION = {"id": "0123abcd", "sliceKey": "k", "gate": "Passed", "sparsityPercent": 25}


def written(status):
    return status.model_dump(mode="json", by_alias=True, exclude_unset=True)


def test_unknown_values_and_fields_are_kept():
    raw = {
        "conditions": [{"type": "Available", "status": "Maybe", "since": "now"}],
        "stages": [{"name": "polish", "state": "Simmering"}],
        "revisions": [REVISION | {"gate": "Deferred", "metrics": [{"name": "x"}]}],
        "rollout": {"step": 2},
    }
    assert written(PersonaModelStatus.read(raw)) == raw


@pytest.mark.parametrize(
    "damage",
    [
        {"observedGeneration": "many"},
        {"stages": "all"},
        {"stages": [{"key": "no name"}]},
        {"revisions": [REVISION, {"sliceKey": "no id"}]},
        {"serving": ["a list"]},
        {"finishedKeys": ["mask/1", 7]},
    ],
)
def test_a_value_that_makes_no_sense_costs_only_itself(damage):
    raw = {"revisions": [REVISION], "finishedKeys": ["mask/1"], "store": "s3://b"} | damage
    status = PersonaModelStatus.read(raw)
    assert [item.id for item in status.revisions] == ["0123abcd"]
    assert status.finished_keys == ["mask/1"]
    assert status.store == "s3://b"


def test_only_the_id_of_a_revision_is_required():
    (revision,) = PersonaModelStatus.read({"revisions": [{"id": "a"}]}).revisions
    assert revision.slice_key == ""
