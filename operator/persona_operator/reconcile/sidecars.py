"""Stages whose container has ended while a sidecar that somebody injected keeps the pod running."""

from dataclasses import replace

from ..labels import STAGE_CONTAINER
from .observed import Job


def settle(job: Job) -> Job:
    """Return a Job whose stage has ended as ended, whatever else runs in its pod."""
    pods = job.live_pods
    if job.ended or not pods or pods[-1].phase != "Running" or pods[-1].failure is not None:
        return job
    containers = pods[-1].containers
    stage = next((item for item in containers if item.name == STAGE_CONTAINER), None)
    if stage is None or stage.running or stage.exit_code is None:
        return job
    if not any(item.running for item in containers):
        return job  # Nothing keeps the pod: the end of the Job follows at once.
    failed = None if stage.exit_code == 0 else ("StageEnded", "")
    return replace(job, complete=failed is None, failed=failed, lingering=True)
