"""Reference personas, against which a query's sensitivity to the target persona is measured."""

from pathlib import Path

from ..dataset import ReferencePersona
from ..errors import InputError
from ..store import S3Options
from .reading import builtin_file, data_file, json_records

MAX_TEXT_BYTES = 64 * 1024


def load(
    uri: str,
    *,
    count: int | None = None,
    cache_dir: Path | None = None,
    store_options: S3Options | None = None,
) -> list[ReferencePersona]:
    """Return the first `count` reference personas of a source.

    Args:
        uri: `builtin://general`, or a `file://` or `s3://` file of JSON lines (or one JSON
            array): objects with `name` and `text`, or plain strings.
        count: how many; None for all.
        cache_dir: where downloads are kept.
        store_options: how to reach S3; None reads the environment.

    Raises:
        InputError: a malformed record, or fewer personas than `count`.
        StoreError: the file can't be read now.
    """
    if uri.startswith("builtin://"):
        path = builtin_file(uri, "reference_personas.jsonl")
    else:
        path = data_file(uri, cache_dir=cache_dir, store_options=store_options)
    personas: dict[str, ReferencePersona] = {}
    for number, record in json_records(path):
        persona = _persona(record, number, path)
        personas.setdefault(persona.text, persona)
    found = list(personas.values())
    if not found or (count is not None and len(found) < count):
        raise InputError(
            f"{path} has {len(found)} different reference personas instead of {count or 1}",
            hint="add some, or ask for fewer",
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
            f"{path}, record {number}: neither a string nor an object with name and text",
            hint='write {"name": "…", "text": "…"}',
            subject=str(path),
        )
    if len(text.encode(errors="replace")) > MAX_TEXT_BYTES:
        raise InputError(
            f"{path}, record {number}: the text is longer than {MAX_TEXT_BYTES:,} bytes",
            hint="shorten it",
            subject=str(path),
        )
    if any(ord(mark) < 32 and mark not in "\n\r\t" for mark in text) or _has_surrogates(text):
        raise InputError(
            f"{path}, record {number}: the text has control characters or broken Unicode",
            hint="remove them",
            subject=str(path),
        )
    return ReferencePersona(name=name.strip() or f"Reference {number}", text=text.strip())


def _has_surrogates(text: str) -> bool:
    return any("\ud800" <= mark <= "\udfff" for mark in text)
