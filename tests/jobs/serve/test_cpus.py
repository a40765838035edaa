import os

import pytest

from persona_jobs.serve.cpus import usable_cpus

ALLOWED = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("max 100000\n", ALLOWED),
        ("50000 100000\n", 1),
        ("100000 100000\n", 1),
        ("150000 100000\n", min(2, ALLOWED)),
        ("99900000 100000\n", ALLOWED),
        ("nonsense\n", ALLOWED),
        ("0 0\n", ALLOWED),
    ],
)
def test_the_limit_of_cgroup_v2_applies(tmp_path, content, expected):
    file = tmp_path / "cpu.max"
    file.write_text(content)
    assert usable_cpus(file, tmp_path) == expected


@pytest.mark.parametrize(("quota", "expected"), [("100000", 1), ("-1", ALLOWED)])
def test_the_limit_of_cgroup_v1_applies(tmp_path, quota, expected):
    (tmp_path / "cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu.cfs_period_us").write_text("100000")
    assert usable_cpus(tmp_path / "absent", tmp_path) == expected


def test_without_a_limit_the_affinity_mask_applies(tmp_path):
    assert usable_cpus(tmp_path / "absent", tmp_path) == ALLOWED
