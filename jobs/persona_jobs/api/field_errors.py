"""Validation errors as one line per field, each with its path."""

from pydantic import ValidationError

from ..errors import InputError


def invalid_fields(source: str, lines: list[str]) -> InputError:
    """Return the error for a document with wrong fields, one line per field."""
    count = f"{len(lines)} error{'s' if len(lines) > 1 else ''}"
    text = "\n".join(f"  {line}" for line in lines)
    return InputError(f"{source}: {count}\n{text}", subject=source)


def describe_errors(
    error: ValidationError, *, prefix: str = "", ignored: tuple[str, ...] = ()
) -> list[str]:
    """Return one line per wrong field.

    Args:
        error: the validation error.
        prefix: what precedes each path, such as `spec.`.
        ignored: kinds of errors of pydantic that are left out.
    """
    lines = []
    for item in error.errors(include_url=False, include_input=False):
        if item["type"] in ignored:
            continue
        path = ""
        for part in item["loc"]:
            path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = "unknown field: check its spelling and indentation"
        elif item["type"] == "missing":
            message = "is required"
        lines.append(f"{prefix}{path}: {message}" if path else f"{prefix or 'resource'}: {message}")
    return lines
