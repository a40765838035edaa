"""Why a Job failed: a reason, a message with the fix, and whether another attempt can help."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from persona_jobs.api import PersonaModelSpec
from persona_jobs.api.stages import RESUMABLE_STAGES
from persona_jobs.errors import EXIT_INPUT, EXIT_INTERRUPTED, EXIT_OUT_OF_MEMORY
from persona_jobs.pipeline.memory import lowerable_batch_size
from persona_jobs.pipeline.pins import RESOLVE
from persona_jobs.pipeline.results import StageFailure, TerminationMessage

from ..labels import STAGE_CONTAINER
from .observed import ContainerState, Job
from .policies import decide

SIGKILL_EXIT = 137
_RESULT = re.compile(r"stages/([a-z]+)/([0-9a-f]{64})/")
_SCRATCH = re.compile(r"EmptyDir volume|ephemeral local storage|local ephemeral storage limit")
MAX_MESSAGE_LENGTH = 600
MAX_QUOTE_LENGTH = 400
_REASONS = {
    "InputError": "InvalidInput",
    "CorruptArtifactError": "CorruptArtifact",
    "StoreError": "StoreUnavailable",
    "ObjectNotFoundError": "StoreUnavailable",
    "EndpointError": "EndpointUnavailable",
    "OutOfMemoryError": "OutOfMemory",
}


@dataclass(frozen=True)
class Failure:
    """A failed attempt.

    Attributes:
        reason: one CamelCase word.
        message: what went wrong and how to fix it.
        retryable: whether another attempt can help.
        interrupted: whether the attempt was stopped from outside; it doesn't count as a failure.
    """

    reason: str
    message: str
    retryable: bool = True
    interrupted: bool = False


@dataclass(frozen=True)
class FailedAttempt:
    """All that is known of a failed Job.

    Attributes:
        job: the Job.
        spec: the resolved spec.
        inputs: content keys by stage of the results that the stage reads.
        container: the stage's container where its end has been observed.
        exit_code: exit code of the container, None where it is unknown.
        message: what the stage process reported.
    """

    job: Job
    spec: PersonaModelSpec
    inputs: Mapping[str, str]
    container: ContainerState | None
    exit_code: int | None
    message: TerminationMessage | None

    @property
    def report(self) -> StageFailure | None:
        """Return the failure that the stage process reported."""
        return self.message.failure if self.message else None


def job_failure(job: Job, spec: PersonaModelSpec, inputs: Mapping[str, str]) -> Failure:
    """Classify a failed Job.

    Args:
        job: a Job whose `failed` is set.
        spec: the resolved spec.
        inputs: content keys by stage of the results that the stage reads.
    """
    _, text = job.failed or ("", "")
    container = _ended_container(job)
    exit_code = container.exit_code if container else _exit_code(text)
    attempt = FailedAttempt(job, spec, inputs, container, exit_code, result(job))
    policies = (
        deadline_exceeded,  # activeDeadlineSeconds passed since the pod's start.
        scratch_full,  # The kubelet ended the pod, as its scratch volume is full.
        evicted,  # The kubelet ended the pod for another reason.
        killed_for_memory,  # The kubelet killed the container at its memory limit.
        container_not_started,  # The image has no such command, or the runtime refuses it.
        input_lost,  # The result of an earlier stage is missing or damaged.
        invalid_input,  # Exit code 2: the same input would fail again.
        out_of_memory,  # Exit code 3: the same device would be too small again.
        interrupted,  # The stage process was asked to stop.
        pod_lost,  # The pod disappeared, and its exit code with it.
        killed,  # SIGKILL from outside, before the process could report anything.
        stage_failed,  # Any other exit code.
    )
    return decide(policies, attempt)


def deadline_exceeded(attempt: FailedAttempt) -> Failure | None:
    """Match a pod that ran into its time limit; only a stage that resumes gains from a retry."""
    if (_pod_failure(attempt.job) or ("",))[0] != "DeadlineExceeded":
        return None
    stage = attempt.job.stage
    field = f"spec.execution.stages[{stage}]"
    fix = f"Raise {field}.activeDeadlineSeconds, or give it a faster {field}.profile."
    if stage == RESOLVE:
        fix = f"Raise activeDeadlineSeconds of the resource profile {RESOLVE}."
    return Failure(
        "DeadlineExceeded",
        f"The stage took longer than its time limit. {fix}",
        retryable=stage in RESUMABLE_STAGES,
    )


def scratch_full(attempt: FailedAttempt) -> Failure | None:
    """Match a pod that needed more than the size of its scratch volume."""
    reason, message = _pod_failure(attempt.job) or ("", "")
    if reason != "Evicted" or not _SCRATCH.search(message):
        return None
    stage = attempt.job.stage
    fix = f"Raise spec.execution.stages[{stage}].resources.scratch, or use a profile with more."
    if stage == RESOLVE:
        fix = f"Add a resource profile {RESOLVE} with more scratch."
    return Failure(
        "ScratchFull", f"The scratch volume is full: {shorten(message)} {fix}", retryable=False
    )


def evicted(attempt: FailedAttempt) -> Failure | None:
    """Match a pod that the kubelet ended, such as on a node that is short of something."""
    reason, message = _pod_failure(attempt.job) or ("", "")
    if not reason:
        return None
    return Failure(
        "Evicted" if reason == "Evicted" else "EndedByNode",
        f"The node ended the pod ({reason}): {shorten(message)}",
        interrupted=True,
    )


def killed_for_memory(attempt: FailedAttempt) -> Failure | None:
    """Match a container that exceeded its memory limit."""
    if attempt.container is None or attempt.container.ended_reason != "OOMKilled":
        return None
    return Failure(
        "OutOfMemory",
        f"The container was killed at its memory limit. {_more_memory(attempt)}",
        retryable=False,
    )


def container_not_started(attempt: FailedAttempt) -> Failure | None:
    """Match a container that the container runtime could not start."""
    container = attempt.container
    if container is None or container.ended_reason not in {"StartError", "ContainerCannotRun"}:
        return None
    return Failure(
        "ContainerStartFailed",
        f"The container can't be started: {shorten(container.message)} Check the image "
        f"{container.image}.",
    )


def input_lost(attempt: FailedAttempt) -> Failure | None:
    """Match a stage that could not read an input, which its own stage makes again."""
    missing = missing_input(attempt.job, attempt.inputs)
    report = attempt.report
    if missing is None or report is None:
        return None
    text = describe(report.model_copy(update={"hint": ""}))
    return Failure("InputLost", f"{text} Stage {missing[0]} makes its result again.")


def invalid_input(attempt: FailedAttempt) -> Failure | None:
    """Match a stage whose input is wrong."""
    if attempt.exit_code != EXIT_INPUT:
        return None
    reason, message = _reported(attempt, "InvalidInput")
    return Failure(reason, message, retryable=False)


def out_of_memory(attempt: FailedAttempt) -> Failure | None:
    """Match a stage that ran out of device memory."""
    if attempt.exit_code != EXIT_OUT_OF_MEMORY:
        return None
    report = attempt.report
    message = describe(report) if report else "The device ran out of memory."
    if report is None or not report.hint:
        message += f" {_more_memory(attempt)}"
    return Failure("OutOfMemory", message, retryable=False)


def interrupted(attempt: FailedAttempt) -> Failure | None:
    """Match a stage that was asked to stop."""
    stopped = attempt.message is not None and attempt.message.outcome == "Interrupted"
    if attempt.exit_code != EXIT_INTERRUPTED and not stopped:
        return None
    resumed = "resumes" if attempt.job.stage in RESUMABLE_STAGES else "starts again"
    return Failure(
        "Interrupted", f"The pod was asked to stop; the stage {resumed}.", interrupted=True
    )


def pod_lost(attempt: FailedAttempt) -> Failure | None:
    """Match a Job whose pod disappeared."""
    if attempt.exit_code is not None and (attempt.container is not None or attempt.job.pods):
        return None
    return Failure(
        "PodLost",
        "The pod disappeared before the stage ended; the stage is run again.",
        interrupted=True,
    )


def killed(attempt: FailedAttempt) -> Failure | None:
    """Match a container that was killed before it could report anything."""
    if attempt.exit_code != SIGKILL_EXIT or attempt.report is not None:
        return None
    return Failure(
        "Killed",
        "The container was killed from outside (exit code 137). If this happens again, check the "
        "node's memory and the container's liveness.",
    )


def stage_failed(attempt: FailedAttempt) -> Failure:
    """Match every other failure."""
    return Failure(*_reported(attempt, "StageFailed"))


def result(job: Job) -> TerminationMessage | None:
    """Return what the stage process of the newest pod reported."""
    for container in _stage_containers(job):
        message = TerminationMessage.decode(container.message) if container.message else None
        if message is not None:
            return message
    return None


def has_result(job: Job) -> bool:
    """Return whether the end of the stage's container, or of its whole pod, has been observed."""
    return _ended_container(job) is not None or _pod_failure(job) is not None


