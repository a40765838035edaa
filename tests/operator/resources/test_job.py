"""The Job of one attempt of one stage."""

from typing import Any

from persona_operator.resources.common import Images, Owner
from persona_operator.resources.job import StageJob, build_job, template_checksum
from persona_operator.settings import Profile
from persona_operator.store_access import StoreAccess

PROFILE = Profile(cpu="500m", memory="4Gi", active_deadline_seconds=3600)


def stage_job(**changes: Any) -> StageJob:
    values: dict[str, Any] = {
        "owner": Owner("captain", "stories", "uid"),
        "stage": "mask",
        "key": "0123456789abcdef" * 4,
        "attempt": 1,
        "config_map": "captain-manifest-12345678",
        "images": Images("registry.example/jobs:1"),
        "profile": PROFILE,
        "store": StoreAccess(uri="s3://models/personas"),
        **changes,
    }
    return StageJob(**values)


def test_names_and_labels_fit_for_the_longest_persona_name() -> None:
    owner = Owner("p" * 40, "stories", "uid")
    job = build_job(stage_job(owner=owner, stage="reference", attempt=999))
    assert len(job["metadata"]["name"]) <= 63
    assert all(len(value) <= 63 for value in job["metadata"]["labels"].values())


def test_the_template_checksum_changes_with_the_pod() -> None:
    base = template_checksum(stage_job())
    assert template_checksum(stage_job(attempt=2)) == base
    gpu = PROFILE.model_copy(update={"gpus": 1})
    assert template_checksum(stage_job(profile=gpu)) != base
    assert template_checksum(stage_job(config_map="another")) != base
    later = PROFILE.model_copy(update={"active_deadline_seconds": 60})
    assert template_checksum(stage_job(profile=later)) != base
