"""Problems that Kubernetes reports in Events only: refused pods of a Job, volumes that don't mount.

Events are read only while a pod is missing or doesn't start, so no watch on all Events is needed.
"""

import time
from collections.abc import Iterable
from datetime import timedelta

from .errors import ApiRefusedError
from .kube_api import KubeApi
from .reconcile import Job, Pod

PATIENCE = timedelta(seconds=4)
CACHE_SECONDS = 8.0
_JOB_REASONS = frozenset({"FailedCreate"})
_POD_REASONS = frozenset({"FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox"})


class WarningEvents:
    """The newest warnings of Jobs and pods that don't start.

    Args:
        api: the API server.
    """

    def __init__(self, api: KubeApi) -> None:
        self._api = api
        self._cache: dict[tuple[str, str, str], tuple[float, str]] = {}

    async def read(self, jobs: Iterable[Job], serving_pods: Iterable[Pod]) -> dict[str, str]:
        """Return the messages by `Job/NAME` and `Pod/NAME`."""
        now = self._api.clock.now()
        result = {}
        pods = list(serving_pods)
        for job in jobs:
            if job.ended or job.suspended or job.deleting:
                continue
            pods += job.live_pods
            if not job.live_pods and now - job.created > PATIENCE:
                message = await self._newest("Job", job.namespace, job.name, _JOB_REASONS)
                result[f"Job/{job.name}"] = message
        for pod in pods:
            if _creating(pod) and now - pod.created > PATIENCE:
                message = await self._newest("Pod", pod.namespace, pod.name, _POD_REASONS)
                result[f"Pod/{pod.name}"] = message
        return {name: message for name, message in result.items() if message}

    async def _newest(self, kind: str, namespace: str, name: str, reasons: frozenset[str]) -> str:
        at = (kind, namespace, name)
        moment = time.monotonic()
        cached = self._cache.get(at)
        if cached and moment - cached[0] < CACHE_SECONDS:
            return cached[1]
        selector = f"involvedObject.kind={kind},involvedObject.name={name},type=Warning"
        try:
            events = await self._api.find("Event", namespace, fieldSelector=selector)
        except ApiRefusedError:
            events = []
        relevant = [event for event in events if event.get("reason") in reasons]
        relevant.sort(key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime")))
        message = str(relevant[-1].get("message", "")) if relevant else ""
        self._cache = {
            key: item for key, item in self._cache.items() if moment - item[0] < CACHE_SECONDS
        }
        self._cache[at] = (moment, message)
        return message


def _creating(pod: Pod) -> bool:
    """Return whether the pod is on a node, but no container has started."""
    return (
        pod.phase == "Pending"
        and pod.unscheduled is None
        and not pod.deleting
        and not any(container.running for container in pod.containers)
        and all(
            container.waiting is None
            or container.waiting[0] in {"ContainerCreating", "PodInitializing"}
            for container in pod.containers
            if container.exit_code is None
        )
    )
