"""Errors that a user can act on, and the exit codes of a stage process."""

EXIT_DONE = 0
EXIT_RETRY = 1
EXIT_INPUT = 2
EXIT_OUT_OF_MEMORY = 3
EXIT_INTERRUPTED = 143  # 128 + SIGTERM; a later start goes on from the checkpoint


class PersonaError(Exception):
    """Base of all expected failures.

    Args:
        message: what is wrong, naming the field, file or object.
        hint: what the user can do about it (one sentence), or an empty string.
        subject: the spec field path (`spec.persona.text`), file or object the error is about.
    """

    exit_code = EXIT_RETRY

    def __init__(self, message: str, *, hint: str = "", subject: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.subject = subject

    def __str__(self) -> str:
        head = self.message
        if self.subject and self.subject not in head:
            head = f"{self.subject}: {head}"
        return f"{head}. {self.hint}" if self.hint else head


class InputError(PersonaError):
    """The input is wrong (spec, persona, model, data): retrying can't help. Exit code 2."""

    exit_code = EXIT_INPUT


class CorruptArtifactError(InputError):
    """An object of the store or a model file is truncated, altered or malformed. Exit code 2."""


class StoreError(PersonaError):
    """The artifact store can't be read or written now: unreachable, full, refused. Exit code 1."""


class TeacherError(PersonaError):
    """The teacher endpoint keeps failing in a way that may pass. Exit code 1."""


class OutOfMemoryError(PersonaError):
    """The device or the machine ran out of memory. Exit code 3."""

    exit_code = EXIT_OUT_OF_MEMORY


class StageInterruptedError(PersonaError):
    """The stage was asked to stop; its resumable checkpoint was saved. Exit code 143."""

    exit_code = EXIT_INTERRUPTED
