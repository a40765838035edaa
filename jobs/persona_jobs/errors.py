"""Errors that a user can act on, and the exit codes of a process.

    PersonaError                 1   may be retried
    ├── InputError               2   the input is wrong: retrying can't help
    │   ├── CorruptArtifactError 2   an object or a model file is damaged
    │   └── CardError            2   a character card is malformed, too large or holds no persona
    ├── StoreError               1   the artifact store can't be read or written now
    ├── EndpointError            1   a model's endpoint fails in a way that may pass
    ├── OutOfMemoryError         3   the device or the machine ran out of memory
    └── StageInterruptedError  143   the process was asked to stop

Any other exception is a defect: it is logged with its traceback, exit code 1.
"""

EXIT_DONE = 0
EXIT_RETRY = 1
EXIT_INPUT = 2
EXIT_OUT_OF_MEMORY = 3
EXIT_INTERRUPTED = 143  # 128 + SIGTERM; a later start resumes from the saved state


class PersonaError(Exception):
    """Base of all expected failures.

    Args:
        message: what is wrong, naming the field, file or object.
        hint: how to fix it: a sentence without its full stop, or an empty string.
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


class CardError(InputError):
    """A character card is malformed, too large, or holds what no persona may hold. Exit code 2."""


class StoreError(PersonaError):
    """The artifact store can't be read or written now: unreachable, full, refused. Exit code 1."""


class EndpointError(PersonaError):
    """The endpoint of a model keeps failing in a way that may pass. Exit code 1."""


class OutOfMemoryError(PersonaError):
    """The device or the machine ran out of memory. Exit code 3."""

    exit_code = EXIT_OUT_OF_MEMORY


class StageInterruptedError(PersonaError):
    """The process was asked to stop; a resumable stage has saved its state. Exit code 143."""

    exit_code = EXIT_INTERRUPTED


def missing_package(error: ImportError) -> InputError:
    """Return the error for a library that needs a package which can't be imported."""
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    package = (error.name or "").partition(".")[0]
    named = f"The Python package {package}" if package else "A Python package"
    return InputError(
        f"{named} can't be imported: {reason[:300].rstrip('.')}",
        hint="Install the package, or use input that does not need it",
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception means that the device or the machine ran out of memory.

    torch raises a subclass of RuntimeError on CUDA and a plain RuntimeError on a CPU.
    """
    if isinstance(error, MemoryError | OutOfMemoryError):
        return True
    text = str(error)
    phrases = ("out of memory", "allocate memory", "not enough memory")
    return isinstance(error, RuntimeError) and any(phrase in text for phrase in phrases)
