"""Why a pod can't start, or a Job or Deployment can't create one; nothing has failed yet.

All of these resolve by themselves once the cause is fixed, so the work is kept waiting.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from persona_jobs.pipeline.results import TerminationMessage

from .failures import describe, shorten
from .observed import ContainerState, Deployment, Job, Pod
from .shortages import may_fit_later, may_pass_quota

_IMAGE_REASONS = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "RegistryUnavailable",
    }
)
_MISSING = re.compile(r'(secret|configmap)s? "([^"]+)" not found')
_MISSING_KEY = re.compile(r"couldn't find key (\S+) in (Secret|ConfigMap) (\S+)")
_POD_NAME = re.compile(r'^(Error creating: )?pods "[^"]*" is forbidden: ')


@dataclass(frozen=True)
class Blocker:
    """What keeps a pod from starting.

    Attributes:
        reason: one CamelCase word.
        message: what is wrong and how to fix it.
        since: when it began, for those that an administrator or an autoscaler may end soon; None
            for those that a person must fix.
        passes: whether it ends by itself once other pods have ended, however long that takes.
    """

    reason: str
    message: str
    since: datetime | None = None
    passes: bool = False


def job_blocker(job: Job, warnings: Mapping[str, str]) -> Blocker | None:
    """Return what keeps a Job's pod from running."""
    pods = job.live_pods
    if not pods:
        warning = warnings.get(f"Job/{job.name}", "")
        return rejected(warning, job.created) if warning else None
    return pod_blocker(pods[-1], warnings)


def pod_blocker(pod: Pod, warnings: Mapping[str, str]) -> Blocker | None:
    """Return what keeps one pod from running."""
    if pod.unscheduled is not None:
        reason, message, since = pod.unscheduled
        if reason == "SchedulingGated":
            return None
        if may_fit_later(message):
            return Blocker(
                "WaitingForResources",
                f"No node has room for the pod at present: {shorten(message)} It starts once "
                "other pods have ended, or a node is added.",
                since,
                passes=True,
            )
        return Blocker(
            "Unschedulable",
            f"No node fits the pod: {shorten(message)} Add such a node, or use a profile that "
            "requests less.",
            since,
        )
    for container in pod.containers:
        if container.waiting is not None:
            blocker = _waiting(container, pod)
            if blocker is not None:
                return blocker
    warning = warnings.get(f"Pod/{pod.name}", "")
    if warning and not any(container.running for container in pod.containers):
        return _missing(warning, pod.namespace) or Blocker("VolumeNotReady", shorten(warning))
    return None


def rejected(message: str, since: datetime | None) -> Blocker:
    """Return why the API server refuses a pod."""
    text = _POD_NAME.sub("", message)
    if may_pass_quota(text):
        return Blocker(
            "WaitingForQuota",
            f"The namespace's quota leaves no room for the pod at present: {shorten(text)} It "
            "starts once other pods have ended, or the quota is raised.",
            since,
            passes=True,
        )
    if "exceeded quota" in text or "must specify" in text:
        return Blocker(
            "QuotaExceeded",
            f"The namespace's quota admits no such pod: {shorten(text)} Raise the quota, or use a "
            "profile that requests less.",
            since,
        )
    return Blocker("PodRejected", f"The API server refuses the pod: {shorten(text)}")


def deployment_blocker(
    deployment: Deployment, pods: tuple[Pod, ...], warnings: Mapping[str, str]
) -> Blocker | None:
    """Return what keeps the serving pods of the wanted revision from becoming ready."""
    for pod in pods:
        if pod.revision == deployment.revision and not pod.ready and not pod.deleting:
            blocker = pod_blocker(pod, warnings)
            if blocker is not None:
                return blocker
    if deployment.rejected:
        return rejected(deployment.rejected, deployment.rejected_since)
    if deployment.deadline_exceeded:
        return Blocker(
            "RolloutStuck",
            "The serving pods don't become ready; their log says why "
            f"(kubectl logs deploy/{deployment.name}).",
        )
    return None


def _waiting(container: ContainerState, pod: Pod) -> Blocker | None:
    reason, message = container.waiting or ("", "")
    if reason in _IMAGE_REASONS:
        detail = message.split("ErrImagePull: ", 1)[-1] if "ErrImagePull: " in message else ""
        return Blocker(
            "ImagePullFailed",
            f"The image {container.image} can't be pulled"
            + (f" ({shorten(detail).rstrip('.')})" if detail and "Back-off" not in detail else "")
            + ". Check its name, that the registry can be reached, and the image pull secret.",
        )
    if reason in {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}:
        missing = _missing(message, pod.namespace)
        kind = "ContainerConfigError" if "Config" in reason else "ContainerStartFailed"
        return missing or Blocker(kind, f"The container can't be created: {shorten(message)}")
    if reason == "CrashLoopBackOff":
        return _crash(container)
    return None


def _crash(container: ContainerState) -> Blocker:
    report = TerminationMessage.decode(container.message) if container.message else None
    if container.ended_reason == "OOMKilled":
        text = "it was killed at its memory limit. Use a profile with more memory."
    elif report is not None and report.failure is not None:
        text = describe(report.failure)
    else:
        text = f"exit code {container.exit_code}; its log says why."
    return Blocker("CrashLoopBackOff", f"The container {container.name} keeps ending: {text}")


def _missing(message: str, namespace: str) -> Blocker | None:
    key = _MISSING_KEY.search(message)
    if key:
        kind, name = key.group(2), key.group(3).removeprefix(f"{namespace}/")
        return Blocker(
            f"Missing{kind}Key",
            f"{kind} {name} in namespace {namespace} has no key {key.group(1)}. Add it.",
        )
    found = _MISSING.search(message)
    if not found:
        return None
    kind = {"secret": "Secret", "configmap": "ConfigMap"}[found.group(1)]
    return Blocker(
        f"Missing{kind}",
        f"{kind} {found.group(2)} doesn't exist in namespace {namespace}. Create it; the pod then "
        "starts by itself.",
    )
