"""Why a Job failed: reason, message with the mend, and whether trying again can help."""

import re
from dataclasses import dataclass

from persona_jobs.api.stages import RESUMABLE_STAGES
from persona_jobs.errors import EXIT_INPUT, EXIT_INTERRUPTED, EXIT_OUT_OF_MEMORY
from persona_jobs.pipeline.results import StageFailure, TerminationMessage

from ..resources.job import STAGE_CONTAINER
from .observed import ContainerState, Job

SIGKILL_EXIT = 137
MAX_MESSAGE_LENGTH = 600
_REASONS = {
    "InputError": "InvalidInput",
    "CorruptArtifactError": "CorruptArtifact",
    "StoreError": "StoreUnavailable",
    "ObjectNotFoundError": "StoreUnavailable",
    "TeacherError": "TeacherUnavailable",
    "OutOfMemoryError": "OutOfMemory",
}


@dataclass(frozen=True)
class Failure:
    """A failed attempt.

    Attributes:
        reason: one CamelCase word.
        message: what went wrong and how to mend it.
        retryable: whether another attempt can help.
        interrupted: whether the attempt was cut off through no fault of its own; it doesn't count.
    """

    reason: str
    message: str
    retryable: bool = True
    interrupted: bool = False


def result(job: Job) -> TerminationMessage | None:
    """What the stage process of the newest pod reported."""
    for pod in reversed(job.pods):
        container = _stage_container(pod.containers)
        if container is not None and container.message:
            message = TerminationMessage.decode(container.message)
            if message is not None:
                return message
    return None


def has_result(job: Job) -> bool:
    """Whether the end of the stage's container has been observed."""
    return any(
        container.exit_code is not None
        for pod in job.pods
        if (container := _stage_container(pod.containers))
    )


def job_failure(job: Job, *, had_started: bool) -> Failure:  # noqa: PLR0911 -- a ladder of cases
    """Classify a failed Job.

    Args:
        job: a Job whose `failed` is set.
        had_started: whether a container is known to have run (a deadline removes the pods).
    """
    reason, text = job.failed or ("", "")
    if reason == "DeadlineExceeded":
        return _deadline(job, had_started=had_started)
    container = _ended_container(job)
    code = container.exit_code if container else _exit_code(text)
    if container is not None and container.ended_reason == "OOMKilled":
        return Failure(
            "OutOfMemory",
            f"The container was killed at its memory limit. {_more_memory(job.stage)}",
            retryable=False,
        )
    if container is not None and container.ended_reason in {"StartError", "ContainerCannotRun"}:
        return Failure(
            "ContainerStartFailed",
            f"The container can't be started: {shorten(container.message)} Check the image "
            f"{container.image}.",
        )
    message = result(job)
    report = message.failure if message else None
    if code == EXIT_INPUT:
        return Failure(_word(report, "InvalidInput"), _sentence(report, code), retryable=False)
    if code == EXIT_OUT_OF_MEMORY:
        head = _sentence(report, code) if report else "The device ran out of memory."
        hint = "" if report and report.hint else f" {_more_memory(job.stage)}"
        return Failure("OutOfMemory", head + hint, retryable=False)
    if code == EXIT_INTERRUPTED or (message is not None and message.outcome == "Interrupted"):
        return Failure(
            "Interrupted", "The pod was asked to stop; the stage goes on.", interrupted=True
        )
    if code is None or (container is None and not job.pods):
        return Failure(
            "PodLost", "The pod vanished before the stage ended; it is run again.", interrupted=True
        )
    if code == SIGKILL_EXIT and report is None:
        return Failure(
            "Killed",
            "The container was killed from outside (exit code 137). If it goes on, check the "
            "node's memory and the container's liveness.",
        )
    return Failure(_word(report, "StageFailed"), _sentence(report, code))


def _deadline(job: Job, *, had_started: bool) -> Failure:
    if not had_started and not any(pod.started for pod in job.pods):
        return Failure(
            "NotStarted",
            "No pod could start within activeDeadlineSeconds; it is tried again.",
            interrupted=True,
        )
    field = f"spec.execution.stages[{job.stage}]"
    return Failure(
        "DeadlineExceeded",
        f"The stage took longer than its time limit. Raise {field}.activeDeadlineSeconds, or give "
        f"it a faster {field}.profile.",
        retryable=job.stage in RESUMABLE_STAGES,
    )


def _stage_container(containers: tuple[ContainerState, ...]) -> ContainerState | None:
    return next((item for item in containers if item.name == STAGE_CONTAINER), None)


def _ended_container(job: Job) -> ContainerState | None:
    for pod in reversed(job.pods):
        container = _stage_container(pod.containers)
        if container is not None and container.exit_code is not None:
            return container
    return None


def _exit_code(text: str) -> int | None:
    """The exit code that the Job controller names when the pod itself is gone."""
    found = re.search(r"exit code (\d+)", text)
    return int(found.group(1)) if found else None


def _word(report: StageFailure | None, default: str) -> str:
    return _REASONS.get(report.error_class, default) if report else default


def _sentence(report: StageFailure | None, code: int) -> str:
    if report is None:
        return f"The stage ended with exit code {code}; its pod's log says why."
    text = report.message
    if report.subject and report.subject not in text:
        text = f"{report.subject}: {text}"
    text = text if text.endswith((".", "!", "?")) else f"{text}."
    if report.hint:
        # Hints are written to follow a colon or a dash too.
        hint = re.sub(r"^[a-z]+(?= )", lambda word: word.group().capitalize(), report.hint)
        text += f" {hint}" + ("" if hint.endswith(".") else ".")
    return text if len(text) <= MAX_MESSAGE_LENGTH else text[: MAX_MESSAGE_LENGTH - 1] + "…"


def shorten(text: str, limit: int = 400) -> str:
    """One line of at most `limit` characters that ends as a sentence does."""
    text = " ".join(text.split())
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    return text if text.endswith((".", "…")) else f"{text}."


def _more_memory(stage: str) -> str:
    smaller = {
        "mask": " or a smaller spec.pruning.microBatchSize",
        "recover": " or a smaller spec.recovery.fineTune.microBatchSize",
    }.get(stage, "")
    return (
        f"Use a profile with more memory (spec.execution.stages[{stage}].profile or "
        f".resources.memory){smaller}."
    )