def missing_input(job: Job, inputs: Mapping[str, str]) -> tuple[str, str] | None:
    """Return stage and key of the input whose missing or damaged object a Job reported.

    Args:
        job: a Job that has failed.
        inputs: content keys by stage of the results that the stage reads.
    """
    message = result(job)
    report = message.failure if message else None
    if report is None or report.error_class != "CorruptArtifactError":
        return None
    found = _RESULT.search(f"{report.subject} {report.message}")
    if found is None or inputs.get(found.group(1)) != found.group(2):
        return None
    return found.group(1), found.group(2)


def describe(report: StageFailure) -> str:
    """Return a reported failure and its hint as whole sentences."""
    text = report.message
    if report.subject and report.subject not in text:
        text = f"{report.subject}: {text}"
    text = text if text.endswith((".", "!", "?")) else f"{text}."
    text += f" {report.hint}." if report.hint else ""
    return text if len(text) <= MAX_MESSAGE_LENGTH else text[: MAX_MESSAGE_LENGTH - 1] + "…"


def shorten(text: str) -> str:
    """Return one line of at most 400 characters that ends as a sentence does."""
    text = " ".join(text.split())
    text = text if len(text) <= MAX_QUOTE_LENGTH else text[: MAX_QUOTE_LENGTH - 1] + "…"
    return text if text.endswith((".", "…")) else f"{text}."


