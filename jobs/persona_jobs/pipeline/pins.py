"""The sources of a spec, and the revisions that pin each of them to one content.

An `hf://` source is pinned by a commit, every other one by a digest of its content. What the spec
doesn't pin is looked up once, before planning (`persona_jobs.sources.resolve`), so that the content
keys hold what the stages read.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from ..errors import InputError

RESOLVE = "resolve"
"""Name of the process that looks revisions up in a cluster, beside the names of the stages."""
BUILTIN_URI = "builtin://general"

_COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGEST = re.compile(r"(?:sha256|etag):[0-9a-f]{64}$")
_MAX_LABEL_LENGTH = 50
BUILTIN_FILES = {
    "instructions": "instructions.jsonl",
    "referencePersonas": "reference_personas.jsonl",
}
"""Packaged data file of each source that may be built in."""


@dataclass(frozen=True)
class Source:
    """One source of a spec.

    Attributes:
        name: its path below `spec`, such as `baseModel` or `evaluation.questionFiles[0]`.
        kind: what kind of repository it is on the hub.
        fields: the source as JSON.
    """

    name: str
    kind: Literal["model", "dataset"]
    fields: dict[str, Any]

    @property
    def uri(self) -> str:
        """Its URI as written."""
        return str(self.fields["uri"])

    @property
    def is_on_hub(self) -> bool:
        """Whether it is in a repository of the hub."""
        return self.uri.startswith("hf://")

    @property
    def digest(self) -> str | None:
        """The commit or digest that it is pinned to, None where it is not pinned."""
        written = str(self.fields.get("revision") or "")
        if self.is_on_hub:
            inline = self.uri.partition("@")[2]
            commit = inline or written
            conflict = inline and written and inline != written
            return commit if _COMMIT.fullmatch(commit) and not conflict else None
        found = _DIGEST.search(written)
        if found:
            return found.group()
        if self.uri == BUILTIN_URI and self.name in BUILTIN_FILES:
            return builtin_digest(BUILTIN_FILES[self.name])
        return None

    def pin(self, digest: str) -> None:
        """Replace the revision, in place; a label of the user stays in front of a digest."""
        if self.is_on_hub:
            self.fields["uri"] = self.uri.partition("@")[0]
            self.fields["revision"] = digest
            return
        written = _DIGEST.sub("", str(self.fields.get("revision") or ""))
        label = written.removesuffix("-")[:_MAX_LABEL_LENGTH]
        self.fields["revision"] = f"{label}-{digest}" if label else digest


def sources(spec: Mapping[str, Any]) -> list[Source]:
    """Return the sources of a spec.

    Args:
        spec: the spec as JSON, defaults included.
    """
    card = spec["persona"].get("card")
    questions = (spec.get("evaluation") or {}).get("questionFiles") or []
    return [
        *([Source("persona.card", "dataset", card)] if card else []),
        Source("baseModel", "model", spec["baseModel"]),
        Source("instructions", "dataset", spec["instructions"]),
        Source("referencePersonas", "dataset", spec["referencePersonas"]),
        *(
            Source(f"evaluation.questionFiles[{index}]", "dataset", file)
            for index, file in enumerate(questions)
        ),
    ]


def unpinned(spec: Mapping[str, Any]) -> list[str]:
    """Return the names of the sources that have to be looked up."""
    return [source.name for source in sources(spec) if source.digest is None]


def pin_sources(spec: Mapping[str, Any], found: Mapping[str, str]) -> None:
    """Pin every source of a spec, in place.

    Args:
        spec: the spec as JSON, defaults included.
        found: commit or digest of each source that the spec doesn't pin, by name.

    Raises:
        InputError: a source is neither pinned nor found.
    """
    for source in sources(spec):
        digest = source.digest or found.get(source.name)
        if digest is None:
            raise InputError(
                f"The revision of {source.uri} is not known",
                hint="Resolve the sources before planning",
                subject=f"spec.{source.name}",
            )
        source.pin(digest)


def digest_of(revision: str | None) -> str | None:
    """Return the commit or digest at the end of a pinned revision, None where it has neither."""
    if revision is None or _COMMIT.fullmatch(revision):
        return revision
    found = _DIGEST.search(revision)
    return found.group() if found else None


def variable_prefix(name: str) -> str:
    """Return the prefix of the environment variables with a source's own credentials.

    Args:
        name: path of the source below `spec`: `baseModel` has `BASE_MODEL_`,
            `evaluation.questionFiles[0]` has `QUESTION_FILES_0_`.
    """
    words = re.findall(r"[A-Z]?[a-z]+|[0-9]+", name.rpartition(".")[2])
    return "_".join(words).upper() + "_"


@cache
def builtin_digest(name: str) -> str:
    """Return the digest of a packaged data file."""
    data = files("persona_jobs").joinpath("data", name).read_bytes()
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
