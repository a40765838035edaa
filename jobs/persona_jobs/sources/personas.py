"""Reference personas: a query's sensitivity to the target persona is measured against them."""

from pathlib import Path

from ..dataset import ReferencePersona
from ..errors import InputError
from .access import SourceAccess
from .reading import builtin_file, data_file, json_records

MAX_TEXT_BYTES = 64 * 1024


def load(
    uri: str,
    *,
    count: int | None = None,
    cache_dir: Path | None = None,
    access: SourceAccess | None = None,
) -> list[ReferencePersona]:
    """Return the first `count` reference personas of a source.

    Args:
        uri: `builtin://general`, or a `file://` or `s3://` file of JSON lines (or one JSON
            array): objects with `name` and `text`, or plain strings.
        count: number of personas to return; None for all.
        cache_dir: where downloads are kept.
        access: how the source is reached; None for the usual servers and credentials.

    Raises:
        InputError: a record is malformed, or there are fewer personas than `count`.
        StoreError: the file can't be read now.
    """
    if uri.startswith("builtin://"):
        path = builtin_file(uri, "reference_personas.jsonl")
    else:
        path = data_file(uri, cache_dir=cache_dir, access=access or SourceAccess())
    personas: dict[str, ReferencePersona] = {}
    for number, record in json_records(path):
        persona = _persona(record, number, path)
        personas.setdefault(persona.text, persona)
    found = list(personas.values())
    if not found or (count is not None and len(found) < count):
        raise InputError(
            f"{path} has {len(found)} different reference personas instead of {count or 1}",
            hint="Add some, or lower spec.referencePersonas.count",
            subject=str(path),
        )
    return found[:count]


def _persona(record: object, number: int, path: Path) -> ReferencePersona:
    name: object = f"Reference {number}"
    text: object = record
    if isinstance(record, dict):
        name, text = record.get("name", name), record.get("text")
    if not isinstance(text, str) or not text.strip() or not isinstance(name, str):
        raise InputError(
            f"Record {number} of {path} is neither a string nor an object with name and text",
            hint='Write {"name": "…", "text": "…"}',
            subject=str(path),
        )
    if len(text.encode(errors="replace")) > MAX_TEXT_BYTES:
        raise InputError(
            f"The text of record {number} of {path} is longer than {MAX_TEXT_BYTES:,} bytes",
            hint="Shorten the text",
            subject=str(path),
        )
    if any(ord(mark) < 32 and mark not in "\n\r\t" for mark in text) or _has_surrogates(text):
        raise InputError(
            f"The text of record {number} of {path} has control characters or broken Unicode",
            hint="Remove these characters",
            subject=str(path),
        )
    return ReferencePersona(name=name.strip() or f"Reference {number}", text=text.strip())


def _has_surrogates(text: str) -> bool:
    return any("\ud800" <= mark <= "\udfff" for mark in text)