def _pod_failure(job: Job) -> tuple[str, str] | None:
    """Return why the kubelet ended the newest pod as a whole."""
    return job.pods[-1].failure if job.pods else None


def _stage_containers(job: Job) -> list[ContainerState]:
    """Return the stage's containers, that of the newest pod first."""
    return [
        container
        for pod in reversed(job.pods)
        for container in pod.containers
        if container.name == STAGE_CONTAINER
    ]


def _ended_container(job: Job) -> ContainerState | None:
    return next((item for item in _stage_containers(job) if item.exit_code is not None), None)


def _exit_code(text: str) -> int | None:
    """Return the exit code that the Job controller names when the pod itself is gone."""
    found = re.search(r"exit code (\d+)", text)
    return int(found.group(1)) if found else None


def _reported(attempt: FailedAttempt, default: str) -> tuple[str, str]:
    """Return the reason and message of the stage process, or `default` and the exit code."""
    report = attempt.report
    if report is None:
        code = attempt.exit_code
        return default, f"The stage ended with exit code {code}; its pod's log says why."
    return _REASONS.get(report.error_class, default), describe(report)


def _more_memory(attempt: FailedAttempt) -> str:
    stage = attempt.job.stage
    if stage == RESOLVE:
        return f"Add a resource profile {RESOLVE} with more memory."
    batch_size = lowerable_batch_size(attempt.spec, stage)
    return (
        f"Use a profile with more memory (spec.execution.stages[{stage}].profile or "
        f".resources.memory){f' or a smaller {batch_size}' if batch_size else ''}."
    )
