"""Instruction data: the neutral questions and answers that the persona's data is based on."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..dataset import Instruction, normalize_query
from ..errors import CorruptArtifactError, InputError
from ..reasoning import without_reasoning
from .access import SourceAccess
from .base_model import hub_cache_dir
from .conversations import first_exchange, has_conversation
from .hub import hub_errors, split_hf_uri
from .reading import builtin_file, data_file, json_records

# About 2,000 tokens of English. Memory and time of a batch grow with its longest record, and a
# conversation of the data set has room for fewer.
MAX_CHARACTERS = 8_000


@dataclass(frozen=True)
class Columns:
    """Names of the columns; `input` may be absent from the data, and None ignores it."""

    instruction: str = "instruction"
    input: str | None = "input"
    output: str = "output"


@dataclass
class Report:
    """Counts of the records that were read, kept and dropped.

    Attributes:
        read: records read.
        kept: instructions returned.
        without_query: dropped because the question is empty or not a string.
        without_answer: dropped because the answer is empty, not a string or only reasoning.
        too_long: dropped because question and answer together exceed `MAX_CHARACTERS`.
        duplicates: dropped because the same normalized question occurred before.
    """

    read: int = 0
    kept: int = 0
    without_query: int = 0
    without_answer: int = 0
    too_long: int = 0
    duplicates: int = 0

    def __str__(self) -> str:
        return (
            f"{self.read} read, {self.kept} usable, {self.without_query} without a question, "
            f"{self.without_answer} without an answer, {self.too_long} longer than "
            f"{MAX_CHARACTERS:,} characters, {self.duplicates} duplicates"
        )


@dataclass(frozen=True)
class InstructionSet:
    """The usable instructions of a source, and the report of their selection."""

    instructions: list[Instruction]
    report: Report = field(default_factory=Report)


def load(
    uri: str,
    revision: str | None = None,
    *,
    split: str = "train",
    columns: Columns | None = None,
    limit: int | None = None,
    minimum: int = 1,
    cache_dir: Path | None = None,
    access: SourceAccess | None = None,
) -> InstructionSet:
    """Read instructions.

    A query is the instruction, followed by a blank line and its input if there is one. Of a chat
    record (see `conversations`) the first question and its answer are read. Records longer than
    `MAX_CHARACTERS` are left out and counted.

    Args:
        uri: `builtin://general`; a `file://` or `s3://` file that is a JSON array, JSON lines or
            Parquet (`.parquet`); or `hf://organization/name[/config][@revision]`.
        revision: branch, tag or commit; only for `hf://`.
        split: the split; only for `hf://`.
        columns: the columns' names; None for Alpaca's.
        limit: largest number of usable instructions to read; None for all.
        minimum: smallest number of usable instructions that is no error.
        cache_dir: where downloads are kept.
        access: how the source is reached; None for the usual servers and credentials.

    Raises:
        InputError: the file or its columns do not exist, the data is malformed, or too few
            instructions are usable.
        CorruptArtifactError: the Parquet file is truncated.
        StoreError: the source can't be read now.
    """
    columns, access = columns or Columns(), access or SourceAccess()
    if uri.startswith("hf://"):
        name, records = uri, _hub_records(uri, revision, split, access, cache_dir)
    else:
        if uri.startswith("builtin://"):
            path = builtin_file(uri, "instructions.jsonl")
        else:
            path = data_file(uri, cache_dir=cache_dir, access=access)
        name = uri if uri.startswith("builtin://") else str(path)
        records = _parquet_records(path) if path.suffix == ".parquet" else json_records(path)
    report = Report()
    instructions = list(_usable(name, records, columns, report, limit))
    if len(instructions) < max(minimum, 1):
        raise InputError(
            f"{name} has too few usable instructions: {len(instructions)} instead of "
            f"{max(minimum, 1)} ({report})",
            hint="Add instructions with answers",
            subject=name,
        )
    return InstructionSet(instructions, report)


def _usable(
    name: str,
    records: Iterator[tuple[int, Any]],
    columns: Columns,
    report: Report,
    limit: int | None,
) -> Iterator[Instruction]:
    seen: set[str] = set()
    present: dict[str, None] = {}
    for number, record in records:
        if limit is not None and report.kept >= limit:
            return
        if not isinstance(record, dict):
            raise InputError(
                f"Record {number} of {name} is not an object with columns",
                hint=f'Write {{"{columns.instruction}": "…", "{columns.output}": "…"}}',
                subject=name,
            )
        present.update(dict.fromkeys(record))
        report.read += 1
        query, extra, answer = _texts(record, columns)
        if not query:
            report.without_query += 1
            continue
        if not answer:
            report.without_answer += 1
            continue
        query = f"{query}\n\n{extra}" if extra else query
        if len(query) + len(answer) > MAX_CHARACTERS:
            report.too_long += 1
            continue
        normalized = normalize_query(query)
        if normalized in seen:
            report.duplicates += 1
            continue
        seen.add(normalized)
        report.kept += 1
        yield Instruction(query=query, answer=answer)
    if report.read and not report.kept and not has_conversation(present):
        _require_columns(name, present, columns)


def _texts(record: dict[str, Any], columns: Columns) -> tuple[str, str, str]:
    """Return query, input and answer, from the columns or from a conversation."""
    extra: Any = ""
    query: Any
    answer: Any
    if columns.instruction not in record and has_conversation(record):
        query, answer = first_exchange(record)
    else:
        query, answer = record.get(columns.instruction), record.get(columns.output)
        extra = record.get(columns.input) if columns.input else ""
    return _text(query), _text(extra), without_reasoning(_text(answer)) or ""


def _require_columns(name: str, present: Iterable[str], columns: Columns) -> None:
    absent = [column for column in (columns.instruction, columns.output) if column not in present]
    if absent:
        listed = ", ".join(str(column)[:40] for column in list(present)[:10]) or "none"
        raise InputError(
            f"{name} has no column {' and no column '.join(absent)} (it has: {listed})",
            hint="Set spec.instructions.columns, or rename the columns",
            subject=name,
        )


def _text(value: Any) -> str:
    """Return a stripped string with broken surrogates replaced, empty for any other value."""
    if not isinstance(value, str):
        return ""
    return value.encode("utf-8", "replace").decode().replace("\0", "").strip()


def _parquet_records(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for record in batch.to_pylist():
                    number += 1
                    yield number, record
    except (pyarrow.ArrowException, OSError) as error:
        raise CorruptArtifactError(
            f"{path} is truncated or not a Parquet file ({str(error).splitlines()[0][:160]})",
            hint="Write the file again",
            subject=str(path),
        ) from None


def _hub_folder(
    repository: str, revision: str | None, access: SourceAccess, cache_dir: Path | None
) -> str:
    """Return a local copy of a data set's repository at another hub."""
    from huggingface_hub import snapshot_download

    return snapshot_download(
        repository,
        repo_type="dataset",
        revision=revision,
        cache_dir=cache_dir and hub_cache_dir(cache_dir),
        token=access.token,
        endpoint=access.endpoint,
        ignore_patterns=["*.py"],
    )


def _hub_records(
    uri: str, revision: str | None, split: str, access: SourceAccess, cache_dir: Path | None
) -> Iterator[tuple[int, Any]]:
    segments, revision = split_hf_uri(uri, revision)
    if len(segments) > 3:
        raise InputError(
            f"{uri} has more parts than organization, name and configuration",
            hint="Use hf://organization/name/configuration",
            subject=uri,
        )
    with hub_errors(uri, revision, access.prefix):
        from datasets import load_dataset
        from datasets.exceptions import DatasetsError

        # `datasets` asks one hub for everything; from any other one all files are fetched first.
        repository = "/".join(segments[:2])
        where: dict[str, Any] = {"path": repository, "revision": revision, "token": access.token}
        if access.endpoint is not None:
            where = {"path": _hub_folder(repository, revision, access, cache_dir)}
        try:
            data = load_dataset(
                **where, name=segments[2] if len(segments) == 3 else None, split=split
            )
        except (FileNotFoundError, DatasetsError, ValueError) as error:
            raise InputError(
                f"{uri} can't be loaded: {str(error).splitlines()[0][:300]}",
                hint="Correct the name, the revision or the split; data sets with code of their "
                "own are not supported",
                subject=uri,
            ) from None
    yield from enumerate(data, 1)
