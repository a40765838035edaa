"""Where the base model, the instructions and the reference personas come from."""

from typing import Annotated, Self

from pydantic import ConfigDict, Field, model_validator

from .common import HubRevision, SecretRef, SpecModel, UriOf, cel, validations

ModelUri = Annotated[str, UriOf("hf", "s3", "file", "pkg")]
DataUri = Annotated[str, UriOf("builtin", "hf", "s3", "file")]
FileUri = Annotated[str, UriOf("s3", "file")]

Column = Annotated[str, Field(min_length=1, max_length=128)]


_OWN_SERVER = "endpoint and credentialsSecretRef go with hf:// and s3:// sources"


class RemoteSource(SpecModel):
    """What all sources have: the server and the credentials of their own."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            cel(
                "(!has(self.endpoint) && !has(self.credentialsSecretRef)) || !has(self.uri) || "
                "self.uri.startsWith('hf://') || self.uri.startsWith('s3://')",
                _OWN_SERVER,
            )
        )
    )

    uri: str
    """Where the source is."""
    endpoint: Annotated[str, UriOf("http", "https")] | None = None
    """URL of the hub or S3 server that the source is on. Default: the Hugging Face hub for
    `hf://`, `spec.storage.endpoint` for `s3://`."""
    credentials_secret_ref: SecretRef | None = None
    """Secret with credentials for this source alone: HF_TOKEN for `hf://`, AWS_ACCESS_KEY_ID and
    AWS_SECRET_ACCESS_KEY for `s3://`. On a laptop set the same variables with the source's prefix:
    CARD_, BASE_MODEL_, INSTRUCTIONS_, REFERENCE_PERSONAS_, QUESTION_FILES_0_ and so on. Default:
    HF_TOKEN of the environment for the usual hub, the store's credentials for the store's server,
    and none for an endpoint of its own."""

    @model_validator(mode="after")
    def _own_server(self) -> Self:
        own = self.endpoint or self.credentials_secret_ref
        if own and not self.uri.startswith(("hf://", "s3://")):
            raise ValueError(_OWN_SERVER)
        return self


class BaseModelSource(RemoteSource):
    """The dense model that is pruned for the persona."""

    uri: ModelUri
    """Where the model is: `hf://ORG/NAME`, `s3://BUCKET/PREFIX`, `file:///DIRECTORY` or a `.gguf`
    file, or `pkg://PACKAGE/FILE.gguf` for a file inside an installed Python package. Only
    safetensors and GGUF weights are read."""
    revision: HubRevision | None = None
    """Commit, branch or tag of an `hf://` model; for any other source a digest of its content, as
    `status.sources` shows it, or a label. Only a commit or a digest pins the content; whatever is
    not pinned is looked up once, before planning."""


class InstructionColumns(SpecModel):
    """Column names of the instruction data (Alpaca's by default)."""

    instruction: Column = "instruction"
    """Column with the question or task."""
    input: Column = "input"
    """Column with further input, appended to the instruction; may be absent from the data."""
    output: Column = "output"
    """Column with the neutral reference answer."""


class Instructions(RemoteSource):
    """General instructions with neutral answers; those that evoke the persona become its training
    data, the others preserve its general ability."""

    uri: DataUri = "builtin://general"
    """`builtin://general`, `hf://ORG/NAME`, `s3://…` or `file://…` (JSON, JSONL or Parquet)."""
    revision: HubRevision | None = None
    """Commit, branch or tag of an `hf://` data set; for any other source a digest of its content
    or a label, as for the base model."""
    split: Column = "train"
    """Split of an `hf://` data set."""
    columns: InstructionColumns = InstructionColumns()
    """Column names. Where the data has no such columns, the first question and answer of a chat
    are read: `messages`, `conversations` (ShareGPT), or `prompt` with `completion`."""
    max_samples: Annotated[int, Field(ge=20, le=1_000_000)] = 2000
    """Use at most this many instructions, the first ones of the data."""


class ReferencePersonas(RemoteSource):
    """Personas that the target is compared with when queries are scored."""

    uri: DataUri = "builtin://general"
    """`builtin://general` or a JSONL file; each line a string, or an object with
    `name` and `text`."""
    revision: HubRevision | None = None
    """A digest of the content or a label, as for the base model."""
    count: Annotated[int, Field(ge=2, le=100)] = 10
    """Number of reference personas used, the first ones of the data (r in the paper)."""
