"""Which sources are pinned, and how revisions enter a spec."""

from typing import Any

import pytest

from persona_jobs.api import PersonaModelSpec
from persona_jobs.api.evaluation import Evaluation
from persona_jobs.errors import InputError
from persona_jobs.pipeline.pins import RESOLVE, builtin_digest, pin_sources, sources, unpinned
from persona_jobs.pipeline.results import MAX_TERMINATION_MESSAGE_BYTES, TerminationMessage

COMMIT = "a" * 40
DIGEST = f"sha256:{'1' * 64}"
TAG = f"etag:{'2' * 64}"


def spec(**changes: Any) -> dict[str, Any]:
    model = PersonaModelSpec.model_validate(
        {
            "persona": {"text": "You are a captain."},
            "baseModel": {"uri": "hf://org/model", "revision": COMMIT},
            **changes,
        }
    )
    document: dict[str, Any] = model.model_dump(mode="json", by_alias=True, exclude_none=True)
    return document


@pytest.mark.parametrize(
    ("source", "is_pinned"),
    [
        ({"uri": "hf://org/model"}, False),
        ({"uri": "hf://org/model", "revision": "main"}, False),
        ({"uri": "hf://org/model@v1"}, False),
        ({"uri": "hf://org/model", "revision": COMMIT}, True),
        ({"uri": f"hf://org/model@{COMMIT}"}, True),
        ({"uri": f"hf://org/model@{COMMIT}", "revision": "main"}, False),
        ({"uri": "hf://org/model", "revision": DIGEST}, False),
        ({"uri": "s3://bucket/model"}, False),
        ({"uri": "s3://bucket/model", "revision": "v1"}, False),
        ({"uri": "s3://bucket/model", "revision": COMMIT}, False),
        ({"uri": "s3://bucket/model", "revision": TAG}, True),
        ({"uri": "s3://bucket/model", "revision": f"v1-{TAG}"}, True),
        ({"uri": "pkg://package/model.gguf"}, False),
        ({"uri": "pkg://package/model.gguf", "revision": DIGEST}, True),
        ({"uri": "file:///models/one", "revision": DIGEST}, True),
    ],
)
def test_a_commit_or_a_digest_pins_a_source(source: dict[str, str], is_pinned: bool) -> None:
    assert unpinned(spec(baseModel=source)) == ([] if is_pinned else ["baseModel"])


def test_built_in_sets_are_pinned_to_the_packaged_content() -> None:
    document = spec()
    assert unpinned(document) == []
    pin_sources(document, {})
    assert document["instructions"]["revision"] == builtin_digest("instructions.jsonl")
    assert document["referencePersonas"]["revision"] == builtin_digest("reference_personas.jsonl")
    assert unpinned(spec(instructions={"uri": "builtin://other"})) == ["instructions"]


def test_what_was_found_replaces_the_revision() -> None:
    document = spec(
        baseModel={"uri": "hf://org/model@v1"},
        instructions={"uri": "s3://bucket/a.jsonl", "revision": "v1"},
        evaluation={"questionFiles": [{"uri": "s3://bucket/q.json"}]},
    )
    found = {"baseModel": COMMIT, "instructions": TAG, "evaluation.questionFiles[0]": DIGEST}
    assert unpinned(document) == list(found)
    pin_sources(document, found)
    assert document["baseModel"] == {"uri": "hf://org/model", "revision": COMMIT}
    assert document["instructions"]["revision"] == f"v1-{TAG}"
    assert document["evaluation"]["questionFiles"][0]["revision"] == DIGEST
    again = spec(**{name: document[name] for name in ("baseModel", "instructions", "evaluation")})
    pin_sources(again, {"instructions": DIGEST})
    assert again == document, "what is pinned stays"


def test_a_source_of_which_nothing_is_known_is_an_error() -> None:
    with pytest.raises(InputError, match=r"spec\.baseModel: The revision of s3://bucket/model"):
        pin_sources(spec(baseModel={"uri": "s3://bucket/model"}), {})


def test_the_answer_for_as_many_sources_as_allowed_fits_a_termination_message() -> None:
    [limit] = [
        item.max_length
        for item in Evaluation.model_fields["question_files"].metadata
        if hasattr(item, "max_length")
    ]
    questions = [{"uri": f"s3://bucket/{index}.json"} for index in range(limit)]
    document = spec(
        baseModel={"uri": "s3://bucket/model"},
        instructions={"uri": "s3://bucket/a.jsonl"},
        referencePersonas={"uri": "s3://bucket/b.jsonl"},
        evaluation={"questionFiles": questions},
    )
    found = {item.name: DIGEST for item in sources(document)}
    assert len(found) == 35
    message = TerminationMessage(
        stage=RESOLVE, outcome="Done", seconds=3599.9, metrics={"sources": dict(found)}
    )
    encoded = message.encode()
    assert len(encoded) <= MAX_TERMINATION_MESSAGE_BYTES
    assert TerminationMessage.decode(encoded.decode()) == message
