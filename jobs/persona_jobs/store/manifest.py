"""The record that marks a finished stage: `manifest.json`."""

import math
import re
from datetime import UTC, datetime
from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    field_validator,
)

from ..errors import CorruptArtifactError, InputError
from .base import validate_path

SCHEMA_VERSION = 1

_DELETE_HINT = "Delete that folder and run again to recreate it"


def _relative_path(name: str) -> str:
    try:
        return validate_path(name)
    except InputError as error:
        raise ValueError(error.message) from None


def _finite(value: JsonValue) -> JsonValue:
    """Replace NaN and infinities, which JSON does not have, by null at any depth."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value


RelativePath = Annotated[str, AfterValidator(_relative_path)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
StageName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")]
Json = Annotated[JsonValue, AfterValidator(_finite)]


class FileEntry(BaseModel):
    """Checksum and size in bytes of one file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: Sha256
    size: int = Field(ge=0)


class StageManifest(BaseModel):
    """The record of a finished stage: its files, inputs and settings. It is written last.

    Attributes:
        schema_version: version of this record's format.
        stage: the stage's name.
        stage_version: version of the stage's code, a part of its key.
        key: content key, 64 hex digits.
        created_at: when the stage finished (UTC).
        files: every file by its path below the stage's folder.
        inputs: keys of the stages whose results it read, by stage name.
        parameters: the settings that the stage used.
        metrics: results that the stage reports; NaN and infinities become null.
        timings: seconds by phase.
        versions: versions of the libraries that can change the result.
        environment: device, compute type, threads and the like.
    """

    model_config = ConfigDict(extra="forbid")

    schema_version: int = SCHEMA_VERSION
    stage: StageName
    stage_version: int = Field(ge=0)
    key: Sha256
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    files: dict[RelativePath, FileEntry] = Field(default_factory=dict)
    inputs: dict[StageName, Sha256] = Field(default_factory=dict)
    parameters: dict[str, Json] = Field(default_factory=dict)
    metrics: dict[str, Json] = Field(default_factory=dict)
    timings: dict[str, float] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    environment: dict[str, Json] = Field(default_factory=dict)

    @field_validator("created_at")
    @classmethod
    def _in_utc(cls, value: datetime) -> datetime:
        if value.tzinfo is None:
            raise ValueError("the time has no time zone")
        return value.astimezone(UTC)

    @field_validator("timings")
    @classmethod
    def _finite_timings(cls, value: dict[str, float]) -> dict[str, float]:
        return {name: seconds for name, seconds in value.items() if math.isfinite(seconds)}

    def to_json(self) -> bytes:
        """Return the record as indented UTF-8 JSON with a final newline."""
        return self.model_dump_json(indent=2).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes, *, subject: str, stage: str, key: str) -> Self:
        """Parse a record and check that it belongs to `stage` and `key`.

        Args:
            data: content of `manifest.json`.
            subject: URL of the object, for messages.
            stage: the stage that it must be for.
            key: the content key that it must be for.

        Raises:
            CorruptArtifactError: the record is malformed, or belongs to another stage or key.
        """
        try:
            manifest = cls.model_validate_json(data)
        except ValidationError as error:
            version = re.search(rb'"schema_version"\s*:\s*(\d+)', data)
            if version and int(version[1]) > SCHEMA_VERSION:
                raise cls._too_new(subject, int(version[1])) from None
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise CorruptArtifactError(
                f"{subject} is not a valid manifest: {where + ': ' if where else ''}{first['msg']}",
                hint=_DELETE_HINT,
                subject=subject,
            ) from None
        if manifest.schema_version > SCHEMA_VERSION:
            raise cls._too_new(subject, manifest.schema_version)
        if (manifest.stage, manifest.key) != (stage, key):
            raise CorruptArtifactError(
                f"{subject} belongs to stage {manifest.stage} with key {manifest.key[:8]}, "
                f"not to {stage} with key {key[:8]}",
                hint=_DELETE_HINT,
                subject=subject,
            )
        return manifest

    @staticmethod
    def _too_new(subject: str, version: int) -> CorruptArtifactError:
        return CorruptArtifactError(
            f"{subject} has format version {version}, newer than {SCHEMA_VERSION}",
            hint="Update persona-pruner",
            subject=subject,
        )


class ResumeManifest(BaseModel):
    """The files of one saved resume state; it is written after them."""

    model_config = ConfigDict(extra="forbid")

    files: dict[RelativePath, FileEntry]
