"""The number of processors that this process may use."""

import math
import os
from pathlib import Path

CGROUP_V2 = Path("/sys/fs/cgroup/cpu.max")
CGROUP_V1 = Path("/sys/fs/cgroup/cpu")


def usable_cpus(quota_file: Path = CGROUP_V2, v1_folder: Path = CGROUP_V1) -> int:
    """Return the number of processors of the affinity mask, or the CPU limit if it is lower.

    A container's CPU limit is rounded up. torch starts one thread per processor of the node,
    regardless of the limit, and threads above the limit wait for each other.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota = _quota(quota_file, v1_folder)
    return max(1, min(allowed or 1, math.ceil(quota) if quota else allowed or 1))


def _quota(quota_file: Path, v1_folder: Path) -> float | None:
    """Return the limit in processors, None if there is none."""
    try:
        limit, period = quota_file.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        try:
            limit = (v1_folder / "cpu.cfs_quota_us").read_text(encoding="ascii").strip()
            period = (v1_folder / "cpu.cfs_period_us").read_text(encoding="ascii").strip()
        except OSError:
            return None
    if not limit.isdigit() or not period.isdigit() or not int(period):
        return None  # "max" or -1 stands for no limit
    return int(limit) / int(period)
