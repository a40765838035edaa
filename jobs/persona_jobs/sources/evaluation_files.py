"""Evaluation files: questions for a persona, and the prompt of an LLM judge."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from .access import SourceAccess
from .reading import data_file, json_object, json_records, read_text

MAX_QUESTION_CHARACTERS = 8_000


@dataclass(frozen=True)
class EvaluationSet:
    """Questions for a persona, and the other fields of their file.

    Attributes:
        name: the file's name without its suffix.
        questions: one or more, in the file's order.
        persona_description: the persona that the questions were written for.
        system_prompt: the system message that puts the model into that persona.
        eval_prompt: the prompt of an LLM judge, with `{question}` and `{answer}` placeholders.
    """

    name: str
    questions: tuple[str, ...]
    persona_description: str | None = None
    system_prompt: str | None = None
    eval_prompt: str | None = None


def load(
    uri: str, *, cache_dir: Path | None = None, access: SourceAccess | None = None
) -> EvaluationSet:
    """Read an evaluation file.

    The file is one JSON object with `questions` and the optional fields `persona_description`,
    `system_prompt` and `eval_prompt` (other fields are ignored), as in the data of the
    Persona-Pruner paper, or JSON lines with one `query` per line.

    Args:
        uri: a `file://` or `s3://` file.
        cache_dir: where downloads are kept.
        access: how the source is reached; None for the usual servers and credentials.

    Raises:
        InputError: the file is malformed, a field has the wrong type, there is no question, or
            `eval_prompt` lacks a placeholder.
        StoreError: the file can't be read now.
    """
    path = data_file(uri, cache_dir=cache_dir, access=access or SourceAccess())
    if _is_lines(path):
        questions = tuple(
            _question(record.get("query") if isinstance(record, dict) else None, number, path)
            for number, record in json_records(path)
        )
        fields: dict[str, str | None] = {}
    else:
        record = json_object(path)
        listed = record.get("questions")
        if not isinstance(listed, list):
            raise _wrong(path, "it has no list of questions")
        questions = tuple(_question(item, number, path) for number, item in enumerate(listed, 1))
        fields = {
            name: _optional_text(record, name, path)
            for name in ("persona_description", "system_prompt", "eval_prompt")
        }
    if not questions:
        raise _wrong(path, "it has no questions")
    prompt = fields.get("eval_prompt")
    for placeholder in ("{question}", "{answer}") if prompt is not None else ():
        if placeholder not in (prompt or ""):
            raise _wrong(path, f"eval_prompt lacks {placeholder}")
    return EvaluationSet(name=path.stem, questions=questions, **fields)


def _is_lines(path: Path) -> bool:
    """Return whether the file has JSON lines or an array of records, not one object."""
    text = read_text(path).lstrip()
    if path.suffix == ".jsonl" or text.startswith("["):
        return True
    try:
        first = json.loads(text.partition("\n")[0])
    except (ValueError, RecursionError):
        return False
    return isinstance(first, dict) and "query" in first and "questions" not in first


def _question(value: Any, number: int, path: Path) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _wrong(path, f"question {number} is not a text")
    if len(value) > MAX_QUESTION_CHARACTERS:
        raise _wrong(
            path, f"question {number} is longer than {MAX_QUESTION_CHARACTERS:,} characters"
        )
    return value.strip()


def _optional_text(record: dict[str, Any], name: str, path: Path) -> str | None:
    value = record.get(name)
    if value is not None and not isinstance(value, str):
        raise _wrong(path, f"{name} is not a text")
    return value or None


def _wrong(path: Path, reason: str) -> InputError:
    return InputError(
        f"{path} is not an evaluation file: {reason}",
        hint='Write {"questions": ["…"]}, or JSON lines with {"query": "…"}',
        subject=str(path),
    )
