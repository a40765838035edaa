"""Where the base model, the instructions and the reference personas come from."""

from typing import Annotated

from pydantic import Field

from .common import HubRevision, SecretKeyRef, SpecModel, UriOf

ModelUri = Annotated[str, UriOf("hf", "s3", "file", "pkg")]
DataUri = Annotated[str, UriOf("builtin", "hf", "s3", "file")]
FileUri = Annotated[str, UriOf("s3", "file")]

Column = Annotated[str, Field(min_length=1, max_length=128)]


class BaseModelSource(SpecModel):
    """The dense model that is pruned for the persona."""

    uri: ModelUri
    """Where the model is: `hf://ORG/NAME`, `s3://BUCKET/PREFIX`, `file:///DIRECTORY` or a `.gguf`
    file, or `pkg://PACKAGE/FILE.gguf` for a file inside an installed Python package. Only
    safetensors and GGUF weights are read."""
    revision: HubRevision | None = None
    """Commit, branch or tag of an `hf://` model; for any other source a digest of its content, as
    `status.sources` shows it, or a label. Only a commit or a digest pins the content; whatever is
    not pinned is looked up once, before planning."""
    token_secret_ref: SecretKeyRef | None = None
    """Secret key with a Hugging Face token for gated models. On a laptop set HF_TOKEN instead."""


class InstructionColumns(SpecModel):
    """Column names of the instruction data (Alpaca's by default)."""

    instruction: Column = "instruction"
    """Column with the question or task."""
    input: Column = "input"
    """Column with further input, appended to the instruction; may be absent from the data."""
    output: Column = "output"
    """Column with the neutral reference answer."""


class Instructions(SpecModel):
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
    """Column names."""
    max_samples: Annotated[int, Field(ge=20, le=1_000_000)] = 2000
    """Use at most this many instructions, the first ones of the data."""


class ReferencePersonas(SpecModel):
    """Personas that the target is compared with when queries are scored."""

    uri: DataUri = "builtin://general"
    """`builtin://general` or a JSONL file; each line a string, or an object with
    `name` and `text`."""
    revision: HubRevision | None = None
    """A digest of the content or a label, as for the base model."""
    count: Annotated[int, Field(ge=2, le=100)] = 10
    """Number of reference personas used, the first ones of the data (r in the paper)."""
